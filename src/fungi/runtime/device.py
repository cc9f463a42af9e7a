"""Device and dtype of a command, times of its steps, and settings of the memory allocator."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from time import perf_counter

import torch

from fungi.errors import FungiError, counted
from fungi.runtime.precision import set_full_precision

HIDDEN = ("", "-1", "NoDevFiles")
"""Values of CUDA_VISIBLE_DEVICES that hide all GPUs; the last is SLURM's."""
GPU_FILE, DRIVER_FILE = Path("/dev/nvidia0"), Path("/proc/driver/nvidia/version")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(name: str) -> torch.device:
    """Return the device for `auto`, `cpu`, `cuda` or `cuda:N`, and set torch up for it.

    The function also calls `set_full_precision`, and makes `cuda:N` the current device of torch.

    Raises FungiError for a missing device. For `auto`, it also raises FungiError if this process has a GPU that torch
    can't use: the CPU would take very long, so the user has to choose it explicitly.
    """
    set_full_precision()
    if name == "auto":
        if not torch.cuda.is_available() and (evidence := _evidence_of_gpu()):
            raise FungiError(f"this process has a GPU ({evidence}), but {_why_unusable()} Or choose --device cpu.")
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise FungiError(f"--device {name!r} is not a device. Use auto, cpu, cuda or cuda:N.") from None
    if device.type not in ("cpu", "cuda"):
        raise FungiError(f"--device {name} is not supported. Use auto, cpu, cuda or cuda:N.")
    if device.type == "cuda" and not torch.cuda.is_available():
        reason = _why_unusable() if _evidence_of_gpu() else f"torch {torch.__version__} sees no GPU."
        raise FungiError(f"--device {name} was asked for, but {reason} Or choose --device cpu.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise FungiError(
            f"--device {name} does not exist: there are "
            f"{counted(torch.cuda.device_count(), 'GPU')}, and the first is cuda:0."
        )
    if device.index is not None and device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def device_name(device: torch.device) -> str:
    """Return the name of the GPU model, such as `NVIDIA H200`, or `cpu`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _evidence_of_gpu() -> str:
    """Return the evidence for a GPU of this process: an environment variable or a file; empty without a visible GPU."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in HIDDEN:
        return ""
    for name in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_GPUS", "SLURM_GPUS_ON_NODE"):
        value = os.environ.get(name, "").strip()
        if value and not (name == "SLURM_GPUS_ON_NODE" and value == "0"):
            return f"{name}={value}"
    return str(GPU_FILE) if GPU_FILE.exists() else ""


def _why_unusable() -> str:
    """Return the end of a message that says why torch can't use the GPU and what the user can do."""
    try:
        driver = DRIVER_FILE.read_text(encoding="utf-8").splitlines()[0].partition("Module")[2].split()[0]
    except (OSError, IndexError):
        driver = "unknown"
    build = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
    return (
        f"torch {torch.__version__} ({build}) can't use it with driver {driver}. Install a torch that is built for an"
        " older CUDA (see docs/cluster.md), or a newer driver."
    )


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the compute dtype: `auto` is bfloat16 on a GPU (spec vision 7.1) and float32 elsewhere."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if name not in DTYPES:
        raise FungiError(f"--dtype {name!r} is not known. Use auto, {', '.join(DTYPES)}.")
    return DTYPES[name]


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Return a context that computes matrix products in `dtype`; it changes nothing for float32."""
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype=dtype)


@contextmanager
def default_torch_settings() -> Iterator[None]:
    """Use torch's default settings inside the `with` statement: no autocast, no inference mode, float32, CPU.

    Settings of the caller could change results silently: under `torch.autocast`, gradients have a lower precision. This
    function can also be used as a decorator.
    """
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.no_grad())  # inference mode computes no gradients either
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        if torch.get_default_dtype() != torch.float32:
            stack.callback(torch.set_default_dtype, torch.get_default_dtype())
            torch.set_default_dtype(torch.float32)
        yield


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished all work, so that times can be measured."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # as in <malloc.h>


def keep_freed_memory() -> None:
    """Ask glibc's allocator to keep freed memory; do nothing if the process uses another allocator.

    By default, glibc returns a large block to the system when the program frees it. The system then has to provide and
    zero the same pages for every batch. For a small network on a CPU, this takes about a third of the time.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(M_MMAP_THRESHOLD, 1 << 30)  # glibc allocates blocks below 1 GiB on the heap,
    mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)  # keeps up to 2 GiB of free memory at the end of the heap,
    mallopt(M_TOP_PAD, 1 << 26)  # and enlarges the heap by 64 MiB more than it needs


class Stopwatch:
    """Measures the seconds that each step takes.

    precise: whether to wait for the device after each step. On a GPU, the times are right only if `precise` is set.
    """

    def __init__(self, device: torch.device | str = "cpu", *, precise: bool = False) -> None:
        self._device = torch.device(device)
        self._precise = precise
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        """Add the time inside the `with` statement to a step."""
        start = perf_counter()
        try:
            yield
        finally:
            if self._precise:
                synchronize(self._device)
            self.seconds[step] = self.seconds.get(step, 0.0) + perf_counter() - start
