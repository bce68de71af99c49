"""Prove that one file is another, larger, with nothing lost.

Both files are read; nothing that a job noted down while it ran is believed.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path

from hatvid.errors import HatvidError
from hatvid.jobs.checks import Check, Verification, few
from hatvid.jobs.verify_frames import (
    Pairing,
    Timeline,
    check_durations,
    check_times,
    pair,
    timeline,
)
from hatvid.jobs.verify_pictures import check_pictures
from hatvid.jobs.verify_script import Given, stock_of
from hatvid.jobs.verify_streams import check_streams
from hatvid.jobs.verify_tags import Part, check_chapters, check_metadata
from hatvid.options import InputOptions, StreamOptions
from hatvid.selectors import TimePoint
from hatvid.video.color import ColorTags
from hatvid.video.compare import Likeness, Presented, likenesses, present
from hatvid.video.containers import container_read_by
from hatvid.video.declared import Declared, color_names, declared
from hatvid.video.inventory import NO_PTS, Inventory, take_stock

__all__ = ["verify"]

_COLOURS = ("matrix", "range", "primaries", "transfer", "chroma location")
_SHAPE = ("sample aspect ratio", "display matrix", "field order")
_HDR = ("mastering display", "content light")
# Encoders of others write neither.
_HDR_CODECS = {"h264", "hevc", "av1"}


def verify(
    input: str | Path,  # noqa: A002 - the name that users know
    output: str | Path,
    *,
    start: TimePoint | None = None,
    end: TimePoint | None = None,
    reading: InputOptions | None = None,
    streams: StreamOptions | None = None,
    quick: bool = False,
    output_name: str | None = None,
    tags: ColorTags | None = None,
    given: Given | None = None,
    advanced: Callable[[int], None] | None = None,
) -> Verification:
    """Compare an upscaled file with what it was made from.

    Args:
        input: the source.
        output: what was made of it.
        start: as in the job; with it or ``end`` the output begins at 0.
        end: likewise.
        reading: how the job read the input: ``deinterlace``, colours in place of tags.
        streams: which streams the job was asked for.
        quick: leave the pictures unseen; the output is decoded and counted all the same.
        output_name: that the output will have, if it has another one yet.
        tags: that the output is to have, where the job converted its colours or filled in
            what the input leaves open.
        given: by the script that the input is: it is not run again, and ``quick`` is needed.
        advanced: told how many frames of the output are decoded.

    Returns:
        All checks. A file that cannot be read is a failed check too; nothing is raised
        for what the files hold.
    """
    pair_of = _Pair(
        Path(input),
        Path(output),
        start=start,
        end=end,
        reading=reading or InputOptions(),
        streams=streams or StreamOptions(),
        tags=tags,
        given=given,
    )
    checks = tuple(pair_of.checks(quick, output_name or "", advanced))
    return Verification(input=Path(input), output=Path(output), checks=checks)


class _Pair:
    """An input and an output, and what is known of them."""

    source: Inventory
    target: Inventory
    shown: Presented
    line: Timeline
    pairing: Pairing

    def __init__(
        self,
        source: Path,
        target: Path,
        *,
        start: TimePoint | None,
        end: TimePoint | None,
        reading: InputOptions,
        streams: StreamOptions,
        tags: ColorTags | None,
        given: Given | None,
    ) -> None:
        self.given = given
        self.paths = source, target
        self.tags = tags
        self.start, self.end = start, end
        self.reading, self.options = reading, streams

    @property
    def cut(self) -> bool:
        return self.start is not None or self.end is not None

    def checks(
        self, quick: bool, name: str, advanced: Callable[[int], None] | None
    ) -> Iterator[Check]:
        try:
            before = self._read_input()
        except HatvidError as error:
            yield Check(name="input", ok=False, text=str(error))
            return
        try:
            self.target = take_stock(self.paths[1], name=name)
            after = declared(self.target.path, self.target.video)
        except HatvidError as error:
            yield Check(name="output", ok=False, text=str(error))
            return
        self.pairing = pair(self.line, self.target, cut=self.cut)
        decoded = array("q")
        likes = self._likenesses(before, after, decoded, measured=not quick, advanced=advanced)
        if quick:
            for _ in likes:
                pass
            pictures = None
        else:
            pictures = self._pictures(likes)
        yield self._frames(decoded)
        target = self.target.stream(self.target.video)
        yield check_times(self.line, self.pairing, target.time_base)
        yield from _some(check_durations(self.line, self.pairing, self.source, self.target))
        if pictures is not None:
            yield pictures
        yield self._size(before, after)
        yield self._colors(before, after)
        yield self._shape(before, after)
        if any(before.names[name] for name in _HDR):
            yield self._hdr(before, after)
        part = self._part()
        clock = self.pairing.clock
        yield from check_streams(
            self.source,
            self.target,
            clock=clock,
            part=part,
            options=self.options,
            reading=self.reading,
        )
        yield from _some(check_chapters(self.source, self.target, clock, part))
        yield from _some(check_metadata(self.source, self.target, part))

    def _read_input(self) -> Declared:
        if self.given is not None:
            self.shown = self.given.shown
            self.line = timeline(self.shown, self.given.info.time_base)
            self.source, said = stock_of(self.given, self.options)
            return said
        self.source = take_stock(self.paths[0], reading=self.reading, wanted=self.options.map)
        self.shown = present(self.source.path, self.source.video, reading=self.reading)
        tick = self.source.stream(self.source.video).time_base
        fields = self.reading.deinterlace == "field"
        self.line = timeline(self.shown, tick, start=self.start, end=self.end, fields=fields)
        return declared(self.source.path, self.source.video, self.reading)

    def _likenesses(
        self,
        before: Declared,
        after: Declared,
        decoded: array[int],
        *,
        measured: bool,
        advanced: Callable[[int], None] | None,
    ) -> Iterator[Likeness]:
        """Every compared frame, while all frames are noted in ``decoded``."""
        numbers = self.line.numbers
        shown = {pts: numbers[at] for at, pts, _ in self.pairing.pairs if numbers[at] >= 0}
        for like in likenesses(
            (self.source.path, self.source.video),
            (self.target.path, self.target.video),
            shown,
            tags=(before.tags, after.tags),
            reading=self.reading,
            fields=self.reading.deinterlace is not None,
            measured=measured,
        ):
            decoded.append(like.pts)
            if advanced is not None:
                advanced(len(decoded))
            if like.number is not None:
                yield like

    def _pictures(self, likes: Iterator[Likeness]) -> Check:
        tick = self.target.stream(self.target.video).time_base
        try:
            return check_pictures(likes, tick)
        except HatvidError as error:  # a pixel format that cannot be compared
            return Check(name="pictures", ok=False, text=str(error))

    def _frames(self, decoded: array[int]) -> Check:
        """As many frames as the input presents, and each can be decoded."""
        pairing, line = self.pairing, self.line
        packets = len(self.target.stream(self.target.video).pts)
        wanted = len(pairing.pairs) + len(pairing.missing)
        details = {
            "packets_in": len(self.source.stream(self.source.video).pts),
            "decoded_in": len(self.shown.pts),
            "errors_in": self.shown.errors,
            "expected": wanted,
            "packets_out": packets,
            "decoded_out": len(decoded),
            "missing": [float(line.seconds(n)) for n in pairing.missing[:100]],
        }
        faults = []
        if self.target.ended_early:
            faults.append(f"the output ends early ({self.target.ended_early})")
        if len(decoded) != wanted or packets != wanted:
            faults.append(f"{wanted} expected, {packets} packets and {len(decoded)} frames found")
        elif not wanted:
            faults.append("there is none")
        if pairing.missing:
            times = (
                "?" if line.pts[n] == NO_PTS else f"{float(line.seconds(n)):.3f} s"
                for n in pairing.missing
            )
            faults.append(f"missing are those at {few(times)}")
        if faults:
            return Check(name="frames", ok=False, text="; ".join(faults), details=details)
        text = f"{wanted} in, {len(decoded)} out"
        if line.lost:
            text += f", of which {line.lost} cannot be decoded in the input"
        if self.source.ended_early:
            text += f"; the input ends early ({self.source.ended_early})"
        return Check(name="frames", ok=True, text=text, details=details)

    def _size(self, before: Declared, after: Declared) -> Check:
        text = f"{before.width}x{before.height} -> {after.width}x{after.height}"
        ok = after.width >= before.width and after.height >= before.height
        return Check(name="size", ok=ok, text=text)

    def _colors(self, before: Declared, after: Declared) -> Check:
        wanted = dict(before.names)
        if self.tags is not None:
            wanted |= {key: name for key, name in color_names(self.tags).items() if name}
        elif "gbr" in (wanted["matrix"], after.names["matrix"]):
            wanted["matrix"] = None  # RGB has no other matrix, and YUV not this one
        if (wanted["chroma location"], after.names["chroma location"]) == ("left", None):
            wanted["chroma location"] = None  # where players look for it unless told
        container = container_read_by(self.target.container)
        codec = self.target.stream(self.target.video).codec
        silent = container is not None and not container.tells_colors(codec)
        unsaid = set(_COLOURS) if silent else set()
        return _labels("colours", _COLOURS, before, after, wanted, unsaid)

    def _shape(self, before: Declared, after: Declared) -> Check:
        wanted = dict(before.names)
        # Frames that went through the network are whole pictures.
        if after.names["field order"] in (None, "progressive"):
            wanted["field order"] = None
        # A size of another aspect keeps the shape on the screen by its pixels' shape.
        same = _same_shape(before, after)
        wanted["sample aspect ratio"] = None if same else "the same shape on the screen"
        container = container_read_by(self.target.container)
        unsaid = {"display matrix"} if container is not None and not container.rotates else set()
        return _labels("shape", _SHAPE, before, after, wanted, unsaid)

    def _hdr(self, before: Declared, after: Declared) -> Check:
        codec = self.target.stream(self.target.video).codec
        unsaid = set() if codec in _HDR_CODECS else set(_HDR)
        return _labels("hdr", _HDR, before, after, before.names, unsaid)

    def _part(self) -> Part:
        """From the first frame that is shown to the first that is left out again."""
        if not self.cut or not len(self.line.pts):
            return Part()
        whole = timeline(self.shown, self.source.stream(self.source.video).time_base)
        count = len(self.line.pts) // (2 if self.reading.deinterlace == "field" else 1)
        first = self.pairing.clock.origin
        begun = next((n for n in range(len(whole.pts)) if whole.seconds(n) == first), 0)
        beyond = begun + count
        ends = self.end is not None and beyond < len(whole.pts)
        return Part(
            first=None if self.start is None else first,
            last=whole.seconds(beyond) if ends else None,
        )


def _some(check: Check | None) -> Iterator[Check]:
    if check is not None:
        yield check


def _labels(
    name: str,
    keys: tuple[str, ...],
    before: Declared,
    after: Declared,
    wanted: Mapping[str, str | None],
    unsaid: set[str],
) -> Check:
    """What was said must still be said; what was left open may be filled in.

    Args:
        wanted: of the output, None where anything will do.
        unsaid: what the output's codec or container has no words for.
    """
    wrong, shown = [], []
    for key in keys:
        old, new = before.names[key], after.names[key]
        change = f"{key} {old or 'unspecified'} -> {new or 'unspecified'}"
        if wanted[key] not in (None, new):
            if new is not None or key not in unsaid:
                wrong.append(change if wanted[key] == old else f"{change}, not {wanted[key]}")
            else:
                shown.append(f"{change} (the output cannot say it)")
        elif old != new:
            shown.append(change)
        elif new is not None:
            shown.append(f"{key} {new}")
    details = {key: [before.names[key], after.names[key]] for key in keys}
    text = few(wrong or shown or ["nothing is said"], 8)
    return Check(name=name, ok=not wrong, text=text, details=details)


def _same_shape(before: Declared, after: Declared) -> bool:
    """Whether both are shown in one shape, but for a column or row that was added."""
    shapes = [file.aspect * Fraction(file.width, file.height) for file in (before, after)]
    spare = Fraction(1, min(after.width, after.height)) + Fraction(1, 200)
    return abs(shapes[1] / shapes[0] - 1) <= spare
