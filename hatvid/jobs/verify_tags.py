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
        *(
            "alpha_mode",
            "duration",
            "bps",
            "number_of_frames",
            "number_of_bytes",
            "handler_name",
            "vendor_id",
        ),
    }
)
_COMMON = frozenset(
    {
        *("title", "artist", "album_artist", "album", "composer", "comment", "genre", "date"),
        *("copyright", "description", "synopsis", "show", "episode_id", "network", "lyrics"),
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

    def touched(self, begin: Fraction, duration: Fraction) -> bool:
        """Whether any of what begins then lies in it."""
        early = self.first is not None and begin < self.first and begin + duration <= self.first
        return not early and (self.last is None or begin < self.last)


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
    # Matroska spells its own tags in capitals; QuickTime calls a stream's title its name.
    folded = {key.lower().removesuffix("-eng"): value for key, value in tags.items()}
    if "name" in folded:
        folded.setdefault("title", folded.pop("name"))
    return folded


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


def check_metadata(source: Inventory, output: Inventory, part: Part) -> Check | None:
    """Whether the file's own tags are there; None where the input has none."""
    after = _folded(output.metadata)
    tags = {
        key: value
        for key, value in _folded(source.metadata).items()
        if key not in _OF_THE_FILE and not key.startswith("_statistics")
    }
    timecodes = [stream.metadata.get("timecode") for stream in source.streams]
    if any(timecodes):
        tags["timecode"] = next(filter(None, timecodes))
    for stream in output.streams:
        if "timecode" in stream.metadata:
            after.setdefault("timecode", stream.metadata["timecode"])
    if not part.whole:
        tags.pop("timecode", None)  # that of the first frame
    if not tags:
        return None
    if not output.container.startswith(_TAGS_HELD):
        text = f"{len(tags)} left out, as {output.muxer} cannot hold any"
        return Check(name="metadata", ok=True, text=text)
    lost = [key for key, value in tags.items() if after.get(key) != value]
    excused = [key for key in lost if key not in _COMMON and _covered(output)]
    if len(excused) < len(lost):
        text = few(f"{key} {tags[key]!r} -> {after.get(key)!r}" for key in lost)
        return Check(name="metadata", ok=False, text=text, details=tags)
    text = f"{len(tags) - len(excused)} equal"
    if excused:
        text += f", {few(excused)} left out, as {output.muxer} with a cover holds no such tag"
    return Check(name="metadata", ok=True, text=text, details=tags)


def _covered(output: Inventory) -> bool:
    """QuickTime has either any tags, or a cover picture and those that are common."""
    return output.container.startswith("mov") and any(s.kind == "cover" for s in output.streams)
