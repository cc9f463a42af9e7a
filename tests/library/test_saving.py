"""A saved extractor gives the same features in another process. Other models and damaged files are refused."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from fungi.config import KLConfig, SimCLRConfig
from fungi.errors import FungiError
from fungi.gradients import KLGradientsExtractor
from fungi.library.saving import SETTINGS, TENSORS, fingerprint
from fungi.wrapper import FUNGIWrapper
from tests.library.models import SMALL_CONFIGS, build, dataset, pictures, set_up_wrapper, wrap

PROGRAM = """
import sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from fungi.wrapper import FUNGIWrapper
from tests.library.models import build, pictures
torch.set_num_threads(1)
folder = Path(sys.argv[1])
wrapper = FUNGIWrapper.load(folder, build("timm"), "cpu")
save_file({"features": wrapper(pictures(4)).contiguous()}, folder / "features.safetensors")
"""
LAYERS = ("blocks.1.attn.proj", "blocks.1.attn.qkv[v]", "blocks.0.mlp.fc1")


@pytest.mark.slow  # starts a new Python process
def test_features_are_bit_equal_in_a_fresh_process(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    simclr = SimCLRConfig(latent_dim=12, stride_scale=2, hard_negatives=pictures(1), negatives_mixing=True, mixing_k=3)
    wrapper = set_up_wrapper(configs=[*SMALL_CONFIGS[:2], simclr], layer=LAYERS, include_embeddings=True, seed=5)
    wrapper.fit_pca(wrapper(pictures(9, seed=4)), 6)
    wrapper.save(tmp_path)
    features = wrapper(pictures(4))
    torch.set_num_threads(threads)
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path)], check=True, cwd=root)
    assert features.shape == (4, 6)
    assert torch.equal(load_file(tmp_path / "features.safetensors")["features"], features)


def test_a_loaded_extractor_equals_the_saved_extractor(tmp_path: Path) -> None:
    wrapper = set_up_wrapper(layer=LAYERS, include_embeddings=True, views_per_forward=7)
    with torch.no_grad():  # a file has the current heads, so heads that are not random can be loaded, too
        wrapper.extractors[0].projection_head.weight.mul_(2)
    wrapper.save(tmp_path)
    loaded_wrapper = FUNGIWrapper.load(tmp_path, wrapper.model, "cpu")
    assert torch.equal(loaded_wrapper(pictures(3)), wrapper(pictures(3)))
    assert fingerprint(loaded_wrapper) == fingerprint(wrapper)
    assert loaded_wrapper.engine.views_per_forward == 7
    assert sorted(path.name for path in tmp_path.iterdir()) == [SETTINGS, TENSORS]


def test_half_precision_and_pca_are_saved(tmp_path: Path) -> None:
    wrapper = wrap(configs=[KLConfig()], use_fp16=True, fp16_dtype=torch.float16)
    wrapper.fit_pca([image for image, _ in dataset()], 5)
    wrapper.save(tmp_path)
    loaded_wrapper = FUNGIWrapper.load(tmp_path, wrapper.model, "cpu")
    assert loaded_wrapper.dtype == torch.float16
    assert loaded_wrapper(pictures(2)).shape == (2, 5)
    assert torch.equal(loaded_wrapper(pictures(2)), wrapper(pictures(2)))


class OwnExtractor(KLGradientsExtractor):
    """A custom objective, which the library does not know when it loads a file."""


@dataclass
class OwnConfig:
    temperature: float = 3.0

    def get_extractor(self, base_params: dict) -> Any:
        return OwnExtractor(**base_params, temperature=self.temperature)


def test_loading_needs_the_types_of_custom_configurations(tmp_path: Path) -> None:
    wrapper = wrap(configs=[OwnConfig(2.0)])
    wrapper.save(tmp_path)
    with pytest.raises(
        FungiError, match=r"a configuration that is not part of this package, OwnConfig.*config_types=\[OwnConfig\]"
    ):
        FUNGIWrapper.load(tmp_path, wrapper.model, "cpu")
    loaded_wrapper = FUNGIWrapper.load(tmp_path, wrapper.model, "cpu", config_types=[OwnConfig])
    assert isinstance(loaded_wrapper.extractors[0], OwnExtractor)
    assert torch.equal(loaded_wrapper(pictures(1)), wrapper(pictures(1)))


def test_another_model_is_refused(tmp_path: Path) -> None:
    wrapper = set_up_wrapper()
    wrapper.save(tmp_path)
    other_model = build("timm")
    with torch.no_grad():
        next(other_model.parameters()).add_(1e-3)
    with pytest.raises(FungiError, match=r"saved for a model with weights \w{12}, but this model has weights \w{12}"):
        FUNGIWrapper.load(tmp_path, other_model, "cpu")


def test_settings_that_cannot_be_saved_are_refused(tmp_path: Path) -> None:
    wrapper = wrap(configs=[OwnConfig()])
    wrapper.extractor_configs = (OwnConfig(torch.ones(())),)  # type: ignore[arg-type]
    with pytest.raises(FungiError, match=r"OwnConfig can't be saved.*not JSON serializable"):
        wrapper.save(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FungiError, match="does not contain a saved wrapper"):
        FUNGIWrapper.load(tmp_path, build("timm"), "cpu")
    set_up_wrapper().save(tmp_path)
    content = json.loads((tmp_path / SETTINGS).read_text())
    (tmp_path / SETTINGS).write_text(json.dumps({**content, "format": 99}))
    with pytest.raises(FungiError, match="has format 99, but this version reads 3"):
        FUNGIWrapper.load(tmp_path, build("timm"), "cpu")
    (tmp_path / TENSORS).write_bytes(b"no tensors")
    with pytest.raises(FungiError, match="is damaged"):
        FUNGIWrapper.load(tmp_path, build("timm"), "cpu")


def change_settings(folder: Path, **settings: Any) -> None:
    """Change settings in a saved wrapper, but not its hash."""
    content = json.loads((folder / SETTINGS).read_text())
    (folder / SETTINGS).write_text(json.dumps({**content, **settings}))


def change_tensor(folder: Path, part: str) -> None:
    """Change the first entry of the first tensor whose name contains `part`."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / TENSORS)
    name = next(name for name in tensors if part in name)
    tensor = tensors[name].clone()
    entry = tensor.view(-1)[0]
    tensor.view(-1)[0] = entry ^ 1 if tensor.dtype == torch.uint8 else entry + 1
    save_file({**tensors, name: tensor}, folder / TENSORS)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[FUNGIWrapper, Path]:
    """Return a wrapper with fitted PCA, and the folder of its saved copy, which can be loaded."""
    wrapper, folder = set_up_wrapper(include_embeddings=True), tmp_path_factory.mktemp("saved")
    wrapper.fit_pca(wrapper(pictures(9, seed=4)), 4)
    wrapper.save(folder)
    FUNGIWrapper.load(folder, wrapper.model, "cpu")
    return wrapper, folder


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: change_settings(folder, seed=43),
        lambda folder: change_settings(folder, layers=["blocks.0.attn.proj"]),
        lambda folder: change_settings(folder, configs=5),
        lambda folder: change_settings(folder, hash="0" * 64),
        lambda folder: change_settings(folder, hash=None),
        lambda folder: change_tensor(folder, "projection."),
        lambda folder: change_tensor(folder, "projection_head.weight"),
        lambda folder: change_tensor(folder, "support.negatives"),
        lambda folder: change_tensor(folder, "reduction_offset"),
    ],
)
def test_a_changed_extractor_is_refused(change: Any, saved: tuple[FUNGIWrapper, Path], tmp_path: Path) -> None:
    wrapper, folder = saved
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    change(tmp_path)
    with pytest.raises(FungiError, match=r"has changed since it was saved: the hash .* is wrong"):
        FUNGIWrapper.load(tmp_path, wrapper.model, "cpu")


def test_settings_of_another_type_are_refused(tmp_path: Path) -> None:
    set_up_wrapper().save(tmp_path)
    (tmp_path / SETTINGS).write_text("[1, 2]")
    with pytest.raises(FungiError, match="has format list, but this version reads 3"):
        FUNGIWrapper.load(tmp_path, build("timm"), "cpu")
