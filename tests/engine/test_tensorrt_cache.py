"""Plans of engine tensorrt on disk."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hatvid.engine import TileSpec
from hatvid.engine.cache import ModelCache
from hatvid.engine.tensorrt import TensorRTEngine
from hatvid.errors import EngineError, OutOfMemoryError

HERE = Path(__file__).parent
DOUBLE = runpy.run_path(str(HERE / "tensorrt_double.py"))
double, build = DOUBLE["double"], DOUBLE["build"]

Build = Callable[..., TensorRTEngine]


def entry(tmp_path: Path) -> Path:
    (path,) = (tmp_path / "cache").iterdir()
    return path


def test_a_plan_from_disk_is_not_built_again(build: Build, double: Any, tiles: Tensor) -> None:
    fresh = build().run(tiles).clone()
    loaded = build()
    assert len(double.conversions) == 1
    assert torch.equal(loaded.run(tiles), fresh)
    build(cache_dir=None)
    assert len(double.conversions) == 2


def test_the_cache_is_the_users_alone(build: Build, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        build()
    finally:
        os.umask(before)
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700
    assert entry(tmp_path).stat().st_mode & 0o777 == 0o600


class _Stop(Exception):
    pass


def test_everything_that_matters_is_in_the_key(
    build: Build, spec: TileSpec, double: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: set[str] = set()

    def read(cache: ModelCache, key: str) -> bytes:
        keys.add(key)
        raise _Stop

    monkeypatch.setattr(ModelCache, "read", read)

    def is_new(**changes: Any) -> bool:
        before = len(keys)
        with pytest.raises(EngineError, match="_Stop"):
            build(**changes)
        return len(keys) > before

    assert is_new()
    assert not is_new()
    assert is_new(fingerprint="other weights")
    assert is_new(precision="fp16")
    assert is_new(precision="bf16")
    assert is_new(module=nn.Identity())
    assert is_new(module=nn.Conv2d(3, 12, 3, padding=1))
    assert is_new(module=nn.Conv2d(3, 12, 5, padding=1))
    assert is_new(spec=TileSpec(batch=1, height=16, width=32, scale=spec.scale))
    assert is_new(spec=TileSpec(batch=2, height=32, width=16, scale=spec.scale))
    assert not is_new(spec=TileSpec(**vars(spec) | {"device": torch.device("cpu", 1)}))
    for name, value in (
        ("hatvid.engine.tensorrt.CACHE_FORMAT", 0),
        ("hatvid.engine.tensorrt.hatvid_version", lambda: "another version"),
        ("hatvid.engine.tensorrt._options", lambda precision: {"another": "option"}),
        ("hatvid.engine.tensorrt._driver", lambda: "610.2"),
        ("torch.__version__", "0.0"),
        ("torch_tensorrt.__version__", "2.14.9"),
        ("tensorrt.__version__", "0.0"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(name, value)
            assert is_new(), name
    for name, value in (
        ("name", "another GPU"),
        ("major", 9),
        ("minor", 0),
        ("multi_processor_count", 114),
        ("total_memory", 2**33),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(double.streams.properties, name, value)
            assert is_new(), name
    assert not is_new()


def _flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]


def _cut(content: bytes) -> bytes:
    return content[:1000]


def _emptied(content: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("damage", [_flipped, _cut, _emptied])
def test_a_damaged_file_is_built_anew(
    build: Build, double: Any, tiles: Tensor, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    expected = build().run(tiles).clone()
    path = entry(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert torch.equal(build().run(tiles), expected)
    assert len(double.conversions) == 2
    build()
    assert len(double.conversions) == 2


def _another_plan(content: bytes) -> bytes:
    return content.partition(b"\n")[0] + b"\nno plan"


def _another_network(content: bytes) -> bytes:
    return content.replace(b'"weights": "weights"', b'"weights": "thieves"', 1)


def _a_pickle(content: bytes) -> bytes:
    return b"cos\nsystem\n(S'touch pwned'\ntR."


@pytest.mark.parametrize("foreign", [_another_plan, _another_network, _a_pickle])
def test_a_whole_file_of_something_else_is_built_anew(
    build: Build,
    double: Any,
    tiles: Tensor,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    foreign: Callable[[bytes], bytes],
) -> None:
    """It has the right digest and the right name: put there on purpose, or by TensorRT."""
    expected = build().run(tiles).clone()
    path = entry(tmp_path)
    content = ModelCache(tmp_path / "cache").read(path.stem)
    assert content is not None
    assert foreign(content) != content
    ModelCache(tmp_path / "cache").write(path.stem, foreign(content))
    assert torch.equal(build().run(tiles), expected)
    assert "cannot be loaded" in caplog.text
    assert ("built for something else" in caplog.text) is (foreign is not _another_plan)
    assert len(double.conversions) == 2
    assert ModelCache(tmp_path / "cache").read(path.stem) == content


def test_two_processes_share_a_cache(
    tmp_path: Path, build: Build, double: Any, tiles: Tensor
) -> None:
    script = """
import importlib.util, runpy, sys
from pathlib import Path
import pytest, torch
here = Path(sys.argv[1])
runpy.run_path(str(here / "tensorrt_double.py"))["install"](pytest.MonkeyPatch())
net = runpy.run_path(str(here / "conftest.py"))["SmallNet"]().eval()
from hatvid.engine import TileSpec
from hatvid.engine.tensorrt import TensorRTEngine
spec = TileSpec(batch=2, height=16, width=32, scale=2)
for _ in range(3):
    engine = TensorRTEngine(
        net, spec, precision="fp32", fingerprint="weights", cache_dir=Path(sys.argv[2])
    )
    tiles = torch.rand(spec.input_shape, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        torch.testing.assert_close(engine.run(tiles), net(tiles), atol=1e-6, rtol=0)
"""
    command = [sys.executable, "-c", script, str(HERE), str(tmp_path / "cache")]
    runs = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for run in runs:
        _, errors = run.communicate(timeout=120)
        assert run.returncode == 0, errors
        assert "compiled model" not in errors, "one met what the other had half written"
    assert entry(tmp_path).suffix == ".model"


def test_no_context_is_no_memory_and_keeps_the_plan(
    build: Build, double: Any, tmp_path: Path
) -> None:
    build()
    double.no_context = True
    with pytest.raises(OutOfMemoryError, match="choose a smaller tile"):
        build()
    assert len(double.conversions) == 1
    assert entry(tmp_path).stat().st_size > 1000
