"""Jobs that keep several frames on their way give what jobs give that do one at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import av
import pytest
import torch
from cuda_double import CudaDouble
from torch import Tensor, nn

import hatvid
import hatvid.engine
from hatvid.engine import Engine, ResolvedEngine, TileSpec, build_engine
from hatvid.engine.cudagraph import CudaRuntime
from hatvid.engine.recorded import RecordedEngine
from hatvid.errors import EngineError
from hatvid.jobs import enlarge
from hatvid.jobs.progress import Silent
from hatvid.jobs.receipt import Receipt
from hatvid.model.hat import HAT, HATConfig
from hatvid.options import EngineOptions, TileOptions
from hatvid.upscaler import Upscaler

FRAMES = 13


class Mixing(nn.Module):
    """Every output pixel hangs on its neighbours, so that frames and tiles cannot be mixed up."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3, padding=1, bias=False)
        self.shuffle = nn.PixelShuffle(2)
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            self.conv.weight.copy_(torch.randn(self.conv.weight.shape, generator=generator) * 0.05)
            for channel in range(12):
                self.conv.weight[channel, channel // 4, 1, 1] += 0.9

    def forward(self, x: Tensor) -> Tensor:
        larger: Tensor = self.shuffle(self.conv(x))
        return larger


@pytest.fixture(scope="module")
def clips(pyav: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("in-flight")
    source = ("-f", "lavfi", "-i", f"testsrc2=size=88x60:rate=25:duration={FRAMES / 25}")
    sound = ("-f", "lavfi", "-i", f"sine=duration={FRAMES / 25}", "-c:a", "aac")
    kinds = {
        "8 bit with sound": ("-pix_fmt", "yuv420p", "-c:v", "libx264", "-bf", "2"),
        "10 bit": ("-pix_fmt", "yuv422p10le", "-c:v", "ffv1"),
        "opacity": ("-pix_fmt", "yuva420p", "-c:v", "ffv1"),
    }
    made = {}
    for name, options in kinds.items():
        made[name] = folder / f"{name}.mkv"
        pyav(*source, *(sound if "sound" in name else ()), *options, made[name])
    return made


def _upscaler(engine: str, *, tile: int = 0, batch: int = 1, streams: int = 1) -> Upscaler:
    return Upscaler(
        Mixing(),
        scale=2,
        engine_options=EngineOptions(engine=engine, threads=1, streams=streams),  # type: ignore[arg-type]
        tile_options=TileOptions(tile=tile, batch=batch),
    )


def _packets(path: Path) -> list[tuple[int, int | None, str]]:
    with av.open(path) as container:
        return [
            (packet.stream.index, packet.pts, hashlib.sha256(bytes(packet)).hexdigest())
            for packet in container.demux()
            if packet.size
        ]


def _job(clip: Path, output: Path, upscaler: Upscaler) -> list[tuple[int, int | None, str]]:
    with upscaler:
        receipt = hatvid.upscale(
            clip, output, upscaler=upscaler, lossless=True, overwrite=True, verify="none"
        )
    assert isinstance(receipt, Receipt)
    assert receipt.frames == FRAMES
    return _packets(output)


@pytest.mark.parametrize("name", ["8 bit with sound", "10 bit", "opacity"])
@pytest.mark.parametrize(("tile", "batch"), [(0, 1), (0, 4), (64, 3)])
def test_packets_are_the_same(
    name: str,
    tile: int,
    batch: int,
    clips: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clip, output = clips[name], tmp_path / "out.mkv"
    expected = _job(clip, output, _upscaler("eager", tile=tile, batch=batch))
    assert _job(clip, output, _upscaler("replay", tile=tile, batch=batch)) == expected
    for seed, streams in enumerate((1, 3)):
        device = torch.device("cpu")
        runtime = CudaRuntime(device, CudaDouble(seed))
        monkeypatch.setattr(hatvid.engine, "build_runtime", lambda resolved, it=runtime: it)
        monkeypatch.setattr("hatvid.upscaler.build_runtime", lambda resolved, it=runtime: it)
        job = _job(clip, output, _upscaler("replay", tile=tile, batch=batch, streams=streams))
        assert job == expected


def test_several_are_on_their_way(
    clips: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = []
    submit = enlarge.Lanes.submit

    def seen(self: enlarge.Lanes[object], *arguments: object) -> None:
        submit(self, *arguments)  # type: ignore[arg-type]
        most.append(len(self))

    monkeypatch.setattr(enlarge.Lanes, "submit", seen)
    _job(clips["10 bit"], tmp_path / "out.mkv", _upscaler("replay", streams=2))
    assert len(most) == FRAMES
    assert max(most) == 4


def test_nothing_runs_on_when_a_job_breaks_off(
    clips: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    double = CudaDouble(3)
    runtime = CudaRuntime(torch.device("cpu"), double)
    for place in ("hatvid.engine", "hatvid.upscaler"):
        monkeypatch.setattr(f"{place}.build_runtime", lambda resolved: runtime)

    class Breaks(Silent):
        def advanced(self, frames: int) -> None:
            if frames == 5:
                assert any(stream.queue for stream in double.streams), "none was on its way"
                raise KeyboardInterrupt

    with _upscaler("replay") as upscaler, pytest.raises(KeyboardInterrupt):
        hatvid.upscale(clips["10 bit"], tmp_path / "out.mkv", upscaler=upscaler, progress=Breaks())
    assert not any(stream.queue for stream in double.streams)
    assert list(tmp_path.iterdir()) == []


class _Spoils(RecordedEngine):
    """Gives no number for tiles brighter than most."""

    def run(self, tiles: Tensor) -> Tensor:
        larger = super().run(tiles)
        if self.precision != "fp32":
            for number, tile in enumerate(tiles):
                if tile.mean() > 0.75:
                    larger[number] = float("nan")
        return larger


def _spoiling(
    module: nn.Module, spec: TileSpec, resolved: ResolvedEngine, fingerprint: str | None
) -> Engine:
    runtime = hatvid.engine.build_runtime(resolved)
    if runtime is None:  # of a tile that is computed again
        return build_engine(module, spec, resolved, fingerprint)
    return _Spoils(module, spec, runtime=runtime, name="replay", precision=resolved.precision)


@pytest.fixture(scope="module")
def bright(pyav: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gray frames; the ninth is white."""
    path = tmp_path_factory.mktemp("bright") / "bright.mkv"
    lum = "lum='if(eq(N,8),235,90)':cb=128:cr=128"
    pyav(
        *("-f", "lavfi", "-i", "color=gray:size=64x48:rate=25:duration=0.6"),
        *("-vf", f"format=yuv420p,geq={lum}", "-c:v", "ffv1", path),
    )
    return path


def test_a_tile_out_of_range_is_mended_and_told(bright: Path, tmp_path: Path) -> None:
    config = HATConfig(
        embed_dim=12, depths=(2,), num_heads=(2,), squeeze_factor=4, num_feat=8, upscale=2
    )
    torch.manual_seed(1)
    network = HAT(config).eval()
    options = EngineOptions(engine="replay", precision="bf16", threads=1)
    with Upscaler(network, scale=2, engine_options=options, engine_factory=_spoiling) as upscaler:
        receipt = hatvid.upscale(bright, tmp_path / "out.mkv", upscaler=upscaler, verify="none")
    assert isinstance(receipt, Receipt)
    assert receipt.frames == 15
    (place,) = receipt.mended
    assert place.seconds == pytest.approx(8 / 25, abs=1e-3)


class _Broken(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        bad = torch.where(x.mean((1, 2, 3), keepdim=True) > 0.75, float("nan"), 0.0)
        return (x + bad).repeat_interleave(2, 2).repeat_interleave(2, 3)


def test_values_that_are_no_numbers_end_the_job(bright: Path, tmp_path: Path) -> None:
    options = EngineOptions(engine="replay", threads=1)
    with (
        Upscaler(_Broken(), scale=2, engine_options=options) as upscaler,
        pytest.raises(EngineError, match=r"no numbers for the frame at 0\.320 s"),
    ):
        hatvid.upscale(bright, tmp_path / "out.mkv", upscaler=upscaler)
    assert list(tmp_path.iterdir()) == []


def test_build_engine_makes_it(tmp_path: Path) -> None:
    resolved = ResolvedEngine(
        engine="replay", precision="fp32", device=torch.device("cpu"), threads=1
    )
    spec = TileSpec(batch=1, height=16, width=16, scale=2)
    assert isinstance(build_engine(Mixing(), spec, resolved), RecordedEngine)


def _frames(path: Path) -> list[Tensor]:
    with av.open(path) as container:
        return [torch.from_numpy(frame.to_ndarray()).int() for frame in container.decode(video=0)]


@pytest.mark.needs_cuda
@pytest.mark.parametrize("name", ["8 bit with sound", "10 bit", "opacity"])
@pytest.mark.parametrize("streams", [1, 3])
def test_on_a_gpu(name: str, streams: int, clips: dict[str, Path], tmp_path: Path) -> None:
    outputs = []
    for device, engine in (("cpu", "eager"), ("cuda", "cudagraph")):
        options = EngineOptions(
            engine=engine,  # type: ignore[arg-type]
            device=device,
            precision="fp32",
            streams=streams if device == "cuda" else 1,
        )
        outputs.append(tmp_path / f"{device}.mkv")
        _job(clips[name], outputs[-1], Upscaler(Mixing(), scale=2, engine_options=options))
    expected, found = map(_frames, outputs)
    assert len(found) == len(expected) == FRAMES
    assert all((a - b).abs().max() <= 1 for a, b in zip(expected, found, strict=True))
