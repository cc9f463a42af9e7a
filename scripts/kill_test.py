"""Kill the stages at random moments, and count lost results (there must be none) and orphans.

    python scripts/kill_test.py --kills 1000
    python scripts/kill_test.py --kills 40 --stages merge --moments spaced

Each stage works on a few pictures, in a process that is forked from this one, because a forked process needs no
imports. The process is killed (SIGKILL, SIGTERM or SIGUSR1) at a random moment of its run and started again, until the
number of kills is reached. After each kill, everything that was finished before must still exist, bit for bit. If a run
reaches its end, its files must equal those of a run that was never killed. 1,000 kills take about ten minutes on two
cores.

`--moments spaced` kills before file operations (creating, renaming, removing) that are evenly spaced over the run.
Every call chooses the same operations. The test suite uses this option.
"""

import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import RLock
from typing import Any, Literal

import torch
from tqdm import tqdm

from finished_files import finished, missing_from
from fungi.commands import COMMANDS
from fungi.errors import FungiError
from fungi.extraction import pipeline
from fungi.runtime.command import run_command
from fungi.runtime.owner import find_orphans
from fungi.settings import SEEDS, setting
from kill_stages import REQUIRED_STAGES, ROOT, commands, make_data

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1)
PRINTED_LOSSES = 20
"""Largest number of losses that are printed one by one."""
CHANGE_EVENTS = ("open", "os.rename", "os.remove", "os.link", "os.mkdir", "os.rmdir")
"""Audit events of operations that change files. An `open` counts only if it opens a file for writing."""
HANDLED_STATUSES = tuple(128 + number for number in SIGNALS)
"""Exit statuses of stages that save their state after a signal."""


@dataclass(frozen=True, kw_only=True)
class KillSettings:
    """Settings of `kill_test.py`: the stages, and the number and moments of their kills."""

    kills: int = setting(1000, "number of kills, shared evenly among the stages", within=(1, 10**6))
    stages: tuple[str, ...] = setting((), "stages to kill, such as extract, gradients-kl or segment; if absent, all")
    seed: int = setting(0, "seed of the moments", within=SEEDS)
    moments: Literal["random", "spaced"] = setting(
        "random", "moments of the kills: random, or before evenly spaced file operations"
    )
    rows: int = setting(8, "number of pictures in the training split", within=(4, 10_000))


@dataclass
class Tally:
    """Results of the kills of a stage.

    completed: number of runs that reached their end. lost: a text for each loss. orphans: kind -> number of remaining
    files or processes.
    """

    kills: int = 0
    completed: int = 0
    lost: list[str] = field(default_factory=list)
    orphans: Counter[str] = field(default_factory=Counter)


def _arguments(command: list[str], root: Path) -> list[str]:
    """Return the arguments of a command line, with the path of the root instead of ROOT."""
    return [word.replace(ROOT, str(root)) for word in command[1:]]


def start_in_fork(command: list[str], root: Path, *, assembled: bool = True, die_at: int = 0) -> int:
    """Start a command in a forked process that leads its own process group, and return its pid.

    assembled: whether blocks are assembled into files. die_at: number of the file operation below the root, counted
    from 1, before which the process kills itself; 0 means never. The process writes the number of its operations to a
    file beside the root.
    """
    pid = os.fork()
    if pid:
        return pid
    status = 70  # of a process that ends with an unexpected error
    operations = _count_operations(root, die_at)
    try:
        os.setsid()
        tqdm.set_lock(RLock())  # a killed process would not release the lock that all forks of this process share
        log = os.open(root.with_name(f"{root.name}.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        if not assembled:
            pipeline.assemble = lambda *_, **__: None
        status = COMMANDS[command[0]].main(_arguments(command, root))
    except SystemExit as error:  # a stage that handles the signal saves its state and exits
        status = int(error.code or 0)
    finally:
        root.with_name(f"{root.name}.operations").write_text(str(operations[0]))
        os._exit(status)


def _count_operations(root: Path, die_at: int) -> list[int]:
    """Count the file operations of this process below the root. The only entry of the returned list is their number.

    Before operation number `die_at`, the process kills itself.
    """
    count, prefix = [0], str(root) + os.sep

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in CHANGE_EVENTS or not str(arguments[0]).startswith(prefix):
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        count[0] += 1
        if count[0] == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return count


def run_to_end(command: list[str], root: Path, *, assembled: bool = True) -> float:
    """Run a command in a forked process, and return the elapsed seconds. Raises FungiError if the command fails."""
    start = time.monotonic()
    _, wait_status = os.waitpid(start_in_fork(command, root, assembled=assembled), 0)
    if status := os.waitstatus_to_exitcode(wait_status):
        log = root.with_name(f"{root.name}.log").read_text(encoding="utf-8", errors="replace")
        raise FungiError(f"{' '.join(command)} ended with status {status} without being killed:\n{log[-2000:]}")
    return time.monotonic() - start


def run_without_fork(command: list[str], root: Path) -> None:
    """Run a command here, so that later forks need no imports. Raises FungiError if the command fails."""
    with root.with_name(f"{root.name}.log").open("w") as log, redirect_stdout(log), redirect_stderr(log):
        status = COMMANDS[command[0]].main(_arguments(command, root))
    if status != 0:
        lines = root.with_name(f"{root.name}.log").read_text(encoding="utf-8", errors="replace").splitlines()
        raise FungiError(f"{' '.join(command)} ended with status {status} without being killed: {lines[-3:]}")


def end_group(pid: int) -> bool:
    """Return whether all processes of a killed group exit within 30 s. Kill the processes that do not exit."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            os.killpg(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    return False


def try_stage(
    command: list[str], start: Path, undisturbed: Path, work: Path, kills: int, moments: random.Random | None
) -> Tally:
    """Kill a stage many times, and return the results.

    start: folder of the files that the stage needs. undisturbed: folder of the files of a run that was never killed.
    work: folder in which the stage works, a new copy of `start` after each run that reaches its end. moments: source of
    random moments; None for evenly spaced file operations.
    """
    tally, expected = Tally(), finished(undisturbed)
    shutil.copytree(start, work)
    duration = run_to_end(command, work)
    operations = int(work.with_name(f"{work.name}.operations").read_text(encoding="utf-8"))
    shutil.rmtree(work)
    work.with_name(f"{work.name}.log").unlink()
    shutil.copytree(start, work)
    while tally.kills < kills:
        before = finished(work)
        if moments is None:
            pid = start_in_fork(command, work, die_at=1 + tally.kills * operations // kills)
        else:
            pid = start_in_fork(command, work)
            time.sleep(moments.uniform(0, 1.1) * duration)
            os.kill(pid, moments.choice(SIGNALS))
        _, wait_status = os.waitpid(pid, 0)
        exit_status = os.waitstatus_to_exitcode(wait_status)
        if not end_group(pid):
            tally.orphans["processes that outlive their parent"] += 1
        if exit_status < 0 or exit_status in HANDLED_STATUSES:
            tally.kills += 1
            tally.lost += missing_from(finished(work), before)
            continue
        if exit_status:
            log = work.with_name(f"{work.name}.log").read_text(encoding="utf-8", errors="replace")
            tally.lost.append(f"a run ended with status {exit_status}: {log[-500:]}")
        tally.completed += 1
        _compare(work, expected, tally)
        shutil.rmtree(work)
        shutil.copytree(start, work)
    run_to_end(command, work)
    _compare(work, expected, tally)
    return tally


def _compare(work: Path, expected: dict[str, str], tally: Tally) -> None:
    """Check that a stage has written the files of a run that was never killed, and count the orphans."""
    after = finished(work)
    tally.lost += [f"{name} is not as expected" for name in expected if after.get(name) != expected[name]]
    folders = [work, *(path for path in work.rglob("*") if path.is_dir())]
    orphans = [orphan for folder in folders for orphan in find_orphans(folder)]
    tally.orphans["files that the stage did not remove"] += len(orphans)
    run_to_end(["clean", "--root", ROOT], work)
    hidden = list(work.rglob(".*"))
    tally.orphans["files that fungi clean did not remove"] += len(hidden)
    tally.lost += [f"fungi clean removed {name}" for name in missing_from(finished(work), after)]


def run(settings: KillSettings) -> None:
    """Kill every stage, and print the results. Raises FungiError if anything was lost."""
    torch.set_num_threads(1)  # a pool of threads does not survive a fork
    moments, tallies = random.Random(settings.seed), {}
    with tempfile.TemporaryDirectory(prefix="fungi-kills-") as folder:
        home = Path(folder)
        make_data(home / "data", settings.rows)
        stages = commands(home / "data")
        names = settings.stages or tuple(stages)
        if unknown := set(names) - set(stages):
            raise FungiError(f"no stage {', '.join(sorted(unknown))}. There are: {', '.join(stages)}.")
        for number, name in enumerate(names):
            start, undisturbed = _prepare(name, stages, home)
            kills = settings.kills // len(names) + (number < settings.kills % len(names))
            stage_moments = moments if settings.moments == "random" else None
            tallies[name] = try_stage(stages[name], start, undisturbed, home / "work" / name, kills, stage_moments)
            _print(name, tallies[name])
    total = sum(tally.kills for tally in tallies.values())
    lost = [text for tally in tallies.values() for text in tally.lost]
    for text in lost[:PRINTED_LOSSES]:
        print(f"lost: {text}")
    print(f"{total} kills, {len(lost)} losses")
    if lost:
        raise FungiError(f"{len(lost)} losses, the first: {lost[0]}")


def _prepare(name: str, stages: dict[str, list[str]], home: Path) -> tuple[Path, Path]:
    """Write two folders and return them: the files that a stage needs, and the files of a run that was never killed."""
    start, undisturbed = home / "start" / name, home / "undisturbed" / name
    start.mkdir(parents=True)
    for required in REQUIRED_STAGES.get(name, ()):
        run_to_end(stages[required], start, assembled=name != "merge")
    shutil.copytree(start, undisturbed)
    run_without_fork(stages[name], undisturbed)
    return start, undisturbed


def _print(name: str, tally: Tally) -> None:
    """Print a line with the results of a stage."""
    orphans = ", ".join(f"{count} {kind}" for kind, count in tally.orphans.items() if count) or "no orphans"
    counts = f"{tally.kills} kills, {tally.completed} completed runs, {len(tally.lost)} losses"
    print(f"{name}: {counts}, {orphans}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run_command(KillSettings, run, program="kill_test.py", description=__doc__ or "", arguments=arguments)


if __name__ == "__main__":
    sys.exit(main())
