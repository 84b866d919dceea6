"""What the notebooks need beside the library: profiles, exercise checks, predictions and the museum of failed runs."""

from ..extras import require
from .checks import Exercise, Mistake, check
from .exercises import EXERCISES
from .predictions import predict, reveal
from .profiles import Profile, profile

__all__ = ["EXERCISES", "Exercise", "Mistake", "Profile", "check", "predict", "profile", "require", "reveal"]
