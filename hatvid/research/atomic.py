"""Files that are there whole or not at all, whatever happens meanwhile."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from hatvid.errors import OutputError

__all__ = ["write_whole"]


def write_whole(path: Path, data: bytes) -> None:
    """Write a file beside ``path``, bring it to the disk, and give it its name.

    Raises:
        OutputError: the disk refuses; what was at ``path`` is still there.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written ({error.strerror}); what was there before is kept: free "
            "some space, or mend the permissions, and run the same command again"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
