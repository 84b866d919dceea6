"""`python -m tools.painters_data FILE`: weights.js of the page "One sentence, four painters", from what the package ships.

A script, since a page that is opened from its file may read no other kind of file. `make site` writes it beside the page.
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file, save

from distar_core.runs.weights import read_json
from distar_core.sdxl import T_STAR
from distar_core.world.judges import PREFERENCE
from distar_core.world.models import GUIDANCE_SCALE, SHIPPED, STEPS
from tools.painters import SHIPPED as ADAPTERS

REFERENCE = SHIPPED / "reference"
WEIGHTS = {
    "reference": REFERENCE / "unet" / "diffusion_pytorch_model.safetensors",
    "generator": SHIPPED / "generator" / "diffusion_pytorch_model.safetensors",
    "text_encoder": REFERENCE / "text_encoder" / "model.safetensors",
    "text_encoder_2": REFERENCE / "text_encoder_2" / "model.safetensors",
    "clip": SHIPPED / "clip" / "open_clip_model.safetensors",
    "preference": SHIPPED / PREFERENCE,
    "star": ADAPTERS / "star.safetensors",
    "greedy": ADAPTERS / "greedy.safetensors",
}
"""Files that go in as they are."""
VAE = REFERENCE / "vae"
CONFIGS = {
    "pipeline": REFERENCE / "model_index.json",
    "scheduler": REFERENCE / "scheduler" / "scheduler_config.json",
    "reference": REFERENCE / "unet" / "config.json",
    "generator": SHIPPED / "generator" / "config.json",
    "vae": VAE / "config.json",
    "text_encoder": REFERENCE / "text_encoder" / "config.json",
    "text_encoder_2": REFERENCE / "text_encoder_2" / "config.json",
    "clip": SHIPPED / "clip" / "open_clip_config.json",
}


def decoder() -> bytes:
    """The part of the autoencoder that makes pictures of latents."""
    weights = load_file(VAE / "diffusion_pytorch_model.safetensors")
    return save({name: value for name, value in weights.items() if name.startswith(("decoder.", "post_quant_conv."))})


def data() -> dict[str, Any]:
    """All that the page computes from; see Data in docs/web/src/painters/world.ts.

    Raises:
        ValueError: if the world's tokenizers differ, which the page takes to be one.
    """
    places = (REFERENCE / "tokenizer", REFERENCE / "tokenizer_2", SHIPPED / "clip")
    first, *others = (
        {key: read_json(place / "tokenizer.json")["model"][key] for key in ("vocab", "merges")} for place in places
    )
    if any(other != first for other in others):
        raise ValueError(f"the tokenizers of {SHIPPED} differ; the page has one for all of them")
    files = {name: path.read_bytes() for name, path in WEIGHTS.items()} | {"decoder": decoder()}
    return {
        "files": {name: base64.b64encode(content).decode() for name, content in files.items()},
        "configs": {name: read_json(path) for name, path in CONFIGS.items()},
        "tokenizer": first,
        "steps": STEPS,
        "guidance_scale": GUIDANCE_SCALE,
        "t_star": T_STAR,
        "measured": read_json(ADAPTERS / "measured.json"),
    }


def script() -> str:
    """The text of weights.js."""
    return f"var PAINTERS={json.dumps(data(), separators=(',', ':'))};\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(script(), encoding="utf-8", newline="\n")
