"""The machine-checked exercises of every notebook."""

from . import notebook_00

EXERCISES = {exercise.number: exercise for module in (notebook_00,) for exercise in module.EXERCISES}
