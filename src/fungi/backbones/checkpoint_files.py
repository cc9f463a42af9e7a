"""Files of weights: read by what they hold, whatever their names end in, and named as what they are if it is none."""

from pathlib import Path
from typing import Any

from fungi.backbones.base import StateDict
from fungi.errors import FungiError, MissingFilesError

HEAD_BYTES = 512
HEADER_LENGTH_BYTES = 8
"""A safetensors file begins with the length of its header in so many bytes; the header is JSON."""

OTHER_KINDS = (
    (
        b"version https://git-lfs",
        "is a pointer of git-LFS, not the weights themselves. Run `git lfs pull` where it comes from",
    ),
    (
        b"<",
        "is a web page or XML, not weights: the download gave a page. Fetch the file itself, in a browser if need be",
    ),
    (b"\x1f\x8b", "is compressed with gzip. Unpack it with gunzip"),
    (b"GGUF", "is a GGUF file, whose weights are quantised. Get them as .safetensors"),
    (b"\x89HDF", "is an HDF5 file. Get the weights as .safetensors or as torch.save writes them"),
)
"""How a file begins, and what to say of it."""


def read_content(file: Path) -> Any:
    """Return what is in a checkpoint file, as it is, on the CPU.

    Raises MissingFilesError where there is no file, FungiError for a file that is no checkpoint, is damaged, or would
    run code.
    """
    if not file.is_file():
        raise MissingFilesError(f"there is no checkpoint {file}. Check the path given to --checkpoint.")
    with file.open("rb") as stream:
        head = stream.read(HEAD_BYTES)
    if not head:
        raise FungiError(f"{file} is empty. Fetch it again.")
    for beginning, said in OTHER_KINDS:
        if head.lstrip().startswith(beginning):
            raise FungiError(f"{file} {said}.")
    if head[HEADER_LENGTH_BYTES:].lstrip().startswith(b"{"):
        return _read_safetensors(file)
    if file.suffix == ".safetensors" and not head.startswith((b"PK", b"\x80")):  # neither of torch.save's beginnings
        raise FungiError(f"{file} is no complete .safetensors file (it has no header). Fetch it again.")
    return _read_pickle(file)


def _read_safetensors(file: Path) -> StateDict:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except SafetensorError as error:
        raise FungiError(f"{file} is no complete .safetensors file ({error}). Fetch it again.") from None


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
        text = str(error).partition("\n")[0] if not isinstance(error, LookupError) else ""  # a KeyError has a number
        reason = text or "torch.save did not write it"
        raise FungiError(f"{file} can't be read as a checkpoint ({reason}). Fetch it again.") from None
