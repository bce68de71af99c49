"""Packets of an input, read without decoding."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av

from hatvid.errors import DecodeError, InputError
from hatvid.options import InputOptions, StreamOptions
from hatvid.selectors import TimePoint
from hatvid.video.opening import choose_video, is_pipe, open_input
from hatvid.video.pictures import AnyPacket, time_base_of
from hatvid.video.timeline import Timeline

__all__ = ["Packets", "Scan", "scan", "scan_for"]

# Packets beyond a frame's number that are read to be sure of it: the leading pictures of an
# open GOP may be none.
_LEADING = 64


@dataclass(frozen=True, kw_only=True)
class Scan:
    """The packets of a video stream, as they are presented.

    Args:
        pts: rising, in ``time_base`` units; a stream without pts has its sorted dts.
        durations: of each, 0 where the container does not say.
        key_frames: pts of the key frames, rising.
        time_base: in seconds.
        discarded: packets that an edit list hides; they are in none of the others.
        steady: each packet has a pts of its own, on a clock that does not jump: what is read
            from a key frame on has the same times as if it were read from the beginning.
        ended_early: why reading stopped before the end of the file, if it did.
        notes: one line for each jump of the clock.
    """

    pts: tuple[int, ...]
    durations: tuple[int, ...]
    key_frames: tuple[int, ...]
    time_base: Fraction
    discarded: int
    steady: bool = False
    ended_early: str | None = None
    notes: tuple[str, ...] = ()


def scan(
    path: Path,
    *,
    reading: InputOptions | None = None,
    streams: StreamOptions | None = None,
    frames: int | None = None,
) -> Scan:
    """Read the packets of the video that a :class:`VideoSource` of the same arguments decodes.

    Args:
        frames: enough is read to be sure of the first so many; None reads all.

    Raises:
        InputError: the input is a pipe, or cannot be read.
        OptionError: as for opening it.
    """
    if is_pipe(path):
        raise InputError(f"{path} is a pipe, which can be read only once; name a file")
    found: list[tuple[int, int, bool]] = []
    unsettled: list[int] = []
    settled = discarded = untimed = 0
    notes: list[str] = []
    with open_input(path, reading) as container:
        video = choose_video(container, path, (streams or StreamOptions()).map)
        timed = False
        packets = Packets(path, container, video, strict=False, notes=notes)
        for packet in packets:
            if packet.stream is not video:
                continue
            if packet.is_discard:
                discarded += 1
                continue
            timed = timed or packet.pts is not None
            untimed += packet.pts is None
            stamp = packet.pts if timed else packet.dts
            if stamp is None:
                continue
            found.append((stamp, packet.duration or 0, packet.is_keyframe))
            if frames is not None and packet.dts is not None:
                heapq.heappush(unsettled, stamp)
                while unsettled and unsettled[0] < packet.dts:
                    heapq.heappop(unsettled)
                    settled += 1
                if settled >= frames:
                    break
        found.sort(key=lambda item: item[0])
        stamps = tuple(stamp for stamp, _, _ in found)
        return Scan(
            pts=stamps,
            durations=tuple(duration for _, duration, _ in found),
            key_frames=tuple(stamp for stamp, _, key in found if key),
            time_base=time_base_of(video),
            discarded=discarded,
            steady=not untimed and not notes and len(set(stamps)) == len(stamps),
            ended_early=packets.ended_early,
            notes=tuple(notes),
        )


def scan_for(
    path: Path,
    video: av.VideoStream,
    start: TimePoint | None,
    end: TimePoint | None,
    *,
    reading: InputOptions,
    streams: StreamOptions,
) -> Scan | None:
    """Scan a file as far as ``start`` and ``end`` need it; None where they need nothing.

    Args:
        video: of the file, already open.

    Raises:
        InputError: ``start`` lies behind the last frame.
    """
    if is_pipe(path):
        return None
    numbers = [p.frame for p in (start, end) if p is not None and p.frame is not None]
    late = False
    if start is not None and start.seconds is not None:
        length = Fraction(video.container.duration or 0, av.time_base)  # type: ignore[attr-defined]
        if video.duration:
            length = video.duration * time_base_of(video)
        late = start.seconds + 1 > length
    if not numbers and not late:
        return None
    frames = None if late else max(numbers) + _LEADING
    found = scan(path, reading=reading, streams=streams, frames=frames)
    if start is None or not found.pts:
        return found
    last = (found.pts[-1] - found.pts[0]) * found.time_base
    if start.frame is not None:
        behind = start.frame >= len(found.pts)
    else:
        behind = late and not start.reached(last, 0)
    if behind:
        raise InputError(
            f"{path}: no frame lies between --start and --end; the video has {len(found.pts)} "
            f"frames, the last at {float(last):g} s"
        )
    return found


class Packets:
    """The packets of an opened input that hold data, in file order, on one clock.

    Iterate once. Packets of all streams come, those of :class:`Timeline`'s jumps moved.

    Args:
        path: for messages.
        strict: raise where the data ends early.
        notes: takes a line for each jump of the clock.
    """

    def __init__(
        self,
        path: Path,
        container: av.container.InputContainer,
        video: av.VideoStream,
        *,
        strict: bool,
        notes: list[str],
    ) -> None:
        self._path = path
        self._container = container
        self._video = video
        self._strict = strict
        self._timeline = Timeline(container, video, notes)
        self._seen = 0
        self.ended_early: str | None = None
        """Why reading stopped before the end of the file, if it did."""

    def __iter__(self) -> Iterator[AnyPacket]:
        """Yield each packet.

        Raises:
            DecodeError: strict, and the data ends early.
            InputError: the file can no longer be read.
        """
        packets: Iterator[AnyPacket] = self._container.demux()
        while True:
            try:
                packet = next(packets, None)
            except av.error.InvalidDataError as error:
                self._early(f"the data is broken ({error.strerror})")
                break
            except OSError as error:
                raise InputError(
                    f"{self._path}: reading failed ({error.strerror}); is the disk or the network "
                    "still there?"
                ) from error
            except (av.error.FFmpegError, ValueError) as error:
                self._early(f"the data is broken ({error})")
                break
            if packet is None:
                self._check_whole()
                break
            # Without data it is PyAV's sign of the end, or an empty sample of the file:
            # decoders take both for the end.
            if packet.size:
                self._seen += packet.stream is self._video
                yield from self._timeline.feed(packet)
        yield from self._timeline.finish()

    def _check_whole(self) -> None:
        """MP4's index comes first or not at all: a file cut short may still promise more."""
        if "mp4" in self._container.format.name:
            # The index, not the frame count: an edit list may leave pictures out.
            promised = len(self._video.index_entries)
            if self._seen < promised:
                self._early(f"{promised - self._seen} of {promised} pictures are missing")

    def _early(self, reason: str) -> None:
        if self._strict:
            raise DecodeError(
                f"{self._path}: {reason}; leave out --strict to keep what came before"
            )
        self.ended_early = reason
