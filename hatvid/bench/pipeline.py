"""What a job takes beside the network: run with an engine that returns at once, and with the
real one, taking turns."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

import hatvid.jobs.account
import hatvid.jobs.enlarge
from hatvid.bench.stopwatch import Stopwatch
from hatvid.engine import Engine, ResolvedEngine, TileSpec, build_engine
from hatvid.errors import OptionError
from hatvid.jobs.receipt import Receipt
from hatvid.jobs.upscale import upscale
from hatvid.model.fingerprint import state_dict_hash
from hatvid.model.zoo import load_model, resolve_model
from hatvid.options import EngineOptions, Precision
from hatvid.upscaler import EngineFactory, Upscaler
from hatvid.video.sink import VideoSink
from hatvid.video.source import VideoSource

__all__ = ["PipelineCost", "Run", "STAGES", "made_up_clip", "pipeline_cost"]

FRAMES = 72
"""Of a clip, at most: the encoder holds back some tens of frames to look ahead, and finishes
them when there is no more network to hide behind."""

ROUNDS = 3

MODEL = "hat-nano-x4"
"""The smallest network, beside which everything else weighs most."""

_NETWORK, _TILES = "network", "tiles"

STAGES: Mapping[str, Sequence[tuple[Any, str]]] = {
    "decode": ((VideoSource, "items"),),
    "colour in": ((hatvid.jobs.enlarge, "planes_to_rgb"),),
    _TILES: ((Upscaler, "__call__"),),
    _NETWORK: (),
    "colour out": ((hatvid.jobs.enlarge, "rgb_to_planes"),),
    "encode": ((VideoSink, "write"), (VideoSink, "finish")),
    "proof": ((hatvid.jobs.account, "verify"),),
}
"""By what is done in each. Decode and encode have threads of their own; the network's is
timed where the engine is called."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one job took, in seconds a frame."""

    wall: float
    """From the first frame to the last byte, without the proof that follows."""

    cpu: float
    """Of all threads, the proof's and those that start the job too."""

    stages: Mapping[str, float]
    """On the wall, see :data:`STAGES`; what waits for a core takes longer."""


@dataclass(frozen=True, kw_only=True)
class PipelineCost:
    """Both jobs, in medians over the rounds."""

    model: str
    engine: str
    precision: str
    threads: int
    width: int
    height: int
    scale: int
    frames: int
    rounds: int
    instant: Run
    real: Run

    @property
    def ratio(self) -> float:
        """Of the wall times: what would be left if the network took no time."""
        return self.instant.wall / self.real.wall

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        record = {key: value for key, value in vars(self).items() if not isinstance(value, Run)}
        runs = {name: vars(run) for name, run in (("instant", self.instant), ("real", self.real))}
        return record | runs | {"ratio": self.ratio}


def pipeline_cost(
    clip: Path | None = None,
    *,
    model: str = MODEL,
    precision: Precision = "auto",
    threads: int | None = None,
    frames: int = FRAMES,
    rounds: int = ROUNDS,
) -> PipelineCost:
    """Run a job again and again, by turns without and with the network.

    Args:
        clip: a video; None makes one up.
        model: a known name, or the path of a checkpoint.
        precision: of the network that is run.
        threads: of the CPU for the network.
        frames: of the clip, from its beginning, at most.
        rounds: how often both are run, after one round of the first that does not count.

    Raises:
        HatvidError: as :func:`hatvid.upscale` does.
    """
    network = load_model(model)
    options = EngineOptions(precision=precision, threads=threads, streams="auto")  # as a job has it

    def upscaler(
        factory: EngineFactory, fingerprint: str | None, *, checked: bool = True
    ) -> Upscaler:
        return Upscaler(
            network,
            scale=network.scale,
            engine_options=options,
            fingerprint=fingerprint,
            engine_factory=factory,
            checked=checked,
            name=resolve_model(model).name,
        )

    watch = _Watched()
    with (
        tempfile.TemporaryDirectory(prefix="hatvid-bench-") as name,
        # Without a name, or what is measured of it would be taken for the network's.
        upscaler(watch.instant, None, checked=False) as instant,
        upscaler(watch.real, state_dict_hash(network)) as real,
    ):
        folder = Path(name)
        if clip is None:
            clip = made_up_clip(folder / "made-up.mp4", frames)
        job = _Job(clip, folder / "out.mkv", frames, watch)
        receipt, _ = job.run(instant)
        height, width = receipt.height // network.scale, receipt.width // network.scale
        # The trials by which precision and engine are chosen are no part of a frame.
        real.warm_up(height, width, ahead=receipt.frames)
        runs: dict[Upscaler, list[Run]] = {instant: [], real: []}
        for _ in range(rounds):
            for each, done in runs.items():
                receipt, run = job.run(each)
                done.append(run)
        facts = real.describe(height, width)
        return PipelineCost(
            model=facts.model,
            engine=facts.engine,
            precision=facts.precision,
            threads=facts.threads,
            width=width,
            height=height,
            scale=real.scale,
            frames=receipt.frames,
            rounds=rounds,
            instant=_middle(runs[instant]),
            real=_middle(runs[real]),
        )


@dataclass(frozen=True)
class _Job:
    clip: Path
    output: Path
    frames: int
    watch: _Watched

    def run(self, upscaler: Upscaler) -> tuple[Receipt, Run]:
        self.watch.stopwatch = stopwatch = Stopwatch()
        upscaler.forget()  # rounds repeat the clip
        functions = {place: stage for stage, places in STAGES.items() for place in places}
        cpu = time.process_time()
        with stopwatch.on(functions):
            receipt = upscale(
                self.clip,
                self.output,
                end=f"{self.frames}f",
                upscaler=upscaler,
                segment=0,
                overwrite=True,
            )
        cpu = time.process_time() - cpu
        if not isinstance(receipt, Receipt):
            raise OptionError(f"{self.clip} is a picture; name a video")
        count = receipt.frames
        stages = {stage: stopwatch[stage] / count for stage in STAGES}
        stages[_TILES] -= stages[_NETWORK]
        return receipt, Run(wall=receipt.seconds / count, cpu=cpu / count, stages=stages)


class _Watched:
    """Builds engines whose runs are timed."""

    def __init__(self) -> None:
        self.stopwatch = Stopwatch()

    def real(
        self, module: nn.Module, spec: TileSpec, resolved: ResolvedEngine, fingerprint: str | None
    ) -> Engine:
        return _Timed(build_engine(module, spec, resolved, fingerprint), self)

    def instant(
        self, module: nn.Module, spec: TileSpec, resolved: ResolvedEngine, fingerprint: str | None
    ) -> Engine:
        return _Timed(_Repeats(spec, resolved), self)


class _Timed:
    def __init__(self, engine: Engine, watched: _Watched) -> None:
        self.name, self.precision, self.spec = engine.name, engine.precision, engine.spec
        self._engine = engine
        self._watched = watched

    def run(self, tiles: Tensor) -> Tensor:
        with self._watched.stopwatch.running(_NETWORK):
            return self._engine.run(tiles)

    def close(self) -> None:
        self._engine.close()


class _Repeats:
    """Repeats pixels: a copy, and a picture that the proof takes for the source's."""

    def __init__(self, spec: TileSpec, resolved: ResolvedEngine) -> None:
        self.name: str = resolved.engine
        self.precision: str = resolved.precision
        self.spec = spec
        self._output = torch.empty(spec.output_shape, device=spec.device)

    def run(self, tiles: Tensor) -> Tensor:
        batch, channels, height, width = tiles.shape
        scale = self.spec.scale
        # Along the rows first, where there is little; then whole rows are copied.
        wide = tiles.repeat_interleave(scale, 3)
        rows = self._output.view(batch, channels, height, scale, width * scale)
        rows.copy_(wide[:, :, :, None].expand_as(rows))
        return self._output

    def close(self) -> None:
        pass


def made_up_clip(path: Path, frames: int) -> Path:
    """A video of 320x180 in H.264: waves that move, and grain."""
    height, width = 90, 160
    raw = path.with_suffix(".y4m")
    generator = torch.Generator().manual_seed(0)
    rows = torch.arange(height)[:, None] / 11.0
    columns = torch.arange(width)[None, :] / 17.0
    gray = bytes([128]) * (height // 2 * (width // 2))
    with raw.open("wb") as file:
        file.write(f"YUV4MPEG2 W{width} H{height} F25:1 Ip A1:1 C420mpeg2\n".encode())
        for number in range(frames):
            waves = (rows + number / 5).sin() * (columns - number / 7).cos()
            grain = torch.randn((height, width), generator=generator)
            luma = (126 + 80 * waves + 4 * grain).round().clamp(16, 235).to(torch.uint8)
            file.write(b"FRAME\n" + luma.numpy().tobytes() + gray + gray)
    with Upscaler(_Twice(), scale=2, engine_options=EngineOptions(engine="eager")) as twice:
        upscale(raw, path, upscaler=twice, codec="libx264", verify="none", in_matrix="bt709")
    return path


class _Twice(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.interpolate(x, scale_factor=2, mode="bilinear")


def _middle(runs: Sequence[Run]) -> Run:
    return Run(
        wall=median(run.wall for run in runs),
        cpu=median(run.cpu for run in runs),
        stages={stage: median(run.stages[stage] for run in runs) for stage in STAGES},
    )
