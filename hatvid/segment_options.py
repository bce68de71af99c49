"""What a user may choose of segments: where work is kept, and who shares it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import ClassVar

from hatvid.errors import OptionError

__all__ = ["SegmentOptions"]


@dataclass(frozen=True, kw_only=True)
class SegmentOptions:
    """How a long video is cut into parts that are kept as soon as each is done."""

    DEFAULT_LENGTH: ClassVar[float] = 10

    length: float | None = None
    """Of a segment in seconds, about; 0 runs the whole video straight through. None is
    10 where the encoder treats segments alike."""

    restart: bool = False
    """Throw away what an earlier run kept, and begin anew."""

    per_segment: bool = False
    """Accept a bit rate or a buffer of the encoder for each segment by itself."""

    workers: int | tuple[str, ...] | None = None
    """Processes with an engine each: how many, or a device for each; 0 is as many as there
    are GPUs, or 1. None computes in this process."""

    shard: tuple[int, int] | None = None
    """(k, n): compute the k-th of n parts, counted from 1, and leave the rest to others."""

    cluster: str | None = None
    """Address of a Ray cluster whose machines compute, ``auto`` for the one that this machine
    belongs to; ``workers`` then counts actors."""

    mixed: bool = False
    """Let devices of several kinds take part, whose bits differ."""

    join_only: bool = False
    """Compute nothing: put together what shards made."""

    def __post_init__(self) -> None:
        if self.length is not None and not (math.isfinite(self.length) and self.length >= 0):
            raise OptionError(f"segment is {self.length}; it must be 0 or more seconds")
        if isinstance(self.workers, int) and self.workers < 0:
            raise OptionError(f"workers is {self.workers}; it must be at least 1, or auto")
        for device in self.workers if isinstance(self.workers, tuple) else ():
            if not re.fullmatch(r"cpu|cuda:\d+", device):
                raise OptionError(f"workers names {device!r}; name devices as cuda:0,cuda:1")
        if self.shard is not None and not 1 <= self.shard[0] <= self.shard[1]:
            raise OptionError(f"shard is {self.shard[0]}/{self.shard[1]}; write 1/N to N/N")
        if self.shard is not None and self.restart:
            raise OptionError(
                "restart would throw away what other shards did; clean up once with hatvid jobs "
                "clean, then start the shards"
            )
        if self.cluster is not None and isinstance(self.workers, tuple):
            raise OptionError("in a cluster Ray chooses the devices; give workers a number")
        if self.mixed and not self.shared:
            raise OptionError("mixed is for several workers; leave it out")
        if self.length == 0 and self.asked:
            raise OptionError("segment 0 makes no segments to share out; leave it out")

    @property
    def shared(self) -> bool:
        """Whether other processes compute."""
        return self.workers is not None or self.cluster is not None

    @property
    def asked(self) -> bool:
        """Whether there must be segments."""
        ways = (self.workers, self.cluster, self.shard)
        return bool(self.length) or any(way is not None for way in ways) or self.join_only
