"""Checkpoints as training programs leave them: wrappers are taken off, and nothing that does not fit is taken."""

from argparse import Namespace
from typing import Any

import pytest
import torch

from fungi.backbones.loading import load_backbone
from fungi.errors import FungiError
from tests.backbones.small import WIDTH, random_state, shrink, vit_shapes

HEAD = {"head.mlp.0.weight": (8, WIDTH), "head.last_layer.weight_g": (4, 1)}


def below(prefix: str, shapes: dict[str, Any]) -> dict[str, Any]:
    return {prefix + name: shape for name, shape in shapes.items()}


VIT = vit_shapes()
WRAPPED = {
    "data parallel": below("module.", VIT),
    "compiled and data parallel": below("_orig_mod.module.", VIT),
    "a backbone beside its head": below("backbone.", VIT) | HEAD,
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
    """Shapes -> tensors, in nested dictionaries; a teacher has other weights than its student."""
    made = dict(content)
    made |= random_state({n: s for n, s in content.items() if isinstance(s, tuple)}, seed)
    for name, inner in content.items():
        if isinstance(inner, dict):
            made[name] = tensors(inner, seed + (name == "student"))
    return made


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


def test_what_lacks_a_tensor_below_its_wrapper_is_refused_as_it_stands(tmp_path, monkeypatch) -> None:
    shrink(monkeypatch, "dino_vits16")
    state = tensors(below("backbone.", VIT))
    del state["backbone.norm.bias"]
    torch.save(state, tmp_path / "checkpoint.pth")
    with pytest.raises(FungiError, match=r"missing.*unexpected \(backbone\."):
        load_backbone("dino_vits16", checkpoint=tmp_path / "checkpoint.pth")


def test_a_checkpoint_with_code_in_it_is_still_refused(tmp_path, monkeypatch) -> None:
    shrink(monkeypatch, "dino_vits16")
    torch.save({"model": tensors(VIT), "loss": torch.nn.Linear(2, 2)}, tmp_path / "checkpoint.pth")
    with pytest.raises(FungiError, match="loading it could run code"):
        load_backbone("dino_vits16", checkpoint=tmp_path / "checkpoint.pth")
