"""Load a backbone by its name, with published weights, with weights from a file, or with random weights."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fungi.backbones.base import BackboneSpec, StateDict, resolve_backbone
from fungi.backbones.checkpoints import check_fit, hash_weights, read_checkpoint, without_wrappers
from fungi.errors import FungiError
from fungi.profiles import PROFILES, Profile
from fungi.runtime.seeds import seeded
from fungi.views.image import ImageInput

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Backbone:
    """A frozen encoder with its weights.

    model: function from inputs to embeddings `[n d]`, in evaluation mode (BatchNorm uses running statistics, no
        dropout). No parameter requires a gradient.
    input: preprocessing of samples under the selected profile.
    weights_hash: hash of the loaded weights; part of the provenance of every file.
    weights_source: origin of the weights, in words.
    """

    spec: BackboneSpec
    model: "nn.Module"
    input: Any
    weights_hash: str
    weights_source: str


def load_backbone(
    name: str,
    *,
    checkpoint: Path | None = None,
    checkpoint_key: str = "",
    random_init: bool = False,
    seed: int = 42,
    profile: Profile = PROFILES["clean"],
    input_size: int = 0,
) -> Backbone:
    """Build a backbone by its name and load its weights; the global random state does not change.

    checkpoint: file of weights with the key names of the publisher or of the model. None: the published weights, from
        the cache or the network.
    checkpoint_key: key of the weights in the file (see `read_checkpoint`).
    random_init: use the random initialisation of the library, with the seed `seed`, instead of published weights.
    input_size: side of the input images in pixels; 0: the size of the backbone. Position embeddings are scaled as the
        publisher of the weights does.
    Raises FungiError for an unknown name and for weights that do not fit exactly, and MissingFilesError for weights
    that are not on disk and cannot be downloaded.
    """
    spec = resolve_backbone(name)
    if checkpoint is not None and random_init:
        raise FungiError("--checkpoint and --random-init exclude each other. Use only one of them.")
    if checkpoint_key and checkpoint is None:
        raise FungiError("--checkpoint-key is the key of an entry in a checkpoint. Add --checkpoint FILE.")
    with seeded(seed, "backbone", name):
        if random_init:
            model, source = spec.build(), f"random initialisation, seed {seed}"
        else:
            state, source = _weights(spec, checkpoint, checkpoint_key)
            model = _build_with_weights(state, spec, source)
    model.eval().requires_grad_(False)
    backbone = Backbone(spec, model, choose_input(spec, profile), hash_weights(model), source)
    return with_input_size(backbone, input_size) if input_size else backbone


def with_input_size(backbone: Backbone, size: int) -> Backbone:
    """Return the backbone for images of `size` x `size` pixels.

    Raises FungiError if the model cannot process this size.
    """
    from fungi.backbones.position_embedding import VIEWS_ADVICE, at_size

    if not isinstance(backbone.input, ImageInput):
        raise FungiError(f"--input-size is for images; backbone {backbone.spec.name!r} takes {backbone.spec.modality}.")
    native_size = backbone.input.size
    if size == native_size:
        return backbone
    try:
        model = at_size(backbone.model, size)
    except FungiError as error:
        cause = str(error).removesuffix(VIEWS_ADVICE).strip()  # the advice is for sizes of views, not of the input
        raise FungiError(f"--input-size {size}: {cause}") from None
    flops = round(backbone.spec.flops * (size / native_size) ** 2)
    spec = replace(backbone.spec, flops=flops, notes=f"{backbone.spec.notes}; here at {size} pixels".removeprefix("; "))
    input_spec = backbone.input.resized(size)
    return replace(backbone, spec=spec, model=model, input=input_spec, weights_hash=hash_weights(model))


def choose_input(spec: BackboneSpec, profile: Profile) -> Any:
    """Return the preprocessing of samples under a profile.

    The profiles differ in V2 and V3 (spec vision 10), T1 and T2 (spec text 6), and U1 (spec audio 6).
    """
    input_spec = spec.input
    if profile.published_transform and spec.published_input is not None:
        input_spec = spec.published_input
    if profile.imagenet_view_statistics and isinstance(input_spec, ImageInput):
        input_spec = input_spec.with_imagenet_views()
    return input_spec


def _weights(spec: BackboneSpec, checkpoint: Path | None, key: str) -> tuple[StateDict, str]:
    """Return (weights with the key names of the model, origin of the weights in words).

    checkpoint, key: as `checkpoint` and `checkpoint_key` of `load_backbone`.
    Raises FungiError if there are no published weights.
    """
    if checkpoint is not None:
        entry = f", entry {key}" if key else ""
        return _checkpoint_weights(spec, read_checkpoint(checkpoint, key), f"checkpoint {checkpoint}{entry}")
    if spec.pretrained is None:
        raise FungiError(f"there are no published weights of {spec.name!r}: pass --checkpoint FILE or --random-init.")
    return spec.convert(spec.pretrained()), f"published weights: {spec.source}"


def _checkpoint_weights(spec: BackboneSpec, state: StateDict, source: str) -> tuple[StateDict, str]:
    """Return (weights of a checkpoint with the key names of the model, origin of the weights in words).

    If the names of the checkpoint are not the names of the model, the prefixes of wrappers (`module.`) are tried. The
    entries below a prefix are used if they have exactly the names of the model. Then all other entries are ignored, and
    the origin contains the prefix.
    """
    import torch

    message = f"{source} does not fit {spec.name!r}"
    with torch.device("meta"):
        expected = set(spec.build().state_dict())
    for prefix, entries in without_wrappers(state):
        with suppress(FungiError):
            weights = _converted(spec.convert, dict(entries), message)
            if set(weights) == expected:
                return weights, (f"{source}, entries below {prefix}" if prefix else source)
    return _converted(spec.convert, state, message), source  # these weights do not fit; `check_fit` raises the error


def _build_with_weights(state: StateDict, spec: BackboneSpec, source: str) -> "nn.Module":
    """Return the model with these weights. Raises FungiError if the weights do not fit exactly.

    source: origin of the weights, for the message.

    The model is built on the meta device, without values. Otherwise, most of the loading time would be spent on random
    weights, which the loaded weights then replace.
    """
    import torch

    with torch.device("meta"):
        model = spec.build()
    check_fit(model, state, backbone=spec.name, origin=source)
    if _computes_tensors(model):
        model = spec.build()
        model.load_state_dict(state)
    else:
        expected = model.state_dict()
        state = {name: tensor.to(expected[name].dtype).contiguous() for name, tensor in state.items()}
        model.load_state_dict(state, assign=True)
    return model


def _computes_tensors(model: "nn.Module") -> bool:
    """Return whether a model has tensors that are not in its state dict, for example those of rotary embeddings.

    Such tensors are computed when the model is built, so the meta device would leave them without values.
    """
    import torch

    saved_names = set(model.state_dict())
    has_unsaved_buffer = any(name not in saved_names for name, _ in model.named_buffers())
    attributes = (value for module in model.modules() for value in vars(module).values())
    return has_unsaved_buffer or any(isinstance(value, torch.Tensor) for value in attributes)


def _converted(convert: Callable[[StateDict], StateDict], state: StateDict, message: str) -> StateDict:
    """Return a state dict with the key names of the model. Raises FungiError with `message` if the conversion fails."""
    try:
        return convert(state)
    except FungiError:
        raise
    except (KeyError, IndexError, AttributeError, RuntimeError, ValueError, TypeError) as error:
        reason = next(iter(str(error).splitlines()), "")
        raise FungiError(f"{message} ({type(error).__name__}: {reason}). Use a checkpoint of that model.") from None
