"""What went wrong with writing a video, in the user's terms."""

from __future__ import annotations

import errno

from hatvid.errors import OutputError
from hatvid.video.encoding import OutputFormat

__all__ = ["NO_SPACE", "write_error"]

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_error(error: Exception, form: OutputFormat, *, failed: OSError | None) -> OutputError:
    """The error of a job whose encoder, container or file refused.

    Args:
        error: that was met.
        form: of the output.
        failed: the first error of the file itself, None if it takes everything.
    """
    cause = failed or error
    if isinstance(cause, OSError) and cause.errno in NO_SPACE:
        return OutputError(
            f"no space left to write the output ({cause.strerror}); free some, or write "
            "elsewhere with -o"
        )
    if isinstance(cause, BrokenPipeError):
        return OutputError(
            f"the reader of the output has gone ({cause.strerror}); look for why it ended"
        )
    if failed is not None:
        return OutputError(f"the output cannot be written ({cause}); check its place")
    what = (
        f"{form.encoder.codec} in {form.container.muxer}, {form.width}x{form.height} "
        f"{form.encoder.layout.pix_fmt}"
    )
    reason = getattr(error, "strerror", None) or error
    log = getattr(error, "log", None)
    said = f"{reason}: {log[2].strip()}" if log and log[2].strip() else reason
    return OutputError(
        f"the encoder or the container refused ({what}: {said}); choose another --codec, "
        "--pix-fmt or container"
    )
