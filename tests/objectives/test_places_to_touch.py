"""A new objective needs only one file for the stages, the library and the ablations."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from fungi import config, gradients, objectives
from fungi.cli.main import main as fungi
from fungi.commands import COMMANDS
from fungi.objectives import OBJECTIVES
from tests.library.models import dataset, pictures, wrap

OBJECTIVE = '''
"""The mean of a sample's views pulls all its views."""

from dataclasses import dataclass
from typing import Any, ClassVar

from fungi.objectives.base import Objective, register


@register
@dataclass(frozen=True, kw_only=True)
class MeanPull(Objective):
    """strength: factor of the loss."""

    name = "mean-pull"
    views = "crops"
    view_defaults: ClassVar[dict[str, Any]] = {"global_crops": 3, "local_crops": 0}

    strength: float = 2.0
    latent_dim: int = 16

    def latent_loss(self, latents, support):
        return self.strength * (latents - latents.mean(dim=1, keepdim=True)).square().mean(dim=(1, 2))
'''


@pytest.fixture
def mean_pull(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Add a file to the folder of objectives."""
    folder = tmp_path / "objectives"
    folder.mkdir()
    (folder / "mean_pull.py").write_text(OBJECTIVE)
    monkeypatch.setattr(objectives, "__path__", [*objectives.__path__, str(folder)])
    yield
    OBJECTIVES._entries.pop("mean-pull", None)
    sys.modules.pop("fungi.objectives.mean_pull", None)


def test_stages_accept_the_new_objective(mean_pull: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fungi(["list", "objectives"])
    assert "mean-pull" in capsys.readouterr().out
    for number, image in enumerate(pictures(3)):
        path = tmp_path / "data" / "train" / "a" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    common = ["--dataset", f"mine=folder:{tmp_path / 'data'}", "--root", str(tmp_path / "root"), "--device", "cpu"]
    flags = ["--objective", "mean-pull", "--set", "mean-pull.strength=3.0", "--split", "train"]
    assert COMMANDS["extract-gradients"].main([*common, *flags]) == 0
    (path,) = (tmp_path / "root").rglob("mean-pull-train.h5")
    with h5py.File(path) as file:
        assert np.linalg.norm(file["attn_proj"][:], axis=1).all()


def test_the_library_has_a_configuration_and_an_extractor_for_the_new_objective(
    mean_pull: None, tmp_path: Path
) -> None:
    settings = config.MeanPullConfig(strength=1.0)
    assert (settings.global_crops, settings.local_crops) == (3, 0)
    assert (settings.augmentation, settings.latent_dim) == ("crops", 16)
    wrapper = wrap(configs=[settings])
    wrapper.setup(dataset(), check_independence=True)
    (extractor,) = wrapper.extractors
    assert type(extractor) is gradients.MeanPullGradientsExtractor
    latents = torch.randn(6, 16, generator=torch.Generator().manual_seed(0))
    views = latents.unflatten(0, (2, 3))
    expected = (views - views.mean(dim=1, keepdim=True)).square().mean(dim=(1, 2))
    torch.testing.assert_close(extractor.compute_loss(latents, 3), expected)
    features = wrapper(pictures(2))
    wrapper.save(tmp_path / "saved")
    assert torch.equal(type(wrapper).load(tmp_path / "saved", wrapper.model, "cpu")(pictures(2)), features)


@pytest.mark.slow
def test_ablations_accept_the_new_objective(mean_pull: None, tmp_path: Path) -> None:
    flags = ["--rows", "24", "--k", "3", "--pca-dim", "8", "--device", "cpu", "--objective", "mean-pull"]
    assert COMMANDS["ablate"].main(["--ablation", "objectives", "--root", str(tmp_path / "root"), *flags]) == 0
    (path,) = (tmp_path / "root" / "results").rglob("*.json")
    assert list(json.loads(path.read_text())["results"]) == ["embeddings", "mean-pull"]


def test_modules_have_no_attributes_for_unknown_objectives() -> None:
    for module, name in ((config, "UnknownConfig"), (gradients, "UnknownGradientsExtractor"), (config, "unknown")):
        with pytest.raises(AttributeError, match="has no attribute"):
            getattr(module, name)


@pytest.mark.parametrize("name", ["DeepCluster", "IBOT", "MIM"])
def test_derived_configurations_have_the_settings_of_objective_and_views(name: str) -> None:
    derived = getattr(config, f"{name}Config")()
    objective = next(OBJECTIVES[entry] for entry in OBJECTIVES if OBJECTIVES[entry].__name__ == name)()
    assert vars(objective).items() <= vars(derived).items()
    assert derived.local_crops == objective.view_defaults.get("local_crops", 10)
    assert getattr(config, f"{name}Config") is type(derived)
