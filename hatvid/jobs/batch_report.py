"""The report of a batch: a file with one JSON object a line, one for each input."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from hatvid.errors import OptionError, OutputError, OutputExistsError
from hatvid.jobs.batch_plan import Row
from hatvid.jobs.partial import store

__all__ = ["check_report", "report_lines", "write_report"]

_BEGINNING = b'{"job": '


def report_lines(rows: Iterable[Row]) -> str:
    """One line for each row, in order."""
    return "".join(json.dumps(row.as_dict()) + "\n" for row in rows)


def check_report(path: Path, rows: Sequence[Row]) -> None:
    """See that a report may be written there: over an older one, but over nothing else.

    Raises:
        OptionError: the name is that of an input or an output.
        OutputExistsError: what lies there is no report.
        OutputError: nothing can be written there.
    """
    place = os.path.realpath(path)
    for row in rows:
        for other in (row.input, row.output):
            if other is not None and os.path.realpath(other) == place:
                raise OptionError(f"the report {path} is a file of the batch; name another one")
    if path.is_symlink():
        raise OutputError(f"{path} is a link, which is not written through; remove it")
    if not path.parent.is_dir():
        raise OutputError(f"{path.parent}: no such folder; make it, or choose another place")
    try:
        if not path.is_file() and path.exists():
            raise OutputError(f"{path} is not a file; name one for the report")
        with path.open("rb") as file:
            first = file.read(len(_BEGINNING))
    except FileNotFoundError:
        return
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written ({error.strerror}); choose another place"
        ) from error
    if first not in (b"", _BEGINNING):
        raise OutputExistsError(f"{path} exists and is no report; name another one")


def write_report(path: Path, rows: Iterable[Row]) -> None:
    """Write it whole, or leave the one before.

    Raises:
        OutputError: the disk refuses.
    """
    store(path, report_lines(rows).encode(), overwrite=True)
