"""Pictures are read as Pillow and the specification have them, and written so that they do."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, JpegImagePlugin, PngImagePlugin

from hatvid.errors import InputError, OptionError
from hatvid.video.picture_files import encode_picture, fitted
from hatvid.video.picture_names import PictureFormat
from hatvid.video.stills import Picture, read_picture

Array = np.ndarray[Any, Any]

SUFFIXES: dict[PictureFormat, str] = {"PNG": ".png", "JPEG": ".jpg", "WebP": ".webp"}
ADAM7 = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2)]
ADAM7 += [(1, 0, 2, 1)]


def chunk(kind: bytes, payload: bytes) -> bytes:
    crc = struct.pack(">I", zlib.crc32(kind + payload))
    return struct.pack(">I", len(payload)) + kind + payload + crc


def png(
    samples: Array, *, depth: int, interlaced: bool = False, before: bytes = b"", after: bytes = b""
) -> bytes:
    """A PNG by the specification's text alone; samples (H, W, 1 to 4), any depth for gray."""
    height, width, channels = samples.shape
    color = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, int(interlaced))
    raw = b""
    for top, left, down, across in ADAM7 if interlaced else [(0, 0, 1, 1)]:
        part = samples[top::down, left::across]
        if not part.size:
            continue
        for row in part:
            bits = "".join(f"{value:0{depth}b}" for value in row.ravel())
            bits += "0" * (-len(bits) % 8)
            raw += b"\0" + int(bits, 2).to_bytes(len(bits) // 8)
    data = chunk(b"IHDR", header) + before + chunk(b"IDAT", zlib.compress(raw)) + after
    return b"\x89PNG\r\n\x1a\n" + data + chunk(b"IEND", b"")


def codes(picture: Picture) -> Array:
    """The (H, W, channels) integers that a picture stands for."""
    parts = [picture.rgb[:1] if picture.gray else picture.rgb]
    parts += [] if picture.alpha is None else [picture.alpha]
    values = torch.cat(parts).double() * (2**picture.depth - 1)
    assert (values - values.round()).abs().max() < 0.01
    return values.round().permute(1, 2, 0).numpy().astype(np.int64)


def noise(channels: int, depth: int, height: int = 11, width: int = 13) -> Array:
    return np.random.default_rng(channels).integers(0, 2**depth, (height, width, channels))


def read(tmp_path: Path, data: bytes, name: str = "in.png") -> Picture:
    path = tmp_path / name
    path.write_bytes(data)
    return read_picture(path)


def saved(image: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def photo(mode: str = "RGB") -> Image.Image:
    """Smooth, so that JPEG and WebP change it little."""
    across, down = np.meshgrid(np.linspace(0, 1, 48), np.linspace(0, 1, 40))
    planes = [across, down, across * down, 1 - across * down * 0.5]
    used = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4}[mode]
    rows = (np.stack(planes[:used], -1) * 255).round().astype(np.uint8)
    return Image.frombytes(mode, (48, 40), rows.tobytes())


@pytest.fixture(scope="module")
def icc() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.fixture(scope="module")
def exif() -> bytes:
    tags = Image.Exif()
    tags[274] = 6  # turned by a quarter
    tags[315] = "An Author"
    return tags.tobytes()


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_samples_are_read_exactly(
    tmp_path: Path, channels: int, depth: int, interlaced: bool
) -> None:
    samples = noise(channels, depth)
    picture = read(tmp_path, png(samples, depth=depth, interlaced=interlaced))
    assert picture.rgb.shape == (3, 11, 13)
    assert picture.rgb.dtype == torch.float32
    assert (picture.depth, picture.gray) == (depth, channels < 3)
    assert (picture.alpha is None) == (channels % 2 == 1)
    assert np.array_equal(codes(picture), samples)
    assert picture.notes == ()


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_few_grays_become_8_bits(tmp_path: Path, depth: int) -> None:
    samples = noise(1, depth)
    picture = read(tmp_path, png(samples, depth=depth))
    assert np.array_equal(codes(picture), samples * (255 // (2**depth - 1)))
    assert picture.gray


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_one_transparent_gray(tmp_path: Path, depth: int) -> None:
    """Pillow compares the scaled gray with the unscaled one and finds nothing transparent."""
    samples = noise(1, depth)
    samples[3:5] = 1
    picture = read(tmp_path, png(samples, depth=depth, before=chunk(b"tRNS", struct.pack(">H", 1))))
    assert picture.alpha is not None
    assert np.array_equal(picture.alpha[0].numpy() == 0, samples[:, :, 0] == 1)
    assert picture.gray


@pytest.mark.parametrize("depth", [8, 16])
def test_one_transparent_color(tmp_path: Path, depth: int) -> None:
    samples = noise(3, depth)
    key = [200, 100, 50] if depth == 8 else [51200, 25601, 12802]
    samples[3:5] = key
    near = [key[0], key[1], key[2] + 1]
    samples[6] = near
    picture = read(
        tmp_path, png(samples, depth=depth, before=chunk(b"tRNS", struct.pack(">3H", *key)))
    )
    assert picture.alpha is not None
    assert np.array_equal(picture.alpha[0].numpy() == 0, (samples == key).all(-1))
    assert np.array_equal(codes(picture)[:, :, :3], samples)


@pytest.mark.parametrize("transparent", [None, 2, bytes([255, 128, 0, 7])])
def test_palettes_become_colors(tmp_path: Path, transparent: int | bytes | None) -> None:
    image = Image.new("P", (6, 5))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 1, 2, 3])
    image.putdata([i % 4 for i in range(30)])
    options = {} if transparent is None else {"transparency": transparent}
    data = saved(image, "PNG", **options)
    picture = read(tmp_path, data)
    expected = Image.open(io.BytesIO(data)).convert("RGB" if transparent is None else "RGBA")
    assert np.array_equal(codes(picture), np.asarray(expected))
    assert picture.notes == ("the palette becomes RGB",)


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_samples_are_written_exactly(
    tmp_path: Path, ffmpeg: Callable[..., bytes], channels: int, depth: int
) -> None:
    samples = noise(channels, depth)
    data = encode_picture(read(tmp_path, png(samples, depth=depth)), "PNG")
    pix_fmt = {1: "gray", 2: "ya", 3: "rgb", 4: "rgba"}[channels]
    pix_fmt += {8: "8" if channels == 2 else "24" if channels == 3 else "", 16: "16le"}[depth]
    pix_fmt = pix_fmt.replace("rgb16", "rgb48").replace("rgba16", "rgba64")
    raw = ffmpeg(
        *("-f", "png_pipe", "-i", "-", "-f", "rawvideo", "-pix_fmt", pix_fmt, "-"), given=data
    )
    got = np.frombuffer(raw, "u1" if depth == 8 else "<u2").reshape(samples.shape)
    assert np.array_equal(got, samples)
    header = data[16:29]
    assert (header[8], header[9]) == (depth, {1: 0, 2: 4, 3: 2, 4: 6}[channels])
    Image.open(io.BytesIO(data)).verify()  # checksums
    assert data == encode_picture(read(tmp_path, data), "PNG")


def test_quantised_once_rounded_and_cut() -> None:
    rgb = torch.tensor([-0.5, 0.4999 / 255, 0.5001 / 255, 254.4999 / 255, 254.501 / 255, 1.5])
    rgb = rgb.reshape(1, 1, -1).expand(3, -1, -1)
    image = Image.open(io.BytesIO(encode_picture(Picture(rgb=rgb), "PNG")))
    assert np.asarray(image)[0, :, 0].tolist() == [0, 0, 1, 254, 255, 255]


@pytest.mark.parametrize("target", list(SUFFIXES))
@pytest.mark.parametrize("source", list(SUFFIXES))
def test_icc_exif_and_xmp_are_kept(
    tmp_path: Path, icc: bytes, exif: bytes, source: PictureFormat, target: PictureFormat
) -> None:
    xmp = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"
    options: dict[str, Any] = {"icc_profile": icc, "exif": exif, "xmp": xmp}
    if source == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", xmp.decode())
        options["pnginfo"] = options.pop("xmp") and info
    picture = read(tmp_path, saved(photo(), source, **options), f"in{SUFFIXES[source]}")
    assert (picture.rgb.shape, picture.source) == ((3, 40, 48), source)  # not turned
    picture, lost = fitted(picture, target, 48, 40)
    assert lost == ()
    image = Image.open(io.BytesIO(encode_picture(picture, target)))
    assert image.format == target.upper()
    image.load()
    assert image.info["icc_profile"] == icc
    kept = image.info["exif"].removeprefix(b"Exif\0\0")
    assert kept == exif.removeprefix(b"Exif\0\0")
    assert image.getexif()[274] == 6
    assert image.info["xmp"] in (xmp, xmp.decode())


def test_a_large_profile_takes_several_jpeg_segments(tmp_path: Path, icc: bytes) -> None:
    long = icc + bytes(150_000)
    picture = read(tmp_path, saved(photo(), "PNG", icc_profile=long))
    image = Image.open(io.BytesIO(encode_picture(picture, "JPEG")))
    assert image.info["icc_profile"] == long


def test_what_only_png_says_stays_in_png(tmp_path: Path) -> None:
    said = [
        (b"gAMA", struct.pack(">I", 45455)),
        (b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)),
        (b"cICP", bytes([9, 16, 0, 1])),
        (b"pHYs", struct.pack(">IIB", 4, 3, 0)),
        (b"tEXt", b"Title\0\xc4 title"),
        (b"zTXt", b"Comment\0\0" + zlib.compress(b"long")),
    ]
    before = b"".join(chunk(*one) for one in said[:5]) + chunk(b"gAMA", struct.pack(">I", 1))
    before += chunk(b"tIME", bytes(7)) + chunk(b"bKGD", bytes(6))
    after = chunk(*said[5]) + chunk(b"eXIf", b"II*\0\x08\0\0\0\0\0\0\0\0\0")
    picture = read(tmp_path, png(noise(3, 16), depth=16, before=before, after=after))
    data = encode_picture(picture, "PNG")
    at, found = 8, []
    while at < len(data):
        length = int.from_bytes(data[at : at + 4])
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    kinds = [kind for kind, _ in found]
    assert [one for one in found if one[0] in dict(said)] == said
    assert (b"eXIf", b"II*\0\x08\0\0\0\0\0\0\0\0\0") in found
    assert b"tIME" not in kinds
    assert b"bKGD" not in kinds
    assert kinds[0] == b"IHDR"
    assert kinds.index(b"gAMA") < kinds.index(b"IDAT")
    _, lost = fitted(picture, "JPEG", 13, 11)
    assert lost == (
        "JPEG holds 8 bits: the 16 of the source are rounded",
        "JPEG cannot hold all that PNG does: cHRM, cICP, gAMA, pHYs, tEXt, zTXt dropped",
    )


def test_a_profile_takes_the_place_of_srgb(tmp_path: Path, icc: bytes) -> None:
    """A PNG with both is not valid (PNG, section 11.3.2.5)."""
    profile = chunk(b"iCCP", b"x\0\0" + zlib.compress(icc))
    before = chunk(b"sRGB", b"\0") + profile
    picture = read(tmp_path, png(noise(3, 8), depth=8, before=before))
    data = encode_picture(picture, "PNG")
    assert picture.icc == icc
    assert b"iCCP" in data
    assert b"sRGB" not in data


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize(
    "keyword", ["interlace", "icc_profile", "exif", "xmp", "dpi", "transparency"]
)
def test_texts_are_not_taken_for_what_they_are_called(
    tmp_path: Path, keyword: str, depth: int
) -> None:
    text = chunk(b"tEXt", keyword.encode() + b"\0value")
    samples = noise(3, depth)
    picture = read(tmp_path, png(samples, depth=depth, before=text))
    assert np.array_equal(codes(picture), samples)
    assert (picture.icc, picture.exif, picture.xmp, picture.dpi) == (None, None, None, None)
    assert picture.native == ((b"tEXt", keyword.encode() + b"\0value"),)


@pytest.mark.parametrize("target", ["PNG", "JPEG"])
@pytest.mark.parametrize("source", ["PNG", "JPEG"])
def test_dots_an_inch_are_kept(
    tmp_path: Path, source: PictureFormat, target: PictureFormat
) -> None:
    picture = read(tmp_path, saved(photo(), source, dpi=(300, 150)), f"in{SUFFIXES[source]}")
    image = Image.open(io.BytesIO(encode_picture(picture, target)))
    assert image.info["dpi"] == pytest.approx((300, 150), abs=0.02)


def test_iptc_and_comments_stay_in_jpeg(tmp_path: Path) -> None:
    iptc = b"Photoshop 3.0\x008BIM\x04\x04\0\0\0\0\0\x08\x1c\x02\x50\0\x03Ann"
    extra = b"\xff\xed" + struct.pack(">H", len(iptc) + 2) + iptc
    data = saved(photo(), "JPEG", extra=extra, comment=b"scanned")
    picture = read(tmp_path, data, "in.jpg")
    kept, lost = fitted(picture, "JPEG", 48, 40)
    assert lost == ()
    image = Image.open(io.BytesIO(encode_picture(kept, "JPEG")))
    assert isinstance(image, JpegImagePlugin.JpegImageFile)
    assert ("APP13", iptc) in image.applist
    assert image.info["comment"] == b"scanned"
    _, lost = fitted(picture, "PNG", 48, 40)
    assert lost == ("PNG cannot hold all that JPEG does: IPTC, comment dropped",)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 2}])
def test_jpeg_in_and_out(tmp_path: Path, mode: str, options: dict[str, Any]) -> None:
    data = saved(photo(mode), "JPEG", **options)
    picture = read(tmp_path, data, "in.jpg")
    assert np.array_equal(codes(picture).squeeze(), np.asarray(Image.open(io.BytesIO(data))))
    assert (picture.gray, picture.lossless) == (mode == "L", False)
    out = Image.open(io.BytesIO(encode_picture(picture, "JPEG")))
    assert out.mode == mode
    change = np.asarray(out).astype(int) - codes(picture).squeeze()
    assert np.abs(change).max() <= 8
    assert np.sqrt((change**2).mean()) < 1.5
    if mode == "RGB":
        assert isinstance(out, JpegImagePlugin.JpegImageFile)
        assert JpegImagePlugin.get_sampling(out) == 0  # 4:4:4
    # Pillow's own tables of quality 95
    assert (
        out.quantization
        == Image.open(io.BytesIO(saved(photo(mode), "JPEG", quality=95))).quantization
    )  # type: ignore[attr-defined]


def test_cmyk_becomes_srgb(tmp_path: Path) -> None:
    data = saved(photo("CMYK"), "JPEG", quality=100)
    picture = read(tmp_path, data, "in.jpg")
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.array_equal(codes(picture), expected)
    assert picture.notes == ("CMYK is converted to sRGB, without a profile",)


def test_webp_of_a_lossless_source_is_lossless(tmp_path: Path) -> None:
    samples = noise(4, 8)
    samples[:4, :, 3] = 0  # colour under what is transparent is kept as well
    picture = read(tmp_path, png(samples, depth=8))
    data = encode_picture(picture, "WebP")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), samples)
    again = read(tmp_path, data, "again.webp")
    assert again.lossless
    assert np.array_equal(codes(again), samples)


def test_webp_of_a_lossy_source_is_lossy(tmp_path: Path, icc: bytes) -> None:
    # With a profile the picture's data are not the first chunk.
    data = saved(photo(), "WEBP", quality=60, icc_profile=icc)
    picture = read(tmp_path, data, "in.webp")
    assert not picture.lossless
    assert np.array_equal(codes(picture), np.asarray(Image.open(io.BytesIO(data))))
    out = encode_picture(picture, "WebP")
    assert b"VP8L" not in out
    change = np.asarray(Image.open(io.BytesIO(out))).astype(int) - codes(picture)
    assert np.abs(change).max() <= 10


def test_a_photograph_with_previews_is_one_picture(tmp_path: Path) -> None:
    data = saved(photo(), "MPO", save_all=True, append_images=[photo().resize((12, 10))])
    picture = read(tmp_path, data, "in.jpg")
    assert picture.rgb.shape == (3, 40, 48)
    assert picture.notes == ("the further pictures in it (preview, gain map) are dropped",)


def test_what_a_format_cannot_hold_is_told(tmp_path: Path, icc: bytes) -> None:
    picture = Picture(rgb=torch.zeros(3, 4, 4), alpha=torch.ones(1, 4, 4), depth=16)
    same, lost = fitted(picture, "PNG", 16, 16)
    assert (same, lost) == (picture, ())
    jpeg, lost = fitted(picture, "JPEG", 16, 16)
    assert (jpeg.alpha, jpeg.depth, len(lost)) == (None, 8, 2)
    webp, lost = fitted(picture, "WebP", 16, 16)
    assert webp.alpha is not None
    assert lost == ("WebP holds 8 bits: the 16 of the source are rounded",)
    gray = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    gray = gray[:16] + b"GRAY" + gray[20:]
    one, lost = fitted(Picture(rgb=torch.zeros(3, 4, 4), gray=True, icc=gray), "WebP", 16, 16)
    assert one.icc is None
    assert lost == ("WebP holds no gray: the gray ICC profile is dropped",)
    long, lost = fitted(
        Picture(rgb=torch.zeros(3, 4, 4), exif=b"II*\0" + bytes(70000), xmp=bytes(70000)),
        "JPEG",
        16,
        16,
    )
    assert (long.exif, long.xmp, len(lost)) == (None, None, 2)
    encode_picture(long, "JPEG")


@pytest.mark.parametrize(("target", "side"), [("JPEG", 65501), ("WebP", 16384)])
def test_a_size_that_a_format_cannot_hold_is_refused(target: PictureFormat, side: int) -> None:
    picture = Picture(rgb=torch.zeros(3, 1, side))
    fitted(picture, target, side - 1, 1)
    encode_picture(Picture(rgb=torch.zeros(3, 1, side - 1), lossless=False), target)
    with pytest.raises(OptionError, match=r"holds at most .* write a \.png"):
        fitted(picture, target, side, 1)


def frames(form: str) -> bytes:
    return saved(photo(), form, save_all=True, append_images=[photo().rotate(90)])


def broken_checksum() -> bytes:
    data = bytearray(saved(photo(), "PNG"))
    data[data.index(b"IDAT") + 20] ^= 1
    return bytes(data)


def short_data() -> bytes:
    """All checksums right, half of the rows missing."""
    data = png(noise(3, 16), depth=16)
    at = data.index(b"IDAT")
    length = int.from_bytes(data[at - 4 : at])
    raw = zlib.decompress(data[at + 4 : at + 4 + length])
    return (
        data[: at - 4] + chunk(b"IDAT", zlib.compress(raw[: len(raw) // 2])) + chunk(b"IEND", b"")
    )


def bomb() -> bytes:
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    rows = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + rows + chunk(b"IEND", b"")


def profile_bomb() -> bytes:
    profile = chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(200_000_000)))
    return png(noise(3, 8), depth=8, before=profile)


REFUSED = {
    "empty": (lambda: b"", "is no PNG, JPEG or WebP picture"),
    "text": (lambda: b"not a picture\n", "is no PNG, JPEG or WebP picture"),
    "gif": (lambda: saved(photo().convert("P"), "GIF"), "is no PNG, JPEG or WebP picture"),
    "png-signature": (lambda: b"\x89PNG\r\n\x1a\n", "cannot be read"),
    "png-animation": (lambda: frames("PNG"), "is an animation of 2 pictures"),
    "webp-animation": (lambda: frames("WEBP"), "is an animation of 2 pictures"),
    "png-checksum": (broken_checksum, "cannot be read .* look for a whole copy"),
    "png-short": (short_data, "cannot be read .* look for a whole copy"),
    "png-bomb": (bomb, "50000x50000 pixels, .* decompression bomb"),
    "png-profile-bomb": (profile_bomb, "cannot be read"),
    "png-cut": (lambda: saved(photo(), "PNG")[:-200], "cannot be read"),
    "png-end-missing": (lambda: saved(photo(), "PNG")[:-12], "cannot be read"),
    "jpeg-cut": (lambda: saved(photo(), "JPEG")[:-100], "cannot be read"),
    "jpeg-header": (lambda: saved(photo(), "JPEG")[:100], "cannot be read"),
    "webp-cut": (lambda: saved(photo(), "WEBP")[:-100], "cannot be read"),
    "webp-header": (lambda: saved(photo(), "WEBP")[:20], "cannot be read"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_is_no_whole_picture_is_refused(tmp_path: Path, name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path, make())
    assert "in.png" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_picture(tmp_path / "none.png")
    with pytest.raises(InputError, match="is not a file"):
        read_picture(tmp_path)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(InputError, match="is not a file"):  # and does not wait for a writer
        read_picture(tmp_path / "pipe.png")


def test_the_content_counts_and_not_the_name(tmp_path: Path) -> None:
    picture = read(tmp_path, saved(photo(), "PNG"), "in.jpg")
    assert picture.source == "PNG"
    assert np.array_equal(codes(picture), np.asarray(photo()))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_flipped_bytes_give_a_picture_or_one_line(tmp_path: Path, icc: bytes, form: str) -> None:
    whole = saved(photo(), form, icc_profile=icc, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0")
    random = np.random.default_rng(7)
    refusals = []
    for _ in range(60):
        data = bytearray(whole)
        for at in random.integers(0, len(data), 3):
            data[at] = random.integers(0, 256)
        try:
            picture = read(tmp_path, bytes(data))
        except InputError as error:
            refusals.append(str(error))
        else:
            for target in SUFFIXES:
                encode_picture(fitted(picture, target, 48, 40)[0], target)
    assert refusals
    assert not any("\n" in text for text in refusals)
