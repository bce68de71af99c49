"""Opening an input so that it opens nothing else, and choosing its video stream."""

from __future__ import annotations

import io
import os
import re
import stat
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import av
import torch
from av.format import ContainerFormat
from av.stream import Disposition, Stream

from hatvid.errors import InputError, OptionError
from hatvid.options import InputOptions
from hatvid.selectors import StreamSpecifier, is_script
from hatvid.video.device_frames import hardware_decoder
from hatvid.video.excerpt import Opener, SparseFile
from hatvid.video.picture_names import is_pattern, missing_numbers, numbered_files

__all__ = ["choose_video", "is_pipe", "matches", "open_input", "selected", "unseekable"]

# FFmpeg's demuxers of things that name other files or addresses, which they would open.
_POINTERS = {
    *("alsa", "avisynth", "concat", "dash", "dvdvideo", "fbdev", "hls", "imf", "kmsgrab", "lavfi"),
    *("oss", "rtp", "rtsp", "sap", "sdp", "vapoursynth", "video4linux2,v4l2", "vobsub", "x11grab"),
}

# FFmpeg's demuxers that draw any text as pictures of characters.
_TEXT = frozenset({"adf", "bin", "idf", "tty", "xbin"})

# Without pts in the file, FFmpeg makes up each packet's from the next one's dts. That is
# right for codecs whose B-frames it knows from afar, and shuffles the frames of these.
_REORDERED_FREELY = frozenset({"h264", "hevc", "vvc"})

_GEN_PTS = 1  # AVFMT_FLAG_GENPTS, which PyAV sets
_HEAD = 4096
_RATE = 25


def is_pipe(path: Path) -> bool:
    """Whether an input can be read only once: ``-`` (standard input), or a named pipe."""
    if str(path) == "-":
        return True
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def open_input(
    path: Path,
    reading: InputOptions | None = None,
    notes: list[str] | None = None,
    device: torch.device | None = None,
    opener: Opener | None = None,
) -> av.container.InputContainer:
    """Open a file, a pipe (``-`` is standard input) or numbered pictures (``a%03d.png``).

    Nothing that the input names is opened: only the ``file`` protocol is allowed, and
    playlists are refused.

    Args:
        notes: takes a line for each thing assumed.
        device: a GPU where frames stay that ``reading.hwaccel`` ``cuda`` decodes; without it
            they are brought to main memory.
        opener: gives the data of the file, in its place.

    Raises:
        InputError: it is missing, unreadable, no video, or a playlist.
        OptionError: ``reading`` asks for what cannot be.
    """
    reading = reading or InputOptions()
    notes = [] if notes is None else notes
    options = {"protocol_whitelist": "file", "enable_drefs": "0", "pattern_type": "none"}
    options |= _raw_options(reading)
    if reading.format == "rawvideo" and reading.framerate is None:
        notes.append(f"raw video has no frame rate: {_RATE} a second is assumed")
    name = reading.format
    if name is not None and (name in _POINTERS or name not in _demuxers()):
        raise OptionError(
            f"format {name!r} is not read by hatvid; name one of FFmpeg's demuxers of files"
        )
    if is_pipe(path):
        source: str | _Pipe | SparseFile = _Pipe(path)
    elif opener is not None:
        source = opener()
    else:
        # Absolute and with the protocol spelled out: a name with a colon is a file too.
        source = f"file:{path.absolute()}"
        if is_pattern(path) and not os.path.lexists(path):
            name = "image2"
            source = f"file:{_pattern(path)}"
            options |= _numbered(path, reading, notes)
        else:
            _check_file(path)
    options["format_whitelist"] = ",".join(sorted(_demuxers()))
    try:
        with hardware_decoder(reading.hwaccel, device, notes) as hardware:
            container = av.open(
                source, "r", format=name, container_options=options, hwaccel=hardware
            )
    except (av.error.FFmpegError, ValueError) as error:
        # FFmpeg's demuxers give all sorts of errors for data that they do not understand.
        raise _refusal(path, source, error) from error
    if container.format.name in _TEXT and reading.format is None:
        container.close()
        raise InputError(f"{path} is text and no video; name a video file")
    return container


def unseekable(path: Path) -> InputError:
    """What is wrong with an MP4 that comes through a pipe with its index behind its data."""
    return InputError(
        f"{path}: an MP4 through a pipe needs its index in front; write it with -movflags "
        "+faststart, or name the file itself"
    )


def choose_video(
    container: av.container.InputContainer,
    path: Path,
    wanted: Sequence[StreamSpecifier] = (),
) -> av.VideoStream:
    """The stream to upscale: the first video among the ``wanted`` ones, never a cover.

    Raises:
        InputError: there is no video, or no decoder for it.
        OptionError: there are several and none is chosen, or the choice holds none.
    """
    streams = list(container.streams)
    videos = [s for s in streams if isinstance(s, av.VideoStream)]
    covers = [s for s in videos if s.disposition & Disposition.attached_pic]
    eligible = [s for s in videos if s not in covers]
    if not eligible:
        kinds = sorted({s.type for s in streams if s not in covers})
        if covers:
            what = "only a cover picture" + (f" and {', '.join(kinds)}" if kinds else "")
        else:
            what = f"only {', '.join(kinds)}" if kinds else "no stream at all"
        raise InputError(f"{path} holds no video ({what}); name a file with a video stream")
    # A damaged header names streams that have neither a decoder nor a size.
    eligible = [s for s in eligible if _decodable(s) and s.codec_context.width] or eligible[:1]
    eligible = _without_twins(container, eligible)
    chosen = eligible
    if wanted:
        taken = selected(streams, wanted)
        chosen = [s for s in taken if isinstance(s, av.VideoStream) and s in eligible]
    if not chosen or (len(chosen) > 1 and not wanted):
        what = "--map takes no video stream" if wanted else "there are several video streams"
        listed = ", ".join(f"v:{videos.index(s)} ({_described(s)})" for s in eligible)
        raise OptionError(
            f"{path}: {what}; choose one, as with --map v:{videos.index(eligible[0])} --map a, "
            f"of {listed}"
        )
    stream = chosen[0]
    if not _decodable(stream):
        raise InputError(
            f"{path}: no decoder for its video codec here; convert it with a tool that has one"
        )
    if stream.codec_context.name in _REORDERED_FREELY:
        container.flags &= ~_GEN_PTS
    return stream


def matches(specifier: StreamSpecifier, stream: Stream, streams: Sequence[Stream]) -> bool:
    """Whether a specifier names a stream, a leading ``-`` left aside.

    Args:
        streams: all of the input, in its order; a number counts those of the kind,
            cover pictures among the video streams, as FFmpeg counts.
    """
    if specifier.kind is not None and stream.type != specifier.kind:
        return False
    if specifier.number is not None:
        alike = [s for s in streams if specifier.kind in (None, s.type)]
        if stream.index not in [s.index for s in alike[specifier.number : specifier.number + 1]]:
            return False
    if specifier.tag is None:
        return True
    key, value = specifier.tag
    return any(k.lower() == key.lower() and v == value for k, v in stream.metadata.items())


def selected(streams: Sequence[Stream], chosen: Sequence[StreamSpecifier]) -> list[Stream]:
    """The streams that ``--map`` asks for, each once, in the order of the specifiers.

    A first specifier that takes streams out takes them out of all.

    Raises:
        OptionError: a specifier matches none.
    """
    taken = list(streams) if not chosen or chosen[0].excluded else []
    for specifier in chosen:
        found = [s for s in streams if matches(specifier, s, streams)]
        if not found:
            kinds = ", ".join(f"{s.index} {s.type}" for s in streams)
            raise OptionError(
                f"--map {specifier.text} matches no stream; the input has: {kinds or 'none'}"
            )
        if specifier.excluded:
            taken = [s for s in taken if s not in found]
        else:
            taken += [s for s in found if s not in taken]
    return taken


class _Pipe:
    """Bytes that come once, as PyAV reads them; seeks only where the bytes lie in a file."""

    name = "pipe"

    def __init__(self, path: Path) -> None:
        if str(path) == "-":
            if sys.stdin is None or sys.stdin.isatty():
                raise InputError("standard input is a terminal; pipe a video into it")
            self._file: BinaryIO = sys.stdin.buffer
        else:
            try:
                self._file = path.open("rb")
            except OSError as error:
                raise InputError(
                    f"{path} cannot be opened ({error.strerror}); check the name"
                ) from error
        self._own = str(path) != "-"
        self.head = b""

    def __del__(self) -> None:
        if getattr(self, "_own", False):
            self._file.close()

    def read(self, size: int) -> bytes:
        # What is there, and not the whole size: a slow writer must not hold frames back.
        read1 = getattr(self._file, "read1", self._file.read)
        data: bytes = read1(size)
        if len(self.head) < _HEAD:
            self.head += data[: _HEAD - len(self.head)]
        return data

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._file.seekable()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


@lru_cache(maxsize=1)
def _demuxers() -> frozenset[str]:
    """FFmpeg's names of the demuxers that open nothing but their input."""
    names = set()
    for name in av.formats_available - _POINTERS:
        try:
            if ContainerFormat(name, "r").is_input:
                names.add(name)
        except ValueError:  # a muxer
            continue
    return frozenset(names)


def _raw_options(reading: InputOptions) -> dict[str, str]:
    options = {}
    if reading.video_size is not None:
        options["video_size"] = "{}x{}".format(*reading.video_size)
    if reading.pixel_format is not None:
        options["pixel_format"] = reading.pixel_format
    if reading.framerate is not None:
        options["framerate"] = str(reading.framerate)
    return options


def _pattern(path: Path) -> str:
    """The absolute name as FFmpeg expands it: a percent sign that is no number is doubled."""
    found = re.search(r"%(0\d+)?d", path.name)
    assert found is not None, "not a pattern"
    before, after = path.name[: found.start()], path.name[found.end() :]
    rest = [text.replace("%", "%%") for text in (str(path.absolute().parent), before, after)]
    return f"{rest[0]}/{rest[1]}{found[0]}{rest[2]}"


def _numbered(path: Path, reading: InputOptions, notes: list[str]) -> dict[str, str]:
    """FFmpeg's options to read numbered pictures from the first to the last."""
    numbers = list(numbered_files(path))
    if not numbers:
        raise InputError(f"{path}: no picture has such a name; check the name and its digits")
    if missing := missing_numbers(numbers):
        raise InputError(
            f"{path}: the pictures run from {numbers[0]} to {numbers[-1]}, but {missing} is not "
            "there; add what is missing, or number them without a gap"
        )
    if reading.framerate is None:
        notes.append(f"numbered pictures have no frame rate: {_RATE} a second is assumed")
    return {
        "pattern_type": "sequence",
        "start_number": str(numbers[0]),
        "framerate": str(reading.framerate or _RATE),
    }


def _check_file(path: Path) -> None:
    if is_script(path):
        raise InputError(
            f"{path} is a VapourSynth script: a program, which only hatvid upscale and hatvid info "
            "run; name a video file here"
        )
    if not os.path.lexists(path):
        raise InputError(f"{path}: no such file; check the name")
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a video file in it")
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise InputError(f"{path} cannot be opened ({error.strerror}); check the file") from error
    if empty:
        raise InputError(f"{path} is empty; was it copied or downloaded completely?")


def _refusal(path: Path, source: str | _Pipe | SparseFile, error: Exception) -> InputError:
    """Why FFmpeg could not open an input, in the user's terms."""
    if isinstance(source, _Pipe):
        head = source.head
        if not head:
            return InputError(f"{path}: nothing came through the pipe; did its writer fail?")
        if head[4:8] == b"ftyp" and not source.seekable():
            return unseekable(path)
    else:
        try:
            with path.open("rb") as file:
                head = file.read(_HEAD)
        except OSError:  # numbered pictures
            head = b""
    kind = _pointer(head)
    if kind is not None:
        return InputError(
            f"{path} is {kind}: it only names other files, and none of them is opened; name the "
            "video itself, or join its parts into one file first"
        )
    reason = getattr(error, "strerror", None) or error
    return InputError(
        f"{path} cannot be read as a video ({reason}); is the file whole, and is it a video?"
    )


def _pointer(head: bytes) -> str | None:
    """What kind of file that names others begins like this."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if b"#EXTM3U" in text:
        return "an HLS playlist"
    if text.startswith(b"ffconcat"):
        return "a list of files to join (ffconcat)"
    if text.startswith((b"<?xml", b"<MPD", b"<CompositionPlaylist")):
        return "a playlist (DASH or IMF)" if b"MPD" in text or b"Playlist" in text else None
    if text.startswith(b"v=0") and b"m=" in text:
        return "an SDP session"
    return "a VobSub index" if text.startswith(b"# VobSub") else None


def _decodable(stream: av.VideoStream) -> bool:
    try:
        return stream.codec_context is not None and stream.codec_context.codec is not None
    except (av.error.FFmpegError, ValueError):
        return False


def _without_twins(
    container: av.container.InputContainer, videos: list[av.VideoStream]
) -> list[av.VideoStream]:
    """Without streams that a damaged Matroska lists again: FFmpeg reads its list of tracks as
    often as it comes by one, and all packets belong to the first of the same number."""
    if len(videos) == 1 or not container.format.name.startswith("matroska"):
        return videos
    single: list[av.VideoStream] = []
    for stream in videos:
        setup = [(s.codec_context.name, s.codec_context.extradata) for s in (*single, stream)]
        if len(stream.index_entries) or setup[-1] not in setup[:-1]:
            single.append(stream)
    return single


def _described(stream: av.VideoStream) -> str:
    if not _decodable(stream):
        return f"stream {stream.index}, unknown codec"
    context = stream.codec_context
    parts = [f"stream {stream.index}", context.name, f"{context.width}x{context.height}"]
    return " ".join(parts + ([stream.language] if stream.language else []))
