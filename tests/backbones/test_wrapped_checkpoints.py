"""Checkpoints of training programs: encoders are found in nested dictionaries, and averaged weights are preferred."""

import logging
from argparse import Namespace
from typing import Any

import pytest
import torch

from fungi.backbones.loading import load_backbone
from fungi.errors import FungiError
from fungi.runtime.log import logger
from tests.backbones.small import WIDTH, random_state, shrink, vit_shapes

# Shapes of two tensors of a pretraining head.
HEAD = {"head.mlp.0.weight": (8, WIDTH), "head.last_layer.weight_g": (4, 1)}


def with_prefix(prefix: str, shapes: dict[str, Any]) -> dict[str, Any]:
    return {prefix + name: shape for name, shape in shapes.items()}


VIT = vit_shapes()
# Kind of checkpoint -> its content, with shapes instead of tensors.
CHECKPOINTS = {
    "data parallel": with_prefix("module.", VIT),
    "compiled and data parallel": with_prefix("_orig_mod.module.", VIT),
    "backbone and head": with_prefix("backbone.", VIT) | HEAD,
    "lightning": {"state_dict": with_prefix("model.backbone.", VIT) | with_prefix("model.", HEAD), "epoch": 3},
    "teacher and student in the same dictionary": with_prefix("student.backbone.", VIT)
    | with_prefix("teacher.backbone.", VIT),
    "dino": {
        "student": with_prefix("module.backbone.", VIT) | with_prefix("module.", HEAD),
        "teacher": with_prefix("backbone.", VIT) | HEAD,
        "args": Namespace(arch="vit_small", lr=0.1),
        "epoch": 99,
    },
}


def tensors(content: dict[str, Any], seed: int = 0) -> dict[str, Any]:
    """Replace all shapes in nested dictionaries by random tensors. Teacher and student have different weights."""
    shapes = {name: value for name, value in content.items() if isinstance(value, tuple)}
    dictionaries = {
        name: tensors(value, seed + (name == "student")) for name, value in content.items() if isinstance(value, dict)
    }
    return content | random_state(shapes, seed) | dictionaries


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_encoders_inside_training_checkpoints_are_read(kind, tmp_path, monkeypatch) -> None:
    shrink(monkeypatch, "dino_vits16")
    content = tensors(CHECKPOINTS[kind])
    torch.save(content, tmp_path / "checkpoint.pth")
    backbone = load_backbone("dino_vits16", checkpoint=tmp_path / "checkpoint.pth")
    state = content.get("teacher", content.get("state_dict", content))
    (expected,) = [
        tensor for name, tensor in state.items() if name.endswith("blocks.1.attn.proj.weight") and "student" not in name
    ]
    assert torch.equal(backbone.model.blocks[1].attn.proj.weight, expected)
    assert "entries below" in backbone.weights_source


RAW, AVERAGED = tensors(VIT), tensors(VIT, seed=9)
# Kind of checkpoint -> its content. Only the averaged weights are the expected weights, unless a key is named.
WITH_AVERAGES = {
    "timm": {"state_dict": RAW, "state_dict_ema": AVERAGED},
    "deit": {"model": RAW, "model_ema": AVERAGED},
    "only averages": {"epoch": 3, "model_ema": {f"module.{name}": tensor for name, tensor in AVERAGED.items()}},
    "averages of another form": {"model": AVERAGED, "ema": {"decay": 0.9, "shadow": [1.0]}, "model_ema": None},
    "nested": {"state": {"net": AVERAGED}, "model": RAW},
}


@pytest.mark.parametrize("kind", WITH_AVERAGES)
def test_a_warning_names_the_chosen_weights_and_a_key_selects_other_weights(
    kind, tmp_path, monkeypatch, caplog
) -> None:
    shrink(monkeypatch, "dino_vits16")
    content = WITH_AVERAGES[kind]
    torch.save(content, tmp_path / "checkpoint.pth")

    def weight(key: str = "") -> torch.Tensor:
        with caplog.at_level(logging.WARNING, logger=logger.name):
            backbone = load_backbone("dino_vits16", checkpoint=tmp_path / "checkpoint.pth", checkpoint_key=key)
        assert f", entry {key}" in backbone.weights_source or not key
        return backbone.model.blocks[1].attn.proj.weight

    name = "blocks.1.attn.proj.weight"
    if kind == "nested":
        assert torch.equal(weight("state.net"), AVERAGED[name])
        return
    assert torch.equal(weight(), AVERAGED[name])
    if kind in ("timm", "deit"):
        raw, averaged = content
        assert f"has weights under {averaged}, {raw}: {averaged} is used" in caplog.text
        assert f"--checkpoint-key {raw}" in caplog.text
        assert torch.equal(weight(raw), RAW[name])
    else:
        assert "is used" not in caplog.text


def test_the_error_for_a_missing_entry_names_the_existing_entries(tmp_path, monkeypatch) -> None:
    shrink(monkeypatch, "dino_vits16")
    torch.save({"model": RAW, "epoch": 3}, tmp_path / "checkpoint.pth")
    with pytest.raises(FungiError, match=r"has no entry 'model_ema' \(--checkpoint-key\)\. It has: model, epoch\."):
        load_backbone("dino_vits16", checkpoint=tmp_path / "checkpoint.pth", checkpoint_key="model_ema")
    with pytest.raises(FungiError, match="Add --checkpoint FILE"):
        load_backbone("dino_vits16", checkpoint_key="model_ema")


def test_a_wrapped_checkpoint_without_a_tensor_is_refused(tmp_path, monkeypatch) -> None:
    shrink(monkeypatch, "dino_vits16")
    state = tensors(with_prefix("backbone.", VIT))
    del state["backbone.norm.bias"]
    torch.save(state, tmp_path / "checkpoint.pth")
    with pytest.raises(FungiError, match=r"missing.*unexpected \(backbone\."):
        load_backbone("dino_vits16", checkpoint=tmp_path / "checkpoint.pth")


def test_a_checkpoint_with_code_is_refused(tmp_path, monkeypatch) -> None:
    shrink(monkeypatch, "dino_vits16")
    torch.save({"model": tensors(VIT), "loss": torch.nn.Linear(2, 2)}, tmp_path / "checkpoint.pth")
    with pytest.raises(FungiError, match="loading it could run code"):
        load_backbone("dino_vits16", checkpoint=tmp_path / "checkpoint.pth")
