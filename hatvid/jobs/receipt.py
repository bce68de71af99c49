"""What a finished job did: frames, streams, colours, and everything worth a remark."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hatvid.jobs.checks import Verification
from hatvid.reuse import Reused
from hatvid.video.fates import StreamFate

__all__ = ["MendedPlace", "Receipt", "ShardReceipt"]


@dataclass(frozen=True, kw_only=True)
class MendedPlace:
    """Where a tile ran out of the precision's range, and was computed again in fp32.

    Args:
        seconds: of the frame, after the first one.
        left: of the tile in the frame, in input pixels.
        top: likewise, as what follows.
    """

    seconds: float
    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """The account of one job.

    Args:
        frames: upscaled and written; as many as the input presents.
        repeated: seconds (after the first frame) of frames that could not be decoded and
            show the picture before.
        damaged: seconds of frames that the decoder marked as corrupt.
        moved: seconds of frames whose pts was missing or did not rise.
        mended: tiles that were computed again in fp32.
        reused: how many tiles took the result of one before.
        streams: what became of each input stream.
        packets: how many packets were copied, by input stream index.
        residue: by index of each stream that was cut between packets, how many seconds
            it begins before the first frame, and ends after the last one.
        color_in: matrix and range as tagged in the input.
        color_out: matrix and range as tagged in the output.
        kernel: that computed attention; ``default`` is PyTorch's choice.
        snr: in dB, of what the engine made of a test picture, against the network itself; None
            where nothing differed, or nothing was computed.
        refused: engines, precisions and kernels that failed a check, one line each.
        seconds: from the first frame to the last byte.
        verification: how the output compares with the input; None where that was not
            asked for, or a pipe is on either side.
        notes: everything that was said, one line each.
    """

    input: Path
    output: Path
    frames: int
    repeated: tuple[float, ...]
    damaged: tuple[float, ...]
    moved: tuple[float, ...]
    mended: tuple[MendedPlace, ...]
    reused: Reused
    streams: tuple[StreamFate, ...]
    packets: dict[int, int]
    residue: dict[int, tuple[float, float]]
    color_in: str
    color_out: str
    width: int
    height: int
    model: str
    engine: str
    precision: str
    kernel: str
    snr: float | None
    refused: tuple[str, ...]
    seconds: float
    verification: Verification | None
    notes: tuple[str, ...]

    @property
    def fps(self) -> float:
        """Frames a second over the whole job."""
        return self.frames / self.seconds if self.seconds else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        record = asdict(self)
        record.update(input=str(self.input), output=str(self.output), fps=round(self.fps, 3))
        if self.verification is not None:
            record["verification"] = self.verification.as_dict()
        return record


@dataclass(frozen=True, kw_only=True)
class ShardReceipt:
    """The account of one part of a job, of which others do the rest.

    Args:
        frames: computed by this run.
        done: segments that are done by now, whoever did them.
        segments: of the whole job.
        seconds: that it took.
    """

    input: Path
    output: Path
    frames: int
    done: int
    segments: int
    seconds: float
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self) | {"input": str(self.input), "output": str(self.output)}
