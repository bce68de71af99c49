"""Three projections in place of one are the same network."""

from __future__ import annotations

import pytest
import torch
from openvino import Core
from redrawn import redrawn

import hatvid.engine.openvino as openvino_engine
from hatvid.engine import TileSpec
from hatvid.model.attention_form import with_attention
from hatvid.model.forms import Forms
from hatvid.model.hat import HAT, HATConfig


@pytest.fixture(scope="module", params=[True, False], ids=["bias", "no-bias"])
def model(request: pytest.FixtureRequest, tiny: HATConfig) -> HAT:
    config = HATConfig(**{**vars(tiny), "qkv_bias": request.param})
    return redrawn(config, seed=5)


@pytest.mark.parametrize("size", [(16, 16), (32, 48), (37, 50)])
@pytest.mark.parametrize("batch", [1, 2])
def test_it_is_the_same_network(model: HAT, size: tuple[int, int], batch: int) -> None:
    exact = HAT(model.config).double().eval().requires_grad_(False)
    exact.load_state_dict(model.state_dict())
    frames = torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(2)).double()
    expected, result = exact(frames), with_attention(exact, "split_qkv")(frames)
    assert float((result - expected).abs().max()) < 1e-12 * float(expected.std())


def test_the_given_model_stays_and_its_weights_are_shared(model: HAT) -> None:
    names = list(model.state_dict())
    separate = with_attention(model, "split_qkv")
    assert list(model.state_dict()) == names
    theirs = {p.untyped_storage().data_ptr() for p in model.parameters()}
    assert {p.untyped_storage().data_ptr() for p in separate.parameters()} <= theirs


def test_openvino_copies_nothing_out_of_packed_rows(model: HAT) -> None:
    """What the form is for: no split along channels is left in what is run."""
    spec = TileSpec(batch=1, height=32, width=32, scale=model.scale)

    def copies(compiler: bool) -> int:
        network = Forms(model).form(compiler=compiler)
        compiled = Core().compile_model(openvino_engine._translate(network, spec), "CPU")
        kinds = [op.get_rt_info()["layerType"] for op in compiled.get_runtime_model().get_ops()]
        return sum(kind.astype(str) == "Split" for kind in kinds)

    # Those between the kinds of windows, which copy nothing: one each for q, k and v.
    assert copies(compiler=True) == 3 * sum(model.config.depths) < copies(compiler=False)
