"""Single pictures: what they are, and how PNG, JPEG and WebP files are read.

The network works on the values as they are encoded; the ICC profile that says what
they mean, and the EXIF data, go with the picture byte for byte. Pixels are not turned
by the EXIF orientation, so that the tag stays true.
"""

from __future__ import annotations

import io
import stat
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageCms, JpegImagePlugin, PngImagePlugin, WebPImagePlugin
from torch import Tensor

from hatvid.errors import InputError
from hatvid.video.picture_names import PictureFormat
from hatvid.video.png import (
    COLOR_CHUNKS,
    SIGNATURE,
    TEXT_CHUNKS,
    XMP_KEYWORD,
    decode_png,
    png_chunks,
    without_chunks,
)

__all__ = ["Picture", "read_picture"]

_MOST_PIXELS = 2**27
"""More in one input, about 134 million, is taken for a decompression bomb."""

_EXIF_NAME = b"Exif\0\0"
_MORE_XMP_NAME = b"http://ns.adobe.com/xmp/extension/\0"


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One picture and what is said of it.

    Args:
        rgb: (3, H, W) float32, nominally in [0, 1], the values as they are encoded.
        alpha: (1, H, W) likewise, not multiplied into ``rgb``; None without one.
        depth: bits of a sample, 8 or 16.
        gray: the three channels are one.
        source: the format it was read from.
        lossless: it was stored without loss.
        icc: the ICC profile.
        exif: the EXIF data, from its byte order mark on.
        xmp: the XMP packet.
        dpi: dots an inch, across and down.
        native: what only its own format holds: (type, payload) of PNG chunks, (marker,
            payload) of JPEG segments.
        notes: what reading it changed, one line each.
    """

    rgb: Tensor
    alpha: Tensor | None = None
    depth: Literal[8, 16] = 8
    gray: bool = False
    source: PictureFormat = "PNG"
    lossless: bool = True
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    native: tuple[tuple[bytes, bytes], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def pix_fmt(self) -> str:
        """FFmpeg's name of such samples, for messages."""
        names = {8: ("gray", "ya8", "rgb24", "rgba"), 16: ("gray16", "ya16", "rgb48", "rgba64")}
        return names[self.depth][2 * (not self.gray) + (self.alpha is not None)]


def read_picture(path: Path) -> Picture:
    """Read one PNG, JPEG or WebP file, told apart by what it holds.

    Palettes become RGB and depths below 8 become 8, with the same colours. CMYK becomes
    sRGB, by its profile if it has one.

    Raises:
        InputError: the file is missing, damaged, an animation, a decompression bomb, or
            no picture.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputError(f"{path} is not a file; name a picture")
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be read ({reason}); check the name") from error
    try:
        return _decoded(data)
    except InputError as error:
        raise InputError(f"{path} {error}") from None
    # Readers of pictures answer broken files with nearly any kind of error.
    except Exception as error:
        raise InputError(
            f"{path} cannot be read as a picture ({error}); look for a whole copy"
        ) from error


def _decoded(data: bytes) -> Picture:
    if data.startswith(SIGNATURE):
        return _from_png(data)
    if data.startswith(b"\xff\xd8\xff"):
        # Not the factory, which takes a photograph with a preview for two photographs.
        jpeg = JpegImagePlugin.JpegImageFile(io.BytesIO(data))
        _check(jpeg)
        previews = ("the further pictures in it (preview, gain map) are dropped",)
        return replace(
            _from_image(jpeg, "JPEG", lossless=False),
            dpi=jpeg.info.get("dpi") if jpeg.info.get("jfif_unit") else None,
            native=tuple(
                (marker, payload)
                for name, payload in jpeg.applist
                if (marker := _kept_segment(name, payload))
            ),
            notes=_notes(jpeg) + (previews if "mp" in jpeg.info else ()),
        )
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        webp = WebPImagePlugin.WebPImageFile(io.BytesIO(data))
        _check(webp)
        return _from_image(webp, "WebP", lossless=b"VP8L" in _riff_chunks(data))
    raise InputError("is no PNG, JPEG or WebP picture; convert it to one of them first")


def _from_png(data: bytes) -> Picture:
    whole = PngImagePlugin.PngImageFile(io.BytesIO(data))
    _check(whole)
    whole.verify()  # all checksums; reading alone looks at none of the picture's data
    xmp = whole.info.get("xmp")
    xmp = xmp if isinstance(xmp, bytes) else None
    # Pillow files texts under their own keywords among what it knows itself, so that one
    # called "interlace" would be believed.
    png = PngImagePlugin.PngImageFile(io.BytesIO(without_chunks(data, TEXT_CHUNKS)))
    chunks = list(png_chunks(data))
    depth = chunks[0][1][8]  # of IHDR (section 11.2.1)
    # Pillow has no RGB of 16 bits; nor does it scale the transparent gray as it does grays.
    if depth in (2, 4) and png.mode == "L" and "transparency" in png.info:
        png.info["transparency"] *= 255 // (2**depth - 1)
    picture = _from_image(
        png, "PNG", lossless=True, samples=decode_png(data) if depth == 16 else None
    )
    native: dict[tuple[bytes, bytes], None] = {}
    once = (*COLOR_CHUNKS, b"pHYs")
    for kind, payload in chunks:
        if kind in once and all(kind != seen for seen, _ in native):
            native[kind, payload] = None
        if kind in TEXT_CHUNKS and not (xmp and payload.startswith(XMP_KEYWORD)):
            native[kind, payload] = None
    dpi = png.info.get("dpi")
    if dpi:
        native = {chunk: None for chunk in native if chunk[0] != b"pHYs"}
    return replace(picture, native=tuple(native), dpi=dpi, xmp=xmp)


def _check(image: Image.Image) -> None:
    """Refuse, before any pixel is decoded, what is not one picture of a sane size."""
    if image.width * image.height > _MOST_PIXELS:
        raise InputError(
            f"has {image.width}x{image.height} pixels, more than {_MOST_PIXELS // 10**6} "
            "million: it may be a decompression bomb; cut it into parts first"
        )
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise InputError(
            f"is an animation of {frames} pictures; convert it to a video, or name a single picture"
        )


def _from_image(
    image: Image.Image,
    source: PictureFormat,
    *,
    lossless: bool,
    samples: NDArray[Any] | None = None,
) -> Picture:
    """A Picture of what Pillow has opened, with other samples in place of Pillow's own."""
    notes = _notes(image)
    image.load()  # raises if the data end early, as FFmpeg does not
    info = image.info  # now also what comes after the pixels
    icc = info.get("icc_profile")
    exif = info.get("exif", b"").removeprefix(_EXIF_NAME)
    if image.mode == "CMYK":
        image, icc = _from_cmyk(image, icc), None
    if samples is None:
        if image.mode not in ("LA", "RGBA"):
            colors = "L" if image.mode in ("1", "L") else "RGB"
            image = image.convert(colors + ("A" if image.has_transparency_data else ""))
        samples = np.atleast_3d(np.asarray(image))
    elif samples.shape[1::-1] != image.size:
        raise ValueError("two decoders see different sizes")
    return Picture(
        **_channels(samples),
        source=source,
        lossless=lossless,
        icc=icc or None,
        exif=exif or None,
        xmp=info.get("xmp"),
        notes=notes,
    )


def _notes(image: Image.Image) -> tuple[str, ...]:
    if image.mode == "CMYK":
        by = "by its ICC profile" if image.info.get("icc_profile") else "without a profile"
        return (f"CMYK is converted to sRGB, {by}",)
    if image.mode == "1":
        return ("black and white becomes gray of 8 bits",)
    if image.mode == "P":
        return ("the palette becomes RGB",)
    return ()


def _from_cmyk(image: Image.Image, icc: bytes | None) -> Image.Image:
    if not icc:
        return image.convert("RGB")
    converted = ImageCms.profileToProfile(
        image,
        ImageCms.ImageCmsProfile(io.BytesIO(icc)),
        ImageCms.createProfile("sRGB"),
        outputMode="RGB",
    )
    assert converted is not None
    return converted


def _channels(samples: NDArray[Any]) -> dict[str, Any]:
    """The fields of a Picture that (H, W, channels) integer samples decide."""
    values = torch.from_numpy(samples.transpose(2, 0, 1).astype(np.float32))
    values /= np.iinfo(samples.dtype).max
    gray, alpha = len(values) < 3, len(values) % 2 == 0
    rgb = values[:1].expand(3, -1, -1) if gray else values[:3]
    return {
        "rgb": rgb,
        "alpha": values[-1:] if alpha else None,
        "depth": 8 * samples.itemsize,
        "gray": gray,
    }


def _kept_segment(name: str, payload: bytes) -> bytes | None:
    """The marker of a segment that Pillow does not write itself and that stays true."""
    if name == "COM":
        return b"\xff\xfe"
    if name == "APP13":  # Photoshop's, IPTC among it
        return b"\xff\xed"
    if name == "APP1" and payload.startswith(_MORE_XMP_NAME):
        return b"\xff\xe1"
    return None


def _riff_chunks(data: bytes) -> set[bytes]:
    kinds, at = set(), 12
    while at + 8 <= len(data):
        kinds.add(data[at : at + 4])
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + length + length % 2
    return kinds
