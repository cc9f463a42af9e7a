"""Extract state dicts from checkpoints of training programs, check that they fit a model, and hash weights."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fungi.backbones.base import StateDict
from fungi.backbones.checkpoint_files import read_content
from fungi.errors import FungiError, listed
from fungi.runtime.log import logger

if TYPE_CHECKING:
    from torch import Tensor, nn

CONTAINERS = (
    "state_dict_ema",
    "model_ema",
    "model_ema_state_dict",
    "ema_state_dict",
    "ema",
    "state_dict",
    "model_state_dict",
    "model",
    "teacher",
    "target_encoder",
    "student",
    "encoder",
    "backbone",
    "module",
)
"""Keys under which training programs store a state dict, in order of preference. Averaged weights (EMA) come first, as
in timm's loader, and a teacher comes before its student."""

WRAPPERS = (
    "_orig_mod.",
    "module.",
    "teacher.",
    "target_encoder.",
    "student.",
    "network.",
    "model.",
    "backbone.",
    "base_encoder.",
    "encoder_q.",
    "encoder.",
    "vit.",
)
"""Prefixes that compilers, data-parallel wrappers and training programs add to the parameter names of an encoder."""
MAX_WRAPPERS = 4
"""Largest number of wrapper prefixes before a name."""
MAX_DEPTH = 8
"""Largest number of nested dictionaries. A dictionary that contains itself would otherwise cause an endless loop."""


def read_checkpoint(file: Path, key: str = "") -> StateDict:
    """Return the state dict in a `.safetensors` file or in a file that `torch.save` wrote, on the CPU.

    key: key of the state dict in the file, with dots between the keys of nested dictionaries. If `key` is empty, the
        first key of `CONTAINERS` that has weights in the file is used.
    Only tensors are read; a pickle that would run code is refused.
    Raises MissingFilesError if the file does not exist, and FungiError if it does not contain a state dict.
    """
    return unwrap(read_content(file), file, key)


def unwrap(content: Any, file: Path, key: str = "") -> StateDict:
    """Return the state dict inside the nested dictionaries of a training program. content: content of `file`.

    key: see `read_checkpoint`. If several entries contain weights, a warning names the entry that is used. Raises
    FungiError if there is no state dict.
    """
    import torch

    if key:
        content = _entry(content, file, key)
    for _ in range(MAX_DEPTH):
        keys = containers_of(content)
        if not keys:
            break
        if len(keys) > 1 and not key:
            flags = " or ".join(f"--checkpoint-key {other}" for other in keys[1:])
            logger.warning(f"{file} has weights under {', '.join(keys)}: {keys[0]} is used. For others: {flags}.")
        content = content[keys[0]]
    if isinstance(content, Mapping) and content and all(isinstance(value, torch.Tensor) for value in content.values()):
        invalid = [name for name, tensor in content.items() if not (isinstance(name, str) and _is_ordinary(tensor))]
        if invalid:
            raise FungiError(
                f"{file}: its entry {invalid[0]!r} is not an ordinary tensor with a name (it is sparse, quantised, "
                "complex, or without numbers). Save the weights as ordinary tensors."
            )
        return dict(content)
    raise FungiError(
        f"{file} has no state dict (names -> tensors). Save one with torch.save(model.state_dict(), FILE)."
    )


def containers_of(content: Any) -> list[str]:
    """Return the keys of a checkpoint under which there are weights, in order of preference.

    If there are no weights under any key, return the keys of all dictionaries that are not empty.
    """
    if not isinstance(content, Mapping):
        return []
    keys = [key for key in CONTAINERS if isinstance(content.get(key), Mapping) and content[key]]
    return [key for key in keys if _contains_weights(content[key], MAX_DEPTH)] or keys


def _contains_weights(content: Mapping[Any, Any], depth: int) -> bool:
    """Return whether all values are tensors, or whether an entry of `CONTAINERS` contains weights.

    depth: number of nested dictionaries that are searched.
    """
    import torch

    if all(isinstance(value, torch.Tensor) for value in content.values()):
        return True
    entries = [content[key] for key in CONTAINERS if isinstance(content.get(key), Mapping) and content[key]]
    return depth > 0 and any(_contains_weights(entry, depth - 1) for entry in entries)


def _entry(content: Any, file: Path, key: str) -> Any:
    """Return the entry under the `--checkpoint-key` of a user, with dots between the keys of nested dictionaries.

    Raises FungiError if there is no such entry.
    """
    has_key = isinstance(content, Mapping) and key in content  # a key may itself contain dots
    names = [key] if has_key else key.split(".")
    for name in names:
        if not isinstance(content, Mapping) or name not in content:
            keys = [str(other) for other in content] if isinstance(content, Mapping) else []
            raise FungiError(f"{file} has no entry {key!r} (--checkpoint-key). It has: {listed(keys)}.")
        content = content[name]
    return content


def without_wrappers(state: StateDict) -> Iterator[tuple[str, StateDict]]:
    """Yield (prefix, entries below the prefix): first all entries with an empty prefix, then those of each wrapper.

    Prefixes of few wrappers come first. The prefix is removed from the names. Entries without the prefix are left out
    (heads, queues, the student next to a teacher).
    """
    candidates = [("", state)]
    for _ in range(MAX_WRAPPERS):
        yield from candidates
        candidates = [
            (prefix + wrapper, _entries_below(wrapper, entries))
            for prefix, entries in candidates
            for wrapper in WRAPPERS
            if any(name.startswith(wrapper) for name in entries)
        ]
    yield from candidates


def _entries_below(prefix: str, state: StateDict) -> StateDict:
    """Return the entries whose names start with a prefix, without this prefix."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _is_ordinary(tensor: "Tensor") -> bool:
    """Return whether a tensor is dense, real, not quantised, and has values."""
    import torch

    is_dense = tensor.layout == torch.strided and tensor.device.type != "meta"
    return is_dense and not (tensor.is_quantized or tensor.is_complex())


def check_fit(model: "nn.Module", state: StateDict, *, backbone: str, origin: str) -> None:
    """Check that a state dict has exactly the tensors of the model.

    backbone, origin: name of the backbone and source of the weights, for the message.
    Raises FungiError with the number of wrong tensors and the names of the first three.
    """
    expected = model.state_dict()
    other_shape = [
        f"{name} is {list(state[name].shape)} instead of {list(expected[name].shape)}"
        for name in expected
        if name in state and state[name].shape != expected[name].shape
    ]
    not_floating = [
        f"{name} is {str(state[name].dtype).removeprefix('torch.')} instead of floating numbers"
        for name in expected
        if name in state and expected[name].is_floating_point() and not state[name].is_floating_point()
    ]
    faults = {
        "missing": [name for name in expected if name not in state],
        "unexpected": [name for name in state if name not in expected],
        "of another shape": other_shape,
        "of another kind": not_floating,
    }
    message = "; ".join(
        f"{len(names)} {fault} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for fault, names in faults.items()
        if names
    )
    if message:
        raise FungiError(f"{origin} does not fit backbone {backbone!r}: {message}. Use a checkpoint of that model.")


def hash_weights(model: "nn.Module") -> str:
    """Return the SHA-256 of the sorted state dict (names, dtypes, shapes, bytes): equal hashes mean equal weights."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy())
    return digest.hexdigest()
