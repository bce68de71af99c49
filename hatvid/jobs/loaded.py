"""One network in memory for jobs that follow one another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from hatvid.errors import EngineError, HatvidError
from hatvid.jobs.job import Job
from hatvid.jobs.upscalers import own_upscaler
from hatvid.options import (
    EncodeOptions,
    InputOptions,
    JobOptions,
    SegmentOptions,
    StreamOptions,
)
from hatvid.upscaler import Upscaler

__all__ = ["Loaded"]


class Loaded:
    """Keeps the upscaler of the last job for a next one that would load the same.

    Use it in a ``with`` block; leaving it closes what is kept.
    """

    def __init__(self) -> None:
        self._kept: tuple[object, Upscaler] | None = None

    @contextmanager
    def lend(self, job: Job, scale: int | None) -> Iterator[Upscaler]:
        """The upscaler of a job, for ``load`` of :func:`~hatvid.jobs.run.run_job`.

        It is not kept after an error that is not the file's: an engine that failed may fail
        again.

        Raises:
            HatvidError: it cannot be had, or not run so.
        """
        key = (_settings(job.options), job.model, scale, job.pictures is None)
        if self._kept is None or self._kept[0] != key:
            self.close()  # first, as two may be more than fits
            self._kept = key, own_upscaler(job, scale)
        lent = self._kept[1]
        try:
            yield lent
        except BaseException as error:
            if isinstance(error, EngineError) or not isinstance(error, HatvidError):
                self.close()
            raise

    def close(self) -> None:
        """Free what is kept."""
        if self._kept is not None:
            self._kept[1].close()
            self._kept = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _settings(options: JobOptions) -> JobOptions:
    """All but what surely says nothing of the network and how it is run.

    What is not named here only makes the network be loaded once more.
    """
    return replace(
        options,
        input=Path(),
        output=None,
        encode=EncodeOptions(),
        reading=InputOptions(),
        streams=StreamOptions(),
        segments=SegmentOptions(),
        start=None,
        end=None,
        format=None,
        overwrite=False,
        verify="full",
    )
