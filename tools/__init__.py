"""Maintainers' tools, outside the package; run them in the project's folder."""
