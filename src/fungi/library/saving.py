"""Save a wrapper to a folder: `extractor.json` (settings) and `tensors.safetensors` (all random or fitted tensors).

The files contain no pickled objects. Only the hash of the model's weights is saved, and a model with other weights is
refused at loading.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from fungi import config as configurations
from fungi.backbones.checkpoints import hash_weights
from fungi.combine.pca import Reduction
from fungi.errors import FungiError, MissingFilesError
from fungi.gradients.projection import ProjectionMatrix
from fungi.library.arguments import checked_model, without_parallel
from fungi.runtime.device import DTYPES
from fungi.runtime.files import write_text_atomically, written_atomically
from fungi.runtime.versions import package_versions
from fungi.views.image import ImageInput

FORMAT = 3
"""Version of the form of the files."""
UNHASHED = ("versions", "hash")
"""Entries of `extractor.json` that are not part of the hash, because they do not decide the features."""
SETTINGS, TENSORS = "extractor.json", "tensors.safetensors"
MATRIX_FIELDS = ("kind", "seed", "projection_dim", "gradient_dim", "outputs", "hash")
"""Saved fields of a projection matrix. The matrix itself is saved once, under its hash."""
REDUCTION_FIELDS = ("names", "dim", "skipped", "explained_variance", "pca_dim")


def save_wrapper(wrapper: Any, folder: Path) -> None:
    """Write a wrapper to a folder. Raises FungiError for configurations that can't be written as JSON."""
    settings, tensors = _settings(wrapper), _tensors(wrapper)
    text = json.dumps({**settings, "versions": package_versions(), "hash": _digest(settings, tensors)}, indent=1)
    folder.mkdir(parents=True, exist_ok=True)
    with written_atomically(folder / TENSORS) as temporary:
        temporary.write_bytes(save(tensors))
    write_text_atomically(folder / SETTINGS, text + "\n")


def fingerprint(wrapper: Any) -> str:
    """Return the SHA-256 of all that determines the features. A wrapper and its loaded copy have the same hash."""
    return _digest(_settings(wrapper), _tensors(wrapper))


def _digest(settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of settings and tensors."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def _settings(wrapper: Any) -> dict[str, Any]:
    """Return the content of `extractor.json`, except the entries `UNHASHED`."""
    return {
        "format": FORMAT,
        "layers": list(wrapper.layers),
        "bias": wrapper.bias,
        "dtype": str(wrapper.dtype).removeprefix("torch."),
        "seed": wrapper.seed,
        "include_embeddings": wrapper.include_embeddings,
        "image_input": dataclasses.asdict(wrapper.image_input),
        "views_per_forward": wrapper.views_per_forward,
        "views": wrapper.views,
        "configs": [_content_of(config) for config in wrapper.extractor_configs],
        "projections": {
            name: _attributes(projector.matrix, MATRIX_FIELDS) for name, projector in wrapper.engine.projectors.items()
        },
        "reduction": None if wrapper.reduction is None else _attributes(wrapper.reduction, REDUCTION_FIELDS),
        "weights_hash": hash_weights(wrapper.model),
    }


def _tensors(wrapper: Any) -> dict[str, Tensor]:
    """Return the tensors of heads, negatives, projections and PCA, on the CPU, by their names in the file."""
    matrices = [projector.matrix for projector in wrapper.engine.projectors.values()]
    tensors = {f"projection.{matrix.hash}": matrix.packed for matrix in matrices}
    for index, extractor in enumerate(wrapper.extractors):
        tensors |= {f"extractor.{index}.{name}": tensor for name, tensor in extractor.state().items()}
    if wrapper.reduction is not None:
        weights = {f"reduction.{name}": tensor for name, tensor in wrapper.reduction.weights.items()}
        tensors |= {**weights, "reduction_offset": wrapper.reduction.offset}
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


def load_wrapper(
    wrapper_type: Callable[..., Any],
    folder: Path,
    model: nn.Module,
    device: torch.device | str,
    config_types: Sequence[type],
) -> Any:
    """Return the wrapper in a folder, an instance of `wrapper_type`; see `FUNGIWrapper.load`."""
    content, tensors = _read(folder)
    inner_model, _ = without_parallel(checked_model(model))
    weights_hash = hash_weights(inner_model)
    if weights_hash != content["weights_hash"]:
        raise FungiError(
            f"{folder} was saved for a model with weights {content['weights_hash'][:12]}, but this model has weights "
            f"{weights_hash[:12]}, and its features would differ. Pass the same model."
        )
    dtype = DTYPES[content["dtype"]]
    image_input = _image_input(content["image_input"])
    use_fp16 = dtype != torch.float32
    wrapper = wrapper_type(
        model,
        content["layers"],
        device,
        projection=_projections(content["projections"], tensors),
        input_dim=image_input.size,
        use_fp16=use_fp16,
        fp16_dtype=dtype if use_fp16 else torch.bfloat16,
        extractor_configs=[_config(config_content, config_types, folder) for config_content in content["configs"]],
        include_embeddings=content["include_embeddings"],
        seed=content["seed"],
        image_input=image_input,
        bias=content["bias"],
        views_per_forward=content["views_per_forward"],
        views=content["views"],
    )
    for index, extractor in enumerate(wrapper.extractors):
        extractor.restore(_without_prefix(tensors, f"extractor.{index}."))
    if content["reduction"] is not None:
        wrapper.reduction = _reduction(content["reduction"], tensors, wrapper.device)
    return wrapper


def _reduction(values: Mapping[str, Any], tensors: Mapping[str, Tensor], device: torch.device) -> Reduction:
    """Return the saved PCA on a device."""
    fields = {**values, "names": tuple(values["names"])}
    weights = {name: tensor.to(device) for name, tensor in _without_prefix(tensors, "reduction.").items()}
    return Reduction(**fields, weights=weights, offset=tensors["reduction_offset"].to(device))


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the settings and tensors in a folder. Raises FungiError if files are missing, damaged or changed."""
    for name in (SETTINGS, TENSORS):
        if not (folder / name).is_file():
            raise MissingFilesError(f"there is no {folder / name}: {folder} does not contain a saved wrapper.")
    try:
        content, tensors = json.loads((folder / SETTINGS).read_text(encoding="utf-8")), load_file(folder / TENSORS)
    except (json.JSONDecodeError, UnicodeDecodeError, SafetensorError) as error:
        raise FungiError(f"{folder} is damaged ({error}). Save the wrapper again.") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        version = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise FungiError(f"{folder} has format {version}, but this version reads {FORMAT}. Save the wrapper again.")
    settings = {name: value for name, value in content.items() if name not in UNHASHED}
    if _digest(settings, tensors) != content.get("hash"):
        raise FungiError(
            f"{folder} has changed since it was saved: the hash of its settings and tensors is wrong. "
            "Save the wrapper again."
        )
    return settings, tensors


def _content_of(config: Any) -> dict[str, Any]:
    """Return the class name and the settings of a configuration. Raises FungiError if JSON can't represent them."""
    if not dataclasses.is_dataclass(config):
        raise FungiError(f"{type(config).__name__} can't be saved: it must be a dataclass.")
    names = [field.name for field in dataclasses.fields(config) if field.metadata.get("saved", True)]
    values = _attributes(config, names)
    try:
        json.dumps(values)
    except TypeError as error:
        raise FungiError(f"{type(config).__name__} can't be saved: {error}. Use numbers, texts and lists.") from None
    return {"type": type(config).__name__, "settings": values}


def _config(content: Mapping[str, Any], config_types: Sequence[type], folder: Path) -> Any:
    """Return the configuration. The class comes from this package or the caller, so a file can't run other code."""
    user_types = {config_type.__name__: config_type for config_type in config_types}
    name = content["type"]
    config_type: Any = user_types.get(name) or getattr(configurations, name, None)
    if not (isinstance(config_type, type) and dataclasses.is_dataclass(config_type)):
        raise FungiError(
            f"{folder} has a configuration that is not part of this package, {name}. "
            f"Pass its class: load(..., config_types=[{name}])."
        )
    return config_type(**content["settings"])


def _attributes(source: Any, names: Sequence[str]) -> dict[str, Any]:
    """Return attributes of an object by their names."""
    return {name: getattr(source, name) for name in names}


def _projections(content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, ProjectionMatrix]:
    """Return the projection matrix of each layer. Layers with the same matrix share one object."""
    matrices = {}
    for record in content.values():
        fields = {name: value for name, value in record.items() if name != "hash"}
        matrices[record["hash"]] = ProjectionMatrix(**fields, packed=tensors[f"projection.{record['hash']}"])
    return {layer: matrices[record["hash"]] for layer, record in content.items()}


def _image_input(values: Mapping[str, Any]) -> ImageInput:
    """Return the input with saved values. JSON has lists instead of the tuples (mean, standard deviation)."""
    pairs = {name: values[name] for name in ("statistics", "view_statistics") if values[name] is not None}
    return ImageInput(**{**values, **{name: tuple(map(tuple, pair)) for name, pair in pairs.items()}})


def _without_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names have a prefix, under the names without the prefix."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
