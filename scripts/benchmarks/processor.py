"""Measure the speed of the forward pass on a CPU: `python scripts/benchmark.py processor --backbone vit-s16`.

The benchmark runs several implementations of the same forward pass in turns. For each of them, it prints the ratio of
the processor time to that of unchanged float32, and the smallest cosine between the embeddings and those of float32.
"""

import argparse
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks._rounds import in_turns, ratio
from fungi.backbones.loading import load_backbone
from fungi.runtime.device import keep_freed_memory

CPU = torch.device("cpu")
Forward = Callable[[Tensor], Tensor]


class OneDnnLinear(nn.Module):
    """A linear layer that oneDNN computes. The weights are converted to the memory layout of oneDNN only once."""

    def __init__(self, layer: nn.Linear, rows: int) -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), rows)
        self.bias = layer.bias

    def forward(self, inputs: Tensor) -> Tensor:
        """Return `inputs W^T + b`."""
        return torch.ops.mkldnn._linear_pointwise(inputs, self.weight, self.bias, "none", [], "")


def main(arguments: list[str] | None = None) -> int:
    """Measure the implementations and print the results."""
    parser = argparse.ArgumentParser(prog="benchmark.py processor", description=__doc__)
    parser.add_argument("--backbone", default="vit-s16")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--ways", nargs="+", default=tuple(WAYS), choices=tuple(WAYS), help="implementations to measure"
    )
    options = parser.parse_args(arguments)
    keep_freed_memory()
    backbone = load_backbone(options.backbone, random_init=True)
    size = backbone.input.size
    images = torch.randn(options.images, 3, size, size)
    ways: dict[str, Forward] = {"float32": backbone.model}
    for name in options.ways:
        ways[name] = WAYS[name](load_backbone(options.backbone, random_init=True).model, images)
    with torch.no_grad():
        embeddings = {name: forward(images) for name, forward in ways.items()}
        jobs = {name: (lambda forward=forward: forward(images)) for name, forward in ways.items()}
        seconds = in_turns(jobs, options.rounds, CPU)
    print(f"{options.backbone}, {options.images} images, {torch.get_num_threads()} threads, {_cpu_capability()}")
    for name, times in seconds.items():
        cosine = torch.cosine_similarity(embeddings[name].float(), embeddings["float32"], dim=1).min()
        print(f"{name:10} {ratio(times, seconds['float32'])}   cosine {float(cosine):.6f}")
    return 0


def _with_bfloat16(model: nn.Module, images: Tensor) -> Forward:
    def forward(inputs: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return model(inputs)

    return forward


def _with_onednn(model: nn.Module, images: Tensor) -> Forward:
    tokens = len(images) * (model.patch_embed.num_patches + model.num_prefix_tokens)  # type: ignore[union-attr, operator]
    for path, layer in list(model.named_modules()):
        if isinstance(layer, nn.Linear):
            parent, _, child = path.rpartition(".")
            setattr(model.get_submodule(parent), child, OneDnnLinear(layer, int(tokens)))
    return model


def _compiled(model: nn.Module, images: Tensor, *, frozen: bool) -> Forward:
    """Return the compiled model, after a first call that compiles it. frozen: whether weights become constants."""
    compiled = torch.compile(model, options={"freezing": frozen})
    with torch.no_grad():
        compiled(images)
    return compiled


WAYS: dict[str, Callable[[nn.Module, Tensor], Forward]] = {
    "bfloat16": _with_bfloat16,
    "onednn": _with_onednn,
    "compiled": partial(_compiled, frozen=False),
    "frozen": partial(_compiled, frozen=True),
}
"""Name -> function (model, images) that returns another implementation of the forward pass.

In order: autocast, oneDNN's linear layers, torch.compile, and torch.compile with frozen weights.
"""


def _cpu_capability() -> str:
    return torch.backends.cpu.get_cpu_capability()


if __name__ == "__main__":
    raise SystemExit(main())
