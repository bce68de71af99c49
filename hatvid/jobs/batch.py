"""Jobs one after another, and what became of each."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from hatvid.errors import HatvidError, OutputError, OutputExistsError
from hatvid.jobs.batch_lock import alone_at
from hatvid.jobs.batch_plan import Row
from hatvid.jobs.finding import stamp_of
from hatvid.jobs.job import plan_job
from hatvid.jobs.loaded import Loaded
from hatvid.jobs.naming import check_place
from hatvid.jobs.progress import Progress
from hatvid.jobs.receipt import Receipt, ShardReceipt
from hatvid.jobs.run import run_job
from hatvid.jobs.stills import PictureReceipt

__all__ = ["Told", "run_rows"]


class Told(Progress, Protocol):
    """The progress of one job, and its end."""

    def finished(self, receipt: Receipt | PictureReceipt | ShardReceipt) -> None: ...


def run_rows(
    rows: Iterable[Row],
    loaded: Loaded,
    report: Callable[[Row], AbstractContextManager[Told]],
    *,
    keep_going: bool,
    skip_existing: bool = False,
    ended: Callable[[Row], None],
) -> bool:
    """Run those that wait, in order, and note in each what became of it.

    Args:
        rows: as planned.
        loaded: keeps the network between jobs.
        report: makes the progress of one job; it is left with the error of a job that fails.
        keep_going: after a job that failed.
        skip_existing: an output that has appeared is no error.
        ended: told of each job that was begun, whatever became of it.

    Returns:
        Whether all were gone through.
    """
    for row in rows:
        if row.state == "not started":
            began = time.monotonic()
            try:
                _run(row, loaded, report, skip_existing)
            except Exception as error:
                _note(row, error)
            except BaseException as error:
                notes: list[str] = getattr(error, "__notes__", [])
                row.state, row.reason = "stopped", "; ".join(["it was stopped", *notes])
                raise
            finally:
                row.seconds = time.monotonic() - began
            ended(row)
        if row.state == "failed" and not keep_going:
            return False
    return True


def _run(
    row: Row,
    loaded: Loaded,
    report: Callable[[Row], AbstractContextManager[Told]],
    skip_existing: bool,
) -> None:
    options, output = row.options, row.output
    assert options is not None
    assert output is not None
    # Much may have happened since the batch was planned.
    if stamp_of(row.input) not in (row.found.stamp, None):
        row.state, row.reason = "skipped", "it is still being written"
        return
    fence = row.request.fence(row.found.root)
    check_place(output, fence)
    _make_folder(output.parent)
    check_place(output, fence)
    with alone_at(output) as alone:
        if not alone or stamp_of(output) != row.before:
            row.state = "skipped"
            row.reason = "the output was written meanwhile" if alone else "another batch does it"
            return
        if options.segments.shared:
            loaded.close()  # others load it, and this one would only be in their way
        with report(row) as progress:
            try:
                receipt = run_job(
                    plan_job(options, makes_folder=True), progress=progress, load=loaded.lend
                )
            except OutputExistsError:
                if not skip_existing:
                    raise
                row.state, row.reason = "skipped", "the output exists"
                return
            row.state, row.receipt = "done", receipt.as_dict()
            progress.finished(receipt)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be made ({error.strerror}); choose another place"
        ) from error


def _note(row: Row, error: Exception) -> None:
    """Tell why a job failed in its row.

    Raises:
        Exception: what the batch cannot go on after, or what is to be looked into.
    """
    if isinstance(error, HatvidError):
        notes: list[str] = getattr(error, "__notes__", [])
        row.fail("; ".join([str(error), *notes]), error.exit_code)
    elif isinstance(error, MemoryError):
        row.fail("out of memory; choose a smaller --tile", 1)
    elif isinstance(error, BrokenPipeError) or os.environ.get("HATVID_DEBUG"):
        raise error
    else:
        text = " ".join(str(error).split())
        row.fail(
            f"unexpected {type(error).__name__}: {text}; please report it with what "
            "HATVID_DEBUG=1 prints",
            1,
        )
