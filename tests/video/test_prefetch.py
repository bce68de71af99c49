"""Thread boundaries: bounded, re-raising, joined, whatever ends them.

Threads meet at events; where a thing must not happen, a moment is given for it to.
"""

# ruff: noqa: PT012 - the blocks are what is tested

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from hatvid.video.prefetch import Prefetch, Writer

LIMIT = 20.0
"""Seconds after which a test that hangs fails."""


class Deliberate(Exception):
    pass


@pytest.fixture(autouse=True)
def every_thread_is_joined() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) == before


class Counted:
    """An endless source that says how far it was read, and can be waited for."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self.given = 0

    def __iter__(self) -> Iterator[int]:
        while True:
            with self._condition:
                self.given += 1
                self._condition.notify_all()
                number = self.given
            yield number

    def reaches(self, count: int) -> bool:
        with self._condition:
            return self._condition.wait_for(lambda: self.given >= count, LIMIT)

    def exceeds(self, count: int) -> bool:
        """Whether it reads on although nobody takes an item."""
        with self._condition:
            return self._condition.wait_for(lambda: self.given > count, 0.05)


def test_reads_ahead_as_far_as_asked_and_no_further() -> None:
    source = Counted()
    with Prefetch(source, depth=3, name="reader") as reader:
        # Three wait in the queue, and one is in the thread's hand.
        assert source.reaches(4)
        assert not source.exceeds(4)
        items = iter(reader)
        assert [next(items), next(items)] == [1, 2]
        assert source.reaches(6)
        assert not source.exceeds(6)


def test_order_is_kept() -> None:
    with Prefetch(iter(range(500)), depth=2, name="reader") as reader:
        assert list(reader) == list(range(500))


def test_the_iterator_runs_in_the_named_thread() -> None:
    def names() -> Iterator[str]:
        yield threading.current_thread().name

    with Prefetch(names(), depth=1, name="hatvid-decode") as reader:
        assert list(reader) == ["hatvid-decode"]


def test_error_of_the_iterator_comes_after_the_items_before_it() -> None:
    error = Deliberate("broken")

    def failing() -> Iterator[int]:
        yield 1
        yield 2
        raise error

    seen = []
    with (
        pytest.raises(Deliberate) as caught,
        Prefetch(failing(), depth=5, name="reader") as reader,
    ):
        for item in reader:
            seen.append(item)
    assert seen == [1, 2]
    assert caught.value is error
    assert "failing" in [entry.name for entry in caught.traceback]


def test_error_of_an_iterator_that_cannot_even_begin() -> None:
    class Unreadable:
        def __iter__(self) -> Iterator[int]:
            raise Deliberate("no iterator")

    with (
        pytest.raises(Deliberate),
        Prefetch(Unreadable(), depth=1, name="reader") as reader,
    ):
        list(reader)


def test_error_while_the_generator_is_closed_does_not_hang_or_spill() -> None:
    """The consumer has gone and wants nothing more; a traceback of the thread would be noise."""

    def closing_badly() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            raise Deliberate("while closing")

    with Prefetch(closing_badly(), depth=1, name="reader") as reader:
        assert next(iter(reader)) == 1


def test_early_exit_closes_the_generator_in_its_own_thread() -> None:
    closed_by = []

    def endless() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed_by.append(threading.current_thread().name)

    with Prefetch(endless(), depth=2, name="reader") as reader:
        next(iter(reader))
    assert closed_by == ["reader"]


def test_error_of_the_consumer_passes_and_stops_the_reader() -> None:
    source = Counted()
    with (
        pytest.raises(Deliberate),
        Prefetch(source, depth=2, name="reader") as reader,
    ):
        next(iter(reader))
        raise Deliberate("consumer")


def test_a_generator_that_is_never_asked_is_closed_too() -> None:
    closed = threading.Event()

    def endless() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    with Prefetch(endless(), depth=1, name="reader"):
        pass
    assert closed.is_set()


class Gate:
    """A ``write`` that waits at every item until it is let through."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.passes = threading.Semaphore(0)
        self.written: list[int] = []

    def write(self, item: int) -> None:
        self.entered.release()
        assert self.passes.acquire(timeout=LIMIT)
        self.written.append(item)

    def open(self) -> None:
        self.passes.release(10_000)


def test_put_waits_while_the_queue_is_full() -> None:
    gate = Gate()
    put_third = threading.Event()
    with Writer(gate.write, depth=2, name="writer") as writer:
        writer.put(0)
        assert gate.entered.acquire(timeout=LIMIT)  # 0 is being written
        writer.put(1)
        writer.put(2)

        def put() -> None:
            writer.put(3)
            put_third.set()

        other = threading.Thread(target=put)
        other.start()
        assert not put_third.wait(0.05)
        gate.passes.release()
        assert put_third.wait(LIMIT)
        other.join(LIMIT)
        gate.open()
        writer.finish()
    assert gate.written == [0, 1, 2, 3]


def test_finish_waits_for_every_item_in_order() -> None:
    written: list[int] = []
    with Writer(written.append, depth=3, name="writer") as writer:
        for number in range(500):
            writer.put(number)
        writer.finish()
        assert written == list(range(500))


def test_error_of_write_reaches_a_put_that_waits() -> None:
    error = Deliberate("disk")
    gate = Gate()

    def write(item: int) -> None:
        gate.write(item)
        raise error

    with (
        pytest.raises(Deliberate) as caught,
        Writer(write, depth=1, name="writer") as writer,
    ):
        writer.put(0)
        assert gate.entered.acquire(timeout=LIMIT)
        writer.put(1)
        # Whether the next put waits already or comes later, it must not hang.
        gate.open()
        for number in range(2, 100):
            writer.put(number)
    assert caught.value is error
    assert gate.written == [0]


def test_error_of_the_last_write_reaches_finish() -> None:
    error = Deliberate("disk")

    def write(item: int) -> None:
        raise error

    with (
        pytest.raises(Deliberate) as caught,
        Writer(write, depth=4, name="writer") as writer,
    ):
        writer.put(0)
        writer.finish()
    assert caught.value is error


def test_error_of_the_user_drops_what_waits() -> None:
    gate = Gate()
    shared: list[Writer[int]] = []
    begun = threading.Event()

    def use() -> None:
        with (
            pytest.raises(Deliberate),
            Writer(gate.write, depth=5, name="writer") as writer,
        ):
            writer.put(0)
            assert gate.entered.acquire(timeout=LIMIT)
            for number in range(1, 4):
                writer.put(number)
            shared.append(writer)
            begun.set()
            raise Deliberate("user")

    user = threading.Thread(target=use)
    user.start()
    assert begun.wait(LIMIT)
    with pytest.raises(RuntimeError):
        while True:  # it takes items, then blocks, until the block is left
            shared[0].put(99)
    gate.open()
    user.join(LIMIT)
    assert not user.is_alive()
    assert gate.written == [0]


def test_error_that_nobody_asked_for_is_raised_when_the_block_ends() -> None:
    def write(item: int) -> None:
        raise Deliberate("disk")

    with (
        pytest.raises(Deliberate),
        Writer(write, depth=4, name="writer") as writer,
    ):
        writer.put(0)


def test_put_after_finish_is_a_mistake_and_no_hang() -> None:
    with Writer(lambda item: None, depth=1, name="writer") as writer:
        writer.put(0)
        writer.finish()
        with pytest.raises(RuntimeError, match="finished"):
            writer.put(1)


def test_an_interrupt_in_the_thread_reaches_the_user() -> None:
    def write(item: int) -> None:
        raise KeyboardInterrupt

    with (
        pytest.raises(KeyboardInterrupt),
        Writer(write, depth=1, name="writer") as writer,
    ):
        writer.put(0)
        writer.finish()
