"""Add a classifier to a vision transformer, on its first class token (spec udi 7.3 to 7.5)."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

from torch import nn

from fungi.backbones.base import StateDict
from fungi.backbones.checkpoints import read_checkpoint
from fungi.errors import FungiError
from fungi.pretraining.tokens import set_drop_path
from fungi.runtime.seeds import seeded

INITIAL_STD = 0.02
EMBEDDING_NAMES = ("cls_token", "reg_token", "pos_embed", "patch_embed.")


def add_classifier(
    model: Any, classes: int, *, drop_path: float, scale: float = 1.0, hidden: nn.Linear | None = None, seed: int = 0
) -> Any:
    """Change the model in place: give it `classes` outputs and make all parameters trainable. Return the model.

    drop_path: share of dropped branches in the last block (stochastic depth); the share grows linearly from 0 in the
    first block. scale: factor of the initial weights of the classifier. hidden: layer before the classifier; a GELU
    follows this layer.
    """
    model.requires_grad_(True)
    set_drop_path(model, drop_path)
    with seeded(seed, "classifier"):
        last = nn.Linear(hidden.out_features if hidden else model.embed_dim, classes)
        nn.init.trunc_normal_(last.weight, std=INITIAL_STD)
    nn.init.zeros_(last.bias)
    last.weight.data *= scale
    model.num_classes = classes
    layers: list[tuple[str, nn.Module]] = [("hidden", hidden), ("activation", nn.GELU())] if hidden else []
    model.head = nn.Sequential(OrderedDict([*layers, ("last", last)]))
    return model


def first_head_layer(checkpoint: Path | None) -> nn.Linear:
    """Return the first layer of the pretraining head in a checkpoint. Raises FungiError if the layer is missing."""
    state: StateDict = {} if checkpoint is None else read_checkpoint(checkpoint)
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    weight, bias = state.get("head.0.mlp.0.weight"), state.get("head.0.mlp.0.bias")
    if weight is None or bias is None or state.get("head.0.mlp.1.weight") is not None:
        raise FungiError(
            "--head-layer needs the first layer of a pretraining head without batch norm (head.0.mlp.0), and "
            f"{checkpoint or 'no --checkpoint'} has none. Give a full checkpoint, or --no-head-layer."
        )
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer


def layer_groups(model: Any, *, layer_decay: float, weight_decay: float) -> list[dict[str, Any]]:
    """Return parameter groups for an optimiser, with `lr_scale` = layer_decay^(depth + 1 - layer).

    Layer 0 is the embedding, layer i + 1 is block i, and layer depth + 1 is everything after the blocks. Vectors,
    biases, tokens and positions have no weight decay.
    """
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    depth = len(model.blocks)
    for name, parameter in model.named_parameters():
        layer = 0 if name.startswith(EMBEDDING_NAMES) else depth + 1
        if name.startswith("blocks."):
            layer = int(name.split(".")[1]) + 1
        without_decay = parameter.ndim == 1 or name in EMBEDDING_NAMES
        group = groups.setdefault(
            (layer, without_decay),
            {
                "params": [],
                "lr_scale": layer_decay ** (depth + 1 - layer),
                "weight_decay": 0.0 if without_decay else weight_decay,
            },
        )
        group["params"].append(parameter)
    return list(groups.values())
