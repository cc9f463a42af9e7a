"""Backbones with other input sizes: scaled positions, invalid sizes, and features that cannot be joined."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fungi.backbones.loading import load_backbone
from fungi.commands import COMMANDS
from fungi.errors import FungiError, RefusedJoinError
from fungi.store.joining import check_splits
from fungi.store.reading import open_array


@pytest.mark.parametrize(
    ("name", "native", "size"),
    [("digits-vit", 32, 48), ("mine=timm:test_vit.r160_in1k", 160, 96), ("mine=timm:test_resnet.r160_in1k", 160, 96)],
)
def test_a_backbone_accepts_images_of_another_size(name: str, native: int, size: int) -> None:
    native_backbone = load_backbone(name, random_init=True)
    resized_backbone = load_backbone(name, random_init=True, input_size=size)
    assert (native_backbone.input.size, resized_backbone.input.size) == (native, size)
    assert resized_backbone.input.resize == round(native_backbone.input.resize * size / native)
    assert resized_backbone.model(torch.zeros(2, 3, size, size)).shape == (2, native_backbone.spec.embedding_dim)
    has_positions = "resnet" not in name  # scaled position embeddings are other weights
    assert (resized_backbone.weights_hash != native_backbone.weights_hash) == has_positions
    native_on_request = load_backbone(name, random_init=True, input_size=native)
    assert native_on_request.weights_hash == native_backbone.weights_hash
    assert native_on_request.input == native_backbone.input


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        (
            "digits-vit",
            33,
            r"--input-size 33: .*not a multiple of the model's patch size, 4 pixels\. Choose 32 or 36 pixels",
        ),
        ("tiny-bert", 64, "--input-size is for images; backbone 'tiny-bert' takes text"),
    ],
)
def test_an_invalid_size_is_refused(name: str, size: int, message: str) -> None:
    with pytest.raises(FungiError, match=message):
        load_backbone(name, random_init=True, input_size=size)


@pytest.mark.slow
def test_features_of_different_input_sizes_are_never_joined(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for seed, split in enumerate(("train", "test")):
        for label in ("a", "b"):
            (tmp_path / "data" / split / label).mkdir(parents=True)
            pixels = np.random.default_rng(seed).integers(0, 256, (50, 60, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / split / label / "picture.png")
    data = f"--dataset two=folder:{tmp_path / 'data'} --backbone mine=timm:test_resnet.r160_in1k --random-init"
    flags = f"{data} --root {tmp_path / 'features'} --split test".split()
    assert COMMANDS["extract"].main([*flags, "--input-size", "96"]) == 0
    assert COMMANDS["extract"].main(flags) == 2
    assert "input: size=96, resize=101 -> size=160, resize=168." in capfd.readouterr().err
    assert COMMANDS["extract-gradients"].main([*flags, "--objective", "kl", "--projection-dim", "8"]) == 0
    folder = tmp_path / "features"
    arrays = {
        "embeddings": open_array(folder / "embeddings/two/mine/test.h5", "embeddings"),
        "kl": open_array(folder / "gradients/two/mine/kl-test.h5", "attn_proj"),
    }
    with pytest.raises(RefusedJoinError, match=r"^input differs: .*size=96.*size=160"):
        check_splits({"test": arrays})
