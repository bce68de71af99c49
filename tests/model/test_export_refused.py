"""What cannot be exported is refused, and what was exported is checked."""

from __future__ import annotations

import sys

import onnx
import pytest
import torch
from onnx.numpy_helper import from_array, to_array
from torch import Tensor, nn

from hatvid.errors import EngineError, OptionError, UsageError, VerificationError
from hatvid.model.export import check_onnx, to_onnx
from hatvid.model.hat import HAT, HATConfig

# -- What is refused. ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"height": 16}, "height and width go together"),
        ({"height": 0, "width": 16}, "1x3x0x16 has no pixels"),
        ({"height": 16, "width": -1}, "1x3x16x-1 has no pixels"),
        ({"height": 16, "width": 16, "batch": 0}, "0x3x16x16 has no pixels"),
        ({"batch": 2}, "takes any batch"),
        ({"opset": 17}, "opset 17 cannot be written; choose one from 18 to 22"),
        ({"opset": 23}, "opset 23 cannot be written"),
    ],
)
def test_options_that_cannot_be(tiny: HATConfig, wrong: dict[str, int], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        to_onnx(HAT(tiny), name="tiny", **wrong)


def test_any_size_is_for_hats() -> None:
    with pytest.raises(OptionError, match=r"plain is no HAT, .*; give height and width"):
        to_onnx(nn.Conv2d(3, 3, 3), name="plain")


def test_a_network_that_cannot_be_exported() -> None:
    class Loop(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(EngineError, match=r"PyTorch cannot export this network: .+") as caught:
        to_onnx(Loop(), name="loop", height=8, width=8)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("missing", ["onnx", "onnxscript"])
def test_a_package_that_is_missing(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UsageError, match=rf'package {missing}; run: pip install "hatvid\[onnx\]"'):
        to_onnx(nn.Conv2d(3, 3, 3), name="plain", height=8, width=8)


# -- The check. ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2)).eval()


@pytest.fixture(scope="module")
def made(plain: nn.Module) -> onnx.ModelProto:
    return to_onnx(plain, name="plain", height=9, width=7)


@pytest.fixture
def spoilt(made: onnx.ModelProto) -> onnx.ModelProto:
    """A copy, to spoil."""
    proto = onnx.ModelProto()
    proto.CopyFrom(made)
    return proto


def test_what_is_right(made: onnx.ModelProto, plain: nn.Module) -> None:
    error = check_onnx(made, plain)
    assert error is not None
    assert error < 1e-5


@pytest.mark.parametrize("value", [0.01, float("nan")])
def test_a_bias_that_is_wrong(spoilt: onnx.ModelProto, plain: nn.Module, value: float) -> None:
    bias = next(entry for entry in spoilt.graph.initializer if entry.name.endswith("bias"))
    wrong = to_array(bias).copy()
    wrong[-1] += value
    bias.CopyFrom(from_array(wrong, bias.name))
    with pytest.raises(VerificationError, match=r"differ by (nan|\d\.\de-02) standard deviations"):
        check_onnx(spoilt, plain)


def test_an_output_of_another_shape(made: onnx.ModelProto) -> None:
    other = nn.Conv2d(3, 3, 1).eval()
    with pytest.raises(
        VerificationError, match=r"makes \(1, 3, 18, 14\) of .*, not \(1, 3, 9, 7\)"
    ):
        check_onnx(made, other)


def test_a_graph_that_is_not_valid(spoilt: onnx.ModelProto, plain: nn.Module) -> None:
    spoilt.graph.node[0].op_type = "Nonsense"
    with pytest.raises(VerificationError, match="no valid ONNX") as caught:
        check_onnx(spoilt, plain)
    assert len(str(caught.value).splitlines()) == 1


def test_a_graph_that_onnxruntime_cannot_run(spoilt: onnx.ModelProto, plain: nn.Module) -> None:
    spoilt.ir_version = 9999
    with pytest.raises(VerificationError, match=r"no valid ONNX|cannot run what was exported"):
        check_onnx(spoilt, plain)


def test_without_onnxruntime(
    monkeypatch: pytest.MonkeyPatch, made: onnx.ModelProto, plain: nn.Module
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert check_onnx(made, plain) is None
