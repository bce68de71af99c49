"""Which streams of an input a specifier means."""

from __future__ import annotations

from collections.abc import Sequence

from av.stream import Stream

from hatvid.errors import OptionError
from hatvid.selectors import StreamSpecifier

__all__ = ["matches", "selected"]


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
