"""Read checkpoints: safetensors files and files that `torch.save` wrote. Files of other formats are refused.

The first bytes of a file, not its extension, show the format.
"""

from pathlib import Path
from typing import Any

from fungi.backbones.base import StateDict
from fungi.errors import FungiError, MissingFilesError

HEAD_BYTES = 512
"""Number of bytes at the start of a file that are read to recognise the format."""
HEADER_LENGTH_BYTES = 8
"""Number of bytes at the start of a safetensors file that store the length of its header. The header is JSON."""
TORCH_SAVE_STARTS = (b"PK", b"\x80")
"""First bytes of a file that `torch.save` wrote: a zip file or a pickle."""

OTHER_KINDS = (
    (
        b"version https://git-lfs",
        "is a pointer of git-LFS, not the weights themselves. Run `git lfs pull` in the repository that it comes from",
    ),
    (
        b"<",
        "is a web page or XML: the download returned a page instead of weights. Fetch the file, perhaps with a browser",
    ),
    (b"\x1f\x8b", "is compressed with gzip. Unpack it with gunzip"),
    (b"GGUF", "is a GGUF file with quantised weights. Get the weights as .safetensors"),
    (b"\x89HDF", "is an HDF5 file. Get the weights as .safetensors or as torch.save writes them"),
)
"""First bytes of files of other formats that users often pass as checkpoints, and the message for each."""


def read_content(file: Path) -> Any:
    """Return the unchanged content of a checkpoint file, on the CPU.

    Raises MissingFilesError if the file does not exist, and FungiError if it is not a checkpoint, if it is damaged, or
    if loading it would run code.
    """
    if not file.is_file():
        raise MissingFilesError(f"there is no checkpoint {file}. Check the path given to --checkpoint.")
    with file.open("rb") as stream:
        head = stream.read(HEAD_BYTES)
    if not head:
        raise FungiError(f"{file} is empty. Fetch it again.")
    for first_bytes, message in OTHER_KINDS:
        if head.lstrip().startswith(first_bytes):
            raise FungiError(f"{file} {message}.")
    if head[HEADER_LENGTH_BYTES:].lstrip().startswith(b"{"):
        return _read_safetensors(file)
    if file.suffix == ".safetensors" and not head.startswith(TORCH_SAVE_STARTS):
        raise FungiError(f"{file} is not a complete .safetensors file (it has no header). Fetch it again.")
    return _read_pickle(file)


def _read_safetensors(file: Path) -> StateDict:
    """Return the tensors of a safetensors file. Raises FungiError if the file is not complete."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except SafetensorError as error:
        raise FungiError(f"{file} is not a complete .safetensors file ({error}). Fetch it again.") from None


def _read_pickle(file: Path) -> Any:
    """Return the content of a file that `torch.save` wrote.

    Raises FungiError if the file is damaged, or if loading it would run code.
    """
    import pickle
    from argparse import Namespace

    import torch

    try:
        with torch.serialization.safe_globals([Namespace]):  # many programs save their flags as a Namespace
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise FungiError(
            f"{file} contains more than tensors, or is not a checkpoint. It is not read, because loading it could run "
            "code. If you trust the file, load it yourself and save only the weights with "
            "torch.save(model.state_dict(), FILE)."
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, LookupError, AttributeError, TypeError) as error:
        # The text of a LookupError is only a key, which does not explain anything.
        explanation = "" if isinstance(error, LookupError) else str(error).partition("\n")[0]
        reason = explanation or "torch.save did not write it"
        raise FungiError(f"{file} can't be read as a checkpoint ({reason}). Fetch it again.") from None
