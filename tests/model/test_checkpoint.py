"""Reading checkpoints: what is understood, what is refused, and how it is said."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hatvid.errors import CheckpointError
from hatvid.model.checkpoint import (
    PREFIXES,
    WRAPPERS,
    config_from_state_dict,
    load_checkpoint,
    read_state_dict,
)
from hatvid.model.hat import HAT, HATConfig

Save = Callable[[Any], Path]


@pytest.fixture(scope="session")
def weights(tiny: HATConfig) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {key: value.detach() for key, value in HAT(tiny).state_dict().items()}


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def write(content: Any, name: str = "model.pth") -> Path:
        path = tmp_path / name
        torch.save(content, path)
        return path

    return write


def refusal(path: Path | str) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def assert_same(model: HAT, weights: dict[str, Tensor]) -> None:
    loaded = model.state_dict()
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(loaded[key], weights[key]) for key in weights)


# -- Understood -------------------------------------------------------------------------


def test_loads_ready_to_run(tiny: HATConfig, weights: dict[str, Tensor], save: Save) -> None:
    model = load_checkpoint(save(weights))
    assert_same(model, weights)
    assert model.config == tiny
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth", "no suffix"])
def test_content_decides_the_kind(tmp_path: Path, weights: dict[str, Tensor], name: str) -> None:
    path = tmp_path / name
    safetensors.torch.save_file({k: v.contiguous() for k, v in weights.items()}, path)
    assert_same(load_checkpoint(path), weights)


def test_old_files_of_torch(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    path = tmp_path / "old.pth"
    torch.save(weights, path, _use_new_zipfile_serialization=False)
    assert_same(load_checkpoint(path), weights)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrapper_keys(weights: dict[str, Tensor], save: Save, wrapper: str) -> None:
    assert_same(load_checkpoint(save({"epoch": 3, wrapper: weights})), weights)


def test_averaged_weights_are_preferred(weights: dict[str, Tensor], save: Save) -> None:
    raw = {key: torch.zeros_like(value) for key, value in weights.items()}
    assert_same(load_checkpoint(save({"params": raw, "params_ema": weights})), weights)


def test_nested_wrapper_keys(weights: dict[str, Tensor], save: Save) -> None:
    assert_same(load_checkpoint(save({"model": {"state_dict": weights}})), weights)


@pytest.mark.parametrize("prefix", [*PREFIXES, "module.netG.", "netG.module.", "module.module."])
def test_prefixes(weights: dict[str, Tensor], save: Save, prefix: str) -> None:
    named = {prefix + key: value for key, value in weights.items()}
    assert_same(load_checkpoint(save({"state_dict": named})), weights)


def test_the_other_network_of_a_gan_is_left_out(weights: dict[str, Tensor], save: Save) -> None:
    both = {f"netG.{key}": value for key, value in weights.items()}
    both["netD.conv0.weight"] = torch.zeros(3)
    assert_same(load_checkpoint(save(both)), weights)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point(weights: dict[str, Tensor], save: Save, dtype: torch.dtype) -> None:
    stored = {k: v.to(dtype) if v.is_floating_point() else v for k, v in weights.items()}
    wanted = {k: v.float() if v.is_floating_point() else v for k, v in stored.items()}
    assert_same(load_checkpoint(save(stored)), wanted)


def test_conv_scale_can_be_given(weights: dict[str, Tensor], save: Save) -> None:
    model = load_checkpoint(save(weights), conv_scale=0.5)
    assert model.config.conv_scale == 0.5
    assert {m.conv_scale for m in model.modules() if hasattr(m, "conv_scale")} == {0.5}


@pytest.mark.parametrize("make", [HATConfig.hat_s, HATConfig.hat, HATConfig.hat_l])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_published_configs_from_shapes(make: Callable[[int], HATConfig], scale: int) -> None:
    with torch.device("meta"):
        state = HAT(make(scale)).state_dict()
    assert config_from_state_dict(state) == make(scale)


@st.composite
def configs(draw: st.DrawFn) -> HATConfig:
    layers = draw(st.integers(1, 3))
    embed_dim = draw(st.sampled_from([12, 24, 36, 48]))
    window_size = draw(st.integers(2, 16))
    return HATConfig(
        embed_dim=embed_dim,
        depths=draw(st.lists(st.integers(1, 3), min_size=layers, max_size=layers)),  # type: ignore[arg-type]
        num_heads=draw(
            st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=layers, max_size=layers)
        ),  # type: ignore[arg-type]
        window_size=window_size,
        overlap_ratio=2 * draw(st.integers(0, window_size // 2)) / window_size,
        compress_ratio=draw(st.integers(1, embed_dim)),
        squeeze_factor=draw(st.integers(1, embed_dim)),
        mlp_ratio=draw(st.floats(0.1, 4)),
        qkv_bias=draw(st.booleans()),
        patch_norm=draw(st.booleans()),
        num_in_ch=draw(st.sampled_from([1, 3, 4])),
        num_feat=draw(st.integers(1, 9)),
        upscale=draw(st.sampled_from([1, 2, 3, 4, 8])),
        resi_connection=draw(st.sampled_from(["1conv", "identity"])),
    )


@settings(max_examples=60, deadline=None)
@given(configs())
def test_config_round_trip(config: HATConfig) -> None:
    """From shapes alone: each value, or for the ratios one that gives the same network."""
    with torch.device("meta"):
        wanted = HAT(config).state_dict()
        found = config_from_state_dict(wanted)
        shapes = HAT(found).state_dict()
    assert {k: v.shape for k, v in shapes.items()} == {k: v.shape for k, v in wanted.items()}
    free = {"compress_ratio", "squeeze_factor", "mlp_ratio", "overlap_ratio"}
    for name in set(vars(config)) - free:
        assert getattr(found, name) == getattr(config, name), name
    assert found.overlap_size == config.overlap_size
    assert found.embed_dim // found.squeeze_factor == config.embed_dim // config.squeeze_factor


# -- Refused ----------------------------------------------------------------------------


def test_files_that_are_none(tmp_path: Path) -> None:
    assert "no checkpoint at" in refusal(tmp_path / "gone.pth")
    assert "is a directory" in refusal(tmp_path)
    empty = tmp_path / "empty.pth"
    empty.touch()
    assert "is empty" in refusal(empty)


@pytest.mark.parametrize(
    "content",
    [b"x", os.urandom(64).replace(b"{", b"x").replace(b"\x80", b"x"), b"<html>not found</html>"],
    ids=["one byte", "random", "web page"],
)
def test_bytes_that_are_no_checkpoint(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "noise.pth"
    path.write_bytes(content)
    assert "neither a safetensors nor a PyTorch file" in refusal(path)


@pytest.mark.parametrize("kind", ["zip", "pickle", "safetensors"])
@pytest.mark.parametrize("keep", [0.02, 0.5, 0.99])
def test_cut_short(tmp_path: Path, weights: dict[str, Tensor], kind: str, keep: float) -> None:
    path = tmp_path / "cut"
    if kind == "safetensors":
        safetensors.torch.save_file(weights, path)
    else:
        torch.save(weights, path, _use_new_zipfile_serialization=kind == "zip")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    message = refusal(path)
    assert "damaged or cut short" in message
    assert "holds code" not in message


@pytest.mark.parametrize("start", [b"\x80", b"\x80\x02", b"PK\x03\x04", b"\xff" * 8 + b"{"])
def test_noise_behind_a_known_start(tmp_path: Path, start: bytes) -> None:
    path = tmp_path / "noise.pth"
    path.write_bytes(start + bytes(range(255, 0, -1)) * 20)
    message = refusal(path)
    assert "damaged" in message
    assert "weights_only" not in message  # torch advises to switch its caution off


class Hostile:
    """Unpickled without care, this makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("kind", ["zip", "old", "bare 0", "bare 2", "bare 4"])
def test_hostile_pickle(tmp_path: Path, weights: dict[str, Tensor], kind: str) -> None:
    marker, path = tmp_path / "marker", tmp_path / "hostile.pth"
    content = {"params": weights, "extra": Hostile(marker)}
    if kind.startswith("bare"):
        path.write_bytes(pickle.dumps({"extra": Hostile(marker)}, protocol=int(kind[-1])))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    message = refusal(path)
    assert not marker.exists()
    if kind != "bare 0":  # an ASCII pickle does not look like any checkpoint
        assert "none of it was run" in message
    if kind not in ("bare 0", "bare 4"):
        assert "holds code" in message
        assert "mkdir" in message
    # The trap is a real one: what is refused here does run when it is trusted.
    if kind == "zip":
        torch.load(path, weights_only=False)
        assert marker.exists()


def test_a_whole_module(tmp_path: Path, tiny: HATConfig) -> None:
    path = tmp_path / "module.pth"
    torch.save(HAT(tiny), path)
    assert "holds code (hatvid.model.hat.HAT)" in refusal(path)


def test_code_is_refused_even_if_the_environment_allows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker, path = tmp_path / "marker", tmp_path / "hostile.pth"
    torch.save(Hostile(marker), path)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    refusal(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "holds no tensors"),
        ([1, 2], "holds no tensors"),
        ({"epoch": 1}, "holds no tensors"),
        (torch.zeros(3), "holds no tensors"),
        ({"conv1.weight": torch.zeros(2), "epoch": 3}, "holds int under 'epoch'"),
        ({1: torch.zeros(2)}, "holds Tensor under 1"),
        (
            {"conv1.weight": torch.zeros(2), "conv1.bias": torch.zeros(2)},
            "not a HAT: it holds 2 tensors, first 'conv1.weight'",
        ),
    ],
)
def test_contents_that_are_no_hat(save: Save, content: Any, said: str) -> None:
    assert said in refusal(save(content))


BLOCK = "layers.0.residual_group.blocks.0."

CHANGES: dict[str, tuple[dict[str, Callable[[Tensor], Tensor] | None], str]] = {
    "missing": ({"norm.weight": None}, "1 missing (norm.weight)"),
    "missing in a block": ({f"{BLOCK}norm1.weight": None}, f"1 missing ({BLOCK}norm1.weight)"),
    "missing index": (
        {"relative_position_index_SA": None},
        "1 missing (relative_position_index_SA)",
    ),
    "unexpected": ({"more": lambda t: t}, "1 unexpected (more)"),
    "many unexpected": (
        {f"more{i}": lambda t: t for i in range(5)},
        "5 unexpected (more0, more1, more2, ...)",
    ),
    "ape": ({"absolute_pos_embed": lambda t: t}, "absolute position embedding (ape"),
    "wrong shape": ({"norm.weight": lambda t: t[:5]}, "norm.weight is [5] instead of [12]"),
    "no values": ({"norm.weight": lambda t: t[:0]}, "norm.weight has no values"),
    "int8": ({"norm.weight": lambda t: t.char()}, "norm.weight is int8, not floating point"),
    "complex": ({"norm.weight": lambda t: t.cfloat()}, "is complex64, not floating point"),
    "NaN": ({"norm.weight": lambda t: t / 0 * 0}, "norm.weight holds NaN"),
    "infinite": ({"norm.weight": lambda t: t / 0}, "norm.weight holds NaN or infinite"),
    "fp16 overflow": ({"norm.bias": lambda t: (t + 1e6).half()}, "norm.bias holds NaN or inf"),
    "sparse": ({f"{BLOCK}attn.proj.weight": lambda t: t.to_sparse()}, "is not a plain tensor"),
    "meta": ({"norm.weight": lambda t: t.to("meta")}, "is not a plain tensor"),
    "heads": (
        {
            "layers.1.residual_group.overlap_attn.relative_position_bias_table": (
                lambda t: torch.zeros(len(t), 5)
            )
        },
        "embed_dim 12 is not divisible by (2, 5)",
    ),
    "scale": ({"upsample.0.weight": lambda t: t[:1]}, "upscale is 0"),
    "dimensions": ({"conv_last.weight": lambda t: t.flatten()}, "conv_last.weight has shape"),
    "index": (
        {"relative_position_index_OCA": lambda t: t.clamp(min=0)},
        "relative_position_index_OCA is not the published table",
    ),
    "float index": (
        {"relative_position_index_SA": lambda t: t + 0.5},
        "relative_position_index_SA is not the published table",
    ),
    "gigantic": (
        {"norm.weight": lambda t: t[:1].expand(2**40)},
        "values; no HAT is that large",
    ),
}


@pytest.mark.parametrize(("changes", "said"), CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.filterwarnings("ignore:Sparse")
def test_state_dicts_that_do_not_fit(
    save: Save,
    weights: dict[str, Tensor],
    changes: dict[str, Callable[[Tensor], Tensor] | None],
    said: str,
) -> None:
    state = dict(weights)
    for key, change in changes.items():
        if change is None:
            del state[key]
        else:
            state[key] = change(state.get(key, torch.zeros(1)))
    assert said in refusal(save(state))


def test_quantised(save: Save, weights: dict[str, Tensor]) -> None:
    packed = weights["norm.weight"].char()
    state = {key: packed if value.is_floating_point() else value for key, value in weights.items()}
    assert "give unquantised weights" in refusal(save(state))


def test_indexes_that_are_wrapped_already(save: Save, weights: dict[str, Tensor]) -> None:
    """Modulo the table's rows it is the same network."""
    state = {
        **weights,
        "relative_position_index_OCA": weights["relative_position_index_OCA"] % 1521,
    }
    model, plain = load_checkpoint(save(state)), load_checkpoint(save(weights))
    x = torch.rand(1, 3, 20, 20)
    assert torch.equal(model(x), plain(x))


def test_read_state_dict_gives_plain_tensors(save: Save, weights: dict[str, Tensor]) -> None:
    state = read_state_dict(
        save(
            {
                "params": {
                    k: torch.nn.Parameter(v) if v.is_floating_point() else v.int()
                    for k, v in weights.items()
                }
            }
        )
    )
    assert {value.dtype for value in state.values()} == {torch.float32, torch.int64}
    assert not any(value.requires_grad for value in state.values())


def test_a_file_that_wraps_itself(tmp_path: Path) -> None:
    content: dict[str, Any] = {}
    content["params"] = content
    torch.save(content, tmp_path / "ring.pth")
    assert "holds no tensors" in refusal(tmp_path / "ring.pth")


def test_a_small_file_that_unfolds(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    torch.save(weights | {"conv_last.bias": torch.zeros(1).expand(1 << 28)}, tmp_path / "bomb.pth")
    assert "conv_last.bias repeats its values" in refusal(tmp_path / "bomb.pth")
