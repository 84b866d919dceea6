"""What can go wrong in a run."""

from __future__ import annotations


class NonFiniteError(RuntimeError):
    """A value of a run became NaN or infinite; the last checkpoint is from before."""
