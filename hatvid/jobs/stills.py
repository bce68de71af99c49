"""Upscale single pictures and numbered sequences of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, max_pool2d

from hatvid.errors import EngineError, InputError, OutOfMemoryError, OutputError
from hatvid.jobs.partial import PartialFile
from hatvid.jobs.picture_plan import PicturePlan
from hatvid.jobs.progress import Progress, Silent, Started
from hatvid.options import SizeOptions
from hatvid.resampling import resample
from hatvid.reuse import Reused
from hatvid.upscaler import Upscaler
from hatvid.video.picture_files import encode_picture, fitted
from hatvid.video.picture_names import picture_format
from hatvid.video.prefetch import Prefetch, Writer
from hatvid.video.resize import target_size
from hatvid.video.stills import Picture, read_picture

__all__ = ["PictureReceipt", "place_file", "run_pictures"]

_Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class PictureReceipt:
    """The account of one job over pictures.

    Args:
        input: a picture, or the pattern of many.
        output: likewise.
        frames: how many pictures were upscaled and written.
        width: of the largest output.
        height: of that one.
        reused: how many tiles took the result of one before.
        seconds: from the first picture to the last byte.
        notes: everything that was said, one line each.
    """

    input: Path
    output: Path
    frames: int
    width: int
    height: int
    model: str
    engine: str
    precision: str
    reused: Reused
    seconds: float
    notes: tuple[str, ...]

    @property
    def fps(self) -> float:
        """Pictures a second over the whole job."""
        return self.frames / self.seconds if self.seconds else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        record = asdict(self)
        record.update(input=str(self.input), output=str(self.output), fps=round(self.fps, 3))
        return record


def run_pictures(
    plan: PicturePlan,
    upscaler: Upscaler,
    *,
    size: SizeOptions | None = None,
    progress: Progress | None = None,
) -> PictureReceipt:
    """Carry a plan out. Each output appears under its name only when it is whole.

    Of a sequence, all that can be read is done even if some cannot.

    Args:
        plan: as made by :func:`~hatvid.jobs.picture_plan.plan_pictures`.
        upscaler: stays open.
        size: of each output.
        progress: told what happens.

    Raises:
        InputError: a picture cannot be read; the others of a sequence are written.
        OptionError: an output would be too large for its format.
        OutputError: an output cannot be written.
        OutputExistsError: meanwhile an output has appeared.
        EngineError: the network failed.
    """
    return _Run(plan, upscaler, size or SizeOptions(), progress or Silent()).carry_out()


def place_file(
    path: Path, data: bytes, *, overwrite: bool, progress: Progress | None = None
) -> None:
    """Write a file that appears under its name only when it is whole.

    Args:
        progress: told right before the file gets its name.

    Raises:
        OutputError: the disk refuses.
        OutputExistsError: a file of that name is there, against ``overwrite``.
    """
    with PartialFile(path, overwrite=overwrite) as partial:
        try:
            partial.file.write(data)
        except OSError as error:
            raise OutputError(
                f"{path} cannot be written ({error.strerror}); free some space, or choose "
                "another place with -o"
            ) from error
        partial.seal()
        if progress is not None:
            progress.publishing()
        partial.publish()


@dataclass
class _Run:
    """One run of a plan, and what it has to tell."""

    plan: PicturePlan
    upscaler: Upscaler
    size: SizeOptions
    progress: Progress
    notes: list[str] = field(default_factory=list)
    said: dict[str, int] = field(default_factory=dict)
    unread: list[InputError] = field(default_factory=list)
    largest: tuple[int, int] = (0, 0)
    done: int = 0
    reused: Reused = field(default_factory=Reused)
    facts: Started | None = None

    def carry_out(self) -> PictureReceipt:
        plan = self.plan
        for note in plan.notes:
            self._note(note)
        began = time.monotonic()
        last: tuple[Path, Picture] | None = None
        with (
            Prefetch(_read(plan.files), depth=1, name="hatvid-decode") as reader,
            Writer(self._write, depth=1, name="hatvid-encode") as writer,
        ):
            for path, target, picture in reader:
                if isinstance(picture, InputError):
                    self.unread.append(picture)
                    continue
                # The last one is written from here, see below.
                if last is not None:
                    writer.put(last)
                last = target, self._upscaled(path, target, picture)
                self.done += 1
                self.progress.reused(self.reused)
                self.progress.advanced(self.done)
            writer.finish()
        for text, times in self.said.items():
            if times > 1:
                self._note(f"{text}: so it is with {times} pictures")
        if last is not None:
            # From the moment when the last one is whole, breaking off would tell an untruth.
            path, picture = last
            data = encode_picture(picture, picture_format(path))
            ends = None if self.unread else self.progress
            place_file(path, data, overwrite=plan.overwrite, progress=ends)
        self._raise_unread()
        assert self.facts is not None  # something was read
        return PictureReceipt(
            input=plan.input,
            output=plan.output,
            frames=self.done,
            width=self.largest[0],
            height=self.largest[1],
            model=self.facts.model,
            engine=self.facts.engine,
            precision=self.facts.precision,
            reused=self.reused,
            seconds=time.monotonic() - began,
            notes=tuple(self.notes),
        )

    def _note(self, text: str) -> None:
        self.notes.append(text)
        self.progress.note(text)

    def _write(self, item: tuple[Path, Picture]) -> None:
        path, picture = item
        data = encode_picture(picture, picture_format(path))
        place_file(path, data, overwrite=self.plan.overwrite)

    def _upscaled(self, path: Path, target: Path, picture: Picture) -> Picture:
        height, width = picture.rgb.shape[1:]
        wide, high = target_size(width, height, self.upscaler.scale, self.size, even=False)
        picture, lost = fitted(picture, picture_format(target), wide, high)
        for text in (*picture.notes, *lost):
            self._say(path, text)
        self.largest = max(self.largest, (wide, high), key=lambda side: side[0] * side[1])
        if self.facts is None:
            self.facts = self._started(target, picture, wide, high)
            self.progress.started(self.facts)
        while True:
            try:
                return _enlarged(picture, self._run, wide, high)
            except OutOfMemoryError as error:
                if not self.upscaler.shrink(height, width):
                    raise OutOfMemoryError(f"{path}: {error}") from error
                after = self.upscaler.describe(height, width)
                self._note(
                    f"{path.name}: memory ran out: once more with tiles of "
                    f"{after.tile_width}x{after.tile_height}"
                )
            except EngineError as error:
                raise EngineError(f"{path}: {error}") from error

    def _run(self, rgb: Tensor) -> Tensor:
        counted: list[Reused] = []
        larger = self.upscaler(rgb, reused=counted.append)
        self.reused += counted[0]
        return larger

    def _say(self, path: Path, text: str) -> None:
        """Once when it is first met, so that many pictures do not say it many times."""
        self.said[text] = self.said.get(text, 0) + 1
        if self.said[text] == 1:
            self._note(f"{path.name}: {text}" if len(self.plan.files) > 1 else text)

    def _started(self, target: Path, picture: Picture, width: int, height: int) -> Started:
        facts = self.upscaler.warm_up(picture.rgb.shape[1], picture.rgb.shape[2])
        return Started(
            input=str(self.plan.input),
            output=str(self.plan.output),
            frames=len(self.plan.files),
            width=width,
            height=height,
            scale=facts.scale,
            model=facts.model,
            engine=facts.engine,
            precision=facts.precision,
            kernel=facts.kernel,
            snr=facts.snr,
            refused=facts.refused,
            device=facts.device,
            tile=(facts.tile_height, facts.tile_width),
            tiles=facts.tiles,
            batch=facts.batch,
            codec=picture_format(target),
            pix_fmt=picture.pix_fmt,
        )

    def _raise_unread(self) -> None:
        if not self.unread:
            return
        first = self.unread[0]
        if len(self.plan.files) == 1:
            raise first
        raise InputError(
            f"{len(self.unread)} of {len(self.plan.files)} pictures could not be read and are "
            f"left out, the others are written: {'; '.join(map(str, self.unread[:8]))}"
        ) from first


def _enlarged(picture: Picture, run: _Network, width: int, height: int) -> Picture:
    """The picture through the network, and resampled where that gives another size.

    Gray goes in as three equal channels, and their mean comes out. Alpha goes the same
    way by itself; it is then cut to the range of the 3x3 source pixels about each place,
    so that what is opaque stays opaque. Colour under fully transparent pixels is not
    seen, but would bleed over their edge: it is replaced by what is visible nearby.

    Raises:
        EngineError: the network failed, or gave values that are no numbers.
    """
    rgb, alpha = picture.rgb[None], picture.alpha
    if alpha is not None:
        rgb = _spread(rgb, (alpha[None] > 0).to(rgb.dtype))
    larger = _through(rgb, run, width, height)
    if picture.gray:
        larger = larger.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    if alpha is not None:
        alpha = _larger_alpha(alpha[None], run, width, height)[0]
    return replace(picture, rgb=larger[0], alpha=alpha)


def _through(rgb: Tensor, run: _Network, width: int, height: int) -> Tensor:
    larger = resample(run(rgb), height, width).cpu()
    if not torch.isfinite(larger).all():
        raise EngineError(
            "the network gave values that are no numbers even in fp32; look at the checkpoint "
            "with hatvid models check"
        )
    return larger


def _larger_alpha(alpha: Tensor, run: _Network, width: int, height: int) -> Tensor:
    high = interpolate(max_pool2d(alpha, 3, 1, 1), (height, width))
    low = -interpolate(max_pool2d(-alpha, 3, 1, 1), (height, width))
    if torch.equal(low, high):
        return low
    larger = _through(alpha.expand(-1, 3, -1, -1), run, width, height)
    return larger.mean(1, keepdim=True).clamp(low, high)


def _spread(rgb: Tensor, seen: Tensor) -> Tensor:
    """Fill what is not seen with means of what is, over 2x2, 4x4, 8x8, ... pixels.

    The "push-pull" of Gortler et al., The Lumigraph (SIGGRAPH 1996).

    Args:
        rgb: (1, 3, H, W).
        seen: (1, 1, H, W), 1 where the colour counts and is kept, else 0.
    """
    if seen.all() or max(seen.shape) == 1:
        return rgb
    weight = avg_pool2d(seen, 2, ceil_mode=True)
    means = avg_pool2d(rgb * seen, 2, ceil_mode=True) / weight.clamp_min(torch.finfo().tiny)
    means = _spread(means, (weight > 0).to(seen.dtype))
    return torch.where(seen > 0, rgb, interpolate(means, size=rgb.shape[-2:]))


def _read(
    files: Iterable[tuple[Path, Path]],
) -> Iterator[tuple[Path, Path, Picture | InputError]]:
    for path, target in files:
        try:
            picture: Picture | InputError = read_picture(path)
        except InputError as error:
            picture = error
        yield path, target, picture
