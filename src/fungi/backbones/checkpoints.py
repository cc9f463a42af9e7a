"""State dicts: taken out of what training programs put around them, fitted strictly to a model, and hashed."""

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
"""Keys under which training programs keep a state dict. The first that is there counts: averaged weights (EMA) before
those that they average, as timm's own loader has it, and a teacher before its student."""

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
"""Prefixes that compilers, data-parallel wrappers and training programs put before the names of an encoder."""
MOST_WRAPPERS = 4
DEEPEST = 8
"""Dictionaries that are looked into; one that contains itself would have no end."""


def read_checkpoint(file: Path, key: str = "") -> StateDict:
    """Return the state dict in a `.safetensors` file, or in anything that `torch.save` wrote, on the CPU.

    key: the entry that holds it, with dots between nested ones; the usual one if empty. Only tensors are read: a pickle
    that wants to run code is refused. MissingFilesError where there is no file, FungiError where it is no state dict.
    """
    return unwrap(read_content(file), file, key)


def unwrap(content: Any, file: Path, key: str = "") -> StateDict:
    """Return the state dict inside the dictionaries that training programs put around it; see `read_checkpoint`.

    The log says which entry is taken where several hold weights.
    """
    import torch

    if key:
        content = _entry(content, file, key)
    for _ in range(DEEPEST):
        keys = containers_of(content)
        if not keys:
            break
        if len(keys) > 1 and not key:
            others = " or ".join(f"--checkpoint-key {other}" for other in keys[1:])
            logger.warning(f"{file} holds weights under {', '.join(keys)}: {keys[0]} is taken. For others: {others}.")
        content = content[keys[0]]
    if isinstance(content, Mapping) and content and all(isinstance(v, torch.Tensor) for v in content.values()):
        odd = [name for name, tensor in content.items() if not (isinstance(name, str) and _plain(tensor))]
        if odd:
            raise FungiError(
                f"{file}: its entry {odd[0]!r} is no plain tensor under a name (it is sparse, quantised, complex, or "
                "without numbers). Save the weights as ordinary tensors."
            )
        return dict(content)
    raise FungiError(
        f"{file} holds no state dict (names -> tensors). Save one with torch.save(model.state_dict(), FILE)."
    )


def containers_of(content: Any) -> list[str]:
    """Return the keys of a checkpoint that hold weights, in the order in which they are taken."""
    if not isinstance(content, Mapping):
        return []
    keys = [key for key in CONTAINERS if isinstance(content.get(key), Mapping) and content[key]]
    return [key for key in keys if _holds_weights(content[key], DEEPEST)] or keys


def _holds_weights(content: Mapping[Any, Any], depth: int) -> bool:
    """Return whether these are tensors, or one of the usual entries holds them."""
    import torch

    if all(isinstance(value, torch.Tensor) for value in content.values()):
        return True
    inner = [content[key] for key in CONTAINERS if isinstance(content.get(key), Mapping) and content[key]]
    return depth > 0 and any(_holds_weights(value, depth - 1) for value in inner)


def _entry(content: Any, file: Path, key: str) -> Any:
    """Return the entry that a user names, `key` or `outer.inner`; FungiError where it is not there."""
    for name in [key] if isinstance(content, Mapping) and key in content else key.split("."):
        if not isinstance(content, Mapping) or name not in content:
            there = [str(other) for other in content] if isinstance(content, Mapping) else []
            raise FungiError(f"{file} has no entry {key!r} (--checkpoint-key). It has: {listed(there)}.")
        content = content[name]
    return content


def without_wrappers(state: StateDict) -> Iterator[tuple[str, StateDict]]:
    """A state dict and what lies below its wrappers' prefixes: (prefix, state), the least peeled first.

    What a prefix is not before (heads, queues, the student beside a teacher) does not lie below it.
    """
    layers = [("", state)]
    for _ in range(MOST_WRAPPERS):
        yield from layers
        layers = [
            (prefix + wrapper, {name.removeprefix(wrapper): inner[name] for name in inner if name.startswith(wrapper)})
            for prefix, inner in layers
            for wrapper in WRAPPERS
            if any(name.startswith(wrapper) for name in inner)
        ]
    yield from layers


def _plain(tensor: "Tensor") -> bool:
    """Whether a tensor holds ordinary numbers."""
    import torch

    dense = tensor.layout == torch.strided and tensor.device.type != "meta"
    return dense and not (tensor.is_quantized or tensor.is_complex())


def check_fit(model: "nn.Module", state: StateDict, *, backbone: str, origin: str) -> None:
    """FungiError, with counts and the first few names, unless the state dict has just the model's tensors."""
    expected = model.state_dict()
    reshaped = [
        f"{name} is {list(state[name].shape)} instead of {list(expected[name].shape)}"
        for name in expected
        if name in state and state[name].shape != expected[name].shape
    ]
    kinds = [
        f"{name} is {str(state[name].dtype).removeprefix('torch.')} instead of floating numbers"
        for name in expected
        if name in state and expected[name].is_floating_point() and not state[name].is_floating_point()
    ]
    complaints = {
        "missing": [name for name in expected if name not in state],
        "unexpected": [name for name in state if name not in expected],
        "of another shape": reshaped,
        "of another kind": kinds,
    }
    text = "; ".join(
        f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in complaints.items()
        if names
    )
    if text:
        raise FungiError(f"{origin} does not fit backbone {backbone!r}: {text}. Use a checkpoint of that model.")


def hash_weights(model: "nn.Module") -> str:
    """SHA-256 over the sorted state dict: names, dtypes, shapes, bytes. Equal if and only if the weights are."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy())
    return digest.hexdigest()
