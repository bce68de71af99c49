"""What is not computed again is what would be computed."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tiles import BATCH, ENTRY, IDENTITY, larger_of, tile_of
from torch import Tensor

from hatvid.reuse import Result, TileReuse, checksum
from hatvid.tile_cache import Identity, TileCache


class Network:
    """Computes batches into one buffer, as engines do, and notes what they were."""

    def __init__(self, bad: Sequence[int] = (), *, by_slot: bool = False) -> None:
        self.by_slot = by_slot
        self.batches: list[Tensor] = []
        self.buffer = torch.empty(BATCH, 1, 8, 8)
        self.bad = [tile_of(number) for number in bad]

    def __call__(self, part: Tensor) -> tuple[Tensor, list[int]]:
        assert len(part) == BATCH
        self.batches.append(part.clone())
        for number, tile in enumerate(part):
            self.buffer[number] = larger_of(tile)
            if self.by_slot:
                self.buffer[number] += number / 8
        again = [
            number
            for number, tile in enumerate(part)
            if any(torch.equal(tile, bad) for bad in self.bad)
        ]
        return self.buffer, again


def go_through(
    reuse: TileReuse,
    tiles: Tensor,
    network: Network,
    *,
    identity: Identity = IDENTITY,
    allowed: bool = True,
    **given: Any,
) -> list[Result]:
    found = reuse.results(tiles, identity, network, allowed=lambda: allowed, **given)
    return [replace(result, larger=result.larger.clone()) for result in found]


def stacked(numbers: Sequence[int]) -> Tensor:
    return torch.stack([tile_of(number) for number in numbers]) if numbers else torch.empty(0)


ALONE = replace(IDENTITY, slots=1)

calls = st.lists(st.lists(st.integers(0, 6), max_size=12), max_size=6)


@settings(max_examples=60, deadline=None)
@given(calls=calls, entries=st.integers(0, 4), collide=st.booleans(), alone=st.booleans())
def test_results_are_those_that_would_be_computed(
    calls: list[list[int]], entries: int, collide: bool, alone: bool
) -> None:
    cache = TileCache(entries * ENTRY + 5)
    reuse = TileReuse(cache, digest=(lambda tile: 0) if collide else None)
    for numbers in calls:
        network = Network(by_slot=not alone)
        identity = ALONE if alone else IDENTITY
        results = go_through(reuse, stacked(numbers), network, identity=identity)
        assert len(results) == len(numbers)
        for place, (number, result) in enumerate(zip(numbers, results, strict=True)):
            expected = larger_of(tile_of(number))
            if not alone:  # each as in a batch of its own slot, see Network
                expected += place % BATCH / 8
            assert torch.equal(result.larger, expected)
        least = -(-sum(not result.taken for result in results) // BATCH)
        most = least if alone else -(-len(numbers) // BATCH)
        assert least <= len(network.batches) <= most
        assert cache.bytes == len(cache) * ENTRY <= cache.budget


def test_the_checksum_is_of_the_bytes() -> None:
    tile = tile_of(1)
    assert checksum(tile) == checksum(tile.mT.contiguous().mT)
    assert len({checksum(tile_of(number)) for number in range(50)}) == 50
    assert checksum(torch.zeros(1, 4, 4)) != checksum(-torch.zeros(1, 4, 4))


def test_nothing_that_is_kept_lies_in_memory_of_others() -> None:
    reuse = TileReuse(TileCache(10 * ENTRY))
    tiles = stacked([1, 2])
    network = Network()
    go_through(reuse, tiles, network)
    tiles.zero_()
    network.buffer.zero_()
    (result,) = go_through(reuse, stacked([1]), network)
    assert result.taken
    assert torch.equal(result.larger, larger_of(tile_of(1)))


def test_what_must_be_computed_shares_full_batches() -> None:
    reuse = TileReuse(TileCache(10 * ENTRY))
    go_through(reuse, stacked([0]), Network())
    network = Network()
    # In three calls' worth of tiles the first slot has only what is known.
    results = go_through(reuse, stacked([0, 1, 2, 0, 1, 2, 0, 1, 3, 4, 5]), network)
    assert [result.taken for result in results] == [
        *(True, False, False, True, True, True, True, True, False, False, False)
    ]
    first, second = network.batches
    assert torch.equal(first[1:], stacked([1, 2]))
    assert torch.equal(second, stacked([4, 5, 3]))


def test_a_result_of_another_slot_is_taken_only_where_tiles_are_computed_alone() -> None:
    for identity, taken in ((IDENTITY, [0, 0, 0, 1, 1]), (ALONE, [0, 1, 1, 1, 1])):
        reuse = TileReuse(TileCache(10 * ENTRY))
        results = go_through(reuse, stacked([1, 1, 1, 1, 1]), Network(), identity=identity)
        assert [result.taken for result in results] == taken


def test_nothing_is_taken_where_it_is_not_allowed() -> None:
    reuse = TileReuse(TileCache(10 * ENTRY))
    network = Network()
    results = go_through(reuse, stacked([1, 1, 2, 1]), network, allowed=False)
    assert len(network.batches) == 2
    assert not any(result.taken for result in results)


def test_it_is_not_asked_whether_it_is_allowed_before_something_comes_again() -> None:
    asked = []

    def allowed() -> bool:
        asked.append(True)
        return True

    reuse = TileReuse(TileCache(10 * ENTRY))
    list(reuse.results(stacked([1, 2, 3]), IDENTITY, Network(), allowed=allowed))
    assert not asked
    list(reuse.results(stacked([4, 2]), IDENTITY, Network(), allowed=allowed))
    assert len(asked) == 1


def test_a_mended_tile_is_mended_wherever_it_comes() -> None:
    reuse = TileReuse(TileCache(10 * ENTRY))
    network = Network(bad=[2])
    results = go_through(reuse, stacked([1, 2, 3, 3, 2]), network)
    assert [result.mended for result in results] == [False, True, False, False, True]
    results = go_through(reuse, stacked([1, 2]), network)
    assert [(result.mended, result.taken) for result in results] == [(False, True), (True, False)]


# ---- threads ------------------------------------------------------------------------------


def test_threads_share_a_cache() -> None:
    cache = TileCache(4 * ENTRY)
    reuse = TileReuse(cache, digest=lambda tile: int(tile[0, 0, 0] * 4))
    wrong: list[object] = []

    def work(seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for _ in range(40):
            numbers = torch.randint(0, 9, (7,), generator=generator).tolist()
            for number, result in zip(
                numbers, go_through(reuse, stacked(numbers), Network()), strict=True
            ):
                if not torch.equal(result.larger, larger_of(tile_of(number))):
                    wrong.append(number)
            if cache.bytes > cache.budget:
                wrong.append("budget")

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert cache.bytes == len(cache) * ENTRY
