"""One output, one batch: what keeps two that run at the same time from doing a file twice."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from hatvid.errors import OutputError
from hatvid.jobs.journal import folder_for

__all__ = ["alone_at"]


@contextmanager
def alone_at(output: Path) -> Iterator[bool]:
    """Hold an output for one batch; what is yielded tells whether it could be had.

    The lock is a hidden file beside the output. It dies with who holds it, and is not
    followed where it is a link.

    Raises:
        OutputError: the lock cannot be made.
    """
    path = folder_for(output).with_name(folder_for(output).name + ".lock")
    lock = FileLock(path, timeout=0, mode=0o600)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    except OSError as error:
        raise OutputError(
            f"{path} cannot be made ({error.strerror}); choose another place"
        ) from error
    try:
        yield True
    finally:
        # While it is held: who opens it now finds it gone, and begins anew.
        with contextlib.suppress(OSError):
            path.unlink()
        lock.release()
