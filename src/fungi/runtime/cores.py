"""Number of processor cores that this process may use."""

import os
from collections.abc import Mapping


def usable_cores(environ: Mapping[str, str] = os.environ) -> int:
    """Return the number of cores, at least 1: those of the affinity mask, but no more than SLURM_CPUS_PER_TASK.

    A cluster that does not bind jobs to cores shows all cores of the node, although most of them belong to other jobs.
    `fungi submit --pack` runs several shards in one job and gives each its share of the cores in SLURM_CPUS_PER_TASK.
    """
    cores = len(os.sched_getaffinity(0))
    requested = environ.get("SLURM_CPUS_PER_TASK", "")
    return max(1, min(cores, int(requested))) if requested.isdecimal() else cores
