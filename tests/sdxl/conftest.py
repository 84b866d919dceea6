"""One small pipeline folder, and copies of it that tests may break."""

import json
import shutil

import pytest
import torch

from distar_core.sdxl.loading import quiet
from distar_core.sdxl.miniature import make_pipeline


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """An untrained pipeline for three words, as diffusers saves it."""
    path = tmp_path_factory.mktemp("pipeline")
    torch.manual_seed(0)
    with quiet():
        make_pipeline(("a", "red", "circle")).save_pretrained(path)
    return path


def change(path, **values):
    """Write other values into a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | values), "utf-8")


@pytest.fixture
def copied(folder, tmp_path):
    """copied({"unet/config.json": {"in_channels": 9}}): a copy of the folder with these values in its files.

    Without weights it holds all that a pipeline says about itself, and loading ends at the first network's weights.
    """

    def copy(changes=None, *, weights=True):
        path = tmp_path / "copy"
        shutil.copytree(folder, path, ignore=None if weights else shutil.ignore_patterns("*.safetensors"))
        for file, values in (changes or {}).items():
            change(path / file, **values)
        return path

    return copy
