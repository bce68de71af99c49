"""Decode, upscale and encode, each in its own thread, between two bounded queues."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Protocol

from hatvid.jobs.as_is import AsIs
from hatvid.jobs.enlarge import WRITE_BEHIND, Source, way_for
from hatvid.jobs.format import OutputPlan
from hatvid.jobs.way import Done, Finished, Way
from hatvid.upscaler import Description, MendedTile, Upscaler
from hatvid.video.fates import StreamFate
from hatvid.video.pictures import AnyPacket
from hatvid.video.prefetch import Prefetch, Writer
from hatvid.video.source import FrameBatch

__all__ = ["Giver", "Sink", "Taker", "pump"]

# Items that wait before the network. Small frames are read well ahead, so that packets
# lying between them do not starve it; the large ones behind it are few.
_READ_AHEAD = 16


class Taker(Protocol):
    """What takes the larger frames and the copied packets."""

    @property
    def copied(self) -> frozenset[int]: ...

    @property
    def on_device(self) -> bool: ...

    def write(self, item: FrameBatch | AnyPacket) -> None: ...


class Giver(Source, Protocol):
    """What gives frames and packets: a :class:`~hatvid.video.source.VideoSource` or a
    :class:`~hatvid.video.window.WindowSource`."""

    def items(self, batch: int, copied: frozenset[int]) -> Iterator[FrameBatch | AnyPacket]: ...


class Sink(Taker, Protocol):
    """A taker that tells what became of everything:
    :class:`~hatvid.video.sink.VideoSink` or
    :class:`~hatvid.video.picture_sink.PictureSink`."""

    notes: list[str]
    fates: tuple[StreamFate, ...]

    @property
    def frames(self) -> int: ...

    @property
    def packets_copied(self) -> dict[int, int]: ...

    @property
    def packets_moved(self) -> dict[int, int]: ...

    @property
    def packets_lost(self) -> dict[int, int]: ...

    @property
    def packets_early(self) -> dict[int, int]: ...

    @property
    def side_data_lost(self) -> Counter[str]: ...

    def finish(self) -> None: ...

    def abort(self) -> None: ...


def pump(
    source: Giver,
    sink: Taker,
    upscaler: Upscaler | None,
    facts: Description,
    plan: OutputPlan,
    done: Done,
    mended: Callable[[FrameBatch, MendedTile], None],
) -> None:
    """Bring every frame and every copied packet from the source to the sink.

    Args:
        upscaler: None leaves the frames as they are.
        facts: of the upscaler, for the source's frame size.
        plan: of the output.
        done: told of each batch that has been upscaled, in this thread.
        mended: told of each tile of a batch that was computed again in fp32.
    """
    # As many frames at once as fill the engine's batch.
    frames = max(1, facts.batch // facts.tiles)
    items = source.items(frames, sink.copied)
    way: Way
    if upscaler is None:
        way = AsIs(source.info, plan, done)
    else:
        way = way_for(
            source, upscaler, facts, plan, done, mended, frames=frames, download=not sink.on_device
        )

    def write(finished: Finished) -> None:
        sink.write(finished.item)
        if finished.release is not None:
            finished.release()

    with (
        closing(way),
        Prefetch(items, depth=_READ_AHEAD, name="hatvid-decode") as reader,
        Writer(write, depth=WRITE_BEHIND, name="hatvid-encode") as writer,
    ):
        for item in reader:
            for finished in way.put(item):
                writer.put(finished)
        for finished in way.flush():
            writer.put(finished)
        writer.finish()
