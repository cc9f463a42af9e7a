"""Several elements in one task of an array: a process for each, side by side, each with a GPU of the task's own."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from fungi.grid.array import ELEMENT
from fungi.runtime.log import logger

INTERRUPTED_STATUS = 130


def side_by_side(given: Sequence[str], indices: Sequence[int], root: Path, environ: Mapping[str, str]) -> int:
    """Run the elements of a pack; the first status that is not 0. An interruption is passed on to all of them.

    Each writes to a log of its own, `<root>/logs/<job>-<array>_<task>-element<index>.out`.
    """
    running = {index: _start(given, place, index, len(indices), root, environ) for place, index in enumerate(indices)}
    try:
        statuses = {index: process.wait() for index, process in running.items()}
    except KeyboardInterrupt:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()
        return INTERRUPTED_STATUS
    for index, status in statuses.items():
        logger.info(f"element {index}: {'done' if status == 0 else f'status {status}'}")
    return next((status for status in statuses.values() if status), 0)


def _start(
    given: Sequence[str], place: int, index: int, count: int, root: Path, environ: Mapping[str, str]
) -> "subprocess.Popen[bytes]":
    own = {**environ, ELEMENT: str(index)}
    if gpus := [text for text in environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if text]:
        own["CUDA_VISIBLE_DEVICES"] = gpus[place % len(gpus)]
    if cores := environ.get("SLURM_CPUS_PER_TASK", ""):
        own["OMP_NUM_THREADS"] = str(max(1, int(cores) // count))
    name = f"{environ.get('SLURM_JOB_NAME', 'job')}-{environ['SLURM_ARRAY_JOB_ID']}_{environ['SLURM_ARRAY_TASK_ID']}"
    log = root / "logs" / f"{name}-element{index}.out"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        command = [sys.executable, "-m", "fungi", "run-elements", *given]
        process = subprocess.Popen(command, env=own, stdout=output, stderr=subprocess.STDOUT)
    logger.info(f"element {index} on GPU {own.get('CUDA_VISIBLE_DEVICES', 'none')}: {log}")
    return process
