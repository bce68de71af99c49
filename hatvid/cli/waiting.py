"""Threads that wait for work leave the CPU to the encoder."""

from __future__ import annotations

import os
import sys

__all__ = ["SPINS", "rest_while_waiting"]

SPINS = "1000"
"""Looks at whether there is work before a thread of libgomp sleeps. It is what libgomp itself
takes where threads are more than CPUs, and beside an encoder's they are; 300,000 otherwise."""

_CHOSEN = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def rest_while_waiting() -> bool:
    """Have PyTorch's threads (libgomp's) sleep soon when they have nothing to do.

    As it comes, each thread looks for new work for a millisecond or more after each tensor
    operation, on a CPU that decoder and encoder could use. For commands that encode: one that
    runs PyTorch's operations and nothing else has work again at once, and waking a thread
    takes longer than looking.

    Returns:
        Whether it was asked for: libgomp reads it once, so not where PyTorch is loaded
        already; an environment that chooses for itself is left alone.
    """
    if "torch" in sys.modules or any(name in os.environ for name in _CHOSEN):
        return False
    os.environ["GOMP_SPINCOUNT"] = SPINS
    return True
