"""Ranges against those of the published network, and of the attention's own arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hatvid.model import attention
from hatvid.model.calibration import calibration_picture
from hatvid.model.hat import HAT, HATConfig
from hatvid.model.ranges import Ranges, measure_ranges

Pair = tuple[HAT, nn.Module]


@pytest.fixture(scope="module")
def networks(pair: Callable[[HATConfig], Pair], tiny: HATConfig) -> Pair:
    return pair(tiny)


@pytest.fixture(scope="module")
def picture() -> Tensor:
    return calibration_picture()[:, :, 30:77, 40:105].double()


@pytest.fixture(scope="module")
def ranges(networks: Pair, picture: Tensor) -> Ranges:
    return measure_ranges(networks[0], picture)


@pytest.fixture(scope="module")
def published(networks: Pair, picture: Tensor) -> dict[str, tuple[float, float]]:
    """Largest magnitudes of what enters and leaves each layer of spandrel's HAT."""
    seen: dict[str, tuple[float, float]] = {}

    def watch(name: str) -> Any:
        def note(_: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
            seen[name] = (float(arguments[0].abs().max()), float(output.abs().max()))

        return note

    theirs = networks[1]
    hooks = [
        module.register_forward_hook(watch(name))
        for name, module in theirs.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d | nn.LayerNorm | nn.LeakyReLU)
        or name.endswith("conv_block")
        or name.rpartition(".")[2].isdigit()
    ]
    size = 16
    padded = nn.functional.pad(
        picture, (0, -picture.shape[3] % size, 0, -picture.shape[2] % size), "reflect"
    )
    with torch.no_grad():
        theirs(padded)
    for hook in hooks:
        hook.remove()
    return seen


def test_every_layer_as_in_the_published_network(
    ranges: Ranges, published: dict[str, tuple[float, float]], networks: Pair
) -> None:
    def near(name: str) -> Any:
        return pytest.approx(published[name][1], rel=1e-9)

    assert len(ranges.groups) == 2
    for number, group in enumerate(ranges.groups):
        inside = f"layers.{number}.residual_group"
        names = [f"{inside}.blocks.0", f"{inside}.blocks.1"]
        assert [block.name for block in group.blocks] == names
        assert group.overlap.name == f"{inside}.overlap_attn"
        assert group.conv == near(f"layers.{number}.conv")
        for block in group.blocks:
            assert block.qkv == near(f"{block.name}.attn.qkv")
            assert block.attention == near(f"{block.name}.attn.proj")
            assert block.cab_hidden == near(f"{block.name}.conv_block.cab.0")
            assert block.cab == near(f"{block.name}.conv_block.cab.2")
        assert group.overlap.qkv == near(f"{group.overlap.name}.qkv")
        assert group.overlap.attention == near(f"{group.overlap.name}.proj")
        assert (group.overlap.cab, group.overlap.cab_hidden) == (None, None)
        for block in (*group.blocks, group.overlap):
            assert block.mlp_hidden == near(f"{block.name}.mlp.fc1")
            assert block.mlp == near(f"{block.name}.mlp.fc2")
    assert ranges.shallow == near("conv_first")
    assert ranges.body == near("conv_after_body")
    tail = ("conv_before_upsample.1", "upsample.0")
    assert ranges.tail == pytest.approx(max(published[name][1] for name in tail), rel=1e-9)


def test_the_residual_is_the_stream_and_all_that_is_added(
    ranges: Ranges, published: dict[str, tuple[float, float]]
) -> None:
    for number, group in enumerate(ranges.groups):
        inside = f"layers.{number}.residual_group"
        for block, after in zip(
            (*group.blocks, group.overlap),
            (f"{inside}.blocks.1.norm1", f"{inside}.overlap_attn.norm1", f"layers.{number}.conv"),
            strict=True,
        ):
            parts = [
                published[f"{block.name}.norm1"][0],  # enters
                published[f"{block.name}.norm2"][0],  # between attention and MLP
                published[after][0],  # leaves
                block.attention,
                block.mlp,
            ]
            if block.cab is not None:
                parts.append(0.01 * published[f"{block.name}.conv_block"][1])
            assert block.residual == pytest.approx(max(parts), rel=1e-9)
        next_norm = "norm" if number else "layers.1.residual_group.blocks.0.norm1"
        blocks = [block.residual for block in (*group.blocks, group.overlap)]
        assert group.residual == pytest.approx(
            max(*blocks, group.conv, published[next_norm][0]), rel=1e-9
        )


def test_the_middle_of_a_block_counts(networks: Pair, picture: Tensor) -> None:
    """What attention adds, the MLP may take away again."""
    config = networks[0].config
    model = HAT(config).double().eval()
    model.load_state_dict(networks[0].state_dict())
    block = model.layers[0].residual_group.blocks[0]
    with torch.no_grad():
        model.patch_embed.norm.bias.fill_(10.0)
        block.attn.proj.weight.zero_()
        block.attn.proj.bias.fill_(30.0)
        block.mlp.fc2.weight.zero_()
        block.mlp.fc2.bias.fill_(-35.0)
    measured = measure_ranges(model, picture).groups[0].blocks[0]
    assert 40 <= measured.residual < 50


def test_a_large_cab_counts_as_part_of_the_stream(networks: Pair, picture: Tensor) -> None:
    model = HAT(networks[0].config).double().eval()
    model.load_state_dict(networks[0].state_dict())
    block = model.layers[0].residual_group.blocks[0]
    with torch.no_grad():
        block.conv_block.cab[2].bias.fill_(1e6)
        block.conv_block.cab[3].attention[3].weight.zero_()
        block.conv_block.cab[3].attention[3].bias.fill_(50.0)  # the gate is open
        # What stands against it comes in two halves.
        model.patch_embed.norm.bias.fill_(-5e3)
        block.attn.proj.bias.fill_(-5e3)
    measured = measure_ranges(model, picture).groups[0].blocks[0]
    assert measured.residual == pytest.approx(1e4, rel=0.01)


def test_logits_are_those_that_the_softmax_sees(
    networks: Pair, picture: Tensor, ranges: Ranges, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []

    def recorded(q: Tensor, k: Tensor, v: Tensor, *, attn_mask: Tensor, scale: float) -> Tensor:
        scores = scale * torch.einsum("whqc,whkc->whqk", q, k) + attn_mask
        visible = (attn_mask > -50).expand_as(scores)
        seen.append(float(scores[visible].abs().max()))
        return scores.softmax(-1) @ v

    monkeypatch.setattr(attention.F, "scaled_dot_product_attention", recorded)
    with torch.no_grad():
        networks[0](picture)
    # One call for a regular block and an OCAB, one for each of four kinds of a shifted one.
    per_group = [
        (slice(0, 1), slice(1, 5), slice(5, 6)),
        (slice(6, 7), slice(7, 11), slice(11, 12)),
    ]
    assert len(seen) == 12
    for group, places in zip(ranges.groups, per_group, strict=True):
        for block, place in zip((*group.blocks, group.overlap), places, strict=True):
            assert block.logits == pytest.approx(max(seen[place]), rel=1e-9)


def test_the_mask_is_left_out_and_small_logits_are_seen(networks: Pair, picture: Tensor) -> None:
    model = HAT(networks[0].config).double().eval()
    model.load_state_dict(networks[0].state_dict())
    for block in model.layers[0].residual_group.blocks:
        with torch.no_grad():
            block.attn.qkv.weight.zero_()
            block.attn.qkv.bias.zero_()
    for block in measure_ranges(model, picture).groups[0].blocks:
        assert 1 < block.logits < 10  # the bias table alone


def test_pictures_add_up(networks: Pair, picture: Tensor, ranges: Ranges) -> None:
    both = torch.cat((torch.zeros_like(picture), picture))
    measured = measure_ranges(networks[0], both)
    alone = measure_ranges(networks[0], both[:1])
    assert measured.groups[1].residual == pytest.approx(
        max(ranges.groups[1].residual, alone.groups[1].residual), rel=1e-9
    )
    assert measured.blocks[0].logits == pytest.approx(
        max(ranges.blocks[0].logits, alone.blocks[0].logits), rel=1e-9
    )


def test_one_window_has_no_other_kinds(networks: Pair, picture: Tensor) -> None:
    assert measure_ranges(networks[0], picture[:, :, :9, :7]).blocks[1].logits > 0


def test_the_model_stays_as_it_is(networks: Pair, picture: Tensor) -> None:
    model = networks[0]
    model.prepare(20, 30)
    measure_ranges(model, picture)
    assert model.prepared == (20, 30)
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_no_number_is_no_small_number(networks: Pair, picture: Tensor) -> None:
    model = HAT(networks[0].config).double().eval()
    model.load_state_dict(networks[0].state_dict())
    with torch.no_grad():
        model.layers[1].residual_group.blocks[0].mlp.fc2.bias[3] = torch.nan
    measured = measure_ranges(model, picture)
    assert measured.groups[0].residual == measured.groups[0].residual
    for value in (measured.groups[1].residual, measured.body, measured.tail):
        assert value != value
