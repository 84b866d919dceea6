"""What can go wrong for a reason that a person can mend."""

from __future__ import annotations


class DistarError(Exception):
    """An error whose text is one sentence for a person: what is wrong, with which value, and what to do.

    A wrong argument stays a ValueError or TypeError, and trouble with files an OSError. This is the base of what Python
    has no name for. The command line turns all of them into that sentence.

    Attributes:
        exit_code: what a command that ends with this error leaves to the shell.
    """

    exit_code = 1


class NonFiniteError(DistarError, RuntimeError):
    """A value of a run became NaN or infinite; the last checkpoint is from before."""


class MissingPackagesError(DistarError, ModuleNotFoundError):
    """Packages that are not part of the plain installation are missing; the text has the command that installs them."""


class DoesNotFitError(DistarError, MemoryError):
    """A run needs more memory than there is; the text has what it needs, and settings that would fit, if there are any.

    Attributes:
        need, memory: in bytes.
        changes: the settings that would fit; None if there are none.
    """

    def __init__(self, text: str, *, need: int, memory: int, changes: dict[str, object] | None) -> None:
        super().__init__(text)
        self.need, self.memory, self.changes = need, memory, changes


class CardFullError(DistarError, MemoryError):
    """A GPU had no memory left in a step of a run; the last checkpoint is from before."""
