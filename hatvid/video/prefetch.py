"""Thread boundaries of the pipeline: bounded, re-raising, always joined.

:class:`Prefetch` runs an iterator ahead in a thread of its own; :class:`Writer`
hands items to a function that runs in another. Both hold at most ``depth`` items,
so memory does not grow with the length of a video, and both pass an error to the
thread that uses them.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Self

__all__ = ["Prefetch", "Writer"]


class _Closed(Exception):  # noqa: N818 - a signal, not a mistake
    """The other side has gone."""


class _Channel[T]:
    """A bounded queue that either side can close, waking the other at once."""

    def __init__(self, depth: int) -> None:
        self._items: deque[T] = deque()
        self._depth = depth
        self._condition = threading.Condition()
        self._ended = False  # no more items will come
        self._refused = False  # no more items will be taken

    def put(self, item: T) -> None:
        with self._condition:
            while len(self._items) >= self._depth and not self._refused:
                self._condition.wait()
            if self._refused:
                raise _Closed
            self._items.append(item)
            self._condition.notify_all()

    def get(self) -> T:
        """The next item; raises _Closed after the last one."""
        with self._condition:
            while not self._items:
                if self._ended or self._refused:
                    raise _Closed
                self._condition.wait()
            item = self._items.popleft()
            self._condition.notify_all()
            return item

    def end(self) -> None:
        with self._condition:
            self._ended = True
            self._condition.notify_all()

    def refuse(self) -> None:
        with self._condition:
            self._refused = True
            self._items.clear()
            self._condition.notify_all()


class Prefetch[T]:
    """Iterate over ``items`` while a thread reads up to ``depth`` of them ahead.

    Leaving the ``with`` block stops the thread, closes the iterator in that thread
    if it is a generator, and joins it. An error of the iterator is raised where
    the items are consumed, after the items before it.
    """

    def __init__(self, items: Iterable[T], *, depth: int, name: str) -> None:
        self._source = items
        self._channel: _Channel[T] = _Channel(depth)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._read, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._channel.refuse()
        self._thread.join()

    def __iter__(self) -> Iterator[T]:
        while True:
            try:
                item = self._channel.get()
            except _Closed:
                break
            yield item
        if self._error is not None:
            raise self._error

    def _read(self) -> None:
        try:
            iterator = iter(self._source)
            try:
                for item in iterator:
                    self._channel.put(item)
            finally:
                # A generator owns decoders; they must be closed by the thread that ran them.
                close = getattr(iterator, "close", None)
                if close is not None:
                    close()
        except _Closed:
            pass
        except BaseException as error:
            self._error = error
        finally:
            self._channel.end()


class Writer[T]:
    """Call ``write(item)`` in a thread for each item given to :meth:`put`.

    :meth:`put` blocks while ``depth`` items wait. An error of ``write`` is raised by
    the next :meth:`put`, by :meth:`finish`, or at the latest by leaving the ``with`` block.
    Leaving it by an exception drops what still waits; the thread is joined either way.
    """

    def __init__(self, write: Callable[[T], None], *, depth: int, name: str) -> None:
        self._write = write
        self._channel: _Channel[T] = _Channel(depth)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._drain, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._channel.refuse()
        self._channel.end()
        self._thread.join()
        if kind is None:
            self._raise()

    def put(self, item: T) -> None:
        """Hand over one item, waiting for room.

        Raises:
            BaseException: what ``write`` raised for an earlier item.
        """
        try:
            self._channel.put(item)
        except _Closed:
            self._raise()
            raise RuntimeError("this Writer is finished") from None

    def finish(self) -> None:
        """Wait until every item is written.

        Raises:
            BaseException: what ``write`` raised.
        """
        self._channel.end()
        self._thread.join()
        self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _drain(self) -> None:
        try:
            while True:
                self._write(self._channel.get())
        except _Closed:
            pass
        except BaseException as error:
            self._error = error
        finally:
            self._channel.refuse()
