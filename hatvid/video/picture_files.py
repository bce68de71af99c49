"""Pictures to the bytes of PNG, JPEG and WebP files."""

from __future__ import annotations

import io
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from hatvid.errors import OptionError, OutputError
from hatvid.video.picture_names import PictureFormat
from hatvid.video.png import COLOR_CHUNKS, XMP_KEYWORD, encode_png
from hatvid.video.stills import Picture

__all__ = ["encode_picture", "fitted"]

# The largest side that each can hold: PNG (section 11.2.1), libjpeg, WebP.
_LARGEST = {"PNG": 2**31 - 1, "JPEG": 65500, "WebP": 16383}
_QUALITY = 95

_NAMES = {b"\xff\xfe": "comment", b"\xff\xed": "IPTC", b"\xff\xe1": "extended XMP"}
"""Of JPEG segments; chunks of PNG are named by their types."""

# What a JPEG segment holds at most beside its length, and Adobe's and EXIF's names in it.
_SEGMENT = 65533
_EXIF_NAME = b"Exif\0\0"
_XMP_NAME = b"http://ns.adobe.com/xap/1.0/\0"


def fitted(
    picture: Picture, target: PictureFormat, width: int, height: int
) -> tuple[Picture, tuple[str, ...]]:
    """The picture without what a format cannot hold, and one line on each such thing.

    Called before the network runs, so that nobody learns afterwards.

    Args:
        picture: as read.
        target: of the output.
        width: of the output.
        height: of the output.

    Raises:
        OptionError: the format cannot hold that size.
    """
    if max(width, height) > _LARGEST[target]:
        raise OptionError(
            f"{target} holds at most {_LARGEST[target]} pixels a side and the picture would be "
            f"{width}x{height}; write a .png, or ask for a smaller size"
        )
    notes = []
    if target == "JPEG" and picture.alpha is not None:
        picture = replace(picture, alpha=None)
        notes.append(
            "JPEG holds no alpha: it is dropped, and what was transparent shows its colour"
        )
    if target != "PNG" and picture.depth > 8:
        picture = replace(picture, depth=8)
        notes.append(f"{target} holds 8 bits: the 16 of the source are rounded")
    if target == "WebP" and picture.gray and picture.icc and picture.icc[16:20] == b"GRAY":
        picture = replace(picture, icc=None)
        notes.append("WebP holds no gray: the gray ICC profile is dropped")
    if target == "JPEG" and len(picture.exif or b"") > _SEGMENT - len(_EXIF_NAME):
        picture = replace(picture, exif=None)
        notes.append("JPEG holds no EXIF data of that size: it is dropped")
    if target == "JPEG" and len(picture.xmp or b"") > _SEGMENT - len(_XMP_NAME):
        picture = replace(picture, xmp=None)
        notes.append("JPEG holds no XMP data of that size: it is dropped")
    if target == "WebP" and picture.dpi:
        notes.append("WebP holds no dots an inch: they are dropped")
    if target != picture.source and picture.native:
        kinds = {kind for kind, _ in picture.native}
        if picture.icc or b"sRGB" in kinds:
            # The others only say the same for readers that know neither of these.
            kinds -= {b"sRGB", b"gAMA", b"cHRM"}
        if kinds:
            names = ", ".join(sorted(_NAMES.get(kind) or kind.decode("ascii") for kind in kinds))
            notes.append(f"{target} cannot hold all that {picture.source} does: {names} dropped")
        picture = replace(picture, native=())
    return picture, tuple(notes)


def encode_picture(picture: Picture, target: PictureFormat) -> bytes:
    """The bytes of a file: quantised once, rounded to nearest, cut to [0, 1].

    PNG keeps the depth. JPEG is of quality 95 without chroma subsampling. WebP is
    lossless for a lossless source, else of quality 95. The same input gives the same
    bytes.

    Args:
        picture: as :func:`fitted` to the format.
        target: the format.

    Raises:
        OutputError: the encoder refuses.
    """
    samples = _samples(picture)
    if target == "PNG":
        return encode_png(samples, _chunks(picture))
    image = Image.fromarray(samples[:, :, 0] if samples.shape[2] == 1 else samples)
    options: dict[str, Any] = {"quality": _QUALITY, "icc_profile": picture.icc}
    if picture.xmp:
        options["xmp"] = picture.xmp
    if picture.exif:
        options["exif"] = _EXIF_NAME + picture.exif
    if target == "WebP":
        # With "exact", the colour under transparent pixels stays what it is.
        options |= {"lossless": picture.lossless, "exact": True, "method": 4}
    else:
        options |= {"subsampling": 0, "optimize": True, "dpi": picture.dpi or (0, 0)}
        options["extra"] = b"".join(
            marker + (len(payload) + 2).to_bytes(2) + payload for marker, payload in picture.native
        )
    file = io.BytesIO()
    try:
        image.save(file, target.upper(), **options)
    except (OSError, ValueError) as error:
        raise OutputError(
            f"{target} of {image.width}x{image.height} cannot be written ({error}); write a .png"
        ) from error
    return file.getvalue()


def _samples(picture: Picture) -> NDArray[Any]:
    """(H, W, channels) of uint8 or uint16."""
    parts = [picture.rgb[:1] if picture.gray else picture.rgb]
    if picture.alpha is not None:
        parts.append(picture.alpha)
    values = torch.cat(parts).clamp(0, 1) * (2**picture.depth - 1)
    return np.ascontiguousarray(
        values.round().permute(1, 2, 0).numpy().astype(f"u{picture.depth // 8}")
    )


def _chunks(picture: Picture) -> list[tuple[bytes, bytes]]:
    """Everything that a PNG says beside its pixels (section 5.6 on the order)."""
    chunks = [chunk for chunk in picture.native if chunk[0] in COLOR_CHUNKS]
    if picture.icc:
        # Section 11.3.2.3: a name, and the profile compressed; never beside sRGB.
        chunks = [chunk for chunk in chunks if chunk[0] != b"sRGB"]
        chunks.append((b"iCCP", b"ICC profile\0\0" + zlib.compress(picture.icc)))
    chunks += [chunk for chunk in picture.native if chunk[0] not in COLOR_CHUNKS]
    if picture.dpi and not any(kind == b"pHYs" for kind, _ in chunks):
        across, down = (round(dots / 0.0254) for dots in picture.dpi)  # in a metre
        chunks.append((b"pHYs", across.to_bytes(4) + down.to_bytes(4) + b"\1"))
    if picture.xmp:
        chunks.append((b"iTXt", XMP_KEYWORD + b"\0\0\0\0" + picture.xmp))
    if picture.exif:
        chunks.append((b"eXIf", picture.exif))
    return chunks
