"""Names of files that a command writes beside what it prints."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from hatvid.errors import OptionError, OutputExistsError

__all__ = ["check_target"]


def check_target(
    target: Path, suffixes: tuple[str, ...], *, overwrite: bool, inputs: Iterable[Path] = ()
) -> None:
    """Refuse, before any work, a name that cannot be written.

    Args:
        target: of the file.
        suffixes: what its name may end in.
        overwrite: replace a file of that name.
        inputs: files that it must not be.

    Raises:
        OptionError: the name is of another kind of file, a folder's, or an input's.
        OutputExistsError: something of that name is there.
    """
    if target.suffix.lower() not in suffixes:
        raise OptionError(f"{target.name}: give it a name in {' or '.join(suffixes)}")
    if not os.path.lexists(target):
        return
    if target.is_dir():
        raise OptionError(f"{target} is a folder; give the file a name")
    if any(target.exists() and path.exists() and target.samefile(path) for path in inputs):
        raise OptionError(f"{target} is an input itself; give the output another name")
    if not overwrite:
        raise OutputExistsError(f"{target} exists; use --overwrite to replace it, or rename")
