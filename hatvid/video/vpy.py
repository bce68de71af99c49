"""A VapourSynth script as a source: run once, its output clip becomes frame batches.

A script is a program, and runs with all that its user may do. Only what a user named is
ever run.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Generator, Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from math import lcm
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import vapoursynth as vs
from torch import Tensor

from hatvid.errors import DecodeError, InputError
from hatvid.options import ColorOptions, InputOptions, ScriptOptions, StreamOptions
from hatvid.video.batch import FrameBatch, batched
from hatvid.video.color import ColorTags
from hatvid.video.compare import Presented
from hatvid.video.convert import PlaneLayout
from hatvid.video.kind import Kind
from hatvid.video.opening import choose_video, open_input
from hatvid.video.pictures import AnyPacket, FrameTime, fraction
from hatvid.video.scan import Packets
from hatvid.video.script_run import line_in, reason_of, run_script
from hatvid.video.source import VideoSource
from hatvid.video.source_info import SourceInfo
from hatvid.video.vs_frames import hdr_of, layout_of, number_in, planes_of, tags_of
from hatvid.video.vs_requests import rendered

__all__ = ["ScriptSource"]

_TICKS = 720_000
"""A second has so many: the least that 1/24000, 1/30000, 1/90000, 1/48000 and 1/1000 fit."""

_MOST_TICKS = 2**31 - 1


class ScriptSource(VideoSource):
    """The output of a script, with the face of a video that was opened.

    Opening runs the script and renders the first frame. While it is open, what Python code
    prints goes to standard error: standard output may be a video's.

    Args:
        path: of the script.
        script: its arguments, which output, and where other streams come from.
        reading: of which colours count.
        streams: which of the other streams are wanted.

    Raises:
        InputError: the script fails, sets no such output, or one that hatvid does not take.
    """

    def __init__(
        self,
        path: Path,
        *,
        script: ScriptOptions,
        reading: InputOptions | None = None,
        streams: StreamOptions | None = None,
    ) -> None:
        self._path = path
        self.notes: list[str] = []
        self._rounded = 0
        self._varies = False
        self.shown = Presented()
        """The times of the frames given so far."""
        self._held = contextlib.ExitStack()
        with self._held:
            self._held.enter_context(contextlib.redirect_stdout(sys.stderr))
            self._held.callback(vs.clear_outputs)
            self._clip, self._alpha = self._evaluated(script)
            with self._refusing_frames():
                first = self._clip.get_frame(0)
            self._refuse_fields(first.props, 0)
            self._said = tags_of(first.props)
            layout = self._layout()
            begin = self._open_streams(script.streams_from, streams or StreamOptions())
            self.info = self._told(first, layout, begin, (reading or InputOptions()).colors)
            self.kind = Kind(
                width=self.info.width,
                height=self.info.height,
                pix_fmt=layout.pix_fmt,
                aspect=self.info.sample_aspect_ratio,
            )
            self._held = self._held.pop_all()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.container.close()
        self._held.close()

    @property
    def ended_early(self) -> str | None:
        """Never: a script that fails raises."""
        return None

    @property
    def residue(self) -> dict[int, tuple[Fraction, Fraction]]:
        """Nothing is cut."""
        return {}

    @property
    def first(self) -> int:
        """pts of the first frame."""
        return self.info.start

    def limits(self) -> tuple[Fraction | None, Fraction | None]:
        """A script is taken whole."""
        return (None, None)

    def items(self, batch: int, copied: frozenset[int]) -> Iterator[FrameBatch | AnyPacket]:
        """See :meth:`VideoSource.items`.

        Raises:
            DecodeError: a frame fails.
            InputError: the file of the other streams can no longer be read.
        """
        beside = self._packets_of(copied)
        waiting: list[tuple[tuple[Tensor, ...], FrameTime, None]] = []
        packet = next(beside, None)
        with contextlib.closing(self._timed()) as frames:
            for planes, time in frames:
                waiting.append((planes, time, None))
                if len(waiting) == batch:
                    yield batched(waiting)
                    waiting = []
                while packet is not None and _before(packet, time.pts * self.info.time_base):
                    yield packet
                    packet = next(beside, None)
        if waiting:
            yield batched(waiting)
        while packet is not None:
            yield packet
            packet = next(beside, None)

    # Running it.

    def _evaluated(self, script: ScriptOptions) -> tuple[vs.VideoNode, vs.VideoNode | None]:
        """The clip that the script puts out, and its alpha."""
        vs.clear_outputs()
        run_script(self._path, script.args)
        outputs = vs.get_outputs()
        if not outputs:
            raise InputError(f"{self._path} sets no output; end it with clip.set_output()")
        chosen = outputs.get(script.output_index)
        if chosen is None:
            there = ", ".join(str(index) for index in sorted(outputs))
            raise InputError(
                f"{self._path} sets no output {script.output_index}; choose one of {there} with "
                "--output-index"
            )
        for index, node in sorted(outputs.items()):
            if isinstance(node, vs.AudioNode) and node is not chosen:
                self.notes.append(
                    f"output {index} of the script is sound, which is not taken; --streams-from "
                    "copies that of a file"
                )
        if not isinstance(chosen, vs.VideoOutputTuple):
            raise InputError(
                f"output {script.output_index} of {self._path} is sound; choose a video with "
                "--output-index"
            )
        return chosen.clip, chosen.alpha

    # What it gives.

    def _layout(self) -> PlaneLayout:
        clip, alpha = self._clip, self._alpha
        form = clip.format
        if form.color_family == vs.UNDEFINED or not clip.width or not clip.height:
            raise InputError(
                f"the output of {self._path} varies in format or size; make it constant by resize"
            )
        layout = layout_of(form)
        if layout is not None and alpha is not None:
            # VapourSynth has seen to it that both are alike.
            name = layout.pix_fmt
            name = name.replace("gbrp", "gbrap") if name.startswith("g") else f"yuva{name[3:]}"
            layout = None if layout.family == "gray" else replace(layout, pix_fmt=name)
        known = None if layout is None else PlaneLayout.of(layout.pix_fmt)
        if known is None:
            with_alpha = " with alpha" if alpha is not None else ""
            raise InputError(
                f"the output of {self._path} is {form.name}{with_alpha}, which no encoder here "
                "takes; end the script with resize.Bicubic(format=vs.YUV444P16, matrix_s='709') or "
                "the like"
            )
        return known

    def _told(
        self, first: vs.VideoFrame, layout: PlaneLayout, begin: Fraction, colors: ColorOptions
    ) -> SourceInfo:
        clip = self._clip
        rate = Fraction(clip.fps) if clip.fps else None
        told = _duration(first.props)
        if told is None and rate is None:
            raise InputError(
                f"{self._path}: neither the clip nor its first frame says how long a frame lasts; "
                "end the script with clip.std.AssumeFPS(fpsnum=..., fpsden=...)"
            )
        self._step: Fraction = told if told is not None else Fraction(1) / (rate or 1)
        ticks = lcm(_TICKS, self._step.denominator)
        ticks = ticks if ticks <= _MOST_TICKS else _TICKS
        aspect = number_in(first.props, "_SARNum") or 0, number_in(first.props, "_SARDen") or 0
        return SourceInfo(
            path=self._path,
            container="vapoursynth",
            codec="rawvideo",
            width=clip.width,
            height=clip.height,
            layout=layout,
            tags=self._said.overruled_by(colors),
            time_base=Fraction(1, ticks),
            # That of a clip whose frames do not follow it says nothing.
            average_rate=rate if told in (None, 1 / rate if rate else None) else None,
            frames=clip.num_frames,
            start=round(begin * ticks),
            duration=None,
            sample_aspect_ratio=Fraction(*aspect) if min(aspect) > 0 else None,
            bits=layout.depth,
            rotation=0,
            display_matrix=None,
            field_order="progressive",
            hdr=hdr_of(first.props),
        )

    def _timed(self) -> Generator[tuple[tuple[Tensor, ...], FrameTime]]:
        """Planes and time of every frame, in order."""
        info, step = self.info, self._step
        at = info.start * info.time_base
        begin = info.start
        for number, (frame, alpha) in enumerate(self._rendered()):
            self._refuse_fields(frame.props, number)
            self._compare(tags_of(frame.props), number)
            planes = planes_of(frame, frame.format.num_planes)
            if alpha is not None:
                planes += planes_of(alpha, 1)
            step = _duration(frame.props) or step
            at += step
            end = max(begin + 1, round(at / info.time_base))
            self._rounded += end * info.time_base != at
            self.shown.pts.append(begin)
            self.shown.durations.append(end - begin)
            yield planes, FrameTime(pts=begin, duration=end - begin)
            begin = end
        if self._rounded:
            self.notes.append(
                f"{self._rounded} frames end at no whole 1/{info.time_base.denominator} s: rounded"
            )

    def _rendered(self) -> Iterator[tuple[vs.VideoFrame, vs.VideoFrame | None]]:
        with self._refusing_frames():
            clips = [self._clip] if self._alpha is None else [self._clip, self._alpha]
            ahead = vs.core.num_threads
            for frames in zip(*(rendered(clip, ahead=ahead) for clip in clips), strict=True):
                yield frames[0], frames[1] if len(frames) > 1 else None

    @contextlib.contextmanager
    def _refusing_frames(self) -> Iterator[None]:
        try:
            yield
        except vs.Error as error:
            where = line_in(self._path, error)
            raise DecodeError(f"{self._path}{where}: {reason_of(error)}") from error

    def _refuse_fields(self, props: Mapping[str, Any], number: int) -> None:
        if number_in(props, "_FieldBased"):
            raise DecodeError(
                f"{self._path}: frame {number} is interlaced (_FieldBased); deinterlace in the "
                "script, or if it only says so, clip.std.SetFieldBased(0)"
            )

    def _compare(self, tags: ColorTags, number: int) -> None:
        if tags == self._said or self._varies:
            return
        self._varies = True
        self.notes.append(
            f"from frame {number} on the script says other colours ({tags.describe()}) than before "
            f"({self._said.describe()}): all are taken for the latter"
        )

    # What goes beside it.

    def _open_streams(self, path: Path | None, streams: StreamOptions) -> Fraction:
        """Open what the other streams come from; when its first frame is shown."""
        self._beside = path
        begin = Fraction(0)
        if path is None:
            self.container = av.open(_nothing_but_video(), "r", format="nut")
        else:
            # That is where the sound of the first frame is.
            with VideoSource(
                path, reading=InputOptions(progressive=True), streams=streams
            ) as source:
                begin = source.info.start * source.info.time_base
            self.container = open_input(path)
        self._held.callback(self.container.close)
        self.stream = choose_video(self.container, path or self._path, streams.map)
        return begin

    def _packets_of(self, copied: frozenset[int]) -> Iterator[AnyPacket]:
        if self._beside is None or not copied:
            return
        packets = Packets(self._beside, self.container, self.stream, strict=False, notes=self.notes)
        for packet in packets:
            if packet.stream_index in copied:
                yield packet


def _duration(props: Mapping[str, Any]) -> Fraction | None:
    """How long a frame lasts in seconds; None where it does not say."""
    told = number_in(props, "_DurationNum") or 0, number_in(props, "_DurationDen") or 0
    return Fraction(*told) if min(told) > 0 else None


def _before(packet: AnyPacket, seconds: Fraction) -> bool:
    stamp = packet.pts if packet.dts is None else packet.dts
    return stamp is None or stamp * fraction(packet.time_base) <= seconds


def _nothing_but_video() -> io.BytesIO:
    """A file of one small picture, where there are no streams to copy."""
    file = io.BytesIO()
    with av.open(file, "w", format="nut") as output:
        stream = output.add_mux_stream("rawvideo", width=2, height=2)
        assert isinstance(stream, av.VideoStream)
        stream.pix_fmt = "gray"
        packet = av.Packet(bytes(4))
        packet.stream, packet.pts, packet.dts, packet.is_keyframe = stream, 0, 0, True
        output.mux(packet)
    file.seek(0)
    return file
