"""Ctrl-C and SIGTERM: when they break a command off, and when no longer."""

from __future__ import annotations

import signal
from types import FrameType
from typing import NoReturn

__all__ = ["Interrupted", "catch_signals", "hold_signals", "ignore_signals", "release_signals"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_held: list[int] = []


class Interrupted(BaseException):
    """SIGINT or SIGTERM came; not an Exception, so that nothing but the end catches it.

    Nor is it KeyboardInterrupt, which click answers with an empty line.
    """

    def __init__(
        self, number: int, left: str = "nothing was written under the output's name"
    ) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number
        self.left = left
        """What the command leaves behind, for the message."""


def catch_signals() -> None:
    """Let SIGINT and SIGTERM raise :class:`Interrupted` from now on."""
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup and `&` leave them
            signal.signal(number, _interrupt)


def ignore_signals() -> None:
    """Let nothing break off what follows: tidying up, or giving the output its name."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def hold_signals() -> None:
    """Let nothing break off what follows, but note that it was to be."""
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, frame: _held.append(number))


def release_signals() -> None:
    """Let signals break off again, and do so if one came meanwhile.

    Raises:
        Interrupted: one came.
    """
    catch_signals()
    if _held:
        number = _held[0]
        _held.clear()
        _interrupt(number, None)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    ignore_signals()
    raise Interrupted(number)
