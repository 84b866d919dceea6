"""How far two sets of pictures are apart, by torch-fidelity: Fréchet and kernel distance of Inception features."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ..runs.weights import in_one_line

INCEPTION = "inception-v3-compat"
SUBSET = 1000
ENDINGS = (".png", ".jpg", ".jpeg", ".webp")


class Distances(NamedTuple):
    """Both are 0 for one law, and estimated from finitely many pictures.

    Attributes:
        frechet: of the Gaussians that fit the features (FID, Heusel et al. 2017); biased upwards by few pictures, so compare
            equal numbers only.
        kernel, kernel_std: squared maximum mean discrepancy with a cubic kernel (KID, Binkowski et al. 2018), unbiased, mean
            and deviation over random subsets.
        pictures: how many there were, of either set.
    """

    frechet: float
    kernel: float
    kernel_std: float
    pictures: tuple[int, int]


class _Pictures(Dataset[Tensor]):
    """Files as [3, H, W] in 8 bits, which torch-fidelity takes."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, place: int) -> Tensor:
        with Image.open(self.files[place]) as picture:
            return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)


def pictures_in(folder: Path) -> list[Path]:
    """The pictures of a folder and the folders in it, by name. Raises FileNotFoundError if there is none."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS)
    if not found:
        raise FileNotFoundError(f"{folder} has no pictures ({', '.join(ENDINGS)}); name a folder with real pictures")
    return found


def distances(
    first: Sequence[Path], second: Sequence[Path], *, extractor: str = INCEPTION, device: str = "cpu"
) -> Distances:
    """Fréchet and kernel distance of two lists of picture files, deterministic.

    Args:
        extractor: torch-fidelity's name of the features; Inception's weights are fetched once, 95 MB.

    Raises:
        ValueError: for fewer than two pictures on a side.
        FileNotFoundError: if the features' weights are not here and cannot be fetched.
    """
    import torch_fidelity

    if min(len(first), len(second)) < 2:
        raise ValueError(f"distances need two pictures on each side, got {len(first)} and {len(second)}; draw more")
    try:
        found = torch_fidelity.calculate_metrics(
            input1=_Pictures(first),
            input2=_Pictures(second),
            fid=True,
            kid=True,
            kid_subset_size=min(SUBSET, len(first), len(second)),
            feature_extractor=extractor,
            batch_size=1,  # pictures may differ in size, and features in their last bits by their batch
            cuda=device.startswith("cuda"),
            save_cpu_ram=True,  # no further processes
            cache=False,
            verbose=False,
        )
    except OSError as error:
        raise FileNotFoundError(
            f"the weights of {extractor} are not here and could not be fetched ({in_one_line(error)}): 95 MB; connect to the "
            "network once, or leave distances out"
        ) from error
    return Distances(
        found["frechet_inception_distance"],
        found["kernel_inception_distance_mean"],
        found["kernel_inception_distance_std"],
        (len(first), len(second)),
    )
