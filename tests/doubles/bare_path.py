"""A PATH without the programs that ``pip install`` does not bring.

As a program: ``python bare_path.py FOLDER`` makes FOLDER and prints the PATH. It runs on any
Python 3, before there is an environment.
"""

import fnmatch
import os
import sys
from pathlib import Path

__all__ = ["PROGRAMS", "bare_path"]

PROGRAMS = (
    # Media.
    *("ffmpeg*", "ffprobe*", "ffplay*", "x264*", "x265*", "SvtAv1*", "aomenc", "aomdec"),
    *("vpxenc", "vpxdec", "mkv*", "MP4Box", "mediainfo", "mpv", "mplayer", "vlc", "cvlc", "sox"),
    # Browsers.
    *("chrom*", "google-chrome*", "firefox*"),
    # Compilers: torch.compile and Triton look for one.
    *("cc", "c++", "c89*", "c99*", "gcc*", "g++*", "clang*", "*-gcc*", "*-g++*", "*-clang*"),
    *("tcc", "icx", "icpx", "nvcc*"),
)
"""Names and patterns of what no test may start unless it is marked ``media``."""


def bare_path(folder: Path, path: str) -> str:
    """Give ``path`` without the folders that hold any of :data:`PROGRAMS`.

    In the place of each such folder stands one in ``folder``, with a link to everything else that
    is in it. A Python there is started by a script: behind a link, an interpreter would take the
    folder of links for its home.
    """
    bare = []
    for number, name in enumerate(dict.fromkeys(path.split(os.pathsep))):
        try:
            there = sorted(program.name for program in Path(name).iterdir())
        except OSError:
            continue
        left = [program for program in there if not _listed(program)]
        if left == there:
            bare.append(name)
            continue
        twin = folder / str(number)
        twin.mkdir(parents=True)
        for program in left:
            source = Path(name, program).absolute()
            if program.startswith("python") and os.access(source, os.X_OK):
                (twin / program).write_text(f'#!/bin/sh\nexec "{source}" "$@"\n')
                (twin / program).chmod(0o755)
            else:
                (twin / program).symlink_to(source)
        bare.append(str(twin))
    return os.pathsep.join(bare)


def _listed(program: str) -> bool:
    return any(fnmatch.fnmatchcase(program, pattern) for pattern in PROGRAMS)


if __name__ == "__main__":
    sys.stdout.write(bare_path(Path(sys.argv[1]), os.environ["PATH"]) + "\n")
