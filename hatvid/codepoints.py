"""Names of H.273 code points, as FFmpeg and VapourSynth spell them.

Recommendation ITU-T H.273: table 2 (primaries), table 3 (transfer), table 4 (matrix);
chroma locations are numbered as FFmpeg's AVChromaLocation. The first name of a number
is the one that is shown.
"""

from __future__ import annotations

__all__ = ["CHROMA_LOCATIONS", "MATRICES", "PRIMARIES", "RANGES", "TRANSFERS", "name_of"]

MATRICES = {
    "gbr": 0,
    "rgb": 0,
    "bt709": 1,
    "709": 1,
    "unspecified": 2,
    "fcc": 4,
    "bt470bg": 5,
    "470bg": 5,
    "smpte170m": 6,
    "601": 6,
    "170m": 6,
    "smpte240m": 7,
    "240m": 7,
    "ycgco": 8,
    "bt2020nc": 9,
    "2020ncl": 9,
    "2020": 9,
}

PRIMARIES = {
    "bt709": 1,
    "709": 1,
    "unspecified": 2,
    "bt470m": 4,
    "470m": 4,
    "bt470bg": 5,
    "470bg": 5,
    "smpte170m": 6,
    "170m": 6,
    "smpte240m": 7,
    "240m": 7,
    "film": 8,
    "bt2020": 9,
    "2020": 9,
    "smpte428": 10,
    "xyz": 10,
    "smpte431": 11,
    "smpte432": 12,
    "p3": 12,
    "ebu3213": 22,
}

TRANSFERS = {
    "bt709": 1,
    "709": 1,
    "unspecified": 2,
    "bt470m": 4,
    "gamma22": 4,
    "bt470bg": 5,
    "gamma28": 5,
    "smpte170m": 6,
    "601": 6,
    "smpte240m": 7,
    "240m": 7,
    "linear": 8,
    "log100": 9,
    "log316": 10,
    "iec61966-2-4": 11,
    "xvycc": 11,
    "bt1361e": 12,
    "iec61966-2-1": 13,
    "srgb": 13,
    "bt2020-10": 14,
    "2020_10": 14,
    "bt2020-12": 15,
    "2020_12": 15,
    "smpte2084": 16,
    "st2084": 16,
    "pq": 16,
    "smpte428": 17,
    "arib-std-b67": 18,
    "std-b67": 18,
    "hlg": 18,
}

CHROMA_LOCATIONS = {
    "unspecified": 0,
    "left": 1,
    "center": 2,
    "topleft": 3,
    "top": 4,
    "bottomleft": 5,
    "bottom": 6,
}

RANGES = {"limited": False, "tv": False, "full": True, "pc": True}


def name_of(table: dict[str, int], code: int) -> str:
    """The name that is shown for a code point; the number itself if it has none."""
    return next((name for name, number in table.items() if number == code), str(code))
