"""Number of processor cores that this process may use."""

import os
from collections.abc import Mapping


def usable_cores(environ: Mapping[str, str] = os.environ) -> int:
    """Return the number of cores: the cores of the affinity mask, but at most SLURM_CPUS_PER_TASK, and at least 1.

    A cluster that does not bind jobs to cores shows all cores of the node, although most of them belong to other jobs.
    `fungi submit --pack` runs several shards in one job. It sets SLURM_CPUS_PER_TASK to the number of cores per shard.
    """
    cores = len(os.sched_getaffinity(0))
    requested = environ.get("SLURM_CPUS_PER_TASK", "")
    return max(1, min(cores, int(requested))) if requested.isdecimal() else cores
