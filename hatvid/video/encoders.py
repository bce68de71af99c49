"""Which encoder, with which pixel format, options, size and colour tags."""

from __future__ import annotations

from dataclasses import dataclass, replace

import av

from hatvid.codepoints import CHROMA_LOCATIONS, name_of
from hatvid.errors import OptionError
from hatvid.options import EncodeOptions
from hatvid.video.color import UNSPECIFIED, ColorTags, assumed, retagged
from hatvid.video.containers import Container
from hatvid.video.convert import PlaneLayout
from hatvid.video.encoder_facts import candidates, keeping_odd, layouts_of, loses_nothing
from hatvid.video.encoder_options import encoder_options, has_asked
from hatvid.video.encoder_trial import held_tags, refused_by, why_not_opened
from hatvid.video.hdr import Hdr, hdr_options

__all__ = ["EncoderChoice", "choose_encoder", "padded_size"]

_LOSSLESS_ONES = "libx264, libx265, libsvtav1, libvpx-vp9 and ffv1 can"
_ALPHA_ONES = "ffv1 (mkv), prores_ks (mov) and libvpx-vp9 (webm) do"
# Few devices decode H.264 beyond this, or deeper than 8 bit.
_H264_SIDE = 4096
# Between these every encoder that is chosen by itself opens.
_ORDINARY_SIDES = range(64, 4097)
_BT601 = {5, 6}  # of 625 and of 525 lines: the same formula
_LEFT = 1  # where players look for chroma that is not located


@dataclass(frozen=True, kw_only=True)
class EncoderChoice:
    """An encoder with all that it is opened with.

    Args:
        codec: FFmpeg's name of the encoder.
        layout: of the frames it is given.
        options: passed to it as they are.
        notes: what the user should know, one line each.
        tags: of the output, where those of the source were given: the same unless the
            layout or the encoder asks for others.
        multiple: (across, down) what width and height must be multiples of.
    """

    codec: str
    layout: PlaneLayout
    options: dict[str, str]
    notes: tuple[str, ...] = ()
    tags: ColorTags | None = None
    multiple: tuple[int, int] = (1, 1)


def choose_encoder(
    options: EncodeOptions,
    container: Container,
    source: PlaneLayout,
    *,
    width: int | None = None,
    height: int | None = None,
    tags: ColorTags | None = None,
    hdr: Hdr | None = None,
) -> EncoderChoice:
    """Resolve what the user left open, and try it.

    The encoder is the container's first that loses nothing of the source's depth,
    chroma, RGB and alpha, and opens. The pixel format keeps them where the encoder can,
    else takes the nearest that loses nothing, else says what is lost.

    Args:
        source: layout of the input.
        width: of the output, in pixels; None tries nothing.
        height: likewise.
        tags: of the input, as :func:`~hatvid.video.color.assumed` gives them.
        hdr: of the input.

    Raises:
        OptionError: no such encoder, it does not take an option or pixel format, or not
            this odd size and ``odd`` is ``refuse``.
        OutputError: the encoder does not open, or the container does not hold it.
    """
    size = None if width is None or height is None else (width, height)
    choice = _chosen(options, container, source, size, hdr)
    if size is None:
        return choice
    choice = _tried(choice, options, container, size)
    if tags is None:
        return choice
    return _tagged(choice, container, retagged(tags, source, choice.layout, size[1], size[0]), size)


def padded_size(choice: EncoderChoice, width: int, height: int) -> tuple[int, int]:
    """The size that is encoded, (width, height): as given, or one more where it must be even.

    Where it differs, give the pictures their last row and column once more before they
    become planes: :func:`hatvid.video.color.with_edge_repeated`, on RGB (and on alpha).
    """
    across, down = choice.multiple
    return -(-width // across) * across, -(-height // down) * down


def _chosen(
    options: EncodeOptions,
    container: Container,
    source: PlaneLayout,
    size: tuple[int, int] | None,
    hdr: Hdr | None,
) -> EncoderChoice:
    if options.codec is not None:
        return _choice(_named(options.codec), options, container, source, hdr)
    names = candidates(container)
    if options.pix_fmt is not None:
        wanted = PlaneLayout.packed(options.pix_fmt)
        if wanted is not None and wanted.family == source.family:
            source = wanted
        names = tuple(n for n in names if source in layouts_of(n, container, source)) or names[:1]
    # What was asked for only some have.
    names = tuple(name for name in names if has_asked(name, options)) or names
    ranked = sorted(names, key=lambda name: _rank(name, container, source, size))
    if size is not None and any(side not in _ORDINARY_SIDES for side in size):
        # Even, since what to do with an odd size is another question.
        width, height = (side + side % 2 for side in size)
        for name in ranked:
            layout = _nearest(layouts_of(name, container, source), source)
            if why_not_opened(name, layout, {}, width, height) is None:
                return _choice(name, options, container, source, hdr)
    return _choice(ranked[0], options, container, source, hdr)


def _named(asked: str) -> str:
    try:
        codec = av.Codec(asked, "w")
    except (av.error.FFmpegError, ValueError):
        raise OptionError(
            f"codec {asked!r} is not an encoder here; try libx264, libx265, libsvtav1, libvpx-vp9, "
            "ffv1 or prores_ks"
        ) from None
    # h264 means libx264 here, and then its defaults.
    if codec.type != "video":
        raise OptionError(f"codec {codec.name!r} encodes {codec.type}; name a video encoder")
    return codec.name


def _rank(
    codec: str, container: Container, source: PlaneLayout, size: tuple[int, int] | None
) -> tuple[int, ...]:
    layout = _nearest(layouts_of(codec, container, source), source)
    uncommon = codec == "libx264" and (layout.depth > 8 or max(size or (0,)) > _H264_SIDE)
    return (*_loss(source, layout), int(uncommon))


def _choice(
    codec: str,
    options: EncodeOptions,
    container: Container,
    source: PlaneLayout,
    hdr: Hdr | None,
) -> EncoderChoice:
    layouts = layouts_of(codec, container, source)
    if not layouts:
        raise OptionError(
            f"{codec} takes no pixel format that {container.muxer} holds; choose another codec"
        )
    if options.pix_fmt is None:
        layout = _nearest(layouts, source)
    else:
        wanted = PlaneLayout.packed(options.pix_fmt)
        if wanted is None or wanted not in layouts:
            names = ", ".join(dict.fromkeys(layout.pix_fmt for layout in layouts))
            raise OptionError(
                f"{codec} does not take pix_fmt {options.pix_fmt!r}; choose one of {names}"
            )
        layout = wanted
    if options.lossless and not loses_nothing(codec):
        raise OptionError(f"{codec} is never lossless; {_LOSSLESS_ONES}")
    written, unwritten = hdr_options(codec, hdr) if hdr is not None else ({}, ())
    return EncoderChoice(
        codec=codec,
        layout=layout,
        options=encoder_options(options, codec, layout, written),
        notes=(*_lost(codec, source, layout), *unwritten),
    )


def _nearest(layouts: list[PlaneLayout], source: PlaneLayout) -> PlaneLayout:
    """What loses least first, then what is nearest."""

    def distance(layout: PlaneLayout) -> tuple[int, ...]:
        across, down = _coarser(source, layout)
        return (
            *_loss(source, layout),
            int(layout.family != source.family),  # gray in a format with colour
            int(layout.alpha and not source.alpha),
            max(0, layout.depth - source.depth),
            max(0, -across) + max(0, -down),
        )

    return min(layouts, key=distance)


def _loss(source: PlaneLayout, layout: PlaneLayout) -> tuple[int, ...]:
    """All zero where nothing is lost; the worst loss stands first."""
    across, down = _coarser(source, layout)
    return (
        int(source.family != "gray" and layout.family == "gray"),
        int(source.alpha and not layout.alpha),
        max(0, source.depth - layout.depth),
        max(0, across) + max(0, down),
        int(source.family != "gray" and source.family != layout.family),
    )


def _coarser(source: PlaneLayout, layout: PlaneLayout) -> tuple[int, int]:
    if source.family == "gray":
        return 0, 0
    return (
        layout.log2_chroma_w - source.log2_chroma_w,
        layout.log2_chroma_h - source.log2_chroma_h,
    )


def _lost(codec: str, source: PlaneLayout, layout: PlaneLayout) -> list[str]:
    gray, alpha, depth, chroma, other = _loss(source, layout)
    lost = [
        text
        for gone, text in (
            (depth, f"{source.depth} bit to {layout.depth} bit"),
            (gray, "all colour"),
            (chroma and not gray, "chroma resolution"),
            (other and not gray, f"{source.family.upper()}, kept as {layout.family.upper()}"),
        )
        if gone
    ]
    notes = []
    if lost:
        notes.append(
            f"{codec} writes {layout.pix_fmt} from {source.pix_fmt} (loses: {'; '.join(lost)})"
        )
    if alpha:
        notes.append(f"alpha is dropped: {codec} in {layout.pix_fmt} holds none; {_ALPHA_ONES}")
    return notes


# Trials.


def _tried(
    choice: EncoderChoice, options: EncodeOptions, container: Container, size: tuple[int, int]
) -> EncoderChoice:
    """The choice with what it says of odd sizes; raises if it does not open."""
    codec, layout = choice.codec, choice.layout
    reason = why_not_opened(codec, layout, choice.options, *size)
    if reason is None:
        return choice
    padded = replace(choice, multiple=(1 << layout.log2_chroma_w, 1 << layout.log2_chroma_h))
    larger = padded_size(padded, *size)
    if larger == size or why_not_opened(codec, layout, choice.options, *larger) is not None:
        raise refused_by(codec, layout, *size, reason)
    shown = f"{size[0]}x{size[1]}"
    if options.odd == "pad":
        note = f"{codec} holds no {shown} in {layout.pix_fmt}: padded to {larger[0]}x{larger[1]}"
        return replace(padded, notes=(*choice.notes, f"{note} by repeating the edge"))
    ways = (
        "--odd pad",
        *_full_chroma(codec, container, layout),
        *(f"--codec {name}" for name in keeping_odd(container, layout)),
    )
    raise OptionError(f"{codec} holds no {shown} in {layout.pix_fmt}; choose {' or '.join(ways)}")


def _full_chroma(codec: str, container: Container, layout: PlaneLayout) -> list[str]:
    finer = replace(layout, pix_fmt="", log2_chroma_w=0, log2_chroma_h=0)
    return [
        f"--pix-fmt {other.pix_fmt}"
        for other in layouts_of(codec, container, layout)
        if replace(other, pix_fmt="") == finer
    ][:1]


def _tagged(
    choice: EncoderChoice, container: Container, asked: ColorTags, size: tuple[int, int]
) -> EncoderChoice:
    """The choice with tags that its files are read with, as far as that can be had."""

    def told(tags: ColorTags) -> ColorTags | None:
        return held_tags(choice.codec, choice.layout, choice.options, container, tags)

    tags, held = asked, told(asked)
    if held is not None and choice.layout.family == "rgb":
        held = assumed(held, choice.layout, size[1], size[0])  # full, if nothing is said
    if held is not None and container.tells_colors(choice.codec) and held != asked:
        if _silent(held):
            note = (
                f"{container.muxer} does not tell the colours of {choice.codec} "
                f"({asked.describe()}); matroska does"
            )
            return replace(choice, tags=asked, notes=(*choice.notes, note))
        tags = _followed(held, asked, choice.layout)
        if held.matrix == UNSPECIFIED:
            # Players go by the size: take what they will take, if it can be told.
            guess = assumed(replace(tags, matrix=UNSPECIFIED), choice.layout, size[1], size[0])
            again = told(guess)
            if again is not None and again.matrix == guess.matrix:
                tags = guess
    elif held is not None and held.full_range is not None:
        tags = replace(asked, full_range=held.full_range)
    notes = list(choice.notes)
    changed = [
        f"{name} {before} -> {after}"
        for name, before, after in (
            ("colours", asked.describe(), tags.describe()),
            (
                "chroma location",
                name_of(CHROMA_LOCATIONS, asked.chroma_location),
                name_of(CHROMA_LOCATIONS, tags.chroma_location),
            ),
        )
        if before != after
    ]
    if changed:
        notes.append(
            f"{choice.codec} in {container.muxer} holds no other, so converted: "
            f"{'; '.join(changed)}"
        )
    return replace(choice, tags=tags, notes=tuple(notes))


def _silent(held: ColorTags) -> bool:
    return replace(held, primaries=UNSPECIFIED, transfer=UNSPECIFIED) == ColorTags()


def _followed(held: ColorTags, asked: ColorTags, layout: PlaneLayout) -> ColorTags:
    """What is asked for, with what a file is read as in its place where they differ."""
    tags = replace(asked, full_range=bool(held.full_range))
    same = {held.matrix, asked.matrix} == _BT601
    if layout.family == "yuv" and held.matrix not in (UNSPECIFIED, 0) and not same:
        tags = replace(tags, matrix=held.matrix)
    if asked.chroma_location:
        tags = replace(tags, chroma_location=held.chroma_location or _LEFT)
    return tags
