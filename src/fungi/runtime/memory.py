"""Free memory of a device. Large allocations check it first, because the kernel kills a process that takes too much."""

from pathlib import Path

import torch

MEMORY_FILE = Path("/proc/meminfo")
GROUPS_FILE, GROUPS_ROOT = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
"""Control group of this process, and the folder with the limits of all control groups."""


def free_bytes(device: torch.device) -> int | None:
    """Return the number of bytes that this process can still allocate on a device; None if it is unknown.

    On a CPU, this is the available memory of the machine. If the control group of the process has less unused memory,
    return that number, because SLURM and containers limit jobs with control groups. On a GPU, count the free memory of
    the driver and of torch's cache.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    limits = [count for count in (_free_of_machine(), _free_of_group()) if count is not None]
    return min(limits, default=None)


def _free_of_machine() -> int | None:
    """Return the available bytes of the main memory; None if the system does not report them."""
    try:
        lines = MEMORY_FILE.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    kibibytes = (int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    return next((count * 1024 for count in kibibytes), None)


def _free_of_group() -> int | None:
    """Return the bytes that the limits of the process's control groups (version 2) leave; None without a limit."""
    try:
        path = next(
            line.split("::", 1)[1]
            for line in GROUPS_FILE.read_text(encoding="utf-8").splitlines()
            if line.startswith("0::")
        )
    except (OSError, StopIteration):
        return None
    group = GROUPS_ROOT / path.strip().lstrip("/")
    counts = [_free_below(folder) for folder in (group, *group.parents) if folder.is_relative_to(GROUPS_ROOT)]
    return min((count for count in counts if count is not None), default=None)


def _free_below(folder: Path) -> int | None:
    """Return the memory limit of a control group minus the used memory, in bytes; None if the group has no limit.

    Cached file pages do not count as use, because the kernel drops them if memory is needed.
    """
    try:
        limit = (folder / "memory.max").read_text(encoding="utf-8").strip()
        if limit == "max":
            return None
        statistics = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="utf-8").splitlines())
        used = int((folder / "memory.current").read_text(encoding="utf-8")) - int(statistics.get("inactive_file", 0))
    except (OSError, ValueError):
        return None
    return max(0, int(limit) - used)
