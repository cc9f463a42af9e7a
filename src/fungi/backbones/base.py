"""What a backbone is to the rest of the program, and the enumeration of backbones.

A file in this package describes one family: a few `BackboneSpec`s that share their loading code. Modules import
torch, timm and the like inside their functions, so that listing names stays instant.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any, Literal

from fungi.registry import Registry
from fungi.views.image import ImageInput

if TYPE_CHECKING:
    from torch import Tensor, nn

StateDict = dict[str, "Tensor"]


def _unchanged(value: Any) -> Any:
    return value


@dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """One entry of the enumeration (spec vision 2.1).

    embedding_dim: E, size of the embedding that is concatenated; projection_dim: d, size of a projected gradient.
    layer: path of the gradient source in the model that `build` makes; weight_shape and bias: its parameters.
    pca_dim: what the evaluation reduces to by default.
    build: the architecture, with whatever random weights its library gives; also runs on torch's meta device.
    pretrained: fetches the published weights (state dict in the source's own key names), through the library's
        download cache. None where there are none to fetch.
    convert: state dict in the source's key names -> the names of `build`'s model.
    layer_alias: other spellings of layer paths that users of the original code write -> path in `build`'s model.
    attention_input: whether the published code's hooks saw the input of the attention module in place of the input of
        its output projection (deviation V1; what `Profile.attention_input` reproduces).
    first_token_gradient: whether the published code kept the first token's part of the gradient alone (deviation U2;
        what `Profile.first_token_gradient` reproduces).
    depth: blocks of a transformer, and patch_size: side of its patches in pixels; 0 where there are none.
    flops: floating-point operations of one forward pass of one view, where they were counted; 0 where not.
    """

    name: str
    label: str
    source: str
    embedding_dim: int
    projection_dim: int
    layer: str
    weight_shape: tuple[int, ...]
    bias: bool = True
    pca_dim: int
    input: Any = field(default_factory=ImageInput)
    published_input: Any = None
    build: Callable[[], "nn.Module"]
    pretrained: Callable[[], StateDict] | None = None
    convert: Callable[[StateDict], StateDict] = _unchanged
    layer_alias: Callable[[str], str] = _unchanged
    attention_input: bool = False
    first_token_gradient: bool = False
    modality: Literal["vision", "text", "audio"] = "vision"
    enumerated: bool = False
    depth: int = 0
    patch_size: int = 0
    flops: int = 0
    notes: str = ""

    @property
    def gradient_shape(self) -> tuple[int, int]:
        """`(o, i + 1)` of the gradient, the bias column included."""
        out, *inner = self.weight_shape
        return out, prod(inner) + int(self.bias)

    @property
    def gradient_dim(self) -> int:
        """G: entries of the flattened gradient."""
        return prod(self.gradient_shape)

    def layer_path(self, asked: str) -> str:
        """A layer path as users write it -> path in `build`'s model.

        A leading `backbone.` is dropped: the published command lines have it (spec vision 8).
        """
        return self.layer_alias(asked.removeprefix("backbone."))


BACKBONES: Registry[BackboneSpec] = Registry(
    "backbone", "fungi.backbones.families", own="fungi.backbones.own.forms:own_backbone"
)
register_backbone = BACKBONES.registering(BackboneSpec)
"""Makes a backbone, and adds it to the enumeration."""


def resolve_backbone(text: str) -> BackboneSpec:
    """The backbone that `--backbone` names: of the enumeration, or a user's own (`NAME=timm:ID`, `NAME=hf:PLACE`).

    Raises FungiError for a name that leads nowhere.
    """
    if text in BACKBONES:
        return BACKBONES[text]
    return BACKBONES.own(text)
