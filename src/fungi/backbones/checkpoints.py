"""Weights as files and as fingerprints: reading a state dict safely, fitting it strictly, hashing it."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fungi.backbones.base import StateDict
from fungi.errors import FungiError, MissingFilesError

if TYPE_CHECKING:
    from torch import Tensor, nn

CONTAINERS = ("state_dict", "model", "model_ema", "teacher", "target_encoder", "student", "encoder", "backbone")
"""Keys under which training programs keep the state dict, the first one found counts: a teacher before its student."""

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


def read_checkpoint(file: Path) -> StateDict:
    """The state dict in a `.safetensors` file, or in anything that `torch.save` wrote, on the CPU.

    Only tensors are read: a pickle that wants to run code is refused. MissingFilesError where there is no file,
    FungiError where it is no state dict.
    """
    return unwrap(read_content(file), file)


def read_content(file: Path) -> Any:
    """What is in a checkpoint file, as it is; errors as for `read_checkpoint`."""
    if not file.is_file():
        raise MissingFilesError(f"there is no checkpoint {file}. Check the path given to --checkpoint.")
    return _read_safetensors(file) if file.suffix == ".safetensors" else _read_pickle(file)


def unwrap(content: Any, file: Path) -> StateDict:
    """The state dict inside the dictionaries that training programs put around it."""
    import torch

    for _ in range(DEEPEST):
        if not isinstance(content, Mapping):
            break
        inner = next((content[key] for key in CONTAINERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
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
    complaints = {
        "missing": [name for name in expected if name not in state],
        "unexpected": [name for name in state if name not in expected],
        "of another shape": reshaped,
    }
    found = "; ".join(
        f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in complaints.items()
        if names
    )
    if found:
        raise FungiError(f"{origin} does not fit backbone {backbone!r}: {found}. Use a checkpoint of that model.")


def hash_weights(model: "nn.Module") -> str:
    """SHA-256 over the sorted state dict: names, dtypes, shapes, bytes. Equal if and only if the weights are."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy())
    return digest.hexdigest()


def _read_safetensors(file: Path) -> StateDict:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except SafetensorError as error:
        raise FungiError(f"{file} is no whole .safetensors file ({error}). Fetch it again.") from None


def _read_pickle(file: Path) -> Any:
    import pickle
    from argparse import Namespace

    import torch

    try:
        with torch.serialization.safe_globals([Namespace]):  # plain attributes: how many programs keep their flags
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise FungiError(
            f"{file} holds more than tensors, or is no checkpoint at all, and is not read: loading it could run code. "
            "Save its plain state dict with torch.save(model.state_dict(), FILE) where you trust it."
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, LookupError, AttributeError, TypeError) as error:
        told = str(error).partition("\n")[0] if not isinstance(error, LookupError) else ""  # a KeyError tells a number
        reason = told or "it is none that torch.save wrote"
        raise FungiError(f"{file} can't be read as a checkpoint ({reason}). Fetch it again.") from None
