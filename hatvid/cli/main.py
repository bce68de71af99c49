"""The ``hatvid`` command: its groups, its errors, its exit codes."""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

import click

from hatvid import __version__
from hatvid.cli.batch import batch
from hatvid.cli.bench import bench
from hatvid.cli.compare import compare
from hatvid.cli.evaluate import evaluate
from hatvid.cli.export import export
from hatvid.cli.features import features
from hatvid.cli.heap import keep_freed_memory
from hatvid.cli.info import info
from hatvid.cli.jobs import jobs
from hatvid.cli.lam import lam
from hatvid.cli.lines import one_line
from hatvid.cli.models import models
from hatvid.cli.pipelines import pipelines
from hatvid.cli.preview import preview
from hatvid.cli.seams import seams
from hatvid.cli.signals import Interrupted, catch_signals
from hatvid.cli.train import train
from hatvid.cli.training_set import training_set
from hatvid.cli.upscale import join, upscale
from hatvid.cli.verify import verify
from hatvid.errors import HatvidError

__all__ = ["cli", "main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hatvid")
def cli() -> None:
    """Make videos larger with HAT, losing nothing."""


for _command in (
    *(upscale, batch, join, jobs, info, preview, verify, models, pipelines, export, bench),
    *(seams, evaluate, compare, lam, features, train, training_set),
):
    cli.add_command(_command)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command and exit: 0 done, 1 failed, 2 wrong usage, 130 Ctrl-C, 143 SIGTERM."""
    catch_signals()
    keep_freed_memory()
    try:
        code = cli.main(args=arguments, prog_name="hatvid", standalone_mode=False)
        _exit(code if isinstance(code, int) else 0)
    except HatvidError as error:
        _fail(_with_notes(str(error), error), error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "", err=True)
        _exit(2)
    except click.ClickException as error:
        place = getattr(error, "ctx", None)
        hint = f"; see {place.command_path} --help" if place is not None else ""
        _fail(f"{error.format_message().rstrip('.')}{hint}", error.exit_code)
    except click.exceptions.Exit as error:
        _exit(error.exit_code)
    except Interrupted as interruption:
        word = "stopped" if interruption.number == signal.SIGINT else "terminated"
        said = f"{word}; {interruption.left}"
        _fail(_with_notes(said, interruption), 128 + interruption.number)
    except BrokenPipeError:
        # The reader of our output has gone; there is nobody left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _exit(1)
    except MemoryError:
        _fail("out of memory; choose a smaller --tile", 1)
    except Exception as error:
        if os.environ.get("HATVID_DEBUG"):
            raise
        _fail(
            f"unexpected {type(error).__name__}: {' '.join(str(error).split())}; please report it "
            "with what HATVID_DEBUG=1 prints",
            1,
        )


def _with_notes(message: str, error: BaseException) -> str:
    """A message with what was noted of the error on its way."""
    return "; ".join([message, *getattr(error, "__notes__", ())])


def _fail(message: str, code: int) -> NoReturn:
    click.echo(f"hatvid: {one_line(message)}", err=True)
    _exit(code)


def _exit(code: int) -> NoReturn:
    sys.exit(code)
