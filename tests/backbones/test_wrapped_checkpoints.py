"""Checkpoints of training programs: wrappers are removed, and weights that do not fit are refused."""

import logging
from argparse import Namespace
from typing import Any

import pytest
import torch

from fungi.backbones.loading import load_backbone
from fungi.errors import FungiError
from fungi.runtime.log import logger
from tests.backbones.small import WIDTH, random_state, shrink, vit_shapes

HEAD = {"head.mlp.0.weight": (8, WIDTH), "head.last_layer.weight_g": (4, 1)}


def below(prefix: str, shapes: dict[str, Any]) -> dict[str, Any]:
    return {prefix + name: shape for name, shape in shapes.items()}


VIT = vit_shapes()
WRAPPED = {
    "data parallel": below("module.", VIT),
    "compiled and data parallel": below("_orig_mod.module.", VIT),
    "backbone and head": below("backbone.", VIT) | HEAD,
    "lightning": {"state_dict": below("model.backbone.", VIT) | below("model.", HEAD), "epoch": 3},
    "teacher and student in one": below("student.backbone.", VIT) | below("teacher.backbone.", VIT),
    "dino": {
        "student": below("module.backbone.", VIT) | below("module.", HEAD),
        "teacher": below("backbone.", VIT) | HEAD,
        "args": Namespace(arch="vit_small", lr=0.1),
        "epoch": 99,
    },
}


def tensors(content: dict[str, Any], seed: int = 0) -> dict[str, Any]:
    """Return tensors of these shapes in nested dictionaries. Teacher and student have different weights."""
    state = dict(content)
    state |= random_state({n: s for n, s in content.items() if isinstance(s, tuple)}, seed)
    for name, inner in content.items():
        if isinstance(inner, dict):
            state[name] = tensors(inner, seed + (name == "student"))
    return state


@pytest.mark.parametrize("kind", WRAPPED)
def test_wrapped_encoders_are_read(kind, tmp_path, monkeypatch) -> None:
    shrink(monkeypatch, "dino_vits16")
    content = tensors(WRAPPED[kind])
    torch.save(content, tmp_path / "checkpoint.pth")
    loaded = load_backbone("dino_vits16", checkpoint=tmp_path / "checkpoint.pth")
    inner = content.get("teacher", content.get("state_dict", content))
    (expected,) = [v for n, v in inner.items() if n.endswith("blocks.1.attn.proj.weight") and "student" not in n]
    assert torch.equal(loaded.model.blocks[1].attn.proj.weight, expected)
    assert "entries below" in loaded.weights_source


RAW, AVERAGED = tensors(VIT), tensors(VIT, 9)
WITH_AVERAGES = {
    "timm": {"state_dict": RAW, "state_dict_ema": AVERAGED},
    "deit": {"model": RAW, "model_ema": AVERAGED},
    "only averages": {"epoch": 3, "model_ema": {f"module.{name}": tensor for name, tensor in AVERAGED.items()}},
    "averages of another form": {"model": AVERAGED, "ema": {"decay": 0.9, "shadow": [1.0]}, "model_ema": None},
    "nested": {"state": {"net": AVERAGED}, "model": RAW},
}


@pytest.mark.parametrize("kind", WITH_AVERAGES)
def test_a_warning_names_the_chosen_weights_and_a_key_changes_them(kind, tmp_path, monkeypatch, caplog) -> None:
    shrink(monkeypatch, "dino_vits16")
    content = WITH_AVERAGES[kind]
    torch.save(content, tmp_path / "checkpoint.pth")

    def weight(key: str = "") -> torch.Tensor:
        with caplog.at_level(logging.WARNING, logger=logger.name):
            loaded = load_backbone("dino_vits16", checkpoint=tmp_path / "checkpoint.pth", checkpoint_key=key)
        assert f", entry {key}" in loaded.weights_source or not key
        return loaded.model.blocks[1].attn.proj.weight

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
    with pytest.raises(FungiError, match="give --checkpoint FILE"):
        load_backbone("dino_vits16", checkpoint_key="model_ema")


def test_a_wrapped_checkpoint_without_a_tensor_is_refused(tmp_path, monkeypatch) -> None:
    shrink(monkeypatch, "dino_vits16")
    state = tensors(below("backbone.", VIT))
    del state["backbone.norm.bias"]
    torch.save(state, tmp_path / "checkpoint.pth")
    with pytest.raises(FungiError, match=r"missing.*unexpected \(backbone\."):
        load_backbone("dino_vits16", checkpoint=tmp_path / "checkpoint.pth")


def test_a_checkpoint_with_code_is_refused(tmp_path, monkeypatch) -> None:
    shrink(monkeypatch, "dino_vits16")
    torch.save({"model": tensors(VIT), "loss": torch.nn.Linear(2, 2)}, tmp_path / "checkpoint.pth")
    with pytest.raises(FungiError, match="loading it could run code"):
        load_backbone("dino_vits16", checkpoint=tmp_path / "checkpoint.pth")
