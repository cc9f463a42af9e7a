"""What a caller gives at the library's door: what can be wrong with it is answered before anything is computed."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fungi.backbones.timm_models import timm_input
from fungi.errors import FungiError, unknown_name
from fungi.gradients.projection import KINDS as PROJECTION_KINDS
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


def without_parallel(model: nn.Module) -> tuple[nn.Module, str]:
    """Return the model inside DataParallel, DistributedDataParallel and torch.compile, and what its paths begin with.

    The model inside has its own transform, width and short cut; the wrapper around it spreads batches over devices.
    """
    prefix = ""
    while True:
        parallel = isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel)
        attribute = "module" if parallel else "_orig_mod"
        inner = getattr(model, attribute, None)
        if not isinstance(inner, nn.Module) or not (parallel or type(model).__name__ == "OptimizedModule"):
            return model, prefix
        model, prefix = inner, f"{prefix}{attribute}."


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
    for projection in given.values() if isinstance(given, Mapping) else [given]:
        if isinstance(projection, str):
            if projection not in PROJECTION_KINDS:
                raise unknown_name("kind of projection", projection, PROJECTION_KINDS)
            continue
        if projection is None or isinstance(projection, ProjectionMatrix):
            continue
        if not isinstance(projection, Tensor) or projection.dim() != 2:
            shape = f"tensor {list(projection.shape)}" if isinstance(projection, Tensor) else type(projection).__name__
            raise FungiError(f"the projection is a {shape}; a tensor [p, G] with entries +1 and -1 is needed.")
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
    """Return the model's own evaluation transform (statistics, crop, interpolation) if timm knows it, else ImageNet's.

    A model of timm inside another module decides the transform where it is the only one and comes first; a warning
    says so, and says where the transform is not known.
    """
    inside = {path: module for path, module in model.named_modules() if _has_transform(module)}
    if not inside:
        return ImageInput.square(input_dim)
    path, first = next(iter(inside.items()))
    if path and (len(inside) > 1 or _something_before(model, path)):
        logger.warning(
            f"the transform of this {type(model).__name__} is not known, since its model of timm {path!r} is not all "
            "that sees the images: ImageNet's is taken. Pass image_input for another one."
        )
        return ImageInput.square(input_dim)
    image_input = timm_input(first.pretrained_cfg, input_dim)
    if path:
        logger.warning(
            f"the transform is that of the model of timm {path!r} inside this {type(model).__name__}: {image_input}. "
            "Pass image_input for another one."
        )
    return image_input


def _has_transform(module: Any) -> bool:
    return "mean" in (getattr(module, "pretrained_cfg", None) or {})


def _something_before(model: nn.Module, path: str) -> bool:
    """Return whether a row of modules on the way to `path` calls another module before it."""
    names = path.split(".")
    parents = [model.get_submodule(".".join(names[:depth])) for depth in range(len(names))]
    for parent, name in zip(parents, names, strict=True):
        if isinstance(parent, nn.Sequential):
            before = list(parent.children())[: list(dict(parent.named_children())).index(name)]
            if not all(isinstance(module, nn.Identity) for module in before):
                return True
    return False
