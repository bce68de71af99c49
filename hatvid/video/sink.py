"""Encode, drain and mux: upscaled frames and copied packets become a file."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from typing import BinaryIO

import av
import torch

from hatvid.errors import HatvidError, OutputError
from hatvid.options import StreamOptions
from hatvid.video.copying import PacketCopier
from hatvid.video.headers import header_rewriter
from hatvid.video.outfile import OutputFile
from hatvid.video.pictures import AnyPacket, FrameTime
from hatvid.video.refusal import write_error
from hatvid.video.source import FrameBatch, VideoSource
from hatvid.video.streams import (
    StreamFate,
    StreamPlan,
    container_options,
    copy_metadata,
    described,
    open_streams,
    plan_streams,
    stream_tags,
)
from hatvid.video.track import OutputFormat, VideoTrack

__all__ = ["OutputFormat", "VideoSink"]


class VideoSink:
    """Writes one output into a binary file object.

    Where it cannot seek, as a pipe cannot, the muxer writes what can be read as it comes.

    Args:
        file: opened for writing, and for reading too if it can seek; stays open.
        form: what to write.
        source: whose other streams, tags and chapters are carried over.
        cut: the output begins or ends within the input: timestamps are moved so that
            the first frame is at 0.
        plan: what becomes of the other streams; None takes all that the container holds.
        device: where the planes of the frames will lie; None is main memory. From a GPU
            NVENC takes them there, see :attr:`on_device`.

    Raises:
        OutputError: the encoder or the container refuses the format.
    """

    def __init__(
        self,
        file: BinaryIO,
        form: OutputFormat,
        source: VideoSource,
        *,
        cut: bool = False,
        plan: StreamPlan | None = None,
        device: torch.device | None = None,
    ) -> None:
        muxer = form.container.muxer
        if plan is None:
            plan = plan_streams(source.container, source.stream, StreamOptions(), muxer, cut=cut)
        self._format = form
        self._cut = cut
        self._device = device
        self._offset: Fraction | None = None
        self._early: list[AnyPacket] = []
        self.fates: tuple[StreamFate, ...] = plan.fates
        self.notes: list[str] = described(plan.fates)
        tags = stream_tags(source.stream, muxer, changed=True, cut=cut)
        tags.pop("alpha_mode", None)  # of a second picture in each packet, which we do not write
        rewriter = header_rewriter(
            muxer,
            width=form.width,
            height=form.height,
            aspect=form.sample_aspect_ratio,
            title=tags.get("title", ""),
        )
        if rewriter is not None and rewriter.placeholder is not None:
            tags["title"] = rewriter.placeholder
        self._file = OutputFile(file, rewriter)
        self._container = av.open(
            self._file,
            "w",
            format=muxer,
            container_options=self._options(source, plan),
        )
        try:
            twins = open_streams(
                plan, source.container, self._container, lambda: self._add_video(source, tags)
            )
            start, end = self._limits(source)
            self.notes += copy_metadata(
                source.container, self._container, cut=cut, start=start, end=end
            )
            self._container.start_encoding()
            self._copier = PacketCopier(
                self._container,
                twins,
                before_zero=form.container.before_zero,
                broken=lambda: self._file.error is not None,
            )
        except HatvidError:
            self.abort()
            raise
        except (av.error.FFmpegError, OSError, ValueError) as error:
            self.abort()
            raise self._translated(error) from error
        self.copied = frozenset(twins)
        """Indices of the input streams whose packets :meth:`write` takes."""

    @property
    def on_device(self) -> bool:
        """Whether the encoder takes planes where they lie in a GPU's memory. If not,
        :meth:`write` brings those that lie there to main memory."""
        return self._video.on_device

    @property
    def frames(self) -> int:
        """How many the encoder was given."""
        return self._video.frames

    @property
    def side_data_lost(self) -> Counter[str]:
        """Of how many frames the encoder does not write which kind of side data."""
        return self._video.side_data_lost

    @property
    def packets_copied(self) -> dict[int, int]:
        """By index of the input stream, how many packets were written."""
        return self._copier.copied

    @property
    def packets_moved(self) -> dict[int, int]:
        """Of those, how many had a time that went back and were moved after the last one."""
        return self._copier.moved

    @property
    def packets_lost(self) -> dict[int, int]:
        """How many the container did not take."""
        return self._copier.lost

    @property
    def packets_early(self) -> dict[int, int]:
        """How many begin before time zero, where the container holds nothing."""
        return self._copier.early

    def write(self, item: FrameBatch | AnyPacket) -> None:
        """Encode the frames of a batch, or copy one packet.

        Args:
            item: a batch may lie on the CPU or on a GPU, its planes complete: no stream is
                waited for. They may be overwritten when this returns.

        Raises:
            OutputError: the encoder failed, or the file cannot be written.
        """
        try:
            if not isinstance(item, av.Packet):
                self._encode(item)
            elif self._offset is None:
                self._early.append(item)  # where the output begins is not known yet
            else:
                self._copier.copy(item, self._offset)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise self._translated(error) from error

    @property
    def extradata(self) -> bytes:
        """Parameter sets that the header has for the video, empty where packets bear them."""
        return self._video.extradata

    def begin(self, offset: Fraction) -> None:
        """Move all times by ``offset`` seconds to earlier, before anything is copied.

        Only where the video comes by :meth:`copy_video`; else its first frame decides.
        """
        self._offset = offset

    def copy_video(self, packet: AnyPacket) -> None:
        """Copy a packet of the upscaled video, its times the output's.

        Raises:
            OutputError: the file cannot be written.
        """
        try:
            self._video.copy(packet)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise self._translated(error) from error

    def finish(self) -> None:
        """Drain the encoder and write what ends the file.

        Raises:
            OutputError: as for :meth:`write`.
        """
        try:
            self._early.clear()  # with no frame they belong to nothing
            self._video.finish()
            self._copier.finish()
            self._container.close()
            self._file.finish()
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise self._translated(error) from error
        if self._file.error is not None:
            raise self._translated(self._file.error)

    def abort(self) -> None:
        """Free the encoder; what was written is worth nothing."""
        # A pipe's reader must not take what was broken off for a whole file.
        self._file.discarding = True
        with contextlib.suppress(av.error.FFmpegError, OSError, ValueError):
            self._container.close()

    # The header.

    def _options(self, source: VideoSource, plan: StreamPlan) -> dict[str, str]:
        container = self._format.container
        options = dict(container.options)
        told = container_options(source.container, container.muxer, cover=bool(plan.pictures))
        for name, value in (*told.items(), *(() if self._file.seekable() else container.piped)):
            options[name] = f"{options[name]}+{value}" if name in options else value
        return options

    def _limits(self, source: VideoSource) -> tuple[Fraction | None, Fraction | None]:
        """Where the output begins and ends on the input's time line, in seconds."""
        origin = source.info.start * source.info.time_base
        start, end = source.limits() if self._cut else (None, None)
        return (
            None if start is None else start + origin,
            None if end is None else end + origin,
        )

    def _add_video(self, source: VideoSource, tags: dict[str, str]) -> None:
        form = self._format
        if form.display_matrix is not None:
            matrix = _scaled(form.display_matrix, form.width, source.info.width)
            form = replace(form, display_matrix=matrix)
        self._video = VideoTrack(
            self._container, form, tags, source.stream.disposition, self._device
        )
        self.notes += self._video.notes

    def _encode(self, batch: FrameBatch) -> None:
        carriers = batch.carriers or (None,) * len(batch.times)
        for number, time in enumerate(batch.times):
            if self._offset is None:
                self._begin(time)
            assert self._offset is not None
            pts = time.pts - int(self._offset / self._format.time_base)
            planes = tuple(plane[number] for plane in batch.planes)
            self._video.encode(planes, time, pts, carriers[number])

    def _begin(self, first: FrameTime) -> None:
        """Settle by how much all times are moved, and write what waited for that."""
        at = first.pts * self._format.time_base
        # No container holds pictures before zero: MP4 takes them for cut off, in Matroska
        # they are read without a time.
        self._offset = at if self._cut or at < 0 else Fraction(0)
        waiting, self._early = self._early, []
        for packet in waiting:
            self._copier.copy(packet, self._offset)

    def _translated(self, error: Exception) -> OutputError:
        return write_error(error, self._format, failed=self._file.error)


def _scaled(matrix: tuple[int, ...], width: int, source_width: int) -> tuple[int, ...]:
    """The same transform of a larger picture: only its translation is in pixels."""
    across, down = (round(part * Fraction(width, source_width)) for part in matrix[6:8])
    return (*matrix[:6], across, down, *matrix[8:])
