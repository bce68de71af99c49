"""ffmpeg's command line by PyAV alone, as far as the clips of the tests need it."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.bitstream import BitStreamFilterContext
from av.stream import Disposition

__all__ = ["WEAVE", "pyav"]

_FIELDS = "separatefields,select='not(mod(n,4))+eq(mod(n,4),3)'"
WEAVE = {
    "top first": f"setfield=tff,{_FIELDS},weave=first_field=top",
    "bottom first": f"setfield=bff,{_FIELDS},weave=first_field=bottom",
}
"""What ``tinterlace`` does, which PyAV's wheel lacks: of two frames the fields, as one frame of
both. Set the rate anew behind it, as with ``setpts=N/25/TB`` and ``-r 25``."""

FLAGS = {"-copyts"}  # options without a value: times are never moved here
READING = {"framerate", "video_size", "pixel_format", "start_number"}
MUXING = {"movflags", "output_ts_offset", "start_number", "strict", "video_track_timescale"}
LETTERS = {"v": "video", "a": "audio", "s": "subtitle"}


def pyav(*arguments: str | Path, given: bytes = b"") -> bytes:
    """Do what ``ffmpeg ARGUMENTS`` does: inputs, then one output; ``-`` reads ``given``.

    Times stay as they are, as with
    ``-copyts``; no frame is doubled or dropped for a constant rate, as with ``-fps_mode
    passthrough``. Subtitles are copied unless the output names a codec.

    Returns:
        What is written to standard output, where the output is ``-``.

    Raises:
        ValueError: an option that is not known here.
    """
    inputs: list[_Input] = []
    options: list[tuple[str, str]] = []
    words = iter(map(os.fspath, arguments))
    for word in words:
        if word == "-i":
            inputs.append(_Input.opened(next(words), options, given))
            options = []
        elif word.startswith("-") and word != "-":
            options.append((word[1:], "" if word in FLAGS else next(words)))
        else:
            if next(words, None) is not None:
                raise ValueError(f"one output alone, and {word} is not the last argument")
            try:
                return _written(inputs, options, word)
            finally:
                for source in inputs:
                    source.container.close()
    raise ValueError("no output")


@dataclass
class _Input:
    """An input: a file, or a graph of lavfi, to which filters are added."""

    container: Any
    name: str
    offset: Fraction = Fraction()
    graph: bool = False
    read: list[Any] = field(default_factory=list)

    @classmethod
    def opened(cls, name: str, options: list[tuple[str, str]], given: bytes) -> _Input:
        told = {"pixel_format" if key == "pix_fmt" else key: value for key, value in options}
        form = told.pop("f", None)
        offset = Fraction(told.pop("itsoffset", "0"))
        told.pop("copyts", None)
        if unknown := set(told) - READING:
            raise ValueError(f"not known before -i: {unknown}")
        if form == "lavfi":
            return cls(av.open(name, format=form), name, offset, graph=True)
        place: Any = io.BytesIO(given) if name == "-" else f"file:{name}" if form else name
        return cls(av.open(place, format=form, container_options=told), name, offset)

    def packets(self, stream: Any) -> Iterator[Any]:
        """The packets of a stream, and an empty one that flushes its decoder."""
        if self.graph:  # which may never end
            return iter(self.container.demux(stream))
        self.read = self.read or list(self.container.demux())
        return (packet for packet in self.read if packet.stream_index == stream.index)

    def filtered(self, filters: str) -> None:
        """Put filters behind it."""
        self.container.close()
        self.name = f"{self.name if self.graph else f"movie='{self.name}'"},{filters}"
        self.graph = True
        self.container = av.open(self.name, format="lavfi")


@dataclass
class _Stream:
    """A stream of the output, where it comes from and how it is coded."""

    source: _Input
    stream: Any
    kind: str
    place: int  # among the streams of its kind
    options: dict[str, str] = field(default_factory=dict)
    codec: str | None = None
    twin: Any = None
    bsf: Any = None

    def meant(self, specifier: str) -> bool:
        """Whether ``v``, ``v:1`` or nothing at all means this stream."""
        letter, _, place = specifier.partition(":")
        return LETTERS.get(letter or self.kind[0]) == self.kind and place in ("", str(self.place))


def _written(inputs: list[_Input], options: list[tuple[str, str]], target: str) -> bytes:
    general = {key: value for key, value in options if key in MUXING}
    streams = _mapped(inputs, [value for key, value in options if key == "map"])
    frames = None
    filters: list[str] = []
    form: str | None = None
    named: list[tuple[str, str]] = []
    for key, value in options:
        name, _, specifier = key.partition(":")
        if key == "f":
            form = value
        elif key in ("vf", "filter:v"):
            filters.append(value)
        elif key == "frames:v":
            frames = int(value)
        elif key == "muxdelay":
            general["max_delay"] = str(int(float(value) * 1_000_000))
        elif key in ("map", "copyts", "fps_mode", "attach", "map_metadata", "map_chapters"):
            if key == "fps_mode" and value != "passthrough":
                raise ValueError(f"fps_mode {value}")
        elif name in ("metadata", "disposition"):
            named.append((key, value))
        elif key not in MUXING or key == "strict":  # encoders and muxers may be strict
            # What is said of no kind is the picture's, but for these two.
            kind = specifier or ("" if name in ("c", "strict") else "v")
            for stream in streams:
                if stream.meant(kind):
                    stream.options[name] = value
    told = dict(options)
    buffer = io.BytesIO()
    place: Any = buffer if target == "-" else f"file:{target}"
    if "%" in target:
        place = target
    elif form is None and Path(target).suffix in (".png", ".jpg"):
        general |= {"update": "1"}
    with av.open(place, "w", format=form, container_options=general) as output:
        if "map" not in told:  # what the muxer holds
            held = [_default(output, stream) != "none" for stream in streams]
            asked = ["c" in stream.options for stream in streams]
            streams = [s for s, a, h in zip(streams, asked, held, strict=True) if a or h]
        for stream in streams:
            _open(stream, output, filters)
        files = [Path(value) for key, value in options if key == "attach"]
        for number, file in enumerate(files):
            output.add_attachment(file.name, _mimetype(named, number), file.read_bytes())
        output.metadata.update(inputs[int(told.get("map_metadata", 0))].container.metadata)
        told.setdefault("map_chapters", told.get("map_metadata", "0"))
        chaptered = inputs[int(told["map_chapters"])].container
        if chaptered.chapters():
            output.set_chapters(chaptered.chapters())
        _name(output, streams, named)
        output.start_encoding()
        timed = [pair for stream in streams for pair in _timed(_packets(stream, frames))]
        for _, packet in sorted(timed, key=lambda pair: pair[0]):
            output.mux(packet)
    return buffer.getvalue()


def _mapped(inputs: list[_Input], maps: list[str]) -> list[_Stream]:
    """The streams that ``-map`` names, or else the first of each kind."""
    found: list[tuple[_Input, Any]] = []
    for text in maps or [str(number) for number in range(len(inputs))]:
        number, _, specifier = text.partition(":")
        letter, _, place = specifier.partition(":")
        source = inputs[int(number)]
        of_kind = [s for s in source.container.streams if s.type == LETTERS.get(letter, s.type)]
        chosen = of_kind if place == "" else [of_kind[int(place)]]
        if not maps:
            there = {stream.type for _, stream in found}
            chosen = [s for s in chosen if s.type in LETTERS.values() and s.type not in there]
        found += [(source, stream) for stream in chosen]
    counts = dict.fromkeys(LETTERS.values(), -1)
    streams = []
    for source, stream in found:
        counts[stream.type] += 1
        streams.append(_Stream(source, stream, stream.type, counts[stream.type]))
    return streams


def _default(output: Any, stream: _Stream) -> str:
    """The codec that a muxer takes for streams of a kind; "none" is none."""
    pictures = {".png": "png", ".jpg": "mjpeg"}
    name: str = getattr(output, f"default_{stream.kind}_codec")
    return pictures.get(Path(output.name).suffix, name) if stream.kind == "video" else name


def _open(self: _Stream, output: Any, filters: list[str]) -> None:
    """Add the stream to the output."""
    options = self.options
    chosen = options.pop("c", "copy" if self.kind == "subtitle" else _default(output, self))
    if chosen == "copy":
        self.twin = output.add_stream_from_template(self.stream, opaque=True)
        if "bsf" in options:
            self.bsf = BitStreamFilterContext(options.pop("bsf"), self.stream, self.twin)
        return
    self.codec = "rawvideo" if chosen == "wrapped_avframe" else chosen
    if self.kind == "subtitle":
        self.twin = output.add_stream(self.codec)
        self.twin.time_base = self.stream.time_base
        self.stream.codec_context.open(strict=False)
        self.twin.codec_context.subtitle_header = self.stream.codec_context.subtitle_header
        return
    if self.kind == "audio":
        rates = av.Codec(self.codec, "w").audio_rates or [self.stream.rate]
        rate = self.stream.rate if self.stream.rate in rates else rates[0]
        self.twin = output.add_stream(
            self.codec, rate=rate, layout=self.stream.layout.name, options=options
        )
        known = self.twin.codec_context.codec.audio_formats or [self.stream.format]
        names = [form.name for form in known]
        own = self.stream.format.name
        self.twin.format = own if own in names else names[0]
        return
    known = av.Codec(self.codec, "w").video_formats
    names = [form.name for form in known] if known else []
    pix_fmt = options.pop("pix_fmt", None)
    if self.source.graph or filters:
        # Where nothing is asked for, libavfilter chooses among what the encoder takes.
        formats = pix_fmt or "|".join(names)
        self.source.filtered(",".join([*filters, *([f"format={formats}"] if formats else [])]))
        self.stream = self.source.container.streams.video[0]
    if "q" in options:
        options |= {"global_quality": str(118 * int(options.pop("q")))}  # FF_QP2LAMBDA
        options["flags"] = options.get("flags", "") + "+qscale"
    rate = Fraction(options.pop("r", self.stream.average_rate or self.stream.base_rate))
    base = Fraction(options.pop("enc_time_base", str(1 / rate)).replace(":", "/"))
    self.twin = output.add_stream(self.codec, rate=rate, options=options)
    self.twin.time_base = base
    context, own = self.twin.codec_context, self.stream.codec_context
    context.time_base = base
    context.width, context.height = own.width, own.height
    context.pix_fmt = pix_fmt or (own.pix_fmt if own.pix_fmt in names or not names else names[0])
    if self.stream.sample_aspect_ratio:
        context.sample_aspect_ratio = self.stream.sample_aspect_ratio


def _timed(packets: Iterator[Any]) -> Iterator[tuple[Fraction, Any]]:
    """Each packet of a stream with the seconds at which it is written."""
    last = None
    for packet in packets:
        at = packet.dts
        if at is None:  # as of the first in Matroska, with B-frames
            at = packet.pts if last is None else None
        seconds = last if at is None else at * Fraction(packet.time_base)
        last = seconds if last is None else max(last, seconds)
        yield last, packet


def _packets(self: _Stream, frames: int | None) -> Iterator[Any]:
    """All packets of the stream."""
    source = self.source
    if self.codec is None:
        for packet in _filtered(self):
            if source.offset:
                move = int(source.offset / packet.time_base)
                packet.pts, packet.dts = packet.pts + move, packet.dts + move
            packet.stream = self.twin
            yield packet
        return
    if self.kind == "subtitle":
        for packet in source.packets(self.stream):
            shown = self.stream.codec_context.decode2(packet) if packet.size else None
            if shown is not None:
                coded = self.twin.codec_context.encode_subtitle(shown)
                coded.pts = coded.dts = packet.pts + int(source.offset / packet.time_base)
                coded.duration, coded.time_base = packet.duration, packet.time_base
                coded.stream = self.twin
                yield coded
        return
    decoded = (frame for packet in source.packets(self.stream) for frame in packet.decode())
    for number, frame in enumerate(decoded):
        if number == frames:
            break
        at = frame.pts * frame.time_base + source.offset
        base = self.twin.codec_context.time_base if self.kind == "video" else frame.time_base
        frame.pts, frame.time_base = math.floor(at / base + Fraction(1, 2)), base
        if self.kind == "video":
            frame.pict_type = 0  # the encoder chooses
        yield from self.twin.encode(frame)
    yield from self.twin.encode(None)


def _filtered(self: _Stream) -> Iterator[Any]:
    """The packets of a stream that is copied, through ``-bsf``."""
    for packet in self.source.packets(self.stream):
        if packet.size:
            yield from self.bsf.filter(packet) if self.bsf else [packet]
    if self.bsf:
        yield from self.bsf.filter(None)


def _mimetype(named: list[tuple[str, str]], number: int) -> str:
    """The type of an attachment."""
    keys = ("metadata:s:t", f"metadata:s:t:{number}")
    (found,) = [v for k, v in named if k in keys and v.startswith("mimetype=")]
    return found.partition("=")[2]


def _name(output: Any, streams: list[_Stream], named: list[tuple[str, str]]) -> None:
    """Tags and dispositions: the input's, but for what is said of them."""
    for stream in streams:
        if not stream.source.graph:
            stream.twin.metadata.update(stream.stream.metadata)
            stream.twin.disposition = stream.stream.disposition
    for key, value in named:
        kind, _, specifier = key.partition(":")
        if kind == "metadata" and not specifier:
            tag, _, text = value.partition("=")
            for there in [name for name in output.metadata if name.lower() == tag.lower()]:
                del output.metadata[there]
            if text:
                output.metadata[tag] = text
            continue
        for stream in streams:
            meant = specifier.removeprefix("s:") if kind == "metadata" else specifier
            if not stream.meant(meant):
                continue
            if kind == "metadata":
                tag, _, text = value.partition("=")
                stream.twin.metadata[tag] = text
            else:
                flags = [Disposition[name] for name in value.split("+") if name != "0"]
                stream.twin.disposition = sum(flags, Disposition(0))
