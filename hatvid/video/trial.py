"""Whether a container holds a stream: tried with a header that is kept nowhere."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence

import av
from av.container import OutputContainer
from av.stream import AttachmentStream, Stream

from hatvid.video.fates import StreamFate
from hatvid.video.subtitles import TEXT_CODECS
from hatvid.video.twins import COVERS, Twin, add_twin, is_cover

__all__ = ["added", "refusal", "refused"]

# What these muxers really hold. They take anything: MPEG-TS then writes it as nameless
# data, and FLV ends the whole process.
_HELD: dict[str, dict[str, frozenset[str]]] = {
    "flv": {"audio": frozenset({"aac", "mp3"})},
    "mpegts": {
        "video": frozenset({"h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4", "vvc"}),
        "audio": frozenset({"aac", "mp2", "mp3", "ac3", "eac3", "dts", "truehd", "opus"}),
        "subtitle": frozenset({"dvb_subtitle", "dvb_teletext"}),
        "data": frozenset({"klv", "timed_id3"}),
    },
}

# Headers tell nothing of data: muxers take what they then forget the name of, or break on.
# In MP4, bin_data is the telemetry of cameras ("gpmd").
_DATA = {
    "mov": frozenset({"bin_data"}),
    "mp4": frozenset({"bin_data"}),
    "mpegts": frozenset({"klv", "timed_id3"}),
}


def refused(stream: Stream, fate: StreamFate, muxer: str, pictures: dict[int, bytes]) -> bool:
    """Whether a muxer does not hold a stream in this way.

    Args:
        stream: of the input.
        fate: copied, or converted to what.
        muxer: FFmpeg's name.
        pictures: of the covers, by index.
    """
    if isinstance(stream, AttachmentStream):
        return muxer != "matroska"
    if is_cover(stream):
        return fate.codec not in COVERS.get(muxer, ())
    if stream.type == "data" and fate.codec not in _DATA.get(muxer, ()):
        return True
    held = _HELD.get(muxer)
    if held is not None and fate.codec not in held.get(stream.type, ()):
        return True
    if muxer == "nut" and fate.codec in TEXT_CODECS:
        return True  # it would keep no end of a line
    return refusal(muxer, [(stream, fate)], pictures) is not None


def refusal(
    muxer: str, streams: Sequence[tuple[Stream, StreamFate]], pictures: dict[int, bytes]
) -> str | None:
    """Why a muxer refuses a header of these streams beside a video, None if it does not."""
    output = av.open(_Nowhere(), "w", format=muxer)
    try:
        # Matroska wants H.264's parameter sets, which only an encoder has.
        stand_in = "mpeg4" if muxer == "matroska" else output.default_video_codec
        output.add_mux_stream(stand_in, width=16, height=16)
        for stream, fate in streams:
            added(stream, output, fate, pictures, cut=False)
        output.start_encoding()
    except (av.error.FFmpegError, ValueError) as error:
        log = getattr(error, "log", None)
        return str(log[2]).strip() if log else str(error)
    finally:
        with contextlib.suppress(av.error.FFmpegError, ValueError):
            output.close()
    return None


def added(
    stream: Stream,
    output: OutputContainer,
    fate: StreamFate,
    pictures: dict[int, bytes],
    *,
    cut: bool,
) -> Twin | None:
    """The twin of a stream as its fate says: see :func:`~hatvid.video.twins.add_twin`."""
    picture = pictures.get(stream.index)
    return add_twin(stream, output, target=fate.target_codec, picture=picture, cut=cut)


class _Nowhere(io.RawIOBase):
    """A file of which only the size is kept."""

    def __init__(self) -> None:
        self._position = self._size = 0

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self._position += len(data)
        self._size = max(self._size, self._position)
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        self._position = offset + (0, self._position, self._size)[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def seekable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True
