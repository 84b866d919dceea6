"""A command line with a short distillation."""

import pytest
from typer.testing import CliRunner

from distar_core.cli.main import app
from distar_core.toy import ring


@pytest.fixture
def distar(monkeypatch):
    """Run a command with a distillation of a few steps."""
    whole = ring.distil
    monkeypatch.setattr(ring, "distil", lambda mixture, **options: whole(mixture, steps=4))
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])
