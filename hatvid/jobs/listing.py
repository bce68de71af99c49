"""Journals that lie in a folder: what was begun there and is not done."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hatvid.errors import InputError, OutputError
from hatvid.jobs.journal import Journal, folder_for
from hatvid.jobs.records import Header

__all__ = ["Kept", "kept_at", "kept_in", "remove"]


@dataclass(frozen=True, kw_only=True)
class Kept:
    """One unfinished job.

    Args:
        output: that it would have had.
        header: None where it cannot be believed.
        done: how many segments are stored.
        size: of all that is stored, in bytes.
        working: whether somebody works on it now.
    """

    output: Path
    header: Header | None
    done: int
    size: int
    working: bool

    @property
    def segments(self) -> int | None:
        """How many there are to be; None is not known."""
        return None if self.header is None else len(self.header.segments)


def kept_in(folder: Path) -> Iterator[Kept]:
    """The unfinished jobs of a folder, by name.

    Raises:
        InputError: it is no folder.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; name the one that the outputs lie in")
    for path in sorted(folder.glob(".*.hatvid")):
        if path.is_dir() and not path.is_symlink():
            yield _kept(path.with_name(path.name[1:].removesuffix(".hatvid")), path)


def kept_at(output: Path) -> Kept:
    """The unfinished job of an output.

    Raises:
        InputError: there is none.
    """
    folder = folder_for(output)
    if not folder.is_dir() or folder.is_symlink():
        raise InputError(f"nothing is kept of {output}; hatvid jobs list shows what there is")
    return _kept(output, folder)


def remove(kept: Kept) -> None:
    """Take what is kept of a job away.

    Raises:
        OutputError: somebody works on it.
    """
    with Journal(kept.output, restart=True) as journal:
        journal.remove()


def _kept(output: Path, folder: Path) -> Kept:
    journal = Journal(output)
    try:
        header = journal.peek()
    except OutputError:
        header = None
    files = [path for path in folder.iterdir() if path.is_file()]
    return Kept(
        output=output,
        header=header,
        done=sum(path.suffix == ".nut" and not path.name.startswith(".") for path in files),
        size=sum(path.stat().st_size for path in files),
        working=journal.in_use(),
    )
