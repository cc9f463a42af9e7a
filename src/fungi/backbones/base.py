"""The description of a backbone (`BackboneSpec`), and the registry of all backbones.

Each file in `families` describes one family: a few `BackboneSpec`s that share their loading code. These modules import
torch, timm and other large libraries inside functions, so that listing the names stays fast.
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
    """Description of a backbone in the registry: architecture, weights, input and gradient source (spec vision 2.1).

    name: name of the backbone on the command line and in paths of files.
    label, source: name of the backbone for tables, and origin of its weights in words.
    embedding_dim, projection_dim: numbers of entries of an embedding and of a projected gradient.
    layer: path of the gradient source in the model that `build` returns.
    weight_shape, bias: shape of the weight of this layer, and whether the layer has a bias.
    pca_dim: default number of PCA components in the evaluation.
    input: preprocessing of a sample. published_input: preprocessing under the published profile; None if it is the
        same.
    build: function that returns the architecture with the random initialisation of its library. The function also works
        on torch's meta device.
    pretrained: function that returns the published weights as a state dict with the publisher's key names. The function
        uses the download cache of the library. None if the weights cannot be downloaded.
    convert: function that converts a state dict from the publisher's key names to the key names of the model.
    layer_alias: function that converts a layer path in the publisher's model to the path in the model.
    attention_input: whether the hooks of the published code received the input of the attention module instead of the
        input of its output projection (spec vision 10, V1; reproduced by `Profile.attention_input`).
    first_token_gradient: whether the published code used only the first token's part of the gradient (spec audio 6,
        U2; reproduced by `Profile.first_token_gradient`).
    is_in_published_code: whether the backbone is one of the thirteen backbones in the published code.
    depth: number of transformer blocks; patch_size: side of a patch in pixels; 0 for models without blocks or patches.
    flops: floating-point operations of one forward pass of one view; 0 if they were not counted.
    notes: comment for `fungi list` and for the log of an extraction.
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
    is_in_published_code: bool = False
    depth: int = 0
    patch_size: int = 0
    flops: int = 0
    notes: str = ""

    @property
    def gradient_shape(self) -> tuple[int, int]:
        """Shape of the gradient: `(o, i + 1)` with the column of the bias, `(o, i)` without a bias."""
        outputs, *inputs = self.weight_shape
        return outputs, prod(inputs) + int(self.bias)

    @property
    def gradient_dim(self) -> int:
        """Number of entries of the gradient."""
        return prod(self.gradient_shape)

    def layer_path(self, path: str) -> str:
        """Return the path in the model for a layer path that a user wrote.

        The prefix `backbone.`, which the published command lines have, is removed (spec vision 8).
        """
        return self.layer_alias(path.removeprefix("backbone."))


BACKBONES: Registry[BackboneSpec] = Registry(
    "backbone", "fungi.backbones.families", own="fungi.backbones.own.forms:own_backbone"
)
register_backbone = BACKBONES.registering(BackboneSpec)
"""Function that creates a `BackboneSpec` from its fields and adds it to the registry."""


def resolve_backbone(text: str) -> BackboneSpec:
    """Return the backbone that `--backbone` names. Raises FungiError for an unknown name.

    text: name of a registered backbone, or a backbone of the user (`NAME=timm:ID`, `NAME=hf:PLACE`).
    """
    if text in BACKBONES:
        return BACKBONES[text]
    return BACKBONES.own(text)
