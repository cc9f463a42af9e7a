"""What a caller gives at the library's door: what can be wrong with it is answered before anything is computed."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fungi.backbones.timm_models import timm_input
from fungi.errors import FungiError
from fungi.gradients.projection import ProjectionMatrix
from fungi.runtime.log import logger
from fungi.views.image import ImageInput

LABELS = ("fc", "head", "heads", "classifier", "logits")
"""Names under which models keep the layer that turns features into class scores."""


def checked_model(model: Any) -> nn.Module:
    """The model; FungiError for something else, and for weights in half or double precision."""
    if not isinstance(model, nn.Module):
        raise FungiError(f"the model is a {type(model).__name__}, not a torch.nn.Module.")
    odd = {p.dtype for p in model.parameters() if p.dtype.is_floating_point and p.dtype != torch.float32}
    if odd:
        found = str(odd.pop()).removeprefix("torch.")
        raise FungiError(
            f"the model's weights are {found}. Give it in float32, model.float(), and compute in half precision with "
            "use_fp16=True: losses and gradients then stay float32."
        )
    return model


def checked_device(device: Any) -> torch.device:
    """The device; FungiError for one that does not exist, or is not there."""
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        raise FungiError(f"device {device!r} is no device of torch. Use 'cpu', 'cuda' or 'cuda:N'.") from None
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise FungiError(f"device {str(found)!r}: torch sees {torch.cuda.device_count()} GPUs here. Use 'cpu'.")
    return found


def checked_projection(given: Any) -> Any:
    """A projection, one per layer, or None; FungiError for what is no matrix. Its entries are judged with its layer."""
    for one in given.values() if isinstance(given, Mapping) else [given]:
        if one is None or isinstance(one, ProjectionMatrix) or (isinstance(one, Tensor) and one.dim() == 2):
            continue
        found = f"a tensor {list(one.shape)}" if isinstance(one, Tensor) else f"a {type(one).__name__}"
        raise FungiError(f"the projection is {found}; a tensor [p, G] with entries +1 and -1 is needed.")
    return given


def checked_layers(target_layer: Any) -> tuple[str, ...]:
    """Paths of the target layers; FungiError for something else."""
    layers = (target_layer,) if isinstance(target_layer, str) else target_layer
    if not isinstance(layers, Sequence) or not all(isinstance(layer, str) for layer in layers):
        raise FungiError(f"target_layer is {target_layer!r}; give a path, as in 'blocks.11.attn.proj', or several.")
    return tuple(layers)


def checked_configs(configs: Any) -> tuple[Any, ...]:
    """The configurations; FungiError for one in place of a list, and for what is no configuration."""
    if hasattr(configs, "get_extractor"):
        raise FungiError(f"extractor_configs is one configuration; give a list of them: [{_name_of(configs)}(...)].")
    if not isinstance(configs, Sequence):
        raise FungiError(f"extractor_configs is a {type(configs).__name__}; give a list, as in [KLConfig()].")
    for config in configs:
        if isinstance(config, type) or not callable(getattr(config, "get_extractor", None)):
            raise FungiError(
                f"extractor_configs has {_name_of(config)}, which is no configuration: it has no get_extractor. "
                "Give objects, as in [KLConfig(), DINOConfig()]."
            )
    return tuple(configs)


def checked_images(images: Any) -> list[Any]:
    """The images as a list; FungiError for one in place of a list, and for an empty one."""
    if isinstance(images, Tensor) or not hasattr(images, "__iter__"):
        raise FungiError(
            f"the images are a {type(images).__name__}; give a list of PIL images, as in wrapper([image]), without a "
            "transform: each objective makes its own views."
        )
    found = list(images)
    if not found:
        raise FungiError("the list of images is empty.")
    return found


def whole_number(name: str, value: Any, smallest: int) -> int:
    """An argument that counts something; FungiError for what is no whole number, or too small."""
    if isinstance(value, bool) or not isinstance(value, int) or value < smallest:
        raise FungiError(f"{name} is {value!r}; a whole number from {smallest} on is needed.")
    return value


def half_dtype(dtype: Any) -> torch.dtype:
    """The type of half precision; FungiError for another."""
    if dtype not in (torch.bfloat16, torch.float16):
        raise FungiError(f"fp16_dtype is {dtype}; use torch.bfloat16 or torch.float16.")
    return dtype


def checked_features(features: Any) -> Float[Tensor, "n f"]:
    """Features as they were given; FungiError for what is no matrix of floating numbers."""
    if not isinstance(features, Tensor):
        raise FungiError(f"features are a {type(features).__name__}; give a tensor, as in torch.from_numpy(features).")
    if features.dim() != 2 or not features.dtype.is_floating_point:
        kind = str(features.dtype).removeprefix("torch.")
        raise FungiError(f"features are {kind} {list(features.shape)}; floating numbers [n, f] are needed.")
    return features


def say_classifier(model: nn.Module, embeddings_dim: int) -> None:
    """A warning where embeddings look like class scores: the outputs of a layer that is named as classifiers are.

    CLIP's projection to the joint space is named so in timm, and is none.
    """
    architecture = str((getattr(model, "pretrained_cfg", None) or {}).get("architecture", ""))
    linear = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    if not linear or "clip" in architecture:
        return
    name, last = linear[-1]
    if last.out_features == embeddings_dim != last.in_features and set(name.split(".")) & set(LABELS):
        logger.warning(
            f"the model's embedding has {embeddings_dim} entries, the outputs of its layer {name!r}: those look like "
            f"class scores. FUNGI wants the {last.in_features} features before them: replace the layer, "
            f"model.{name} = torch.nn.Identity(), or make the model without it (timm: num_classes=0)."
        )


def _name_of(given: Any) -> str:
    return given.__name__ if isinstance(given, type) else type(given).__name__


def image_input_of(model: nn.Module, input_dim: int) -> ImageInput:
    """The model's own evaluation transform where timm knows it (statistics, crop, interpolation); else ImageNet's."""
    config: dict[str, Any] | None = getattr(model, "pretrained_cfg", None)
    if not config or "mean" not in config:
        return ImageInput.square(input_dim)
    return timm_input(config, input_dim)
