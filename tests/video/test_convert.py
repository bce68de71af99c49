"""Plane tensors against the bytes of FFmpeg's raw video codec, and against layouts by hand.

The raw video codec packs and unpacks any pixel format without padding. It goes by
FFmpeg's own tables of formats, of which hatvid's conversion reads none.
"""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from av.video.format import VideoFormat, names
from numpy.typing import NDArray

from hatvid.errors import InputError
from hatvid.video.convert import (
    PlaneLayout,
    conversion_note,
    frame_to_planes,
    planar_pix_fmt,
    planes_to_frame,
)

SUBSAMPLING = {"410": (4, 4), "411": (4, 1), "420": (2, 2), "422": (2, 1), "440": (1, 2)}
SIZES = [(1, 1), (33, 17), (64, 48), (37, 3), (2, 2)]

# What hatvid shall read as it lies: written out, so that a format that goes missing shows.
PLANAR = [
    *(f"gray{d}" for d in ("", "9le", "10le", "12le", "14le", "16le")),
    *(f"gbrp{d}" for d in ("", "9le", "10le", "12le", "14le", "16le")),
    *(f"yuv420p{d}" for d in ("", "9le", "10le", "12le", "14le", "16le")),
    *(f"yuv422p{d}" for d in ("", "9le", "10le", "12le", "14le", "16le")),
    *(f"yuv444p{d}" for d in ("", "9le", "10le", "12le", "14le", "16le")),
    *(f"yuv440p{d}" for d in ("", "10le", "12le")),
    *("yuv410p", "yuv411p"),
    *(f"yuvj{s}p" for s in ("411", "420", "422", "440", "444")),
    *(f"yuva{s}p{d}" for s in ("420", "422", "444") for d in ("", "9le", "10le", "16le")),
    *("yuva422p12le", "yuva444p12le", "ya8", "ya16le"),
    *(f"gbrap{d}" for d in ("", "10le", "12le", "14le", "16le")),
]


def depth_of(pix_fmt: str) -> int:
    digits = pix_fmt.partition("p")[2] if "p" in pix_fmt else pix_fmt.lstrip("gray")
    return int(digits.removesuffix("le") or 8)


def order_of(pix_fmt: str) -> list[int]:
    """Which of the stored planes holds each component; an alpha plane is the last of both."""
    alpha = "yuva" in pix_fmt or "gbrap" in pix_fmt
    # FFmpeg stores G, B, R.
    colour = (
        [2, 0, 1] if "gb" in pix_fmt else [0] if pix_fmt.startswith(("gr", "ya")) else [0, 1, 2]
    )
    return [*colour, len(colour)] if alpha or pix_fmt.startswith("ya") else colour


def random_planes(pix_fmt: str, width: int, height: int) -> list[NDArray[np.integer]]:
    """Planes in the order in which they lie in the file."""
    rng = np.random.default_rng(width * height)
    across, down = next((v for k, v in SUBSAMPLING.items() if k in pix_fmt), (1, 1))
    small = (-(-height // down), -(-width // across))
    shapes = [(height, width)]
    if not pix_fmt.startswith(("gray", "ya")):
        shapes += [small, small]
    if len(order_of(pix_fmt)) in (2, 4):
        shapes.append((height, width))
    kind = np.uint8 if depth_of(pix_fmt) == 8 else np.dtype("<u2")
    return [rng.integers(0, 1 << depth_of(pix_fmt), shape).astype(kind) for shape in shapes]


def decode_raw(
    pix_fmt: str, width: int, height: int, data: bytes, extradata: bytes | None = None
) -> av.VideoFrame:
    context = av.CodecContext.create("rawvideo", "r")
    context.width, context.height, context.pix_fmt = width, height, pix_fmt
    context.extradata = extradata
    [frame] = [*context.decode(av.Packet(data)), *context.decode(None)]
    return frame


def encode_raw(frame: av.VideoFrame) -> bytes:
    context = av.CodecContext.create("rawvideo", "w")
    context.width, context.height, context.pix_fmt = frame.width, frame.height, frame.format.name
    context.time_base = Fraction(1, 25)
    frame.pts = 0
    return b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])


def joined(planes: list[NDArray[np.integer]]) -> bytes:
    if len(planes) == 2:  # gray and alpha share a plane
        planes = [interleaved(*planes)]
    return b"".join(plane.tobytes() for plane in planes)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("pix_fmt", PLANAR)
def test_planar_both_ways(pix_fmt: str, size: tuple[int, int]) -> None:
    width, height = size
    stored = random_planes(pix_fmt, width, height)
    layout, planes = frame_to_planes(decode_raw(pix_fmt, width, height, joined(stored)))
    order = order_of(pix_fmt)
    assert layout.pix_fmt == pix_fmt.replace("j", "")
    assert layout.depth == depth_of(pix_fmt)
    families = {"g": "gray", "y": "gray", "gbr": "rgb", "yuv": "yuv"}
    assert layout.family == families[pix_fmt[:3] if pix_fmt[:3] in families else pix_fmt[0]]
    assert layout.alpha == (len(order) in (2, 4))
    assert layout.plane_shapes(height, width) == tuple(stored[index].shape for index in order)
    for plane, index in zip(planes, order, strict=True):
        assert plane.dtype == (torch.uint8 if layout.depth == 8 else torch.uint16)
        np.testing.assert_array_equal(plane.numpy(), stored[index])
    frame = planes_to_frame(planes, layout)
    assert (frame.width, frame.height) == (width, height)
    if width % 16:
        assert frame.planes[0].line_size > width * stored[0].itemsize, "a stride is not tested"
    assert encode_raw(frame) == joined(stored)


def test_every_planar_format_is_in_the_list_above() -> None:
    assert {name for name in names if PlaneLayout.of(name) is not None} == set(PLANAR)


@pytest.mark.parametrize("pix_fmt", ["gray", "yuv444p10le", "gbrp"])
def test_padded_rows_of_the_decoder_are_left_out(pix_fmt: str) -> None:
    width, height = 33, 17
    stored = random_planes(pix_fmt, width, height)
    frame = av.VideoFrame(width, height, pix_fmt)
    for plane, samples in zip(frame.planes, stored, strict=True):
        stride = plane.line_size // samples.itemsize
        assert stride > width
        padded = np.full((height, stride), 77, samples.dtype)
        padded[:, :width] = samples
        plane.update(padded.tobytes())
    _, planes = frame_to_planes(frame)
    order = [2, 0, 1] if pix_fmt == "gbrp" else range(len(stored))
    for tensor, index in zip(planes, order, strict=True):
        np.testing.assert_array_equal(tensor.numpy(), stored[index])


@pytest.mark.parametrize("pix_fmt", ["gray", "bgr24"])
def test_rows_stored_from_the_bottom_up(pix_fmt: str) -> None:
    """As old AVI files have them."""
    rows = np.arange(5, dtype=np.uint8).repeat(36 * (1 if pix_fmt == "gray" else 3))
    frame = decode_raw(pix_fmt, 36, 5, rows.tobytes(), extradata=b"BottomUp\0")
    assert frame.planes[0].line_size < 0
    for plane in frame_to_planes(frame)[1]:
        assert plane[:, 0].tolist() == [4, 3, 2, 1, 0]


def test_tensors_outlive_their_frame() -> None:
    stored = random_planes("yuv420p", 64, 48)
    frame = decode_raw("yuv420p", 64, 48, joined(stored))
    _, planes = frame_to_planes(frame)
    for plane in frame.planes:
        plane.update(bytes(plane.buffer_size))
    for tensor, samples in zip(planes, stored, strict=True):
        np.testing.assert_array_equal(tensor.numpy(), samples)


# Packed formats, packed here by hand: (pixel format, planar twin, packing).


def interleaved(first: NDArray[np.integer], second: NDArray[np.integer]) -> NDArray[np.integer]:
    return np.stack([first, second], -1).reshape(first.shape[0], -1)


def semi_planar(planes: list[NDArray[np.integer]], shift: int = 0, swap: bool = False) -> bytes:
    y, u, v = (plane << shift for plane in planes)
    return y.tobytes() + (interleaved(v, u) if swap else interleaved(u, v)).tobytes()


def packed_422(planes: list[NDArray[np.integer]], order: str) -> bytes:
    y, u, v = planes
    rest = y.shape[1] % 2
    y = np.pad(y, ((0, 0), (0, rest)))  # the second luma sample of the last pair is unused
    parts = {"y": y[:, 0::2], "Y": y[:, 1::2], "u": u, "v": v}
    return np.stack([parts[name] for name in order], -1).tobytes()


def pixels(planes: list[NDArray[np.integer]], order: str) -> bytes:
    g, b, r, *rest = planes
    parts = {"r": r, "g": g, "b": b, "0": np.full_like(r, 99), "a": rest[0] if rest else r}
    return np.stack([parts[name] for name in order], -1).tobytes()


def ten_bit_words(planes: list[NDArray[np.integer]], order: str) -> bytes:
    """Three samples in each 32-bit word, the first one named on top below two idle bits."""
    g, b, r = (plane.astype("<u4") for plane in planes)
    parts = {"r": r, "g": g, "b": b}
    first, second, third = (parts[name] for name in order)
    return (first << 20 | second << 10 | third | 3 << 30).astype("<u4").tobytes()


def swapped(planes: list[NDArray[np.integer]]) -> bytes:
    return joined([plane.byteswap() for plane in planes])


PACKED = {
    "nv12": ("yuv420p", lambda p: semi_planar(p)),
    "nv21": ("yuv420p", lambda p: semi_planar(p, swap=True)),
    "nv16": ("yuv422p", lambda p: semi_planar(p)),
    "nv24": ("yuv444p", lambda p: semi_planar(p)),
    "nv20le": ("yuv422p10le", lambda p: semi_planar(p)),
    "p010le": ("yuv420p10le", lambda p: semi_planar(p, 6)),
    "p012le": ("yuv420p12le", lambda p: semi_planar(p, 4)),
    "p016le": ("yuv420p16le", lambda p: semi_planar(p)),
    "p210le": ("yuv422p10le", lambda p: semi_planar(p, 6)),
    "p010be": ("yuv420p10le", lambda p: semi_planar([(x << 6).byteswap() for x in p])),
    "yuyv422": ("yuv422p", lambda p: packed_422(p, "yuYv")),
    "uyvy422": ("yuv422p", lambda p: packed_422(p, "uyvY")),
    "yvyu422": ("yuv422p", lambda p: packed_422(p, "yvYu")),
    "rgb24": ("gbrp", lambda p: pixels(p, "rgb")),
    "bgr24": ("gbrp", lambda p: pixels(p, "bgr")),
    "0rgb": ("gbrp", lambda p: pixels(p, "0rgb")),
    "rgb0": ("gbrp", lambda p: pixels(p, "rgb0")),
    "0bgr": ("gbrp", lambda p: pixels(p, "0bgr")),
    "bgr0": ("gbrp", lambda p: pixels(p, "bgr0")),
    "rgb48le": ("gbrp16le", lambda p: pixels(p, "rgb")),
    "bgr48le": ("gbrp16le", lambda p: pixels(p, "bgr")),
    "rgb48be": ("gbrp16le", lambda p: pixels([x.byteswap() for x in p], "rgb")),
    "nv42": ("yuv444p", lambda p: semi_planar(p, swap=True)),
    "p212le": ("yuv422p12le", lambda p: semi_planar(p, 4)),
    "p216le": ("yuv422p16le", lambda p: semi_planar(p)),
    "p410le": ("yuv444p10le", lambda p: semi_planar(p, 6)),
    "p412le": ("yuv444p12le", lambda p: semi_planar(p, 4)),
    "p416le": ("yuv444p16le", lambda p: semi_planar(p)),
    "y210le": ("yuv422p10le", lambda p: packed_422([x << 6 for x in p], "yuYv")),
    "y212le": ("yuv422p12le", lambda p: packed_422([x << 4 for x in p], "yuYv")),
    "xv36le": ("yuv444p12le", lambda p: pixels([x << 4 for x in p], "bgr0")),
    "yuv444p10msble": ("yuv444p10le", lambda p: joined([x << 6 for x in p])),
    "yuv444p12msble": ("yuv444p12le", lambda p: joined([x << 4 for x in p])),
    # In the words of pixels(): Y is g, U is b, V is r.
    "ayuv": ("yuva444p", lambda p: pixels(p, "agbr")),
    "vuya": ("yuva444p", lambda p: pixels(p, "rbga")),
    "ayuv64le": ("yuva444p16le", lambda p: pixels(p, "agbr")),
    "x2rgb10le": ("gbrp10le", lambda p: ten_bit_words(p, "rgb")),
    "x2bgr10le": ("gbrp10le", lambda p: ten_bit_words(p, "bgr")),
    "rgba": ("gbrap", lambda p: pixels(p, "rgba")),
    "bgra": ("gbrap", lambda p: pixels(p, "bgra")),
    "argb": ("gbrap", lambda p: pixels(p, "argb")),
    "abgr": ("gbrap", lambda p: pixels(p, "abgr")),
    "rgba64le": ("gbrap16le", lambda p: pixels(p, "rgba")),
    "bgra64le": ("gbrap16le", lambda p: pixels(p, "bgra")),
    "rgba64be": ("gbrap16le", lambda p: pixels([x.byteswap() for x in p], "rgba")),
    "yuva444p10be": ("yuva444p10le", swapped),
    "gbrap12be": ("gbrap12le", swapped),
    "ya16be": ("ya16le", swapped),
    "gray10be": ("gray10le", swapped),
    "gray16be": ("gray16le", swapped),
    "yuv420p10be": ("yuv420p10le", swapped),
    "yuv422p12be": ("yuv422p12le", swapped),
    "yuv444p16be": ("yuv444p16le", swapped),
    "gbrp10be": ("gbrp10le", swapped),
    "gbrp16be": ("gbrp16le", swapped),
}


@pytest.mark.parametrize("size", [(34, 18), (33, 17), (2, 2)], ids=lambda s: f"{s[0]}x{s[1]}")
@pytest.mark.parametrize("pix_fmt", PACKED)
def test_packed_formats_hold_their_planar_twin(pix_fmt: str, size: tuple[int, int]) -> None:
    twin, pack = PACKED[pix_fmt]
    width, height = size
    stored = random_planes(twin, width, height)
    layout, planes = frame_to_planes(decode_raw(pix_fmt, width, height, pack(stored)))
    assert layout == PlaneLayout.of(twin)
    for tensor, index in zip(planes, order_of(twin), strict=True):
        np.testing.assert_array_equal(tensor.numpy(), stored[index])


WRITTEN = [
    *("rgb24", "bgr24", "rgba", "bgra", "argb", "abgr", "rgb48be", "rgba64le", "rgba64be"),
    *("gray16be", "nv12", "p010le", "p210le", "ayuv64le"),
]


@pytest.mark.parametrize("pix_fmt", WRITTEN)
def test_packed_formats_are_written_too(pix_fmt: str) -> None:
    """For encoders that take no planar one. FFmpeg packs p010 at odd widths wrongly."""
    twin, pack = PACKED[pix_fmt]
    width, height = (34, 18) if pix_fmt == "p010le" else (33, 17)
    stored = random_planes(twin, width, height)
    layout = PlaneLayout.packed(pix_fmt)
    assert layout is not None
    planes = tuple(torch.from_numpy(stored[index]) for index in order_of(twin))
    frame = planes_to_frame(planes, layout)
    assert frame.format.name == pix_fmt
    assert encode_raw(frame) == pack(stored)


def test_alpha_is_never_left_out_by_mistake() -> None:
    layout = PlaneLayout.of("gbrap")
    assert layout is not None
    with pytest.raises(ValueError, match="alpha is a plane too"):
        planes_to_frame((torch.zeros(2, 2, dtype=torch.uint8),) * 3, layout)


def palette_frame(alpha: int) -> tuple[av.VideoFrame, NDArray[np.uint8], NDArray[np.uint8]]:
    """A frame, its (height, width) codes, and its (256, 4) palette as A, R, G, B."""
    rng = np.random.default_rng(7)
    codes = rng.integers(0, 200, (5, 37), dtype=np.uint8)
    palette = rng.integers(0, 256, (256, 4), dtype=np.uint8)
    palette[:200, 0] = 255
    palette[codes[2, 3], 0] = alpha  # unused entries may hold anything
    frame = av.VideoFrame(37, 5, "pal8")
    rows = np.zeros((5, frame.planes[0].line_size), np.uint8)
    rows[:, :37] = codes
    frame.planes[0].update(rows.tobytes())
    words = palette.astype(np.uint32) @ np.array([1 << 24, 1 << 16, 1 << 8, 1], np.uint32)
    frame.planes[1].update(words.astype(np.uint32).tobytes())
    return frame, codes, palette


@pytest.mark.parametrize(("alpha", "name"), [(255, "gbrp"), (3, "gbrap")])
def test_a_palette_is_looked_up(alpha: int, name: str) -> None:
    frame, codes, palette = palette_frame(alpha)
    layout, planes = frame_to_planes(frame)
    assert layout == PlaneLayout.of(name)
    for tensor, part in zip(planes, (1, 2, 3, 0), strict=False):
        np.testing.assert_array_equal(tensor.numpy(), palette[codes, part])
    assert len(planes) == len(layout.plane_order)


@pytest.mark.parametrize("width", [1, 8, 13])
@pytest.mark.parametrize("pix_fmt", ["monow", "monob"])
@pytest.mark.parametrize(
    ("color_range", "black", "white"), [(0, 16, 235), (1, 16, 235), (2, 0, 255)]
)
def test_bits_become_black_and_white(
    pix_fmt: str, width: int, color_range: int, black: int, white: int
) -> None:
    shown = np.random.default_rng(width).integers(0, 2, (3, width), dtype=np.uint8)
    bits = 1 - shown if pix_fmt == "monow" else shown
    frame = decode_raw(pix_fmt, width, 3, np.packbits(bits, axis=1).tobytes())
    frame.color_range = color_range
    layout, [plane] = frame_to_planes(frame)
    assert layout == PlaneLayout.of("gray")
    np.testing.assert_array_equal(plane.numpy(), np.where(shown == 1, white, black))


def test_what_is_not_written_again_is_said() -> None:
    assert conversion_note("pal8") == (
        "pal8 is read as gbrp: its palette is looked up; no output is pal8 again"
    )
    assert conversion_note("yuv420p") is None
    assert PlaneLayout.packed("pal8") is PlaneLayout.packed("monob") is None


def test_repacking_is_the_same_every_time() -> None:
    """Done in slices by several threads, samples at odd widths come out wrong now and then."""
    stored = random_planes("yuv420p16le", 33, 17)
    data = PACKED["p016le"][1](stored)
    for _ in range(60):
        _, planes = frame_to_planes(decode_raw("p016le", 33, 17, data))
        for tensor, samples in zip(planes, stored, strict=True):
            np.testing.assert_array_equal(tensor.numpy(), samples)


def test_repacking_never_changes_depth_or_sampling() -> None:
    """For the formats that the table above leaves out."""
    for name in names:
        planar = planar_pix_fmt(name)
        if planar is None:
            continue
        packed, flat = VideoFormat(name, 16, 16), VideoFormat(planar, 16, 16)
        if conversion_note(name) is not None:
            continue
        assert [c.bits for c in packed.components] == [c.bits for c in flat.components], name
        assert packed.chroma_width(16) == flat.chroma_width(16), name
        assert packed.chroma_height(16) == flat.chroma_height(16), name
        assert packed.is_rgb == flat.is_rgb, name
        assert not packed.has_palette, name


REFUSED = [
    *("xyz12le", "rgb8", "rgb565le", "v30xle", "gbrp10msble", "gbrp12msble"),
    *("gbrpf32le", "grayf32le", "gbrpf16le", "yaf16le", "gbrapf32le", "gray32le"),
    *("bayer_rggb8", "bayer_bggr16le"),
]


@pytest.mark.parametrize("pix_fmt", [name for name in REFUSED if name in names])
def test_other_formats_are_refused_by_name(pix_fmt: str) -> None:
    with pytest.raises(InputError) as caught:
        frame_to_planes(av.VideoFrame(16, 16, pix_fmt))
    message = str(caught.value)
    assert pix_fmt in message
    assert "convert" in message
    assert "\n" not in message


@pytest.mark.parametrize("pix_fmt", ["cuda", "vaapi", "nonsense", "", "yuv420p10be"])
def test_what_is_no_planar_format_has_no_layout(pix_fmt: str) -> None:
    assert PlaneLayout.of(pix_fmt) is None
