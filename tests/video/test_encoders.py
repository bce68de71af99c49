"""Which encoder and pixel format are chosen, what is said of it, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from av.video.format import VideoFormat

from hatvid.errors import HatvidError, OptionError, OutputError
from hatvid.options import EncodeOptions
from hatvid.video.color import ColorTags, assumed
from hatvid.video.containers import FORMATS
from hatvid.video.convert import PlaneLayout
from hatvid.video.encoder_trial import why_not_opened
from hatvid.video.encoders import EncoderChoice, choose_encoder, padded_size
from hatvid.video.hdr import ContentLight, Hdr

FORMAT_NAMES = ["mp4", "mkv", "mov", "webm", "ts", "nut", "y4m"]
SOURCES = [
    *(f"yuv{chroma}p{depth}" for chroma in (420, 422, 444) for depth in ("", "10le", "12le")),
    *("yuv410p", "yuv411p", "yuv440p", "yuv444p16le"),
    *("gray", "gray10le", "gray12le", "gray16le", "ya8", "ya16le"),
    *("gbrp", "gbrp10le", "gbrp12le", "gbrp16le", "gbrap", "gbrap12le"),
    *("yuva420p", "yuva422p", "yuva444p", "yuva444p10le", "yuva444p12le"),
]


def opens(choice: EncoderChoice, width: int, height: int) -> bool:
    return why_not_opened(choice.codec, choice.layout, choice.options, width, height) is None


def layout_of(pix_fmt: str) -> PlaneLayout:
    layout = PlaneLayout.packed(pix_fmt)
    assert layout is not None
    return layout


def choose(
    form: str,
    source: str,
    size: tuple[int, int] = (128, 96),
    *,
    hdr: Hdr | None = None,
    **options: Any,
) -> EncoderChoice:
    layout = layout_of(source)
    width, height = size
    return choose_encoder(
        EncodeOptions(**options),
        FORMATS[form],
        layout,
        width=width,
        height=height,
        tags=assumed(ColorTags(), layout, height, width),
        hdr=hdr,
    )


def refused(kind: type[HatvidError], *args: Any, **options: Any) -> str:
    with pytest.raises(kind) as caught:
        choose(*args, **options)
    [line] = str(caught.value).splitlines()
    return line


# What is kept.


def facts(pix_fmt: str) -> dict[str, Any]:
    """By FFmpeg's own table of pixel formats."""
    fmt = VideoFormat(pix_fmt, 64, 64)
    parts = list(fmt.components)
    alpha = parts[-1].is_alpha
    gray = len(parts) - alpha == 1
    return {
        "depth": parts[0].bits,
        "alpha": alpha,
        "gray": gray,
        "rgb": fmt.is_rgb,
        "across": 64 if gray or fmt.is_rgb else fmt.chroma_width(64),
        "down": 64 if gray or fmt.is_rgb else fmt.chroma_height(64),
    }


@pytest.mark.parametrize("pix_fmt", SOURCES)
@pytest.mark.parametrize("form", FORMAT_NAMES)
def test_nothing_is_lost_that_is_not_said(form: str, pix_fmt: str) -> None:
    choice = choose(form, pix_fmt)
    before, after = facts(pix_fmt), facts(choice.layout.pix_fmt)
    colour = not before["gray"]
    lost = {
        f"{before['depth']} bit to {after['depth']} bit": after["depth"] < before["depth"],
        "alpha is dropped": before["alpha"] and not after["alpha"],
        "all colour": colour and after["gray"],
        "chroma resolution": colour
        and (after["across"] < before["across"] or after["down"] < before["down"]),
        "RGB, kept as YUV": before["rgb"] and not after["rgb"],
        "YUV, kept as RGB": colour and after["rgb"] and not before["rgb"],
    }
    notes = " | ".join(choice.notes)
    assert {text for text in lost if text in notes} == {text for text, gone in lost.items() if gone}
    assert all(len(note.splitlines()) == 1 for note in choice.notes)
    assert opens(choice, 128, 96)


CHOSEN = [
    ("mp4", "yuv420p", "libx264", "yuv420p"),
    ("mp4", "yuv420p10le", "libx265", "yuv420p10le"),
    ("mp4", "gbrp", "libx265", "gbrp"),
    ("mov", "yuva444p10le", "prores_ks", "yuva444p10le"),
    ("mkv", "yuva420p", "ffv1", "yuva420p"),
    ("mkv", "yuv444p16le", "ffv1", "yuv444p16le"),
    ("webm", "yuv420p", "libvpx-vp9", "yuv420p"),
    ("webm", "yuv420p10le", "libsvtav1", "yuv420p10le"),
    ("webm", "yuva420p", "libvpx-vp9", "yuva420p"),
    ("ts", "yuv422p", "libx264", "yuv422p"),
    ("nut", "gbrap12le", "ffv1", "gbrap12le"),
    ("y4m", "yuv411p", "rawvideo", "yuv411p"),
    ("y4m", "yuv440p", "rawvideo", "yuv444p"),
]


@pytest.mark.parametrize(("form", "source", "codec", "pix_fmt"), CHOSEN)
def test_the_usual_comes_first_if_it_keeps_all(
    form: str, source: str, codec: str, pix_fmt: str
) -> None:
    choice = choose(form, source)
    assert (choice.codec, choice.layout.pix_fmt, choice.notes) == (codec, pix_fmt, ())


def test_what_is_asked_for_narrows_the_choice() -> None:
    # png keeps 16 bit, but has no crf; ffv1 keeps alpha, but has no crf.
    assert choose("mov", "gbrp16le").codec == "png"
    assert choose("mov", "gbrp16le", crf=20).codec == "libx265"
    assert choose("mkv", "yuva420p", crf=20).codec == "libx264"
    # Of a lossless mode, prores_ks has none.
    assert choose("mov", "yuva444p", lossless=True).codec == "png"
    assert choose("mkv", "yuv420p", pix_fmt="yuv422p10le").codec == "libx265"
    assert choose("mkv", "yuv420p", pix_fmt="yuv444p16le").codec == "ffv1"
    assert choose("mp4", "yuv420p", codec="h264").codec == "libx264"


def test_h264_is_chosen_up_to_4096_only() -> None:
    for size in ((4096, 64), (64, 4096)):
        assert choose("mp4", "yuv420p", size).codec == "libx264"
    for size in ((4098, 64), (64, 4098)):
        assert choose("mp4", "yuv420p", size).codec == "libx265"
    assert choose("mp4", "yuv420p", (4098, 64), codec="libx264").codec == "libx264"
    # x265 takes no such frames, so the choice is between those that do.
    assert choose("mp4", "yuv420p10le", (16, 8)).codec == "libx264"


# Odd sizes.


@pytest.mark.parametrize(
    ("form", "pix_fmt", "size", "larger", "codec"),
    [
        ("mp4", "yuv420p", (129, 97), (130, 98), None),
        ("mp4", "yuv420p", (128, 97), (128, 98), None),
        ("mp4", "yuv420p10le", (129, 96), (130, 96), None),
        ("ts", "yuv422p", (129, 97), (130, 97), None),
        ("mkv", "yuv422p10le", (129, 97), (130, 97), "libx265"),
    ],
)
def test_odd_sizes_are_padded_or_refused(
    form: str, pix_fmt: str, size: tuple[int, int], larger: tuple[int, int], codec: str | None
) -> None:
    choice = choose(form, pix_fmt, size, odd="pad", codec=codec)
    assert padded_size(choice, *size) == larger
    [note] = choice.notes
    assert f"holds no {size[0]}x{size[1]} in {pix_fmt}" in note
    assert f"padded to {larger[0]}x{larger[1]}" in note
    assert opens(choice, *larger)
    assert not opens(choice, *size)
    line = refused(OptionError, form, pix_fmt, size, codec=codec)
    assert "--odd pad" in line
    full = pix_fmt.replace("420", "444").replace("422", "444")
    assert f"--pix-fmt {full}" in line
    # What is advised works.
    advised = choose(form, pix_fmt, size, pix_fmt=full, codec=codec)
    assert padded_size(advised, *size) == size
    names = [word for word in line.replace(" or ", " ").split() if word.startswith(("lib", "ff"))]
    for name in names[1:]:
        assert padded_size(choose(form, pix_fmt, size, codec=name), *size) == size
    assert len(names) > 1 or form == "ts"


@pytest.mark.parametrize(
    ("form", "pix_fmt", "codec"),
    [
        *(("mp4", "yuv444p", None), ("mp4", "gbrp", None), ("mp4", "gray", None)),
        *(("mkv", "yuv420p", "ffv1"), ("webm", "yuv420p", None), ("webm", "yuv420p10le", None)),
        *(("y4m", "yuv420p", None), ("y4m", "yuv422p10le", None), ("mov", "gbrap", None)),
    ],
)
def test_odd_sizes_are_kept_where_they_can_be(form: str, pix_fmt: str, codec: str | None) -> None:
    for odd in ("refuse", "pad"):
        choice = choose(form, pix_fmt, (129, 97), codec=codec, odd=odd)
        assert padded_size(choice, 129, 97) == (129, 97)
        assert choice.notes == ()


# What is refused.


@pytest.mark.parametrize("codec", ["prores_ks", "mpeg2video", "mjpeg", "dnxhd", "v210"])
def test_encoders_that_are_never_lossless_say_so(codec: str) -> None:
    line = refused(OptionError, "mov", "yuv422p", codec=codec, lossless=True)
    assert line.startswith(f"{codec} is never lossless; libx264, libx265, ")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"codec": "h265x"}, "codec 'h265x' is not an encoder here; try libx264"),
        ({"codec": "\x00"}, "is not an encoder here"),
        ({"codec": "aac"}, "codec 'aac' encodes audio; name a video encoder"),
        ({"codec": "subrip"}, "encodes subtitle"),
        ({"codec": "libx264", "preset": "quick"}, "libx264 has no preset 'quick'; choose one of"),
        ({"codec": "libx265", "preset": "quick"}, "libx265 has no preset 'quick'"),
        ({"codec": "libx264", "preset": "11"}, "the encoder refused"),
        ({"codec": "ffv1", "preset": "slow"}, "ffv1 has no preset; leave --preset out"),
        ({"codec": "ffv1", "crf": 20}, "ffv1 has no crf; leave --crf out"),
        ({"codec": "libsvtav1", "crf": 99}, "the encoder refused"),
        ({"codec": "libvpx-vp9", "crf": 64}, "the encoder refused"),
        ({"codec": "libx264", "encoder_options": {"tune": "sharp"}}, "libx264 has no tune 'sharp'"),
        ({"codec": "libx264", "encoder_options": {"tun": "film"}}, "did you mean tune"),
        ({"codec": "libx264", "encoder_options": {"zqx": "1"}}, "has no option 'zqx'; check its"),
        (
            {"codec": "libx264", "lossless": True, "encoder_options": {"qp": "20"}},
            "lossless and the option qp exclude each other",
        ),
        (
            {"codec": "libx264", "lossless": True, "encoder_options": {"x264-params": "crf=20"}},
            "lossless and the option crf in x264-params exclude each other",
        ),
        (
            {
                "codec": "libx265",
                "lossless": True,
                "encoder_options": {"x265-params": "lossless=0"},
            },
            "lossless and the option lossless in x265-params exclude each other",
        ),
        ({"codec": "libx264", "pix_fmt": "yuv420p12le"}, "libx264 does not take pix_fmt"),
        ({"codec": "libx264", "pix_fmt": "nonsense"}, "choose one of yuv420p, yuv422p"),
        ({"codec": "libx265", "pix_fmt": "yuva420p"}, "libx265 does not take pix_fmt 'yuva420p'"),
        ({"pix_fmt": "yuv420p12le", "codec": "libvpx-vp9"}, "does not take pix_fmt"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(options: dict[str, Any], said: str) -> None:
    assert said in refused(HatvidError, "mkv", "yuv420p", **options)


@pytest.mark.parametrize(
    ("form", "codec", "pix_fmt", "why"),
    [
        ("mp4", "rawvideo", "yuv420p", "does not support"),
        ("webm", "libx264", "yuv420p", "does not support"),
        # Known to FFmpeg's table of the container, and refused when the header is written.
        ("mov", "libvpx-vp9", "yuv420p", "Invalid argument"),
        ("mov", "libsvtav1", "yuv420p", "Invalid argument"),
        ("mkv", "rawvideo", "gbrp", "Invalid argument"),
        # Written without a word, and then no video.
        ("ts", "ffv1", "yuv420p", "cannot be read again"),
        ("ts", "libsvtav1", "yuv420p", "cannot be read again"),
        # Written without a word, and then another picture.
        ("mov", "rawvideo", "gbrp", "read as rgb24"),
    ],
)
def test_a_codec_that_the_container_does_not_hold_is_refused(
    form: str, codec: str, pix_fmt: str, why: str
) -> None:
    line = refused(OutputError, form, pix_fmt, codec=codec)
    muxer = FORMATS[form].muxer
    assert line.startswith(f"{muxer} does not hold what {codec} writes from {pix_fmt} (")
    assert why in line
    assert "returned" not in line


def test_what_cannot_be_tried_is_no_refusal() -> None:
    # Raw video tells nothing; DV has its own sizes, of which the trial's is none.
    assert choose("rawvideo", "yuv420p").notes == ()
    assert choose("mov", "yuv420p", (720, 576), codec="dvvideo").codec == "dvvideo"


@pytest.mark.parametrize("codec", ["jpeg2000", "magicyuv", "qtrle", "png"])
def test_rgb_that_does_not_tell_its_range_stays_full(codec: str) -> None:
    choice = choose("mov", "gbrp", codec=codec)
    assert choice.notes == ()
    assert choice.tags is not None
    assert choice.tags.full_range


def test_a_size_that_no_encoder_takes_is_refused() -> None:
    assert "the encoder refused" in refused(
        OutputError, "mp4", "yuv420p", (65536, 64), codec="libx264"
    )
    assert "the encoder refused" in refused(OutputError, "mov", "yuv422p", (64, 64), codec="dnxhd")


@pytest.mark.parametrize("codec", ["h264_nvenc", "hevc_nvenc", "av1_nvenc"])
def test_nvenc_opens_or_says_in_one_line_that_it_is_not_there(codec: str) -> None:
    try:
        choice = choose("mp4", "yuv420p", (256, 256), codec=codec)
    except OutputError as error:
        [line] = str(error).splitlines()
        assert line.startswith(f"the encoder refused ({codec}, 256x256 yuv420p: ")
    else:
        assert torch.cuda.is_available()
        assert choice.codec == codec


@pytest.mark.parametrize("codec", ["ffv1", "libvpx-vp9", "prores_ks", "mpeg2video"])
def test_encoders_that_carry_no_hdr_metadata_are_named(codec: str) -> None:
    hdr = Hdr(light=ContentLight(max_cll=1000, max_fall=400), dynamic=("HDR10+",))
    notes = choose("mkv", "yuv420p", codec=codec, hdr=hdr).notes
    assert any(f"{codec} does not carry the content light level: dropped" in n for n in notes)
    assert "dropped, as it cannot be written again: HDR10+" in notes
