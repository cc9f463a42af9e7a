"""Gradient sources. A source is a layer or a part of a layer, with or without bias, and has a name for its array."""

import re
from dataclasses import dataclass, replace
from difflib import get_close_matches
from math import prod
from typing import Any

from torch import nn

from fungi.errors import FungiError
from fungi.gradients.rules import RULES, rule_for

PARTS = ("q", "k", "v")
"""Parts of a fused qkv layer, in the order of the rows of its weight."""
_SPEC = re.compile(r"(?P<path>[\w.]+?)(?:\[(?P<part>\w+)\])?(?::(?P<name>[\w-]+))?")
"""Pattern of `path.to.layer[part]:name`; part and name may be absent."""


@dataclass(frozen=True)
class Target:
    """A gradient source of a model.

    path: path of the layer in the model. name: name of the array in the file.
    part: `q`, `k` or `v` of a fused qkv layer; None for the entire layer.
    bias: append the gradient of the bias as another input column.
    """

    path: str
    name: str
    module: Any
    part: str | None = None
    bias: bool = True

    @property
    def rows(self) -> slice:
        """Rows of the weight that belong to the part."""
        if self.part is None:
            return slice(None)
        size = self.module.weight.shape[0] // 3
        start = PARTS.index(self.part) * size
        return slice(start, start + size)

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the gradient as a matrix, `(o, i + 1)`; `i` counts all entries of the kernel of a convolution."""
        outputs, *inputs = self.module.weight.shape
        return outputs if self.part is None else outputs // 3, prod(inputs) + int(self.bias)

    @property
    def gradient_dim(self) -> int:
        """Number of entries of the flattened gradient, G."""
        return prod(self.shape)

    @property
    def spec(self) -> str:
        """The source as a user writes it, without the name of the array."""
        return self.path if self.part is None else f"{self.path}[{self.part}]"


def split_spec(text: str) -> tuple[str, str | None, str]:
    """Split `path.to.layer[part]:name` into path, part and name.

    The default name is `attn_proj` for the output projection of attention, and the path for other layers. A leading
    `backbone.`, as in the published command lines, is ignored. Raises FungiError for a text of another form.
    """
    match = _SPEC.fullmatch(text.removeprefix("backbone."))
    if not match:
        raise FungiError(
            f"layer {text!r} is not of the form path.to.layer:name. Example: blocks.11.attn.proj:attn_proj."
        )
    path, part = match["path"], match["part"]
    if part is not None and part not in PARTS:
        raise FungiError(f"layer {text!r}: part {part!r} is not one of {', '.join(PARTS)}.")
    default_name = re.sub(r"\W", "_", path) + (f"_{part}" if part else "")
    if path.endswith(("attn.proj", "self_attention.out_proj")):
        default_name = "attn_proj"
    return path, part, match["name"] or default_name


def find_target(model: nn.Module, text: str, *, bias: bool = True) -> Target:
    """Return the gradient source that `text` names. Raises FungiError with candidates if there is no such source.

    bias: append the gradient of the bias, if the layer has a bias.
    """
    path, part, name = split_spec(text)
    module = dict(model.named_modules()).get(path)
    if module is None:
        raise FungiError(f"layer {path!r} does not exist in the model. {candidates(model, path)}")
    if rule_for(module) is None:
        raise FungiError(
            f"layer {path!r} is a {type(module).__name__}. A gradient source has to be "
            f"{' or '.join(kind.__name__ for kind in RULES)}. {candidates(model, path)}"
        )
    if part is not None and (not isinstance(module, nn.Linear) or module.out_features != 3 * module.in_features):
        raise FungiError(f"layer {path!r} is not a fused qkv layer, so it has no part {part!r}.")
    _check_unshared(model, path, module)
    return Target(path=path, name=name, module=module, part=part, bias=bias and module.bias is not None)


def _check_unshared(model: nn.Module, path: str, module: Any) -> None:
    """Raise FungiError if layers share a weight: hooks on one layer see only a part of the gradient of the weight."""
    for other_path, layer in model.named_modules(remove_duplicate=False):
        if other_path != path and getattr(layer, "weight", None) is module.weight:
            raise FungiError(
                f"layer {path!r} shares its weight with {other_path!r}, so its gradient is only a part of the "
                f"weight's. {candidates(model, path)}"
            )


def find_targets(model: nn.Module, texts: tuple[str, ...], *, bias: bool = True) -> tuple[Target, ...]:
    """Return all gradient sources of a run. Raises FungiError if two sources have the same name.

    If several sources have the same default name (`attn_proj` of two blocks), their paths become their names.
    """
    targets = [find_target(model, text, bias=bias) for text in texts]
    names = [target.name for target in targets]
    renamed = []
    for target, text in zip(targets, texts, strict=True):
        has_default_name = ":" not in text
        if has_default_name and names.count(target.name) > 1:
            target = replace(target, name=re.sub(r"\W+", "_", target.spec).strip("_"))
        renamed.append(target)
    return unique_names(renamed)


def unique_names(targets: list[Target]) -> tuple[Target, ...]:
    """Return the targets. Raises FungiError if two targets have the same name."""
    names = [target.name for target in targets]
    for name in names:
        if names.count(name) > 1:
            raise FungiError(f"two layers have the name {name!r}. Name each layer: path.to.layer:name.")
    return tuple(targets)


def candidates(model: nn.Module, path: str) -> str:
    """Return a hint for an error message: layers with a similar path, or the last layers of the model."""
    supported = [name for name, module in model.named_modules() if name != path and rule_for(module) is not None]
    listed = get_close_matches(path, supported, n=4, cutoff=0.6) or supported[-6:]
    return f"Candidates: {', '.join(listed)}." if listed else "The model has no layer of a supported type."
