"""Tiles are found again by content, in bounded memory, and never a wrong one."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tiles import ENTRY, IDENTITY, larger_of, tile_of
from torch import Tensor

from hatvid.tile_cache import Identity, TileCache, default_budget


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=40),
    entries=st.integers(0, 3),
)
def test_what_was_not_used_for_longest_goes_first(
    steps: list[tuple[bool, int]], entries: int
) -> None:
    cache = TileCache(entries * ENTRY)
    expected: OrderedDict[int, None] = OrderedDict()
    for adding, number in steps:
        tile = tile_of(number)
        if adding:
            cache.add(IDENTITY, number, tile, larger_of(tile))
            expected.pop(number, None)
            expected[number] = None
            while len(expected) > entries:
                expected.popitem(last=False)
        else:
            found = cache.find(IDENTITY, number, tile)
            assert (found is not None) == (number in expected)
            if number in expected:
                expected.move_to_end(number)
        assert len(cache) == len(expected)
    assert [number for number in range(6) if cache.find(IDENTITY, number, tile_of(number))] == (
        sorted(expected)
    )


@pytest.mark.parametrize("name", [field.name for field in fields(Identity)])
def test_every_part_of_the_identity_counts(name: str) -> None:
    value: Any = getattr(IDENTITY, name)
    other: Any = {
        str: lambda: f"{value}x",
        int: lambda: value + 1,
        bool: lambda: not value,
        tuple: lambda: (*value[:-1], "9"),
    }[type(value)]()
    cache = TileCache(10 * ENTRY)
    tile = tile_of(1)
    cache.add(IDENTITY, 7, tile, larger_of(tile))
    assert cache.find(IDENTITY, 7, tile) is not None
    assert cache.find(replace(IDENTITY, **{name: other}), 7, tile) is None


def test_bits_count_and_not_values() -> None:
    cache = TileCache(10 * ENTRY)
    zero, nan = torch.zeros(1, 4, 4), torch.full((1, 4, 4), torch.nan)
    cache.add(IDENTITY, 0, zero, larger_of(zero))
    assert cache.find(IDENTITY, 0, -zero) is None
    cache.add(IDENTITY, 0, nan, larger_of(nan))
    assert cache.find(IDENTITY, 0, nan.clone()) is not None


def test_a_tile_larger_than_the_budget_is_not_kept() -> None:
    cache = TileCache(ENTRY - 1)
    tile = tile_of(0)
    cache.add(IDENTITY, 0, tile, larger_of(tile))
    assert (len(cache), cache.bytes) == (0, 0)


def test_where_a_gpu_has_no_memory_left_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = TileCache(3 * ENTRY)
    tile = tile_of(0)
    cache.add(IDENTITY, 0, tile, larger_of(tile))

    def refused(self: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Tensor, "clone", refused)
    cache.add(IDENTITY, 1, tile_of(1), larger_of(tile_of(1)))
    assert (len(cache), cache.bytes) == (0, 0)


def test_clearing() -> None:
    cache = TileCache(3 * ENTRY)
    tile = tile_of(0)
    cache.add(IDENTITY, 0, tile, larger_of(tile))
    cache.clear()
    assert (len(cache), cache.bytes, cache.find(IDENTITY, 0, tile)) == (0, 0, None)


def test_the_default_is_a_share_with_a_limit() -> None:
    assert default_budget(800) == 100
    assert default_budget(10**12) == 2**30
    assert default_budget(0) == 0


@pytest.mark.parametrize(
    ("frame", "frames"),
    [
        (2**20, 16),  # small, and whole: some are enough
        (2**26, 16),
        (2**27, 8),  # as many as the limit lets in
        (2**30, 2),  # but two, or nothing would ever come again in time
        (2**40, 1 / 8),  # as long as there is memory
    ],
)
def test_by_default_so_many_frames_are_kept(frame: int, frames: float) -> None:
    assert default_budget(2**40, frame) == frames * frame
    cache = TileCache(0)
    cache.serve(frame, lambda: 2**40)
    assert cache.budget == frames * frame


def test_what_is_kept_grows_with_frames_and_never_shrinks() -> None:
    cache = TileCache(0)
    asked = []

    def free() -> int:
        asked.append(cache.budget)
        return 2**33

    for frame in (100, 100, 50, 2**40, 2**20):
        cache.serve(frame, free)
    assert asked == [0, 1600], "memory is looked at only where frames become larger"
    assert cache.budget == 2**30
