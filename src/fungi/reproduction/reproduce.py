"""`fungi reproduce`: the tables and figures of the paper, by name."""

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Literal

from fungi.commands import COMMANDS
from fungi.errors import FungiError
from fungi.reproduction.recipe import recipe_names, title_of, values_of
from fungi.results.text import aligned
from fungi.runtime.files import write_whole
from fungi.runtime.log import logger
from fungi.settings import setting

if TYPE_CHECKING:
    from fungi.reproduction.plan import Home, Plan, Step

DESCRIPTION = """Run what a table or figure of the paper lacks; then ours beside what was published.

  fungi reproduce --list                               every table and figure: needs, costs, what is filled
  fungi reproduce paper-9 --list                       one of them, with its datasets and backbones by name
  fungi reproduce paper-9 rebuttal-30 --dry-run        the command lines that are missing
  fungi reproduce paper-9 --root /scratch/me/paper --data-dir /data
  fungi reproduce paper-2 figure-5 --submit --sbatch="--partition=gpu"      as SLURM arrays

Features are shared between tables. A step that fails is named, and the others go on."""
Profile = Literal["clean", "published"]


@dataclass(frozen=True, kw_only=True)
class ReproduceSettings:
    """Which tables and figures, and where everything goes."""

    tables: tuple[str, ...] = setting((), "tables and figures, as `--list` names them", first_word=True)
    overview: bool = setting(False, "name every table and figure, with its needs and its state", flag="--list")
    dry_run: bool = setting(False, "print the command lines that are missing, and do nothing")
    submit: bool = setting(False, "submit what is missing to SLURM, in place of running it here")
    root: Path = setting(Path("reproduction"), "folder of everything that this writes")
    data_dir: Path = setting(Path("data"), "folder of the datasets")
    profile: tuple[Profile, ...] = setting(
        ("clean",), "clean: what the method says; published: what its code did; both: one table each"
    )
    device: str = setting("auto", "auto, cpu, cuda or cuda:N")
    gpu: str = setting("a100", "GPU that hours are estimated for")
    steps: Path | None = setting(None, "what the jobs of --submit are told: do this array task's line of a file")
    sbatch: str = setting("", 'further options for sbatch, as in --sbatch="--partition=gpu --account=mine"')

    def __post_init__(self) -> None:
        if not (self.tables or self.overview or self.steps):
            raise FungiError("no table or figure is named. Name some, as in `paper-9 figure-5`, or use --list.")
        if self.submit and self.dry_run:
            raise FungiError("--dry-run shows what --submit would do: give one of them.")

    def homes(self) -> "list[Home]":
        """Where each profile goes."""
        from fungi.reproduction.plan import Home

        return [Home(self.root, self.data_dir, profile, self.device) for profile in self.profile]


def run(settings: ReproduceSettings) -> None:
    """List, show, submit or run."""
    if settings.overview:
        print(overview(settings, settings.tables or recipe_names()))
        return
    if settings.steps:
        from fungi.reproduction.submission import step_of_task

        if run_step(step_of_task(settings.steps, os.environ)) != 0:
            raise FungiError("this step failed; the lines above say why.")
        return
    for home in settings.homes():
        planned = _plan_of(settings.tables, home)
        if settings.dry_run:
            for step in [step for steps in planned.missing for step in steps]:
                print(command_line(step))
        elif settings.submit:
            from fungi.reproduction.submission import submit

            submit(planned, home, shlex.split(settings.sbatch), settings.gpu, os.environ)
        else:
            failed = _work(planned)
            print(_tables(settings.tables, home))
            if failed:
                raise FungiError(
                    f"{len(failed)} steps failed: {'; '.join(failed[:3])}. The same command tries them again."
                )


_LONGEST = 34
"""Letters of what a table or figure shows, so that the list fits into 100 columns."""


def overview(settings: ReproduceSettings, names: Sequence[str]) -> str:
    """Return a line for every table and figure: what it shows, how much of it is filled, what is left and its cost.

    Datasets and backbones stand below in full for tables that are named, else as counts.
    """
    header = ["", "shows", "filled", "data", "models", "steps", "GPU h", "GB"]
    states = {name: _state(settings, name) for name in names}
    rows = [[name, shorten(title_of(name), _LONGEST, placeholder=" ..."), *states[name].row] for name in names]
    lines = [aligned([header, *rows])]
    if settings.tables:
        lines += [f"{name}: {title_of(name)}\n{state.needs}" for name, state in states.items()]
    lines.append(
        "filled: values that are there, of those that are published.\n"
        "data, models: numbers of datasets and backbones.\n"
        "Left to do: steps (extractions + evaluations), hours of the extractions on one GPU of this kind:\n"
        f"{settings.gpu.upper()}, GB on disk. Ablations and segmentation extract by themselves and are not counted."
    )
    return "\n\n".join(lines)


@dataclass(frozen=True)
class _State:
    """How far a table is. row: cells of the overview; needs: names of its datasets and backbones."""

    row: list[str]
    needs: str


def _state(settings: ReproduceSettings, name: str) -> _State:
    from fungi.reproduction.outcome import outcome
    from fungi.reproduction.plan import plan

    values, home = values_of(name), settings.homes()[0]
    extractions, evaluations = plan(values, home).missing
    ours = [value for value in values if not value.quoted and value.published is not None]
    runs = [run for value in values for run in value.evaluations]
    datasets, backbones = sorted({run.dataset for run in runs}), sorted({run.backbone for run in runs})
    row = [
        f"{sum(outcome(value, home) is not None for value in ours)}/{len(ours)}" if ours else "-",
        str(len(datasets)),
        str(len(backbones)),
        f"{len(extractions)} + {len(evaluations)}",
        f"{sum(step.hours(settings.gpu) for step in extractions):.1f}",
        f"{sum(step.gigabytes for step in extractions):.1f}",
    ]
    return _State(row, f"  datasets: {', '.join(datasets) or '-'}\n  backbones: {', '.join(backbones) or '-'}")


def command_line(step: "Step") -> str:
    """The step as one would type it."""
    return shlex.join(["fungi", step.command, *step.flags])


def _plan_of(names: Sequence[str], home: "Home") -> "Plan":
    from fungi.reproduction.plan import plan

    return plan([value for name in names for value in values_of(name)], home)


def _work(planned: "Plan") -> "list[str]":
    """Run the missing steps one after the other; the command lines of those that failed."""
    failed = []
    for steps in planned.missing:
        for number, step in enumerate(steps, start=1):
            logger.info(f"{number} of {len(steps)}: {command_line(step)}")
            if run_step(step) != 0:
                failed.append(command_line(step))
    return failed


def run_step(step: "Step") -> int:
    """Run a step in this process; its exit status."""
    status = COMMANDS[step.command].main(step.flags)
    if status == 130:
        raise KeyboardInterrupt
    return status


def _tables(names: Sequence[str], home: "Home") -> str:
    """The tables, each also kept as a markdown file; figures by `fungi report`."""
    from fungi.reproduction.outcome import table_text

    texts = []
    for name in names:
        if not name.startswith("figure"):
            texts.append(f"{name}, profile {home.profile}: {title_of(name)}\n\n{table_text(values_of(name), home)}\n")
            write_whole(home.root / home.profile / "tables" / f"{name}.md", texts[-1])
        else:
            texts.append(f"{name}: fungi report --results {home.root / home.profile} draws it\n")
    return "\n".join(texts)
