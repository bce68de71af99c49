"""ONNX models give what the published network gives, in the runtimes that are to run them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
import torch
import vapoursynth as vs
from onnx.numpy_helper import to_array
from onnxruntime import InferenceSession
from torch import Tensor, nn

from hatvid.model.export import OPSETS, check_onnx, to_onnx
from hatvid.model.forms import Forms
from hatvid.model.hat import HAT, HATConfig
from hatvid.model.zoo import load_model

CLOSE = 1e-4
"""Largest difference allowed: absolute for trained networks, whose output is in [0, 1]; for
redrawn weights in standard deviations of the output."""

Pair = Callable[[HATConfig], tuple[HAT, nn.Module]]
Runner = Callable[[Tensor], Tensor]

# One window; one row, one column of windows; every kind of window; less than a window.
SIZES = [(1, 16, 16), (1, 12, 52), (2, 40, 16), (2, 37, 50), (1, 5, 3), (1, 1, 1)]


def picture(height: int, width: int, batch: int = 1) -> Tensor:
    random = torch.Generator().manual_seed(height * 1000 + width)
    return torch.rand(batch, 3, height, width, generator=random)


def in_onnxruntime(proto: onnx.ModelProto) -> Runner:
    session = InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {"input": x.numpy()})[0])


def in_openvino(proto: onnx.ModelProto) -> Runner:
    core = openvino.Core()
    hints = {"INFERENCE_PRECISION_HINT": "f32", "EXECUTION_MODE_HINT": "ACCURACY"}
    model = core.compile_model(core.read_model(proto.SerializeToString()), "CPU", hints)
    return lambda x: torch.from_numpy(model({"input": x.numpy()})["output"].copy())


RUNTIMES = [in_onnxruntime, in_openvino]


@torch.no_grad()
def assert_close(
    run: Runner, reference: nn.Module, x: Tensor, *, unit: float | None = None
) -> None:
    """``unit``: of the difference; None takes the standard deviation of the reference."""
    dtype = next(reference.parameters()).dtype
    wanted, got = reference(x.to(dtype)), run(x)
    assert got.shape == wanted.shape
    assert got.dtype == torch.float32
    difference = float((got - wanted).abs().max() / (wanted.std() if unit is None else unit))
    assert difference < CLOSE, tuple(x.shape)


def initialisers(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {value.name: to_array(value) for value in proto.graph.initializer}


@pytest.fixture(scope="session")
def visible(tiny: HATConfig) -> HATConfig:
    """One RHAG, with a CAB that weighs enough to be missed."""
    return replace(tiny, depths=(2,), num_heads=(2,), conv_scale=0.5)


@pytest.fixture(scope="session")
def any_size(pair: Pair, visible: HATConfig) -> onnx.ModelProto:
    """As it is exported: in its form for engines."""
    ours = copy.deepcopy(pair(visible)[0]).float()
    return to_onnx(Forms(ours).form(), name="tiny")


@pytest.fixture(scope="session")
def one_size(pair: Pair, visible: HATConfig) -> onnx.ModelProto:
    ours = copy.deepcopy(pair(visible)[0]).float()
    return to_onnx(ours, name="tiny", height=37, width=50, batch=2)


@pytest.fixture(scope="session")
def nano() -> HAT:
    model = load_model("hat-nano-x4")
    assert isinstance(model, HAT)
    return model


@pytest.fixture(scope="session")
def nano_file(nano: HAT) -> onnx.ModelProto:
    return to_onnx(Forms(nano).form(), name="nano", height=37, width=50)


# -- What comes out. ----------------------------------------------------------------------


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_one_file_equals_published_at_any_size(
    pair: Pair, visible: HATConfig, any_size: onnx.ModelProto, runtime: Callable[..., Runner]
) -> None:
    ours, theirs = pair(visible)
    run = runtime(any_size)
    for batch, height, width in SIZES:
        x = picture(height, width, batch)
        # The published network pads by reflection once, which needs as much to reflect.
        assert_close(run, theirs if min(height, width) > 11 else ours, x)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_one_shape_equals_published(
    pair: Pair, visible: HATConfig, one_size: onnx.ModelProto, runtime: Callable[..., Runner]
) -> None:
    assert_close(runtime(one_size), pair(visible)[1], picture(37, 50, 2))


def test_another_scale_and_window(pair: Pair, visible: HATConfig) -> None:
    ours, theirs = pair(replace(visible, upscale=3, window_size=8))
    form = Forms(copy.deepcopy(ours).float()).form()
    proto = to_onnx(form, name="tiny", height=20, width=33)
    for runtime in RUNTIMES:
        assert_close(runtime(proto), theirs, picture(20, 33))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_trained_network(
    nano: HAT, nano_file: onnx.ModelProto, runtime: Callable[..., Runner]
) -> None:
    assert_close(runtime(nano_file), nano, picture(37, 50), unit=1)


@pytest.mark.long
def test_the_trained_network_at_any_size(nano: HAT) -> None:
    proto = to_onnx(Forms(nano).form(), name="nano")
    for runtime in RUNTIMES:
        run = runtime(proto)
        for batch, height, width in [*SIZES, (1, 100, 90)]:
            assert_close(run, nano, picture(height, width, batch), unit=1)


@pytest.mark.long
def test_the_last_opset(pair: Pair, visible: HATConfig) -> None:
    ours, theirs = pair(visible)
    opset = OPSETS.stop - 1
    proto = to_onnx(copy.deepcopy(ours).float(), name="t", height=16, width=20, opset=opset)
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", opset)]
    for runtime in RUNTIMES:
        assert_close(runtime(proto), theirs, picture(16, 20))


def test_fp16_inside_fp32_outside(pair: Pair, visible: HATConfig) -> None:
    ours = copy.deepcopy(pair(visible)[0]).float()
    proto = to_onnx(Forms(ours).form("fp16"), name="tiny", height=20, width=33)
    kinds = {value.dtype for value in initialisers(proto).values()}
    assert {np.dtype(np.float16), np.dtype(np.float32)} <= kinds
    error = check_onnx(proto, ours, "fp16")
    assert error is not None
    # Not fp32 by mistake, and near it.
    assert 1e-5 < error < 3e-2
    assert in_openvino(proto)(picture(20, 33)).dtype == torch.float32


def test_a_network_that_is_no_hat() -> None:
    network = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2)).eval()
    proto = to_onnx(network, name="plain", height=9, width=7)
    assert {entry.key: entry.value for entry in proto.metadata_props}["scale"] == "2"
    for runtime in RUNTIMES:
        assert_close(runtime(proto), network, picture(9, 7))


# -- What is in the file. -----------------------------------------------------------------


def test_metadata_and_names(any_size: onnx.ModelProto, one_size: onnx.ModelProto) -> None:
    for proto, shape in ((any_size, "dynamic"), (one_size, "static")):
        facts = {entry.key: entry.value for entry in proto.metadata_props}
        assert facts["name"] == "tiny"
        assert (facts["scale"], facts["window_size"], facts["size_multiple"]) == ("2", "16", "1")
        assert (facts["shape"], facts["license"]) == (shape, "unknown")
        assert facts["input"].startswith("RGB, float32, 0 to 1")
        assert [value.name for value in (*proto.graph.input, *proto.graph.output)] == [
            "input",
            "output",
        ]
    dims = [
        [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for proto in (any_size, one_size)
        for value in (proto.graph.input[0], proto.graph.output[0])
    ]
    assert dims == [
        ["batch", 3, "height", "width"],
        ["batch", 3, "2*height", "2*width"],
        [2, 3, 37, 50],
        [2, 3, 74, 100],
    ]


def test_nothing_of_this_machine_is_in_it(
    any_size: onnx.ModelProto, one_size: onnx.ModelProto
) -> None:
    for proto in (any_size, one_size):
        data = proto.SerializeToString()
        for word in (b".py", b"site-packages", b"hatvid/model"):
            assert word not in data


def test_biases_and_masks_are_baked_and_of_no_size(
    pair: Pair, visible: HATConfig, any_size: onnx.ModelProto
) -> None:
    values = initialisers(any_size)
    biases = [value for name, value in values.items() if name.endswith(".bias") and value.ndim == 4]
    # Two HABs and an OCAB, of two heads.
    assert sorted(value.shape for value in biases) == [*[(1, 2, 256, 256)] * 2, (1, 2, 256, 576)]
    assert not [name for name in values if name.endswith("bias_table")]
    masks = [value for value in values.values() if value.shape == (4, 1, 256, 256)]
    assert len(masks) == 1
    assert [float(mask.min()) for mask in masks[0]] == [0, -100, -100, -100]
    rest = sum(value.nbytes for value in values.values()) - masks[0].nbytes
    parameters = sum(p.numel() * 4 for p in pair(visible)[0].parameters())
    assert rest - sum(value.nbytes for value in biases) < 2 * parameters


def test_no_index_is_negative(any_size: onnx.ModelProto, one_size: onnx.ModelProto) -> None:
    # Some runtimes do not wrap them around.
    for proto in (any_size, one_size):
        values = initialisers(proto)
        kept = [
            values[n.input[1]]
            for n in proto.graph.node
            if n.op_type == "Gather" and n.input[1] in values
        ]
        assert all(index.min() >= 0 for index in kept)
    assert kept  # those of the windows of one size


def test_the_error_that_is_told(
    pair: Pair, visible: HATConfig, any_size: onnx.ModelProto, one_size: onnx.ModelProto
) -> None:
    ours = copy.deepcopy(pair(visible)[0]).float()
    for proto in (any_size, one_size):
        error = check_onnx(proto, ours)
        assert error is not None
        assert 0 < error < CLOSE


def test_the_model_stays_as_it_is(pair: Pair, tiny: HATConfig) -> None:
    ours = copy.deepcopy(pair(tiny)[0]).float().prepare(20, 20)
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    proto = to_onnx(ours, name="tiny", height=16, width=16)
    check_onnx(proto, ours)
    assert ours.prepared == (20, 20)
    assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items())


# -- In VapourSynth, by vs-mlrt. ----------------------------------------------------------


def in_vs_mlrt(
    file: Path, x: Tensor, *, hints: dict[str, str] | None = None, **options: object
) -> Tensor:
    """What ``core.ov.Model`` makes of a clip of one RGBS frame; true fp32 unless told."""
    blank = vs.core.std.BlankClip(format=vs.RGBS, width=x.shape[3], height=x.shape[2], length=1)

    def fill(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
        frame = f.copy()
        for plane in range(3):
            np.copyto(np.asarray(frame[plane]), x[0, plane].numpy())
        return frame

    clip = blank.std.ModifyFrame(blank, fill)
    large = vs.core.ov.Model(
        [clip],
        network_path=str(file),
        config=lambda: hints or {"INFERENCE_PRECISION_HINT": "f32"},
        **options,
    )
    with large.get_frame(0) as frame:
        return torch.from_numpy(np.stack([np.array(frame[plane]) for plane in range(3)]))[None]


@pytest.fixture
def onnx_file(tmp_path: Path) -> Callable[[onnx.ModelProto], Path]:
    def write(proto: onnx.ModelProto) -> Path:
        path = tmp_path / "model.onnx"
        path.write_bytes(proto.SerializeToString())
        return path

    return write


VS_MLRT_CLOSE = 1e-5


def test_vs_mlrt(
    nano: HAT, nano_file: onnx.ModelProto, onnx_file: Callable[[onnx.ModelProto], Path]
) -> None:
    file = onnx_file(nano_file)
    x = picture(37, 50)
    with torch.no_grad():
        wanted = nano(x)
        assert (in_vs_mlrt(file, x) - wanted).abs().max() < VS_MLRT_CLOSE
        # Larger frames go through in tiles of the one shape; tilesize is width and height.
        x = picture(74, 50)
        tiles = torch.cat([nano(tile) for tile in x.split(37, dim=2)], dim=2)
        got = in_vs_mlrt(file, x, tilesize=[50, 37])
        assert (got - tiles).abs().max() < VS_MLRT_CLOSE


@pytest.mark.long
def test_vs_mlrt_at_any_size(nano: HAT, onnx_file: Callable[[onnx.ModelProto], Path]) -> None:
    file = onnx_file(to_onnx(Forms(nano).form(), name="nano"))
    for height, width in ((16, 16), (16, 50), (90, 101), (5, 3)):
        x = picture(height, width)
        with torch.no_grad():
            wanted = nano(x)
        assert (in_vs_mlrt(file, x) - wanted).abs().max() < VS_MLRT_CLOSE, (height, width)


@pytest.mark.long
@pytest.mark.parametrize("size", [{"height": 40, "width": 30}, {}], ids=["static", "dynamic"])
def test_hat_s_in_every_runtime(
    pair: Pair, onnx_file: Callable[[onnx.ModelProto], Path], size: dict[str, int]
) -> None:
    ours, theirs = pair(replace(HATConfig.hat_s(4), conv_scale=0.5))
    single = copy.deepcopy(ours).float()
    proto = to_onnx(Forms(single).form(), name="hat-s", **size)
    x = picture(40, 30)
    for runtime in RUNTIMES:
        assert_close(runtime(proto), theirs, x)
    with torch.no_grad():
        wanted = single(x)
    difference = (in_vs_mlrt(onnx_file(proto), x) - wanted).abs().max() / wanted.std()
    assert difference < VS_MLRT_CLOSE
