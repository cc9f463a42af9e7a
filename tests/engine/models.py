"""Small networks with every kind of gradient source, and a slow, simple computation of their gradients."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fungi.backbones.encoders import Encoded
from fungi.gradients.targets import Target


def _with_random_weights(build_model: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model()
        for parameter in model.parameters():  # also biases and scales, which are 0 and 1 in a new model
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval().requires_grad_(False)


def vision_transformer() -> nn.Module:
    """Return a Vision Transformer with LayerScale. The embedding is the class token, `[b 24]`."""
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=16, patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=0, init_values=0.5
    )


def averaging_transformer() -> nn.Module:
    """Return a Vision Transformer with a head on the mean of its tokens, `[b 5]`."""
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=16, patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=5, global_pool="avg"
    )


class TorchAttention(nn.Module):
    """The encoder layer of torch, which never calls its output projection as a module."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 24, kernel_size=8, stride=8)
        self.layer = nn.TransformerEncoderLayer(
            d_model=24, nhead=3, dim_feedforward=32, dropout=0.1, batch_first=batch_first
        )
        self.batch_first = batch_first

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)  # [n t d]
        tokens = tokens if self.batch_first else tokens.transpose(0, 1)
        return self.layer(tokens).mean(dim=1 if self.batch_first else 0)


class Convolutional(nn.Module):
    """Convolutions with groups, stride, dilation and padding, with BatchNorm and activations in place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 12, 3, padding=2, dilation=2, groups=4)
        self.pointwise = nn.Conv2d(12, 10, 1, bias=False)
        self.head = nn.Linear(10, 6)

    def forward(self, images: Tensor) -> Tensor:
        x = torch.relu_(self.norm(self.stem(images)))
        x = torch.relu_(self.grouped(x))
        return self.head(torch.relu_(self.pointwise(x)).mean(dim=(2, 3)))


# Name of a case -> function that builds its network, and the gradient sources.
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...]]] = {
    "attention projection, last block": (vision_transformer, ("blocks.1.attn.proj",)),
    "mlp of the last block": (vision_transformer, ("blocks.1.mlp.fc1", "blocks.1.mlp.fc2")),
    "earlier block": (vision_transformer, ("blocks.0.attn.proj",)),
    "fused qkv": (vision_transformer, ("blocks.1.attn.qkv",)),
    "q, k and v alone": (vision_transformer, tuple(f"blocks.1.attn.qkv[{part}]:{part}" for part in "qkv")),
    "several layers": (vision_transformer, ("blocks.0.mlp.fc1", "blocks.0.attn.qkv", "blocks.1.attn.proj")),
    "patch embedding": (vision_transformer, ("patch_embed.proj",)),
    "mean-pooled": (averaging_transformer, ("blocks.1.attn.proj", "head")),
    "torch attention": (lambda: TorchAttention(batch_first=True), ("layer.self_attn.out_proj", "layer.linear1")),
    "convolutions": (Convolutional, ("stem", "grouped", "pointwise", "head")),
}


def build(case: str) -> tuple[nn.Module, tuple[str, ...]]:
    """Return the network of a case, and its gradient sources."""
    build_model, layers = CASES[case]
    return _with_random_weights(build_model), layers


def contrast(encoded: Encoded) -> Tensor:
    """Return a loss per sample `[b]` that depends on products of all views of the sample."""
    embeddings = encoded.pooled
    mean = embeddings.mean(dim=1, keepdim=True)
    return (torch.softmax(embeddings, dim=-1) * mean).sum(dim=(1, 2)) + embeddings.square().sum(dim=(1, 2))


def autograd_gradient(model: nn.Module, target: Target, views: Tensor, loss: Callable[[Encoded], Tensor]) -> Tensor:
    """Return the gradient of the loss of one sample, `[o i+1]` in float64, computed by autograd on the parameters."""
    model = model.double()
    parameters = [target.module.weight] + ([target.module.bias] if target.bias else [])
    for parameter in parameters:
        parameter.requires_grad_(True)
    derivatives = torch.autograd.grad(loss(Encoded(model(views.double()).unsqueeze(0))).sum(), parameters)
    for parameter in parameters:
        parameter.requires_grad_(False)
    columns = [derivatives[0].flatten(1), *(bias.unsqueeze(1) for bias in derivatives[1:])]
    gradient = torch.cat(columns, dim=1)[target.rows]
    model.float()
    return gradient
