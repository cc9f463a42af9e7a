"""`digits-vit`: the backbone whose weights are in the package."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fungi.backbones.families import digits_vit
from fungi.backbones.loading import load_backbone
from fungi.data.base import open_split


def embed(rows: range) -> tuple[torch.Tensor, torch.Tensor]:
    """Return L2-normalised embeddings of train rows `[n 96]`, and labels."""
    samples = open_split("digits", "train", Path())
    images = [np.asarray(samples.load(row).resize((32, 32), Image.Resampling.BICUBIC)) for row in rows]
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        embeddings = load_backbone("digits-vit").model(pixels)
    return torch.nn.functional.normalize(embeddings, dim=1), torch.from_numpy(samples.targets[rows].astype(np.int64))


def test_digits_vit_loads_without_a_network_and_without_files_of_the_user():
    backbone = load_backbone("digits-vit")
    assert backbone.weights_source == "published weights: carried in the package"
    assert len(backbone.weights_hash) == 64
    assert {parameter.dtype for parameter in backbone.model.parameters()} == {torch.float32}


def test_the_file_is_small_and_contains_a_state_dict():
    from safetensors.torch import load_file

    assert digits_vit.WEIGHTS.stat().st_size < 4e6  # bytes; every copy of the package contains the file
    assert set(load_file(digits_vit.WEIGHTS)) == set(digits_vit.build().state_dict())


@pytest.mark.slow
def test_the_digits_of_the_training_are_recognised_better_than_other_digits():
    """Each row is classified as its most similar other row. The backbone was trained on the digits 0 to 4."""
    embeddings, labels = embed(range(400))
    nearest = (embeddings @ embeddings.T).fill_diagonal_(-1).argmax(1)
    is_correct = (labels[nearest] == labels).float()
    accuracy_trained, accuracy_other = is_correct[labels < 5].mean(), is_correct[labels >= 5].mean()
    assert accuracy_trained > max(0.9, accuracy_other)
    assert accuracy_other > 0.4  # far above chance, 0.1


def test_random_weights_differ_from_the_published_weights():
    published, random = load_backbone("digits-vit"), load_backbone("digits-vit", random_init=True)
    assert published.weights_hash != random.weights_hash
