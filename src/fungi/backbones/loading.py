"""A backbone by its name, with weights: published, from a file, or random. The one door for every modality."""

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

    model: in evaluation mode (BatchNorm on running statistics, no dropout), no parameter asks for a gradient.
    input: how it wants its input, after the profile.
    weights_hash: of the weights as loaded; part of every file's provenance.
    weights_source: where they come from, for people.
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
    """Build a named backbone and give it weights; the global random state is left alone.

    checkpoint: a file, in the key names of the weights' publisher or in those of the model that is built. Without it
        the published weights are used, from their cache or else from the network. checkpoint_key: the entry of the file
        that holds the weights (`read_checkpoint`). random_init: neither, but the library's initialisation, seeded by
        `seed`.
    input_size: side of the model's input in pixels where it is not the usual one; position embeddings are scaled as
        the publisher of the weights does.
    Raises FungiError for an unknown name and for weights that do not fit exactly, MissingFilesError for weights that
    are not there and can't be fetched.
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
            model = _built_with(state, spec, source)
    model.eval().requires_grad_(False)
    backbone = Backbone(spec, model, choose_input(spec, profile), hash_weights(model), source)
    return resized(backbone, input_size) if input_size else backbone


def resized(backbone: Backbone, size: int) -> Backbone:
    """Return the backbone for images of `size` x `size` pixels; FungiError where it does not take them."""
    from fungi.backbones.position_embedding import OTHER_SIZES, at_size

    if not isinstance(backbone.input, ImageInput):
        raise FungiError(f"--input-size is of images; backbone {backbone.spec.name!r} takes {backbone.spec.modality}.")
    native = backbone.input.size
    if size == native:
        return backbone
    try:
        model = at_size(backbone.model, size)
    except FungiError as error:
        raise FungiError(f"--input-size {size}: {str(error).removesuffix(OTHER_SIZES).strip()}") from None
    flops = round(backbone.spec.flops * (size / native) ** 2)
    spec = replace(backbone.spec, flops=flops, notes=f"{backbone.spec.notes}; here at {size} pixels".removeprefix("; "))
    input_spec = backbone.input.resized(size)
    return replace(backbone, spec=spec, model=model, input=input_spec, weights_hash=hash_weights(model))


def choose_input(spec: BackboneSpec, profile: Profile) -> Any:
    """How the backbone wants its input under a profile (deviations V2 and V3, T1 and T2, U1)."""
    input_spec = spec.input
    if profile.published_transform and spec.published_input is not None:
        input_spec = spec.published_input
    if profile.imagenet_view_statistics and isinstance(input_spec, ImageInput):
        input_spec = input_spec.with_imagenet_views()
    return input_spec


def _weights(spec: BackboneSpec, checkpoint: Path | None, key: str) -> tuple[StateDict, str]:
    """Weights in the names of `spec.build`'s model, and where they come from."""
    if checkpoint is not None:
        entry = f", entry {key}" if key else ""
        return _peeled(spec, read_checkpoint(checkpoint, key), f"checkpoint {checkpoint}{entry}")
    if spec.pretrained is None:
        raise FungiError(f"there are no published weights of {spec.name!r}: pass --checkpoint FILE or --random-init.")
    return spec.convert(spec.pretrained()), f"published weights: {spec.source}"


def _peeled(spec: BackboneSpec, state: StateDict, source: str) -> tuple[StateDict, str]:
    """A checkpoint in the model's names, and where it comes from.

    Where it does not fit as it is, prefixes of wrappers are taken off: what lies below one counts if it has just the
    names of the model, and the rest of the file is left out, which is said.
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
    return _converted(spec.convert, state, complaint), source  # as it is, for the complaint


def _built_with(state: StateDict, spec: BackboneSpec, source: str) -> "nn.Module":
    """The architecture with these weights, strictly.

    It is built without memory first: drawing random weights to overwrite them would take most of the loading time.
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
    """Whether the model holds tensors that building computes and no state dict has (rotary embeddings)."""
    import torch

    saved = set(model.state_dict())
    attributes = (value for module in model.modules() for value in vars(module).values())
    return any(name not in saved for name, _ in model.named_buffers()) or any(
        isinstance(value, torch.Tensor) for value in attributes
    )


def _converted(convert: Callable[[StateDict], StateDict], state: StateDict, complaint: str) -> StateDict:
    """The file in the model's names. What a converter stumbles over in a user's file is the file's fault."""
    try:
        return convert(state)
    except FungiError:
        raise
    except (KeyError, IndexError, AttributeError, RuntimeError, ValueError, TypeError) as error:
        reason = next(iter(str(error).splitlines()), "")
        raise FungiError(f"{complaint} ({type(error).__name__}: {reason}). Use a checkpoint of that model.") from None
