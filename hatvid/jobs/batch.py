"""Jobs one after another, and what became of each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from hatvid.errors import HatvidError, OutputError
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
    ended: Callable[[Row], None],
) -> bool:
    """Run those that wait, in order, and note in each what became of it.

    Args:
        rows: as planned.
        loaded: keeps the network between jobs.
        report: makes the progress of one job; it is left with the error of a job that fails.
        keep_going: after a job that failed.
        ended: told of each job that was begun, whatever became of it.

    Returns:
        Whether all were gone through.
    """
    for row in rows:
        if row.state == "waiting":
            try:
                _run(row, loaded, report)
            except Exception as error:
                _note(row, error)
            except BaseException:
                row.state, row.reason = "stopped", "it was stopped"
                raise
            ended(row)
        if row.state == "failed" and not keep_going:
            return False
    return True


def _run(row: Row, loaded: Loaded, report: Callable[[Row], AbstractContextManager[Told]]) -> None:
    options = row.options
    assert options is not None
    assert options.output is not None
    # Much may have happened since the batch was planned.
    if not row.found.named and stamp_of(row.input) not in (row.found.stamp, None):
        row.state, row.reason = "skipped", "it is still being written"
        return
    with report(row) as progress:
        fence = row.request.fence(row.found.root)
        check_place(options.output, fence)
        _make_folder(options.output.parent)
        check_place(options.output, fence)
        receipt = run_job(plan_job(options), progress=progress, load=loaded.lend)
        progress.finished(receipt)
    row.state, row.receipt = "done", receipt.as_dict()


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
        row.fail(str(error), error.exit_code)
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
