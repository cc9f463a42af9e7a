"""Read the reference files `tests/golden/vit_*.npz`: networks, views, heads and gradients of the published code."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from fungi.gradients.engine import GradientEngine
from fungi.gradients.projection import DenseProjector, from_entries
from fungi.gradients.targets import find_targets
from fungi.objectives.dino import DINO
from fungi.objectives.kl import KL
from fungi.objectives.simclr import SimCLR

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
LAYERS = {
    "timm": "blocks.2.attn.proj",
    "torchvision": "encoder.layers.encoder_layer_1.self_attention.out_proj",
}


class PreparedViews:
    """A view generator without randomness. An item is a tensor of its views `[v c h w]`."""

    kind = "fixed"

    def __init__(self, n_views: int) -> None:
        self.n_views = n_views
        self.identity = f"fixed({n_views})"

    def prepare(self, item: torch.Tensor) -> torch.Tensor:
        return item

    def collate(self, prepared: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack(prepared)

    def render(self, batch: torch.Tensor) -> torch.Tensor:
        return batch.flatten(0, 1)


def load(kind: str) -> dict[str, torch.Tensor]:
    """Return the arrays of the reference file of a network. kind: timm or torchvision."""
    with np.load(GOLDEN / f"vit_{kind}.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def model(kind: str, golden: dict[str, torch.Tensor]) -> nn.Module:
    """Return the reference network with its weights."""
    if kind == "timm":
        from timm.models.vision_transformer import VisionTransformer

        network = VisionTransformer(img_size=32, patch_size=8, embed_dim=48, depth=3, num_heads=3, num_classes=0)
    else:
        from torchvision.models import VisionTransformer

        network = VisionTransformer(image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64)
        network.heads = nn.Identity()
    state = {name.removeprefix("state/"): value for name, value in golden.items() if name.startswith("state/")}
    network.load_state_dict(state)
    return network.eval().requires_grad_(False)


def _linear(golden: dict[str, torch.Tensor], name: str) -> nn.Linear:
    """Return a head with the weights of the reference."""
    weight, bias = golden[f"head/{name}_w"], golden[f"head/{name}_b"]
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer.requires_grad_(False)


def tasks(golden: dict[str, torch.Tensor]) -> dict[str, SimpleNamespace]:
    """Return objective -> the views `[3 v c h w]` and the loss of the reference."""
    views = golden["views"]
    heads = {name: nn.ModuleDict({"head": _linear(golden, name)}) for name in ("kl", "simclr")}
    dino = nn.ModuleDict({side: _linear(golden, f"dino_{side}") for side in ("student", "teacher")})
    negatives = {"negatives": golden["simclr_negatives"]}
    return {
        "kl": SimpleNamespace(views=views[:, :1], loss=lambda encoded: KL().loss(encoded, heads["kl"], {})),
        "dino": SimpleNamespace(views=views[:, :12], loss=lambda encoded: DINO().loss(encoded, dino, {})),
        "simclr": SimpleNamespace(views=views, loss=lambda encoded: SimCLR().loss(encoded, heads["simclr"], negatives)),
    }


def engine(kind: str, golden: dict[str, torch.Tensor], **settings: object) -> GradientEngine:
    """Return an engine with the network and the projection matrix of the reference."""
    network = model(kind, golden)
    targets = find_targets(network, (LAYERS[kind] + ":attn_proj",))
    device = torch.device("cpu")
    projector = DenseProjector(from_entries(golden["projection"]), device, torch.float32)
    return GradientEngine(network, targets, {"attn_proj": projector}, device=device, **settings)
