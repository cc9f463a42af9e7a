"""Free memory of a device, asked before something large is made: the kernel ends a process that takes too much."""

from pathlib import Path

import torch

MEMORY_FILE = Path("/proc/meminfo")
GROUPS_FILE, GROUPS_ROOT = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def free_bytes(device: torch.device) -> int | None:
    """Return the bytes that this process may still take on a device; None if the system does not say.

    On a CPU: what the machine has available, and no more than the memory limit of the process's control group, which
    is how SLURM and containers limit jobs. On a GPU: what the driver and torch's own cache have free.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    known = [count for count in (_free_of_machine(), _free_of_group()) if count is not None]
    return min(known, default=None)


def _free_of_machine() -> int | None:
    try:
        lines = MEMORY_FILE.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _free_of_group() -> int | None:
    """Return what the tightest limit of the process's control groups (version 2) leaves; None without a limit."""
    try:
        path = next(
            line.split("::", 1)[1]
            for line in GROUPS_FILE.read_text(encoding="utf-8").splitlines()
            if line.startswith("0::")
        )
    except (OSError, StopIteration):
        return None
    own = GROUPS_ROOT / path.strip().lstrip("/")
    left = [_free_below(folder) for folder in (own, *own.parents) if folder.is_relative_to(GROUPS_ROOT)]
    return min((count for count in left if count is not None), default=None)


def _free_below(folder: Path) -> int | None:
    """Return limit - use of one control group; cached file pages do not count as use, since the kernel drops them."""
    try:
        limit = (folder / "memory.max").read_text(encoding="utf-8").strip()
        if limit == "max":
            return None
        statistics = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="utf-8").splitlines())
        used = int((folder / "memory.current").read_text(encoding="utf-8")) - int(statistics.get("inactive_file", 0))
    except (OSError, ValueError):
        return None
    return max(0, int(limit) - used)
