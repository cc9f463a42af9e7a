"""Kill the stages at random moments, and count lost results (there must be none) and remaining orphans.

    python scripts/kill_test.py --kills 1000
    python scripts/kill_test.py --kills 40 --stages merge --moments spaced

Each stage and objective in turn works on a few pictures, in a process forked from this one, so that a kill costs no
start-up. It is killed (SIGKILL, SIGTERM or SIGUSR1) at a random moment of its run and started again, as often as asked.
After each kill, everything that was finished before must still exist, bit for bit. If a run ends by itself, its files
must equal those of a run that was never killed. 1,000 kills take about ten minutes on two cores.

`--moments spaced` kills before file operations that are evenly spaced over the run (creating, renaming, removing), the
same ones every time: what the test suite does.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import RLock
from typing import Any, Literal

import h5py
import numpy as np
import torch
from tqdm import tqdm

from fungi.backbones.checkpoints import read_content
from fungi.commands import COMMANDS
from fungi.errors import FungiError
from fungi.extraction import pipeline
from fungi.runtime.command import run_command
from fungi.runtime.owner import find_orphans
from fungi.settings import SEEDS, setting
from fungi.store.banks import MANIFEST, Bank, read_manifest
from kill_stages import BUILDS_ON, ROOT, commands, make_data

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1)
SHOWN = 20
CHANGES = ("open", "os.rename", "os.remove", "os.link", "os.mkdir", "os.rmdir")
"""Audit events of operations that change files; of opening, only for writing."""
HANDLED = tuple(128 + number for number in SIGNALS)
NEWEST = " after step "
"""Text between the name of a checkpoint and its step."""


@dataclass(frozen=True, kw_only=True)
class KillSettings:
    """How often to kill what."""

    kills: int = setting(1000, "kills, shared evenly among the stages", within=(1, 10**6))
    stages: tuple[str, ...] = setting((), "stages, e.g. extract, gradients-kl, segment; or all")
    seed: int = setting(0, "seed of the moments", within=SEEDS)
    moments: Literal["random", "spaced"] = setting(
        "random", "kill at random moments, or at evenly spaced file operations"
    )
    rows: int = setting(8, "pictures of the training split", within=(4, 10_000))


@dataclass
class Tally:
    """Outcome of the kills of a stage.

    survived: runs that ended by themselves. orphans: kind of remaining files or processes -> number.
    """

    kills: int = 0
    survived: int = 0
    lost: list[str] = field(default_factory=list)
    orphans: Counter[str] = field(default_factory=Counter)


def _at(root: Path, command: list[str]) -> list[str]:
    return [word.replace(ROOT, str(root)) for word in command[1:]]


def begin(command: list[str], root: Path, *, assembled: bool = True, die_at: int = 0) -> int:
    """Run a command in a forked process that leads its own process group, and return its pid.

    die_at: number of the file operation below the root, counted from 1, before which the process kills itself; 0 for
    none. The number of operations is written beside the root.
    """
    pid = os.fork()
    if pid:
        return pid
    status = 70
    operations = _count_operations(root, die_at)
    try:
        os.setsid()
        tqdm.set_lock(RLock())  # that of this process is shared with all forked ones: a killed one would keep it
        quiet = os.open(root.with_name(f"{root.name}.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        if not assembled:
            pipeline.assemble = lambda *_, **__: None
        status = COMMANDS[command[0]].main(_at(root, command))
    except SystemExit as ended:  # a stage that handles the signal saves its state and exits
        status = int(ended.code or 0)
    finally:
        root.with_name(f"{root.name}.operations").write_text(str(operations[0]))
        os._exit(status)


def _count_operations(root: Path, die_at: int) -> list[int]:
    """Count, from now on, the operations of this process that change files below the root, in the only entry."""
    count, top = [0], str(root)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in CHANGES or not str(arguments[0]).startswith(top + os.sep):
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        count[0] += 1
        if count[0] == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return count


def run_whole(command: list[str], root: Path, *, assembled: bool = True) -> float:
    """Run a command to its end and return the seconds that it took. Raises FungiError if it fails."""
    start = time.monotonic()
    _, status = os.waitpid(begin(command, root, assembled=assembled), 0)
    if status != 0:
        log = root.with_name(f"{root.name}.log").read_text(encoding="utf-8", errors="replace")
        raise FungiError(f"{' '.join(command)} ended with status {status} without being killed:\n{log[-2000:]}")
    return time.monotonic() - start


def run_here(command: list[str], root: Path) -> None:
    """Run a command in this process, so that forked processes need no imports. Raises FungiError if it fails."""
    with root.with_name(f"{root.name}.log").open("w") as log, redirect_stdout(log), redirect_stderr(log):
        status = COMMANDS[command[0]].main(_at(root, command))
    if status != 0:
        said = root.with_name(f"{root.name}.log").read_text(encoding="utf-8", errors="replace").splitlines()
        raise FungiError(f"{' '.join(command)} ended with status {status} without being killed: {said[-3:]}")


def finished(root: Path) -> dict[str, str]:
    """Return a hash of everything below a root that is finished: of each file, and separately of each combination of a
    result, each epoch of a run and each block of a bank."""
    contents = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if not path.is_file() or any(part.startswith(".") for part in Path(name).parts):
            continue
        if path.suffix == ".json" and name.startswith("result"):
            results = json.loads(path.read_text(encoding="utf-8"))["results"]
            contents |= {f"{name}:{key}": json.dumps(scores, sort_keys=True) for key, scores in results.items()}
        elif path.name == "log.txt":
            epochs = [
                json.loads(line) | {"images_per_second": 0} for line in path.read_text(encoding="utf-8").splitlines()
            ]
            contents |= {f"{name}:{number:06d}": json.dumps(line) for number, line in enumerate(epochs)}
        elif path.name.startswith("checkpoint"):
            step, digest = _state_of_run(path)
            contents[f"{name}{NEWEST}{step:06d}"] = digest
        elif path.name == MANIFEST:
            contents |= {
                f"{path.parent.relative_to(root)}:{key}": digest for key, digest in _blocks_of_bank(path.parent)
            }
        elif path.suffix == ".bin":
            continue  # a bank's, filled block by block
        elif path.suffix == ".h5":
            with h5py.File(path) as file:
                for key, array in file.items():
                    values = array[()]
                    content = repr(values.tolist()).encode() if values.dtype.hasobject else values.tobytes()
                    contents[f"{name}:{key}"] = hashlib.sha256(content).hexdigest()
        else:
            contents[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return contents


def _state_of_run(path: Path) -> tuple[int, str]:
    """Return how far a run of pretraining or fine-tuning is, and a hash of its networks, without the time."""
    content = read_content(path)
    weights = {part: content[part] for part in ("model", "student", "teacher") if part in content}
    digest = hashlib.sha256()
    for part, state in weights.items():
        for name, tensor in state.items():
            digest.update(f"{part}.{name}".encode() + tensor.numpy().tobytes())
    return content["fungi"]["step"] if "fungi" in content else len(content["history"]), digest.hexdigest()


def _blocks_of_bank(folder: Path) -> Iterator[tuple[int, str]]:
    """Yield the number and a hash of each block of a bank that is marked as written."""
    bank = Bank(folder, read_manifest(folder))
    for block in set(range(len(bank.manifest.ends))) - set(bank.missing()):
        rows = np.arange(*bank.span(block))
        yield block, hashlib.sha256(bank.features_of(rows).tobytes() + bank.labels_of(rows).tobytes()).hexdigest()


def missing_from(after: dict[str, str], before: dict[str, str]) -> list[str]:
    """Return the names in `before` that are missing or differ in `after`.

    Blocks may have become their feature file, and the newest state of a run may have become a newer one.
    """
    lost = []
    for name, content in before.items():
        became = Path(name).parent.parent.as_posix().removeprefix("blocks/") + ".h5"
        assembled = name.startswith("blocks/") and any(other.startswith(f"{became}:") for other in after)
        run, newest, _ = name.partition(NEWEST)
        followed = bool(newest) and any(other > name for other in after if other.startswith(run + NEWEST))
        if after.get(name) != content and not (assembled or followed):
            lost.append(name)
    return lost


def end_group(pid: int) -> bool:
    """Return whether all processes of a killed group end by themselves within 30 s; the others are killed."""
    patience = time.monotonic() + 30
    while time.monotonic() < patience:
        try:
            os.killpg(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    return False


def try_stage(
    command: list[str], start: Path, plain: Path, work: Path, kills: int, moments: random.Random | None
) -> Tally:
    """Kill a stage that begins from the files in `start` and should end with those of `plain`.

    work: folder of its files, which is copied from `start` again after each run that ends by itself; moments: None for
    evenly spaced moments.
    """
    tally, expected = Tally(), finished(plain)
    shutil.copytree(start, work)
    whole = run_whole(command, work)
    operations = int(work.with_name(f"{work.name}.operations").read_text(encoding="utf-8"))
    for path in (work, work.with_name(f"{work.name}.log")):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(start, work)
    while tally.kills < kills:
        before = finished(work)
        if moments is None:
            pid = begin(command, work, die_at=1 + tally.kills * operations // kills)
        else:
            pid = begin(command, work)
            time.sleep(moments.uniform(0, 1.1) * whole)
            os.kill(pid, moments.choice(SIGNALS))
        _, status = os.waitpid(pid, 0)
        if not end_group(pid):
            tally.orphans["processes that outlive their parent"] += 1
        if os.WIFSIGNALED(status) or os.WEXITSTATUS(status) in HANDLED:
            tally.kills += 1
            tally.lost += missing_from(finished(work), before)
            continue
        if os.WEXITSTATUS(status):
            log = work.with_name(f"{work.name}.log").read_text(encoding="utf-8", errors="replace")
            tally.lost.append(f"a run ended with status {os.WEXITSTATUS(status)}: {log[-500:]}")
        tally.survived += 1
        _compare(work, expected, tally)
        shutil.rmtree(work)
        shutil.copytree(start, work)
    run_whole(command, work)
    _compare(work, expected, tally)
    return tally


def _compare(work: Path, expected: dict[str, str], tally: Tally) -> None:
    """Check that a stage has written the files of an undisturbed run, and count the orphans that remain."""
    after = finished(work)
    tally.lost += [f"{name} is not as expected" for name in expected if after.get(name) != expected[name]]
    tally.orphans["files that the stage itself did not clean"] += sum(
        len(list(find_orphans(folder))) for folder in [work, *(path for path in work.rglob("*") if path.is_dir())]
    )
    run_whole(["clean", "--root", ROOT], work)
    left = [path.name for path in work.rglob(".*")]
    tally.orphans["files that fungi clean did not clean"] += len(left)
    tally.lost += [f"{name} was cleaned away" for name in missing_from(finished(work), after)]


def run(settings: KillSettings) -> None:
    """Kill every stage. Raises FungiError if anything was lost."""
    torch.set_num_threads(1)  # a pool of threads does not survive a fork
    moments, tallies = random.Random(settings.seed), {}
    with tempfile.TemporaryDirectory(prefix="fungi-kills-") as folder:
        home = Path(folder)
        make_data(home / "data", settings.rows)
        stages = commands(home / "data")
        chosen = settings.stages or tuple(stages)
        if unknown := set(chosen) - set(stages):
            raise FungiError(f"no stage {', '.join(sorted(unknown))}. There are: {', '.join(stages)}.")
        for number, name in enumerate(chosen):
            start, plain = _prepared(name, stages, home)
            share = settings.kills // len(chosen) + (number < settings.kills % len(chosen))
            chosen_moments = moments if settings.moments == "random" else None
            tallies[name] = try_stage(stages[name], start, plain, home / "work" / name, share, chosen_moments)
            _print(name, tallies[name])
    total = sum(tally.kills for tally in tallies.values())
    lost = [text for tally in tallies.values() for text in tally.lost]
    for text in lost[:SHOWN]:
        print(f"lost: {text}")
    print(f"{total} kills, {len(lost)} losses")
    if lost:
        raise FungiError(f"{len(lost)} losses, the first: {lost[0]}")


def _prepared(name: str, stages: dict[str, list[str]], home: Path) -> tuple[Path, Path]:
    """Return two folders: the files from which a stage begins, and the files after a run that was never killed."""
    start, plain = home / "start" / name, home / "plain" / name
    start.mkdir(parents=True)
    for earlier in BUILDS_ON.get(name, ()):
        run_whole(stages[earlier], start, assembled=name != "merge")
    shutil.copytree(start, plain)
    run_here(stages[name], plain)
    return start, plain


def _print(name: str, tally: Tally) -> None:
    remaining = ", ".join(f"{count} {what}" for what, count in tally.orphans.items() if count) or "no orphans"
    print(
        f"{name}: {tally.kills} kills, {tally.survived} runs got through, {len(tally.lost)} losses, {remaining}",
        flush=True,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run_command(KillSettings, run, program="kill_test.py", description=__doc__ or "", arguments=arguments)


if __name__ == "__main__":
    sys.exit(main())
