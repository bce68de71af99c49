"""Whether what is said of a file and its streams has arrived: tags and chapters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from hatvid.jobs.checks import Check, few
from hatvid.jobs.verify_frames import Clock
from hatvid.video.inventory import Inventory, StreamContents

__all__ = ["Part", "check_chapters", "check_metadata", "labels_lost"]

# What muxers and encoders write of the file they make; untrue of any other.
_OF_THE_FILE = frozenset(
    {
        *("major_brand", "minor_version", "compatible_brands", "encoder", "creation_time"),
        *("duration", "bps", "number_of_frames", "number_of_bytes", "handler_name", "vendor_id"),
    }
)
_TAGS_HELD = ("matroska,webm", "mov", "nut")
_DISPOSITIONS_HELD = {
    "matroska": frozenset(
        {"default", "forced", "hearing_impaired", "visual_impaired", "original", "comment"}
    ),
    "mov": frozenset({"default"}),
    "mpegts": frozenset({"hearing_impaired", "visual_impaired"}),
}


@dataclass(frozen=True, kw_only=True)
class Part:
    """The part of the input's time that the output shows, in seconds; None is open."""

    first: Fraction | None = None
    last: Fraction | None = None

    @property
    def whole(self) -> bool:
        return self.first is None and self.last is None


def labels_lost(stream: StreamContents, twin: StreamContents, output: Inventory) -> list[str]:
    """What is said of a stream and no more in the output."""
    lost = []
    mine, its = _folded(stream.metadata), _folded(twin.metadata)
    keys = {"language", "title"} if output.container.startswith("mov") else set(mine)
    if output.container.startswith("matroska") and stream.kind == "attachment":
        keys -= {"filename"}
    if not output.container.startswith(_TAGS_HELD):
        keys = {"language"} if output.container == "mpegts" else set()
    for key in sorted(keys & set(mine) - _OF_THE_FILE):
        if key.startswith("_statistics") or (key == "language" and mine[key] == "und"):
            continue
        if its.get(key) != mine[key]:
            lost.append(f"{key} {mine[key]!r} -> {its.get(key)!r}")
    demuxer = output.container.partition(",")[0]
    gone = (stream.disposition - twin.disposition) & _DISPOSITIONS_HELD.get(demuxer, frozenset())
    if gone:
        lost.append(f"no longer {few(sorted(gone))}")
    return lost


def _folded(tags: Mapping[str, str]) -> dict[str, str]:
    # Matroska spells its own tags in capitals.
    return {key.lower().partition("-eng")[0]: value for key, value in tags.items()}


def check_chapters(source: Inventory, output: Inventory, clock: Clock, part: Part) -> Check | None:
    """Whether each chapter begins where it did; None where the input has none."""
    if not source.chapters:
        return None
    if output.container in ("mpegts", "flv", "yuv4mpegpipe"):
        text = f"{len(source.chapters)} left out, as {output.muxer} cannot hold any"
        return Check(name="chapters", ok=True, text=text)
    if not part.whole:
        known = {chapter.title for chapter in source.chapters}
        strange = [chapter.title for chapter in output.chapters if chapter.title not in known]
        text = f"{len(output.chapters)} of {len(source.chapters)}, as the output is a part"
        return Check(name="chapters", ok=not strange, text=text)
    if len(source.chapters) != len(output.chapters):
        text = f"{len(output.chapters)} in place of {len(source.chapters)}"
        return Check(name="chapters", ok=False, text=text)
    for before, after in zip(source.chapters, output.chapters, strict=True):
        off = after.start - before.start - clock.moved
        # QuickTime keeps chapters in milliseconds, whatever clock it reads them out in.
        if before.title != after.title or abs(off) > max(
            before.tick, after.tick, Fraction(1, 1000)
        ):
            text = (
                f"{after.title!r} at {float(after.start):.3f} s in place of {before.title!r} at "
                f"{float(before.start):.3f} s"
            )
            return Check(name="chapters", ok=False, text=text)
    return Check(name="chapters", ok=True, text=f"{len(source.chapters)}, titles and times equal")


def check_metadata(source: Inventory, output: Inventory) -> Check | None:
    """Whether the file's own tags are there; None where the input has none."""
    before, after = _folded(source.metadata), _folded(output.metadata)
    tags = {
        key: value
        for key, value in before.items()
        if key not in _OF_THE_FILE and not key.startswith("_statistics")
    }
    timecode = next(
        (stream.metadata["timecode"] for stream in source.streams if "timecode" in stream.metadata),
        None,
    )
    if timecode is not None and output.container.startswith(_TAGS_HELD):
        tags["timecode"] = timecode
        its = [stream.metadata.get("timecode") for stream in output.streams]
        after.update({"timecode": timecode} if timecode in its else {})
    if not tags:
        return None
    if not output.container.startswith(_TAGS_HELD):
        text = f"{len(tags)} left out, as {output.muxer} cannot hold any"
        return Check(name="metadata", ok=True, text=text)
    lost = [
        f"{key} {value!r} -> {after.get(key)!r}"
        for key, value in tags.items()
        if after.get(key) != value
    ]
    if lost:
        return Check(name="metadata", ok=False, text=few(lost))
    return Check(name="metadata", ok=True, text=f"{len(tags)} equal", details=tags)
