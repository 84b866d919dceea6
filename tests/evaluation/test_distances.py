"""Distances by torch-fidelity against our own formulas, on features that need no download."""

import pytest
import torch
from torch_fidelity import FeatureExtractorBase, register_feature_extractor

from distar_core.evaluation.distances import INCEPTION, distances, pictures_in
from distar_core.evaluation.harness import png
from distar_core.evaluation.pictures import frechet_distance


class Means(FeatureExtractorBase):
    """The mean of each channel and of its square."""

    def __init__(self, name, features_list, **_):
        super().__init__(name, features_list)

    @staticmethod
    def get_provided_features_list():
        return ("means",)

    @staticmethod
    def get_default_feature_layer_for_metric(metric):
        return "means"

    @staticmethod
    def can_be_compiled():
        return False

    @staticmethod
    def features(pictures):
        pictures = pictures.float() / 255
        return torch.cat([pictures.mean((2, 3)), pictures.square().mean((2, 3))], 1)

    def forward(self, pictures):
        return (self.features(pictures),)


@pytest.fixture(scope="module", autouse=True)
def means():
    register_feature_extractor("means", Means)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two folders of pictures, the second brighter, and their pictures in 8 bits."""
    rng = torch.Generator().manual_seed(0)
    found = []
    for name, shift in (("one", 0.0), ("two", 0.2)):
        folder = tmp_path_factory.mktemp(name)
        pictures = 0.6 * torch.rand(12, 3, 1, 1, generator=rng) + 0.2 * torch.rand(12, 3, 8, 8, generator=rng) + shift
        for place, picture in enumerate(pictures):
            (folder / f"{place:02d}.png").write_bytes(png(picture))
        found.append((folder, (pictures * 255).round()))
    return found


def kernel_distance(first, second):
    """The unbiased estimate with k(x, y) = (x·y/d + 1)³ from all pairs, in float64."""
    first, second = first.double(), second.double()
    inner = lambda a, b: (a @ b.T / a.shape[1] + 1) ** 3  # noqa: E731
    own = [(inner(x, x).sum() - inner(x, x).trace()) / (len(x) * (len(x) - 1)) for x in (first, second)]
    return float(own[0] + own[1] - 2 * inner(first, second).mean())


def test_both_distances_are_those_of_the_formulas(folders):
    (one, first), (two, second) = folders
    found = distances(pictures_in(one), pictures_in(two), extractor="means")
    features = Means.features(first), Means.features(second)
    assert found.frechet == pytest.approx(frechet_distance(*features), abs=1e-5)
    assert found.kernel == pytest.approx(kernel_distance(*features), abs=1e-5)
    assert found.kernel_std == pytest.approx(0, abs=1e-6), "each subset is all pictures"
    assert found.pictures == (12, 12)
    same = distances(pictures_in(one), pictures_in(one), extractor="means")
    assert same.frechet == pytest.approx(0, abs=1e-6)
    assert found.frechet > 0.02, "control: the second is brighter"
    assert distances(pictures_in(one), pictures_in(two), extractor="means") == found


def test_what_cannot_be_compared_is_told(folders, tmp_path, monkeypatch):
    one = pictures_in(folders[0][0])
    with pytest.raises(ValueError, match="got 12 and 1"):
        distances(one, one[:1], extractor="means")
    with pytest.raises(FileNotFoundError, match="has no pictures"):
        pictures_in(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", lambda *_, **__: (_ for _ in ()).throw(OSError("no network")))
    with pytest.raises(
        FileNotFoundError, match=f"{INCEPTION} are not here and could not be fetched .no network.: 95 MB"
    ):
        distances(one, one)
