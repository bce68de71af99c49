"""Whether every stream beside the upscaled video has arrived."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from itertools import pairwise

from hatvid.jobs.checks import Check
from hatvid.jobs.verify_frames import Clock
from hatvid.jobs.verify_tags import Part, labels_lost
from hatvid.options import InputOptions, StreamOptions
from hatvid.video.inventory import (
    NO_PTS,
    TEXT_SUBTITLES,
    Event,
    Inventory,
    StreamContents,
    filtered,
    holds,
)

__all__ = ["check_streams"]

# Bitstream filters that a container may ask for, by codec.
_FILTERS = {
    "aac": "aac_adtstoasc",
    "h264": "h264_mp4toannexb",
    "hevc": "hevc_mp4toannexb",
    "vvc": "vvc_mp4toannexb",
}


def _asked(source: Inventory, stream: StreamContents, options: StreamOptions) -> bool:
    kinds = {"audio": options.audio, "subtitle": options.subtitles}
    return stream.index in source.wanted and kinds.get(stream.kind, True)


def check_streams(
    source: Inventory,
    output: Inventory,
    *,
    clock: Clock,
    part: Part,
    options: StreamOptions,
    reading: InputOptions,
) -> list[Check]:
    """One check for each stream of the input; of the upscaled one its labels only."""
    wanted = [
        stream
        for stream in source.streams
        if stream.index != source.video and _asked(source, stream, options)
    ]
    twins = _twins(wanted, output)
    checks = []
    for stream in source.streams:
        if stream.kind in ("chapters", "timecode"):
            continue
        if stream.index == source.video:
            losses = labels_lost(stream, output.stream(output.video), output)
            text = "; ".join([f"video {stream.codec}: upscaled", *losses])
            checks.append(Check(name=f"stream {stream.index}", ok=not losses, text=text))
            continue
        name, title = f"stream {stream.index}", f"{stream.kind} {stream.codec}".strip()
        if stream not in wanted:
            checks.append(Check(name=name, ok=True, text=f"{title}: left out, as asked"))
        elif stream.index in twins:
            found = _compared(source, stream, output, twins[stream.index], clock, part, reading)
            ok, text, details = found
            losses = labels_lost(stream, twins[stream.index], output)
            text = "; ".join([f"{title}: {text}", *losses])
            checks.append(Check(name=name, ok=ok and not losses, text=text, details=details))
        elif not stream.packets:
            checks.append(Check(name=name, ok=True, text=f"{title}: empty"))
        elif not holds(output.muxer, source.path, stream, reading):
            text = f"{title}: left out, as {output.muxer} cannot hold it"
            checks.append(Check(name=name, ok=True, text=text))
        else:
            checks.append(Check(name=name, ok=False, text=f"{title}: missing"))
    return checks


def _twins(wanted: list[StreamContents], output: Inventory) -> dict[int, StreamContents]:
    """The output stream for each input stream: by content, then by place."""
    free = [stream for stream in output.streams if stream.index != output.video]
    found: dict[int, StreamContents] = {}

    def likeness(stream: StreamContents, other: StreamContents) -> int:
        return len(_set(stream) & _set(other)) + len(_texts(stream) & _texts(other))

    pairs = [
        (likeness(stream, other), stream, other)
        for stream in wanted
        for other in free
        if stream.kind == other.kind
    ]
    # Most in common first; a stream of which nothing is left takes what stays over.
    for shared, stream, other in sorted(pairs, key=lambda pair: -pair[0]):
        taken = any(other is twin for twin in found.values())
        if stream.index in found or taken:
            continue
        if shared or _may_become(stream, other):
            found[stream.index] = other
    return found


def _set(stream: StreamContents) -> set[bytes]:
    return {stream.digest(number) for number in range(stream.packets)}


def _texts(stream: StreamContents) -> set[str]:
    return {event.text for event in stream.events}


def _may_become(stream: StreamContents, other: StreamContents) -> bool:
    text = {stream.codec, other.codec} <= TEXT_SUBTITLES
    if stream.kind == "attachment":
        return stream.metadata["filename"] == other.metadata["filename"]
    return text or stream.codec == other.codec


type _Found = tuple[bool, str, dict[str, object]]


def _compared(
    source: Inventory,
    stream: StreamContents,
    output: Inventory,
    twin: StreamContents,
    clock: Clock,
    part: Part,
    reading: InputOptions,
) -> _Found:
    details: dict[str, object] = {
        "packets_in": stream.packets,
        "packets_out": twin.packets,
        "codec_in": stream.codec,
        "codec_out": twin.codec,
    }
    if stream.codec in TEXT_SUBTITLES:
        return _texts_compared(stream, twin, clock, part, details)
    if stream.kind in ("attachment", "cover"):
        if stream.digests != twin.digests:
            return False, "its bytes differ", details
        if stream.kind == "attachment" and stream.metadata["filename"] != twin.metadata["filename"]:
            return False, f"renamed to {twin.metadata['filename']!r}", details
        return True, "copied, SHA-256 equal", details
    first, last = _range(stream, part)
    before = stream.digests[32 * first : 32 * last]
    how = "copied"
    if before != twin.digests and (name := _FILTERS.get(stream.codec)) is not None:
        through = filtered(source.path, stream.index, name, reading)
        back = filtered(output.path, twin.index, name)
        if through and through[32 * first : 32 * last] == twin.digests:
            before, how = twin.digests, f"copied through {name}"
        elif back and back == before:
            before, how = twin.digests, f"copied, equal behind {name}"
    if before != twin.digests:
        return False, _first_difference(before, twin), details
    # MP4 tells where a track begins in another clock than what follows, FFmpeg's in ms.
    slack = Fraction(1, 1000) if output.container.startswith("mov") else Fraction(0)
    late = _first_moved(stream, twin, clock, first, slack)
    if late is not None:
        return False, late, details
    count = twin.packets
    text = f"{how}, {count} packet{'s' * (count != 1)}, SHA-256 and times equal"
    if not part.whole:
        text += _residue(stream, part, first, last)
    return True, text, details


def _range(stream: StreamContents, part: Part) -> tuple[int, int]:
    """Which packets are heard in the part."""
    inside = [
        number
        for number, (pts, duration) in enumerate(zip(stream.pts, stream.durations, strict=True))
        if pts == NO_PTS or part.touched(pts * stream.time_base, duration * stream.time_base)
    ]
    return (inside[0], inside[-1] + 1) if inside else (0, 0)


def _residue(stream: StreamContents, part: Part, first: int, last: int) -> str:
    if first == last:
        return ""
    tick = stream.time_base
    early = (part.first or Fraction(0)) - stream.pts[first] * tick if part.first else Fraction(0)
    end = (stream.pts[last - 1] + stream.durations[last - 1]) * tick
    late = end - part.last if part.last is not None else Fraction(0)
    return f", begins {float(early) * 1000:.1f} ms early and ends {float(late) * 1000:.1f} ms late"


def _first_difference(before: bytearray, twin: StreamContents) -> str:
    packets = len(before) // 32
    number = next(
        (
            n
            for n in range(min(packets, twin.packets))
            if before[32 * n : 32 * n + 32] != twin.digest(n)
        ),
        min(packets, twin.packets),
    )
    if packets != twin.packets:
        return f"{twin.packets} packets in place of {packets}, the first to differ is {number}"
    different = sum(before[32 * n : 32 * n + 32] != twin.digest(n) for n in range(packets))
    return f"{different} of {packets} packets differ, the first is {number}"


def _first_moved(
    stream: StreamContents, twin: StreamContents, clock: Clock, first: int, slack: Fraction
) -> str | None:
    """Where a copied packet is heard at another time, seen from the video.

    Args:
        slack: by how much all packets together may be off.
    """
    # Times are rounded where a container's clock is another one, or moves them all.
    finer = (stream.time_base / twin.time_base).denominator == 1
    exact = finer and not clock.may_move and clock.origin == 0
    allowed = Fraction(0) if exact else max(stream.time_base, twin.time_base)
    begin: Fraction | None = None
    for number, pts in enumerate(twin.pts):
        before = stream.pts[first + number]
        if NO_PTS in (pts, before):
            continue
        wanted = before * stream.time_base - clock.origin + clock.moved
        off = pts * twin.time_base - wanted
        if begin is None:
            begin = max(-slack, min(off, slack))
        if abs(off - begin) > allowed:
            return f"packet {number} is {float(off) * 1000:+.3f} ms off its time"
    return None


def _texts_compared(
    stream: StreamContents,
    twin: StreamContents,
    clock: Clock,
    part: Part,
    details: dict[str, object],
) -> _Found:
    """Text subtitles: what is read, and when. Empty packets only fill gaps."""
    tick = stream.time_base
    before = [
        event for event in stream.events if part.touched(event.pts * tick, event.duration * tick)
    ]
    details.update(events_in=len(before), events_out=len(twin.events))
    same = stream.codec == twin.codec
    mine, its = _spans(before, tick), _spans(twin.events, twin.time_base)
    if not same:
        # MP4 shows one text at a time: lines that overlap are put together.
        mine, its = _on_screen(mine), _on_screen(its)
    if len(mine) != len(its):
        return False, f"{len(its)} texts in place of {len(mine)}", details
    step = max(tick, twin.time_base)
    for number, ((start, end, text), (begin, stop, other)) in enumerate(
        zip(mine, its, strict=True)
    ):
        if text != other:
            return False, f"text {number} reads {other!r} in place of {text!r}", details
        wanted = start - clock.origin + clock.moved
        off = begin - wanted
        if part.first is not None:  # a text that is on at the cut
            off = max(begin, clock.moved) - max(wanted, clock.moved)
        if abs(off) > step:
            return False, f"text {number} is {float(off) * 1000:+.3f} ms off its time", details
        late = stop - end + clock.origin - clock.moved
        if abs(late) > 2 * step and end > start and part.whole:
            return False, f"text {number} ends {float(late) * 1000:+.3f} ms off its time", details
    if same and stream.codec in ("ass", "ssa") and stream.extradata != twin.extradata:
        return False, "its styles differ", details
    if same and stream.digests == twin.digests:
        return True, f"copied, {len(before)} texts, SHA-256 and times equal", details
    how = "copied" if same else f"converted to {twin.codec}"
    return True, f"{how}, {len(before)} texts and times equal", details


type _Span = tuple[Fraction, Fraction, str]


def _spans(events: Iterable[Event], tick: Fraction) -> list[_Span]:
    """Begin, end and text, in seconds and single spaces."""
    return [
        (event.pts * tick, (event.pts + event.duration) * tick, " ".join(event.text.split()))
        for event in events
    ]


def _on_screen(spans: list[_Span]) -> list[_Span]:
    """All that is read at each moment, as spans that do not overlap."""
    shown: list[_Span] = []
    moments = sorted({at for start, end, _ in spans for at in (start, end)})
    for begin, end in pairwise(moments):
        text = " ".join(text for start, stop, text in spans if start <= begin and stop >= end)
        if text and shown and shown[-1][1:] == (begin, text):
            shown[-1] = (shown[-1][0], end, text)
        elif text:
            shown.append((begin, end, text))
    return shown
