"""Check the arguments of the library before anything is computed. Every error says how to correct the argument."""

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
from fungi.views.plans import PLANS

CLASSIFIER_NAMES = ("fc", "head", "heads", "classifier", "logits")
"""Usual names of the layer that computes class scores."""


def checked_model(model: Any) -> nn.Module:
    """Return the model. Raises FungiError if it is not a module, or if its weights are not float32."""
    if not isinstance(model, nn.Module):
        raise FungiError(f"the model is a {type(model).__name__}, not a torch.nn.Module.")
    dtypes = {weight.dtype for weight in model.parameters() if weight.dtype.is_floating_point} - {torch.float32}
    if dtypes:
        dtype = str(dtypes.pop()).removeprefix("torch.")
        raise FungiError(
            f"the model's weights are {dtype}. Pass model.float(). For half precision, use use_fp16=True: losses and"
            " gradients are then still computed in float32."
        )
    return model


def without_parallel(model: nn.Module) -> tuple[nn.Module, str]:
    """Return the model inside DataParallel, DistributedDataParallel and torch.compile, and the prefix of its layers.

    Only the inner model has a transform and a width, and can compute the last block for one token alone.
    """
    prefix = ""
    while True:
        is_parallel = isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel)
        attribute = "module" if is_parallel else "_orig_mod"
        inner = getattr(model, attribute, None)
        if not isinstance(inner, nn.Module) or not (is_parallel or type(model).__name__ == "OptimizedModule"):
            return model, prefix
        model, prefix = inner, f"{prefix}{attribute}."


def checked_device(device: Any) -> torch.device:
    """Return the device. Raises FungiError for a name that torch does not know, and for a GPU that does not exist."""
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError):
        raise FungiError(f"device {device!r} is not a device of torch. Use 'cpu', 'cuda' or 'cuda:N'.") from None
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise FungiError(
            f"device {str(resolved)!r}: torch sees {counted(torch.cuda.device_count(), 'GPU')} here. Use 'cpu'."
        )
    return resolved


def checked_projection(projection: Any) -> Any:
    """Return the argument: a projection (a matrix or the name of a kind), a dictionary layer -> projection, or None.

    Raises FungiError for anything else.

    The entries of a matrix are checked later, together with the layer.
    """
    for value in projection.values() if isinstance(projection, Mapping) else [projection]:
        if isinstance(value, str):
            if value not in PROJECTION_KINDS:
                raise unknown_name("kind of projection", value, PROJECTION_KINDS)
            continue
        if value is None or isinstance(value, ProjectionMatrix):
            continue
        if not isinstance(value, Tensor) or value.dim() != 2:
            shape = f"tensor {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise FungiError(
                f"the projection is a {shape}. Pass a tensor [p, entries of the gradient] with entries +1 and -1."
            )
    return projection


def checked_layers(target_layer: Any) -> tuple[str, ...]:
    """Return the paths of the target layers. Raises FungiError if they are not strings."""
    layers = (target_layer,) if isinstance(target_layer, str) else target_layer
    if not isinstance(layers, Sequence) or not all(isinstance(layer, str) for layer in layers):
        raise FungiError(f"target_layer is {target_layer!r}. Pass a path such as 'blocks.11.attn.proj', or several.")
    return tuple(layers)


def checked_configs(configs: Any) -> tuple[Any, ...]:
    """Return the configurations. Raises FungiError for a single configuration and for other objects."""
    if hasattr(configs, "get_extractor"):
        raise FungiError(f"extractor_configs is a single configuration. Pass a list: [{_name_of(configs)}(...)].")
    if not isinstance(configs, Sequence):
        raise FungiError(f"extractor_configs is a {type(configs).__name__}. Pass a list, e.g. [KLConfig()].")
    for config in configs:
        if isinstance(config, type) or not callable(getattr(config, "get_extractor", None)):
            raise FungiError(
                f"extractor_configs has {_name_of(config)}, which is not a configuration: it has no get_extractor. "
                "Pass objects, e.g. [KLConfig(), DINOConfig()]."
            )
    return tuple(configs)


def checked_images(images: Any) -> list[Any]:
    """Return the images as a list. Raises FungiError for a single image and for an empty list."""
    if isinstance(images, Tensor) or not hasattr(images, "__iter__"):
        raise FungiError(
            f"the images are a {type(images).__name__}. Pass a list of PIL images, e.g. wrapper([image]), without a "
            "transform, because each objective computes its own views."
        )
    images = list(images)
    if not images:
        raise FungiError("the list of images is empty.")
    return images


def checked_whole_number(name: str, value: Any, smallest: int) -> int:
    """Return an argument that must be a whole number. Raises FungiError for other values and for smaller numbers."""
    if isinstance(value, bool) or not isinstance(value, int) or value < smallest:
        raise FungiError(f"{name} is {value!r}. Pass a whole number, at least {smallest}.")
    return value


def checked_half_dtype(dtype: Any) -> torch.dtype:
    """Return the dtype of half precision. Raises FungiError for another dtype."""
    if dtype not in (torch.bfloat16, torch.float16):
        raise FungiError(f"fp16_dtype is {dtype}. Use torch.bfloat16 or torch.float16.")
    return dtype


def checked_features(features: Any) -> Float[Tensor, "n f"]:
    """Return the features unchanged. Raises FungiError if they are not a matrix of floating-point numbers."""
    if not isinstance(features, Tensor):
        raise FungiError(f"features are a {type(features).__name__}. Pass a tensor, e.g. torch.from_numpy(features).")
    if features.dim() != 2 or not features.dtype.is_floating_point:
        dtype = str(features.dtype).removeprefix("torch.")
        raise FungiError(f"features are {dtype} {list(features.shape)}. Pass floating-point numbers [n, f].")
    return features


def warn_of_class_scores(model: nn.Module, embeddings_dim: int) -> None:
    """Log a warning if the embeddings are the outputs of a layer with the usual name of a classifier.

    CLIP models of timm get no warning: the projection to their joint space has such a name, but is not a classifier.
    """
    architecture = str((getattr(model, "pretrained_cfg", None) or {}).get("architecture", ""))
    linear = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    if not linear or "clip" in architecture:
        return
    name, last = linear[-1]
    changes_size = last.in_features != last.out_features
    has_name_of_classifier = bool(set(name.split(".")) & set(CLASSIFIER_NAMES))
    if last.out_features == embeddings_dim and changes_size and has_name_of_classifier:
        logger.warning(
            f"the model's embedding has {embeddings_dim} entries, the outputs of its layer {name!r}, which look like "
            f"class scores. FUNGI needs the {last.in_features} features before this layer: replace the layer, "
            f"model.{name} = torch.nn.Identity(), or create the model without it (timm: num_classes=0)."
        )


def _name_of(config: Any) -> str:
    """Return the name of a class, or of the class of an object."""
    return config.__name__ if isinstance(config, type) else type(config).__name__


def checked_image_input(image_input: ImageInput | None, model: nn.Module, input_dim: Any) -> ImageInput:
    """Return the input of the model: `image_input`, or by default what the model says about its input.

    Raises FungiError if `image_input` is not for images of `input_dim` pixels.
    """
    checked_whole_number("input_dim", input_dim, 1)
    chosen = image_input or image_input_of(model, input_dim)
    if chosen.size != input_dim:
        raise FungiError(
            f"image_input is for {chosen.size} pixels, input_dim is {input_dim}. Give both the same number."
        )
    return chosen


def checked_views(views: Any) -> Any:
    """Return the name of a plan of views. Raises FungiError for another name."""
    if views not in PLANS:
        raise unknown_name("choice of views", str(views), PLANS)
    return views


def image_input_of(model: nn.Module, input_dim: int) -> ImageInput:
    """Return the evaluation transform (statistics, crop, interpolation) of a model.

    A model of timm gets its transform from timm. If another model contains exactly one model of timm, and this inner
    model processes the images first, the transform of the inner model is used, with a warning. All other models get the
    transform of ImageNet, with a warning if they contain a model of timm.
    """
    timm_models = {path: module for path, module in model.named_modules() if _has_transform(module)}
    if not timm_models:
        return ImageInput.square(input_dim)
    path, first = next(iter(timm_models.items()))
    if path and (len(timm_models) > 1 or _has_earlier_module(model, path)):
        logger.warning(
            f"the transform of this {type(model).__name__} is not known, because other modules than its timm model "
            f"{path!r} also process the images. ImageNet's transform is used. Pass image_input for another transform."
        )
        return ImageInput.square(input_dim)
    image_input = timm_input(first.pretrained_cfg, input_dim)
    if path:
        logger.warning(
            f"this {type(model).__name__} gets the transform of its model of timm {path!r}: {image_input}. "
            "Pass image_input for another transform."
        )
    return image_input


def _has_transform(module: Any) -> bool:
    """Return whether a module is a model of timm that records the statistics of its images."""
    return "mean" in (getattr(module, "pretrained_cfg", None) or {})


def _has_earlier_module(model: nn.Module, path: str) -> bool:
    """Return whether an `nn.Sequential` around the module at `path` calls another module before this module."""
    names = path.split(".")
    parents = [model.get_submodule(".".join(names[:depth])) for depth in range(len(names))]
    for parent, name in zip(parents, names, strict=True):
        if isinstance(parent, nn.Sequential):
            index = list(dict(parent.named_children())).index(name)
            if not all(isinstance(module, nn.Identity) for module in list(parent.children())[:index]):
                return True
    return False
