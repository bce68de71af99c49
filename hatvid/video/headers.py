"""The sample aspect ratio, written into headers that FFmpeg's muxers leave without it.

libavformat takes the ratio from a field of the stream that PyAV does not set. MP4 and MOV
write the encoder's instead; MPEG-TS and FLV have no field for it and leave it to the
bitstream, as do H.264, H.265 and MPEG-2. What is left are Matroska (WebM), NUT and
YUV4MPEG.
"""

from __future__ import annotations

from fractions import Fraction

from hatvid.video.matroska import MatroskaHeader
from hatvid.video.nut import NutHeader
from hatvid.video.outfile import HeaderRewriter

__all__ = ["header_rewriter"]


def header_rewriter(
    muxer: str, *, width: int, height: int, aspect: Fraction | None, title: str
) -> HeaderRewriter | None:
    """What writes the sample aspect ratio where the muxer does not.

    Args:
        muxer: FFmpeg's name.
        width: of the video, in pixels.
        height: of the video, in pixels.
        aspect: width of a pixel by its height; None is not known.
        title: of the video stream, empty if it has none.

    Returns:
        None where nothing is to do.
    """
    if aspect is None:
        return None
    if muxer in ("matroska", "webm"):
        return MatroskaHeader(width, height, aspect, title)
    if muxer == "nut":
        return NutHeader(aspect, title)
    if muxer == "yuv4mpegpipe":
        return _Y4m(aspect)
    return None


class _Y4m(HeaderRewriter):
    """The A token of the first line (yuv4mpeg(5), mjpegtools)."""

    def __init__(self, aspect: Fraction) -> None:
        super().__init__()
        self._token = b"A%d:%d" % (aspect.numerator, aspect.denominator)

    def _ready(self) -> bytes:
        line, found, rest = self._held.partition(b"\n")
        if not found:
            return b""
        tokens = [token for token in line.split(b" ") if not token.startswith(b"A")]
        # Extensions and the colour space follow, as mjpegtools writes them.
        place = next((i for i, token in enumerate(tokens) if token[:1] in b"CX"), len(tokens))
        tokens.insert(place, self._token)
        self._held = b" ".join(tokens) + b"\n" + rest
        return self._release()
