from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hatvid.engine.openvino as module_under_test
from hatvid.engine import TileSpec
from hatvid.engine.cache import ModelCache
from hatvid.engine.eager import EagerEngine
from hatvid.engine.openvino import OpenVINOEngine, native_bf16
from hatvid.errors import EngineError

Build = Callable[..., OpenVINOEngine]


@pytest.fixture
def build(net: nn.Module, spec: TileSpec, tmp_path: Path) -> Build:
    def make(**changes: Any) -> OpenVINOEngine:
        arguments: dict[str, Any] = {
            "module": net,
            "spec": spec,
            "precision": "fp32",
            "fingerprint": "weights",
            "cache_dir": tmp_path / "cache",
            "threads": 1,
        }
        arguments |= changes
        return OpenVINOEngine(arguments.pop("module"), arguments.pop("spec"), **arguments)

    return make


@pytest.fixture
def translations(monkeypatch: pytest.MonkeyPatch) -> list[TileSpec]:
    """Grows by one for each module that is translated anew."""
    seen: list[TileSpec] = []
    real = module_under_test._translate

    def counted(module: nn.Module, spec: TileSpec) -> Any:
        seen.append(spec)
        return real(module, spec)

    monkeypatch.setattr(module_under_test, "_translate", counted)
    return seen


def test_fp32_is_float32(net: nn.Module, spec: TileSpec, tiles: Tensor, build: Build) -> None:
    """float16 or bf16 inside would be off by 1e-3."""
    expected = EagerEngine(net, spec).run(tiles)
    error = (build().run(tiles) - expected).abs().max() / expected.abs().max()
    assert float(error) < 1e-6


def test_the_result_is_one_buffer_without_copies(build: Build, tiles: Tensor) -> None:
    engine = build()
    assert engine.run(tiles).data_ptr() == engine.run(tiles).data_ptr()


@pytest.mark.parametrize("precision", ["fp32", "bf16"] if native_bf16() else ["fp32"])
def test_a_model_from_disk_gives_the_same_bits(
    build: Build, tiles: Tensor, precision: str, translations: list[TileSpec]
) -> None:
    fresh = build(precision=precision, cache_dir=None).run(tiles)
    stored = build(precision=precision).run(tiles)
    assert len(translations) == 2
    loaded = build(precision=precision)
    assert len(translations) == 2
    assert loaded.precision == precision
    assert torch.equal(loaded.run(tiles), fresh)
    assert torch.equal(stored, fresh)


def test_nobody_is_told_of_a_translation(
    build: Build, tiles: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenVINO's converter sends what was converted to its maker, from a forked process."""
    monkeypatch.delenv("CI", raising=False)  # there it keeps quiet

    def told(*_: Any, **__: Any) -> None:
        raise AssertionError("openvino_telemetry was called")

    monkeypatch.setattr("openvino_telemetry.Telemetry.__init__", told)
    monkeypatch.setattr("openvino_telemetry.Telemetry.send_event", told)
    build(cache_dir=None).run(tiles)


@pytest.mark.parametrize("streams", [2, 3, 4])
def test_with_streams_a_tile_hangs_on_nothing_beside_it(
    net: nn.Module, build: Build, streams: int
) -> None:
    spec = TileSpec(batch=3, height=16, width=32, scale=2)
    tiles = torch.rand(spec.input_shape, generator=torch.Generator().manual_seed(3))
    engine = build(spec=spec, streams=streams, threads=2)
    together = engine.run(tiles).clone()
    for slot, tile in enumerate(tiles):
        others = 1 - tiles
        others[slot] = tile
        assert torch.equal(engine.run(others)[slot], together[slot])
        assert torch.equal(engine.run(tile.expand(3, -1, -1, -1))[(slot + 1) % 3], together[slot])
    expected = EagerEngine(net, spec).run(tiles)
    assert float((together - expected).abs().max() / expected.abs().max()) < 1e-6


class _Stop(Exception):
    pass


def test_everything_that_matters_is_in_the_key(
    build: Build, spec: TileSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: set[str] = set()

    def read(cache: ModelCache, key: str) -> bytes:
        keys.add(key)
        raise _Stop

    monkeypatch.setattr(ModelCache, "read", read)

    def is_new(**changes: Any) -> bool:
        before = len(keys)
        with pytest.raises(_Stop):
            build(**changes)
        return len(keys) > before

    assert is_new()
    assert not is_new()
    assert is_new(fingerprint="other weights")
    assert is_new(precision="bf16")
    assert is_new(threads=2)
    assert is_new(streams=2)
    assert is_new(module=nn.Identity())
    assert is_new(spec=TileSpec(batch=1, height=16, width=32, scale=spec.scale))
    assert is_new(spec=TileSpec(batch=2, height=32, width=16, scale=spec.scale))
    for name, value in (
        ("hatvid.engine.openvino.CACHE_FORMAT", 0),
        ("hatvid.engine.openvino.cpu_facts", lambda: ["another CPU"]),
        ("hatvid.engine.openvino.hatvid_version", lambda: "another version"),
        ("torch.__version__", "0.0"),
        ("openvino.get_version", lambda: "0.0"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(name, value)
            assert is_new(), name
    assert not is_new()


def test_a_damaged_file_is_built_anew(
    build: Build, tiles: Tensor, tmp_path: Path, translations: list[TileSpec]
) -> None:
    expected = build().run(tiles)
    (path,) = (tmp_path / "cache").iterdir()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    assert torch.equal(build().run(tiles), expected)
    assert len(translations) == 2
    build()
    assert len(translations) == 2


def test_a_file_that_openvino_refuses_is_built_anew(
    build: Build,
    tiles: Tensor,
    tmp_path: Path,
    translations: list[TileSpec],
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected = build().run(tiles)
    (path,) = (tmp_path / "cache").iterdir()
    ModelCache(tmp_path / "cache").write(path.stem, b"whole, but no model")
    with caplog.at_level(logging.WARNING):
        assert torch.equal(build().run(tiles), expected)
    assert "cannot be loaded" in caplog.text
    assert len(translations) == 2
    assert hashlib.sha256(path.read_bytes()[48:]).digest() == path.read_bytes()[16:48]


def test_only_float32_on_the_cpu(build: Build) -> None:
    for changes in ({"device": torch.device("cuda:0")}, {"dtype": torch.float64}):
        spec = TileSpec(batch=1, height=16, width=16, scale=2, **changes)
        with pytest.raises(EngineError, match="choose engine eager"):
            build(spec=spec)


def test_a_precision_that_openvino_does_not_keep_is_an_error(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(module_under_test._HINTS, "bf16", "f32")
    build(precision="bf16")
    # On a CPU without it OpenVINO quietly computes in f32.
    core = module_under_test._core()

    class Quiet:
        def compile_model(self, model: Any, device: str, config: dict[str, Any]) -> Any:
            return core.compile_model(model, device, config | {"INFERENCE_PRECISION_HINT": "f32"})

    monkeypatch.setitem(module_under_test._HINTS, "bf16", "bf16")
    monkeypatch.setattr(module_under_test, "_core", Quiet)
    with pytest.raises(EngineError, match="computes in f32 here, not bf16; choose precision fp32"):
        build(precision="bf16", cache_dir=None)
