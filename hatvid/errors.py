"""Every error hatvid raises on purpose.

::

    HatvidError
    ├── UsageError            the request cannot be carried out as it was written   (exit 2)
    │   ├── OptionError       an option's value is wrong or does not fit the others
    │   └── OutputExistsError the output is already there and may not be overwritten
    ├── InputError            the input cannot be read as a video                   (exit 1)
    │   └── DecodeError       it opens, but a frame in it cannot be decoded
    ├── OutputError           the output cannot be written: place, space, encoder   (exit 1)
    │   └── VerificationError it was written, but is not the input, only larger
    ├── CheckpointError       a checkpoint cannot be found, read, or trusted        (exit 1)
    │   └── UnknownModelError no checkpoint of that name is known                   (exit 2)
    ├── TrainingError         a training cannot go on as its recipe says            (exit 1)
    └── EngineError           an engine cannot be built or failed while running     (exit 1)
        └── OutOfMemoryError  there is not enough memory for what was to be run

The text of each is one line: what happened, and after it what to do.
"""

from __future__ import annotations

__all__ = [
    "CheckpointError",
    "DecodeError",
    "EngineError",
    "HatvidError",
    "InputError",
    "OptionError",
    "OutOfMemoryError",
    "OutputError",
    "OutputExistsError",
    "TrainingError",
    "UnknownModelError",
    "UsageError",
    "VerificationError",
]


class HatvidError(Exception):
    """Base of all hatvid errors.

    Attributes:
        exit_code: what the command line exits with when this error reaches it.
    """

    exit_code: int = 1

    def __str__(self) -> str:
        # Messages quote text from files and libraries; a line break in one would
        # break the promise of one line, and of one JSON object a line.
        return " ".join(super().__str__().split())


class UsageError(HatvidError):
    """The request cannot be carried out as it was written."""

    exit_code = 2


class OptionError(UsageError, ValueError):
    """An option's value is wrong, or does not fit the other options."""


class OutputExistsError(UsageError, FileExistsError):
    """The output is already there, and overwriting was not asked for."""


class InputError(HatvidError):
    """The input cannot be read as a video."""


class DecodeError(InputError):
    """The input opens, but a frame in it cannot be decoded."""


class OutputError(HatvidError):
    """The output cannot be written: its place, the space there, or the encoder."""


class VerificationError(OutputError):
    """The output was written, but lacks something of the input, or is not its picture."""


class CheckpointError(HatvidError):
    """A checkpoint cannot be found, read, or trusted."""


class UnknownModelError(CheckpointError, UsageError):
    """No checkpoint of that name is known."""

    exit_code = 2


class TrainingError(HatvidError):
    """A training cannot go on as its recipe says; the last good state is kept."""


class EngineError(HatvidError):
    """An engine cannot be built on this machine, or failed while running."""


class OutOfMemoryError(EngineError):
    """There is not enough memory for a tile, or for the whole frame."""
