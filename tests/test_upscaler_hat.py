"""Upscaler with the embedded HAT: the network itself, and its two engines."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import hatvid.upscaler
from hatvid.errors import HatvidError, OptionError
from hatvid.model.zoo import load_model
from hatvid.options import EngineOptions
from hatvid.upscaler import Upscaler

EAGER = EngineOptions(engine="eager", threads=1)


@pytest.fixture(scope="module")
def cache_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("cache")
        patch.setattr("hatvid.engine.cache.default_cache_dir", lambda engine: home / engine)
        yield home


def test_options_are_looked_at_before_the_checkpoint() -> None:
    with pytest.raises(OptionError, match="tile is 17"):
        Upscaler.from_checkpoint("no such model", tile=17)


def test_unknown_models_are_told() -> None:
    with pytest.raises(HatvidError, match="no-such-model"):
        Upscaler.from_checkpoint("no-such-model", engine="eager")


@pytest.fixture(scope="module")
def picture() -> Tensor:
    """Smooth, with edges; values in [0, 1]."""
    y, x = torch.meshgrid(torch.linspace(0, 3, 40), torch.linspace(0, 5, 56), indexing="ij")
    waves = torch.stack([(x * y).sin(), (3 * x).cos(), (x + 2 * y).sin()])
    return (0.5 + 0.4 * waves + 0.1 * (waves > 0)).clamp(0, 1)[None]


def test_the_whole_frame_is_hat_itself(picture: Tensor) -> None:
    up = Upscaler.from_checkpoint("hat-nano-x4", engine="eager", tile=0)
    assert (up.name, up.scale) == ("hat-nano-x4", 4)
    assert Upscaler.from_checkpoint(scale=2, engine="eager").name == "hat-nano-x2"
    with torch.no_grad():
        expected = load_model("hat-nano-x4")(picture)
    torch.testing.assert_close(up(picture), expected, atol=1e-5, rtol=0)


def test_openvino_agrees_with_eager_on_hat(picture: Tensor, cache_home: Path) -> None:
    """Tolerance of fp32: 1e-4. A model in another precision is off by 1e-3."""
    options = {"tile": 32, "overlap": 8}
    eager = Upscaler.from_checkpoint("hat-nano-x4", engine="eager", **options)  # type: ignore[arg-type]
    fast = Upscaler.from_checkpoint(
        "hat-nano-x4",
        engine="openvino",
        precision="fp32",
        **options,  # type: ignore[arg-type]
    )
    expected, result = eager(picture), fast(picture)
    assert float((result - expected).abs().max()) < 1e-4
    assert len(list((cache_home / "openvino").iterdir())) == 1
    # Nothing goes through the network the second time.
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr("hatvid.engine.openvino._translate")
        again = Upscaler.from_checkpoint(
            "hat-nano-x4",
            engine="openvino",
            precision="fp32",
            **options,  # type: ignore[arg-type]
        )
        assert torch.equal(again(picture), result)


def test_the_fingerprint_tells_configurations_apart() -> None:
    """conv_scale is not in the weights, and changes the result."""
    seen: list[str | None] = []

    class Probing(Upscaler):
        def __init__(self, *args: object, **kwargs: object) -> None:
            seen.append(kwargs["fingerprint"])  # type: ignore[arg-type]

    model = load_model("hat-nano-x4")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hatvid.upscaler, "load_model", lambda *args, **kwargs: model)
        Probing.from_checkpoint("hat-nano-x4")
        Probing.from_checkpoint("hat-nano-x4")
        model.config = dataclasses.replace(model.config, conv_scale=0.5)
        Probing.from_checkpoint("hat-nano-x4")
        with torch.no_grad():
            next(model.parameters()).view(-1)[0] += 1e-3
        Probing.from_checkpoint("hat-nano-x4")
    assert seen[0] == seen[1]
    assert len(set(seen)) == 3
