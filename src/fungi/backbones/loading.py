"""Load a backbone by its name, for every modality, with published weights, weights from a file, or random weights."""

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
    """A frozen encoder, ready to run: `model(inputs)` gives embeddings `[n d]`.

    model: in evaluation mode (BatchNorm uses running statistics, no dropout); no parameter requires a gradient.
    input: preprocessing of samples under the chosen profile.
    weights_hash: hash of the loaded weights; part of every file's provenance.
    weights_source: where the weights come from, in words.
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

    checkpoint: a file with weights, in the publisher's key names or in those of the model. Without it, the published
        weights are used, from the cache or the network.
    checkpoint_key: the entry of the file that holds the weights (see `read_checkpoint`).
    random_init: use the library's random initialisation, seeded by `seed`, instead of trained weights.
    input_size: side of the input images in pixels, 0 for the backbone's own; position embeddings are scaled as the
        publisher of the weights does.
    Raises FungiError for an unknown name and for weights that do not fit exactly, MissingFilesError for weights that
    are not on disk and cannot be downloaded.
    """
    spec = resolve_backbone(name)
    if checkpoint is not None and random_init:
        raise FungiError("--checkpoint and --random-init exclude each other: give one of them.")
    if checkpoint_key and checkpoint is None:
        raise FungiError("--checkpoint-key names an entry of a checkpoint: give --checkpoint FILE, too.")
    with seeded(seed, "backbone", name):
        if random_init:
            model, source = spec.build(), f"random initialisation, seed {seed}"
        else:
            state, source = _weights(spec, checkpoint, checkpoint_key)
            model = _build_with_weights(state, spec, source)
    model.eval().requires_grad_(False)
    backbone = Backbone(spec, model, choose_input(spec, profile), hash_weights(model), source)
    return resized(backbone, input_size) if input_size else backbone


def resized(backbone: Backbone, size: int) -> Backbone:
    """Return the backbone for images of `size` x `size` pixels. Raises FungiError if it cannot process that size."""
    from fungi.backbones.position_embedding import VIEWS_ADVICE, at_size

    if not isinstance(backbone.input, ImageInput):
        raise FungiError(f"--input-size is for images; backbone {backbone.spec.name!r} takes {backbone.spec.modality}.")
    native = backbone.input.size
    if size == native:
        return backbone
    try:
        model = at_size(backbone.model, size)
    except FungiError as error:
        raise FungiError(f"--input-size {size}: {str(error).removesuffix(VIEWS_ADVICE).strip()}") from None
    flops = round(backbone.spec.flops * (size / native) ** 2)
    spec = replace(backbone.spec, flops=flops, notes=f"{backbone.spec.notes}; here at {size} pixels".removeprefix("; "))
    input_spec = backbone.input.resized(size)
    return replace(backbone, spec=spec, model=model, input=input_spec, weights_hash=hash_weights(model))


def choose_input(spec: BackboneSpec, profile: Profile) -> Any:
    """Return the preprocessing of samples under a profile (deviations V2 and V3, T1 and T2, U1)."""
    input_spec = spec.input
    if profile.published_transform and spec.published_input is not None:
        input_spec = spec.published_input
    if profile.imagenet_view_statistics and isinstance(input_spec, ImageInput):
        input_spec = input_spec.with_imagenet_views()
    return input_spec


def _weights(spec: BackboneSpec, checkpoint: Path | None, key: str) -> tuple[StateDict, str]:
    """Return (weights in the key names of the model, where they come from)."""
    if checkpoint is not None:
        entry = f", entry {key}" if key else ""
        return _checkpoint_weights(spec, read_checkpoint(checkpoint, key), f"checkpoint {checkpoint}{entry}")
    if spec.pretrained is None:
        raise FungiError(f"there are no published weights of {spec.name!r}: pass --checkpoint FILE or --random-init.")
    return spec.convert(spec.pretrained()), f"published weights: {spec.source}"


def _checkpoint_weights(spec: BackboneSpec, state: StateDict, source: str) -> tuple[StateDict, str]:
    """Return (weights of a checkpoint in the key names of the model, where they come from).

    If the checkpoint does not fit, prefixes of wrappers are removed: the entries under a prefix are used if they have
    exactly the names of the model. All other entries are ignored, and the second result then names the prefix.
    """
    import torch

    complaint = f"{source} does not fit {spec.name!r}"
    with torch.device("meta"):
        expected = set(spec.build().state_dict())
    for prefix, inner in without_wrappers(state):
        with suppress(FungiError):
            converted = _converted(spec.convert, dict(inner), complaint)
            if set(converted) == expected:
                return converted, f"{source}, entries below {prefix}" if prefix else source
    return _converted(spec.convert, state, complaint), source  # does not fit: `check_fit` says why


def _build_with_weights(state: StateDict, spec: BackboneSpec, source: str) -> "nn.Module":
    """Return the model with these weights. Raises FungiError if they do not fit exactly.

    The model is built on the meta device, because drawing random weights only to overwrite them would take most of the
    loading time.
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
    """Return whether building the model computes tensors that are not in its state dict (rotary embeddings)."""
    import torch

    saved = set(model.state_dict())
    attributes = (value for module in model.modules() for value in vars(module).values())
    return any(name not in saved for name, _ in model.named_buffers()) or any(
        isinstance(value, torch.Tensor) for value in attributes
    )


def _converted(convert: Callable[[StateDict], StateDict], state: StateDict, complaint: str) -> StateDict:
    """Return a state dict in the key names of the model. Raises FungiError if the conversion fails on a user's file."""
    try:
        return convert(state)
    except FungiError:
        raise
    except (KeyError, IndexError, AttributeError, RuntimeError, ValueError, TypeError) as error:
        reason = next(iter(str(error).splitlines()), "")
        raise FungiError(f"{complaint} ({type(error).__name__}: {reason}). Use a checkpoint of that model.") from None
