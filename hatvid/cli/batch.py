"""``hatvid batch``: many jobs, from a folder, a pattern or a job file."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from hatvid.cli.batch_shown import Shown, counted, planned_line
from hatvid.cli.segments import given_segments, segment_options, sharing_options
from hatvid.cli.signals import Interrupted, hold_signals, release_signals
from hatvid.cli.upscale import asked_options, ending_options, settings_options, upscale
from hatvid.cli.waiting import rest_while_waiting
from hatvid.errors import HatvidError, InputError, OptionError, OutputError
from hatvid.jobs.batch_names import Request
from hatvid.jobs.batch_plan import Pair, Row, gather, plan_rows
from hatvid.jobs.batch_report import check_report, report_lines, write_report
from hatvid.jobs.naming import Naming
from hatvid.jobs.settling import Settling, growing

if TYPE_CHECKING:
    from hatvid.cli.job_file import Entry
    from hatvid.jobs.batch import Told
    from hatvid.jobs.loaded import Loaded

__all__ = ["batch"]

_POLL = 2.0
"""Seconds between two looks of --watch."""


@click.command(short_help="Many videos: a folder, a pattern, or a job file.")
@click.argument("sources", nargs=-1, required=True, metavar="FOLDER|PATTERN|JOBS.toml...")
@click.option(
    "-o",
    "--output-folder",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Where outputs go; made if it is missing.  [default: beside the inputs]",
)
@click.option(
    "--naming",
    metavar="TEMPLATE",
    help="Of outputs, from {stem} {scale} {width} {height} {model} {ext}; / makes folders.  "
    "[default: as hatvid upscale]",
)
@click.option("--recursive", is_flag=True, help="Folders in a folder too; kept in the output's.")
@click.option("--skip-existing", is_flag=True, help="Leave inputs alone whose output is there.")
@click.option("--keep-going", is_flag=True, help="Do the others after one that failed.")
@click.option(
    "--report",
    type=click.Path(path_type=Path, allow_dash=True),
    metavar="FILE",
    help="What became of each input, one JSON object a line; - is standard output.",
)
@click.option("--dry-run", is_flag=True, help="Tell what would be done, and do nothing.")
@click.option("--watch", is_flag=True, help="Go on with what appears, until Ctrl-C.")
@click.option(
    "--settle",
    type=click.FloatRange(min=0),
    default=5,
    show_default=True,
    metavar="SECONDS",
    help="How long a file has to be at rest before it is taken.",
)
@click.option(
    "--allow-outside",
    is_flag=True,
    help="Let names of outputs leave the output folder, or the job file's.",
)
@settings_options
@segment_options
@sharing_options
@ending_options
@click.pass_context
def batch(context: click.Context, /, **given: Any) -> int:
    """Upscale the videos of a folder, those that fit a pattern, or what a job file says.

    Options are those of hatvid upscale and count for each job; given here, they overrule a
    job file. Own outputs among the inputs, hidden files and files that are still being
    written are left alone; a VapourSynth script is run only where it is named itself. Names
    are settled and checked before anything is computed. The same command goes on after a
    stop: with --skip-existing it leaves alone what is done, and a video that was half done
    goes on from its last segment. The exit code is the worst of all jobs'.
    """
    explicit = {
        name for name in given if context.get_parameter_source(name) is not ParameterSource.DEFAULT
    }
    if given["report"] == Path("-") and given["progress"] == "json":
        raise OptionError("standard output holds one of --report - and --progress json")
    requests = [
        request for source in given["sources"] for request in _requests(source, given, explicit)
    ]
    rest_while_waiting()
    running = _Batch(given, Shown("none" if given["dry_run"] else given["progress"]))
    return running.watch(requests) if given["watch"] else running.once(requests)


def _requests(source: str, given: Mapping[str, Any], explicit: set[str]) -> Iterator[Request]:
    path = Path(source)
    if path.suffix.lower() == ".toml" and not path.is_dir():
        from hatvid.cli.job_file import read_job_file  # pydantic

        for entry in read_job_file(path, upscale.params):
            try:
                yield _of_entry(entry, path.parent, given, explicit)
            except HatvidError as error:
                raise type(error)(f"{entry.where}: {error}") from error
    else:
        yield Request(
            text=source,
            options=_options(given, {}),
            naming=None if given["naming"] is None else Naming.parse(given["naming"]),
            folder=given["output_folder"],
            outside=given["allow_outside"],
            recursive=given["recursive"],
        )


def _of_entry(entry: Entry, home: Path, given: Mapping[str, Any], explicit: set[str]) -> Request:
    said = {name: value for name, value in entry.given.items() if name not in explicit}
    if said.get("streams_from") is not None:
        said["streams_from"] = home / said["streams_from"]
    if "model" in said and (home / said["model"]).is_file():
        said["model"] = str(home / said["model"])
    place = given["output_folder"] or home
    naming = given["naming"] if "naming" in explicit else entry.naming
    folder = given["output_folder"] if entry.folder is None else place / entry.folder
    return Request(
        text=entry.input,
        seen_from=home,
        options=_options(given, said),
        where=entry.where,
        output=entry.output,
        naming=None if naming is None else Naming.parse(naming),
        folder=folder,
        home=place,
        outside=given["allow_outside"],
        recursive=given["recursive"] or entry.recursive,
    )


def _options(given: Mapping[str, Any], said: Mapping[str, Any]) -> Any:
    values = {**given, "input": Path(), "output": None, "format": None, **said}
    return asked_options(values, given_segments(values))


@dataclass
class _Batch:
    """One run of the command."""

    given: Mapping[str, Any]
    shown: Shown
    rows: list[Row] = field(default_factory=list)

    def once(self, requests: Sequence[Request]) -> int:
        """All that is there, and no more."""
        notes: list[str] = []
        pairs = gather(requests, notes)
        if not pairs:
            names = ", ".join(request.text for request in requests)
            raise InputError(f"no video found in {names}; check the name{_also(notes)}")
        plan = plan_rows(
            pairs,
            skip_existing=self.given["skip_existing"],
            growing=growing((found for _, found in pairs), self.given["settle"], wait=_pause),
        )
        self.rows, notes = plan.rows, [*notes, *plan.notes]
        if not self.rows:
            raise InputError(f"nothing to do: all inputs are outputs{_also(notes)}")
        self._check_report()
        if self.given["dry_run"]:
            for row in self.rows:
                click.echo(planned_line(row))
            self._report()
            return self._worst()
        self.shown.notes(notes)
        wrong = [row for row in self.rows if row.state == "failed"]
        for row in wrong:
            self.shown.end(row)
        if wrong and not self.given["keep_going"]:
            self.shown.line("nothing was begun; mend that, or do the others with --keep-going")
            return self._end(0)
        return self._running(lambda loaded: self._run(self.rows, loaded))

    def watch(self, requests: Sequence[Request]) -> int:
        """What is there and what appears."""
        if self.given["dry_run"]:
            raise OptionError("--dry-run looks once, --watch for ever; leave one out")
        self._check_report()
        return self._running(lambda loaded: self._look_for_ever(requests, loaded))

    def _look_for_ever(self, requests: Sequence[Request], loaded: Loaded) -> None:
        settling = Settling(self.given["settle"], _clock)
        seen: set[str] = set()
        said: set[str] = set()

        def fresh(pair: Pair) -> bool:
            return os.path.realpath(pair[1].path) not in seen and settling.at_rest(pair[1])

        while True:
            notes: list[str] = []
            pairs = [pair for pair in gather(requests, notes) if fresh(pair)]
            seen.update(os.path.realpath(found.path) for _, found in pairs)
            plan = plan_rows(
                pairs,
                skip_existing=self.given["skip_existing"],
                before=self.rows,
                one_by_one=True,
            )
            new = [note for note in [*notes, *plan.notes] if note not in said]
            said.update(new)
            self.shown.notes(new)
            self.rows += plan.rows
            for row in plan.rows:
                if row.state == "failed":
                    self.shown.end(row)
            if not self._run(plan.rows, loaded):
                return
            _pause(_POLL)

    def _running(self, work: Callable[[Loaded], object]) -> int:
        """Work, and the end of it, which a signal brings about earlier."""
        from hatvid.jobs.loaded import Loaded  # torch, which takes its time

        try:
            with Loaded() as loaded:
                work(loaded)
        except Interrupted as interruption:
            stopped = [row.reason for row in self.rows if row.state == "stopped"]
            kept = "".join(reason.removeprefix("it was stopped") for reason in stopped)
            self.shown.line(f"{interruption}: {counted(self.rows) or 'nothing was begun'}{kept}")
            return self._end(128 + interruption.number)
        return self._end(0)

    def _run(self, rows: Sequence[Row], loaded: Loaded) -> bool:
        from hatvid.jobs.batch import run_rows

        return run_rows(
            rows,
            loaded,
            self._shown_job,
            keep_going=self.given["keep_going"],
            skip_existing=self.given["skip_existing"],
            ended=self._ended,
        )

    @contextmanager
    def _shown_job(self, row: Row) -> Iterator[Told]:
        from hatvid.cli.progress import reporter

        self.shown.begin(row, len(self.rows))
        with reporter(self.given["progress"], publishing=hold_signals) as told:
            yield told

    def _ended(self, row: Row) -> None:
        self.shown.end(row)
        with suppress(OutputError):  # tried again in the end, and said then
            self._write()
        release_signals()

    def _end(self, code: int) -> int:
        """Tell what became of all."""
        self.shown.summary(self.rows)
        return max(code, self._report(), self._worst())

    def _report(self) -> int:
        if self.given["report"] == Path("-"):
            click.echo(report_lines(self.rows), nl=False)
            return 0
        try:
            self._write()
        except OutputError as error:
            self.shown.line(str(error))
            return error.exit_code
        return 0

    def _write(self) -> None:
        if self.given["report"] not in (None, Path("-")):
            write_report(self.given["report"], self.rows)

    def _check_report(self) -> None:
        if self.given["report"] not in (None, Path("-")):
            check_report(self.given["report"], self.rows)

    def _worst(self) -> int:
        return max((row.code for row in self.rows), default=0)


def _also(notes: Sequence[str]) -> str:
    return "".join(f"; {note}" for note in notes)


def _pause(seconds: float) -> None:
    time.sleep(seconds)


def _clock() -> float:
    return time.monotonic()
