"""Check the arguments of the library before anything is computed; each error says how to correct the argument."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fungi.backbones.timm_models import timm_input
from fungi.errors import FungiError, counted, unknown_name
from fungi.gradients.projection import KINDS as PROJECTION_KINDS
from fungi.gradients.projection import ProjectionMatrix
from fungi.runtime.log import logger
from fungi.views.image import ImageInput

CLASSIFIER_NAMES = ("fc", "head", "heads", "classifier", "logits")
"""Usual names of the layer that turns features into class scores."""


def checked_model(model: Any) -> nn.Module:
    """Return the model. Raises FungiError if it is not a module, or if its weights are not float32."""
    if not isinstance(model, nn.Module):
        raise FungiError(f"the model is a {type(model).__name__}, not a torch.nn.Module.")
    other_dtypes = {p.dtype for p in model.parameters() if p.dtype.is_floating_point and p.dtype != torch.float32}
    if other_dtypes:
        dtype = str(other_dtypes.pop()).removeprefix("torch.")
        raise FungiError(
            f"the model's weights are {dtype}. Give it in float32, model.float(), and compute in half precision with "
            "use_fp16=True: losses and gradients then stay float32."
        )
    return model


def without_parallel(model: nn.Module) -> tuple[nn.Module, str]:
    """Return (model inside DataParallel, DistributedDataParallel and torch.compile, prefix of its layer paths).

    Only the inner model has the transform, the width and the shortcut; the outer ones distribute batches over devices.
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
    """Return the device. Raises FungiError for a name that torch does not know, and for a GPU that does not exist."""
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError):
        raise FungiError(f"device {device!r} is no device of torch. Use 'cpu', 'cuda' or 'cuda:N'.") from None
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise FungiError(
            f"device {str(resolved)!r}: torch sees {counted(torch.cuda.device_count(), 'GPU')} here. Use 'cpu'."
        )
    return resolved


def checked_projection(projection: Any) -> Any:
    """Return a projection, a dictionary of projections by layer, or None. Raises FungiError for anything else.

    The entries of a matrix are checked later, together with the layer.
    """
    for matrix in projection.values() if isinstance(projection, Mapping) else [projection]:
        if isinstance(matrix, str):
            if matrix not in PROJECTION_KINDS:
                raise unknown_name("kind of projection", matrix, PROJECTION_KINDS)
            continue
        if matrix is None or isinstance(matrix, ProjectionMatrix):
            continue
        if not isinstance(matrix, Tensor) or matrix.dim() != 2:
            shape = f"tensor {list(matrix.shape)}" if isinstance(matrix, Tensor) else type(matrix).__name__
            raise FungiError(f"the projection is a {shape}; a tensor [p, G] with entries +1 and -1 is needed.")
    return projection


def checked_layers(target_layer: Any) -> tuple[str, ...]:
    """Return the paths of the target layers. Raises FungiError if they are not strings."""
    layers = (target_layer,) if isinstance(target_layer, str) else target_layer
    if not isinstance(layers, Sequence) or not all(isinstance(layer, str) for layer in layers):
        raise FungiError(f"target_layer is {target_layer!r}; give a path, as in 'blocks.11.attn.proj', or several.")
    return tuple(layers)


def checked_configs(configs: Any) -> tuple[Any, ...]:
    """Return the configurations. Raises FungiError for a single configuration and for other objects."""
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
    """Return the images as a list. Raises FungiError for a single image and for an empty list."""
    if isinstance(images, Tensor) or not hasattr(images, "__iter__"):
        raise FungiError(
            f"the images are a {type(images).__name__}; give a list of PIL images, as in wrapper([image]), without a "
            "transform: each objective makes its own views."
        )
    as_list = list(images)
    if not as_list:
        raise FungiError("the list of images is empty.")
    return as_list


def whole_number(name: str, value: Any, smallest: int) -> int:
    """Return an argument that is a number of things. Raises FungiError if it is not a whole number or too small."""
    if isinstance(value, bool) or not isinstance(value, int) or value < smallest:
        raise FungiError(f"{name} is {value!r}; a whole number from {smallest} on is needed.")
    return value


def half_dtype(dtype: Any) -> torch.dtype:
    """Return the dtype of half precision. Raises FungiError for another dtype."""
    if dtype not in (torch.bfloat16, torch.float16):
        raise FungiError(f"fp16_dtype is {dtype}; use torch.bfloat16 or torch.float16.")
    return dtype


def checked_features(features: Any) -> Float[Tensor, "n f"]:
    """Return features unchanged. Raises FungiError if they are not a matrix of floating numbers."""
    if not isinstance(features, Tensor):
        raise FungiError(f"features are a {type(features).__name__}; give a tensor, as in torch.from_numpy(features).")
    if features.dim() != 2 or not features.dtype.is_floating_point:
        kind = str(features.dtype).removeprefix("torch.")
        raise FungiError(f"features are {kind} {list(features.shape)}; floating numbers [n, f] are needed.")
    return features


def warn_of_class_scores(model: nn.Module, embeddings_dim: int) -> None:
    """Log a warning if the embeddings are the outputs of a layer with the usual name of a classifier.

    CLIP models of timm are left out: their projection to the joint space has such a name, but is no classifier.
    """
    architecture = str((getattr(model, "pretrained_cfg", None) or {}).get("architecture", ""))
    linear = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    if not linear or "clip" in architecture:
        return
    name, last = linear[-1]
    if last.out_features == embeddings_dim != last.in_features and set(name.split(".")) & set(CLASSIFIER_NAMES):
        logger.warning(
            f"the model's embedding has {embeddings_dim} entries, the outputs of its layer {name!r}: those look like "
            f"class scores. FUNGI needs the {last.in_features} features before that layer: replace the layer, "
            f"model.{name} = torch.nn.Identity(), or make the model without it (timm: num_classes=0)."
        )


def _name_of(config: Any) -> str:
    return config.__name__ if isinstance(config, type) else type(config).__name__


def image_input_of(model: nn.Module, input_dim: int) -> ImageInput:
    """Return the evaluation transform (statistics, crop, interpolation) of the model if timm knows it, else ImageNet's.

    If the model contains a single model of timm that sees the images first, the transform of that model is used, with a
    warning. A warning also tells the user if ImageNet's transform is used for such a model.
    """
    timm_models = {path: module for path, module in model.named_modules() if _has_transform(module)}
    if not timm_models:
        return ImageInput.square(input_dim)
    path, first = next(iter(timm_models.items()))
    if path and (len(timm_models) > 1 or _something_before(model, path)):
        logger.warning(
            f"the transform of this {type(model).__name__} is not known, because other modules than its model of timm "
            f"{path!r} also process the images. ImageNet's transform is used. Pass image_input for another one."
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
    """Return whether an `nn.Sequential` around the module at `path` calls another module before it."""
    names = path.split(".")
    parents = [model.get_submodule(".".join(names[:depth])) for depth in range(len(names))]
    for parent, name in zip(parents, names, strict=True):
        if isinstance(parent, nn.Sequential):
            before = list(parent.children())[: list(dict(parent.named_children())).index(name)]
            if not all(isinstance(module, nn.Identity) for module in before):
                return True
    return False
