"""The reference networks, views, heads and gradients of `tests/golden/vit_*.npz`."""

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
    """A view generator for fixed views: a batch is a tensor of views `[b v c h w]`."""

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
    with np.load(GOLDEN / f"vit_{kind}.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def model(kind: str, golden: dict[str, torch.Tensor]) -> nn.Module:
    if kind == "timm":
        from timm.models.vision_transformer import VisionTransformer

        net = VisionTransformer(img_size=32, patch_size=8, embed_dim=48, depth=3, num_heads=3, num_classes=0)
    else:
        from torchvision.models import VisionTransformer

        net = VisionTransformer(image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64)
        net.heads = nn.Identity()
    state = {name.removeprefix("state/"): value for name, value in golden.items() if name.startswith("state/")}
    net.load_state_dict(state)
    return net.eval().requires_grad_(False)


def _linear(golden: dict[str, torch.Tensor], name: str) -> nn.Linear:
    weight, bias = golden[f"head/{name}_w"], golden[f"head/{name}_b"]
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer.requires_grad_(False)


def tasks(golden: dict[str, torch.Tensor]) -> dict[str, SimpleNamespace]:
    """Per objective: the views `[3 v c h w]` and the loss that the reference used."""
    views = golden["views"]
    heads = {name: nn.ModuleDict({"head": _linear(golden, name)}) for name in ("kl", "simclr")}
    dino = nn.ModuleDict({side: _linear(golden, f"dino_{side}") for side in ("student", "teacher")})
    negatives = {"negatives": golden["simclr_negatives"]}
    return {
        "kl": SimpleNamespace(views=views[:, :1], loss=lambda e: KL().loss(e, heads["kl"], {})),
        "dino": SimpleNamespace(views=views[:, :12], loss=lambda e: DINO().loss(e, dino, {})),
        "simclr": SimpleNamespace(views=views, loss=lambda e: SimCLR().loss(e, heads["simclr"], negatives)),
    }


def engine(kind: str, golden: dict[str, torch.Tensor], **settings: object) -> GradientEngine:
    net = model(kind, golden)
    targets = find_targets(net, (LAYERS[kind] + ":attn_proj",))
    device = torch.device("cpu")
    projector = DenseProjector(from_entries(golden["projection"]), device, torch.float32)
    return GradientEngine(net, targets, {"attn_proj": projector}, device=device, **settings)
