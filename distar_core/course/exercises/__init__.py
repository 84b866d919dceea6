"""The machine-checked exercises of every notebook."""

from importlib import import_module

MODULES = tuple(import_module(f".notebook_{number:02d}", __name__) for number in range(12))
EXERCISES = {exercise.number: exercise for module in MODULES for exercise in module.EXERCISES}
