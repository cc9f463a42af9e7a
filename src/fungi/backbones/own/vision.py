"""Vision encoders of the user: models of `transformers`, with the transform of their image processor.

The embedding is the pooled output, if the model returns one. Otherwise, the embedding is the class token. If the model
has no class token, the embedding is the mean of all positions. With `hf-mean`, the embedding is always this mean.
"""

from functools import partial
from typing import Any

from fungi.backbones.base import BackboneSpec
from fungi.backbones.masked_autoencoder import MASKED_AUTOENCODER, masked_autoencoder
from fungi.backbones.own.hub import fetch, model_options
from fungi.backbones.own.structure import model_structure
from fungi.errors import FungiError
from fungi.runtime.log import logger
from fungi.runtime.network import only_on_disk
from fungi.views.image import UNIT, ImageInput, SquashedInput

BILINEAR = 2
"""Code of bilinear interpolation in Pillow; image processors save this code."""
_CLASS_TOKENS = ("cls_token", "class_embedding")
"""Endings of the parameter names of class tokens."""


def vision_backbone(name: str, place: str, config: Any, *, mean: bool) -> BackboneSpec:
    """Return the backbone `name` for the model at `place`. Raises FungiError if `transformers` has no encoder for it.

    config: configuration of the model. mean: use the mean of all positions as the embedding.
    """
    input_spec = image_input(place, config)
    build = partial(_build, config, mean)
    structure = model_structure(build, (1, 3, input_spec.size, input_spec.size))
    return BackboneSpec(
        name=name,
        label=name,
        source=place,
        **structure.spec_fields,
        input=input_spec,
        build=build,
        pretrained=lambda: fetch(_model_class(config), config, place),
        notes=f"embedding: {'mean of all positions' if mean else _pooling(config)}; {structure}; {input_spec}",
    )


def image_input(place: str, config: Any) -> ImageInput:
    """Return the transform of the image processor in the model's folder; without one, the transform of ImageNet."""
    from transformers import AutoImageProcessor

    try:
        processor = AutoImageProcessor.from_pretrained(
            place, trust_remote_code=False, local_files_only=only_on_disk(place)
        )
    except (OSError, ValueError):
        default = ImageInput.square(int(getattr(config, "image_size", 224)))
        logger.warning(f"{place} has no image processor (preprocessor_config.json). ImageNet's is used: {default}.")
        return default
    fields: dict[str, Any] = {
        "interpolation": "bilinear" if int(processor.resample) == BILINEAR else "bicubic",
        "statistics": (tuple(processor.image_mean), tuple(processor.image_std)) if processor.do_normalize else UNIT,
    }
    size = dict(processor.size)
    if getattr(processor, "do_center_crop", False):
        side = dict(processor.crop_size)["height"]
        return ImageInput(size=side, resize=size.get("shortest_edge") or size["height"], **fields)
    if "shortest_edge" in size:  # ConvNeXt: below 384 pixels, its processor enlarges images and crops their centre
        side = size["shortest_edge"]
        crop_share = getattr(processor, "crop_pct", None) or 1
        return ImageInput(size=side, resize=round(side / crop_share), **fields)
    return SquashedInput(size=size["height"], resize=size["height"], **fields)


def _model_class(config: Any) -> Any:
    """Return the encoder class of `transformers` for a configuration. Raises FungiError if there is none."""
    from transformers import AutoModel, ViTMAEForPreTraining

    if config.model_type == MASKED_AUTOENCODER:
        return ViTMAEForPreTraining  # the class that contains only the encoder would mask most of the image
    if type(config) not in AutoModel._model_mapping:
        raise FungiError(f"transformers has no encoder for a model of type {config.model_type!r}.")
    return AutoModel._model_mapping[type(config)]


def _build(config: Any, mean: bool) -> Any:
    model = _model_class(config)
    if config.model_type == MASKED_AUTOENCODER:
        return masked_autoencoder(config, mean=mean)
    return pooled_images(model, mean)(config, **model_options(model))


def pooled_images(encoder: Any, mean: bool) -> Any:
    """Return a subclass of an encoder class whose forward maps images `[n c h w]` to embeddings `[n d]`.

    mean: use the mean of all positions as the embedding; otherwise see the top of this file.
    """
    from torch import Tensor

    def forward(self: Any, images: Tensor) -> Tensor:
        output = encoder.forward(self, pixel_values=images)
        hidden = output.last_hidden_state  # [n t d], or [n d y x] of a convolutional network
        positions = hidden.flatten(2).transpose(1, 2) if hidden.dim() == 4 else hidden
        pooled = output.get("pooler_output")
        has_class_token = any(name.endswith(_CLASS_TOKENS) for name, _ in self.named_parameters())
        if mean or (pooled is None and not has_class_token):
            return positions.mean(dim=1)
        return positions[:, 0] if pooled is None else pooled.flatten(1)

    return type(encoder.__name__, (encoder,), {"forward": forward})


def _pooling(config: Any) -> str:
    """Return the pooling of a model in words."""
    model = _model_class(config)
    if config.model_type == MASKED_AUTOENCODER:
        return "class token of the whole image"
    return "class token, or mean of all positions" if model_options(model) else "the model's pooled output"
