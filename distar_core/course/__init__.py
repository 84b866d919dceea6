"""What the notebooks need beside the library: profiles and exercise checks."""

from .checks import EXERCISES, Exercise, Mistake, check
from .profiles import Profile, profile

__all__ = ["EXERCISES", "Exercise", "Mistake", "Profile", "check", "profile"]
