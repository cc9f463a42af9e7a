"""`fungi reproduce`: reproduce tables and figures of the paper by name."""

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Literal

from fungi.commands import COMMANDS
from fungi.errors import FungiError, counted
from fungi.reproduction.recipe import recipe_names, title_of, values_of
from fungi.results.text import aligned
from fungi.runtime.command import INTERRUPTED_STATUS
from fungi.runtime.files import write_text_atomically
from fungi.runtime.log import logger
from fungi.settings import require_values, setting
from fungi.views.plans import PUBLISHED, PlanName

if TYPE_CHECKING:
    from fungi.reproduction.plan import Plan, Step, StepSettings

DESCRIPTION = """Run the missing steps of tables and figures of the paper, and print our and the published values.

  fungi reproduce --list                               list tables and figures: requirements, cost, finished values
  fungi reproduce paper-9 --list                       one table, with the names of its datasets and backbones
  fungi reproduce --list --views native                the same with views at their own size, which cost less
  fungi reproduce paper-9 rebuttal-30 --dry-run        print the missing command lines
  fungi reproduce paper-9 --root /scratch/me/paper --data-dir /data
  fungi reproduce paper-2 figure-5 --submit --sbatch="--partition=gpu"      as SLURM arrays

Tables share their features. If a step fails, the others still run, and the failed step is named at the end."""
Profile = Literal["clean", "published"]


@dataclass(frozen=True, kw_only=True)
class ReproduceSettings:
    """Flags of `fungi reproduce`."""

    tables: tuple[str, ...] = setting((), "names of tables and figures, as --list prints them", first_word=True)
    overview: bool = setting(False, "list tables and figures with their requirements and state", flag="--list")
    dry_run: bool = setting(False, "print the missing command lines without running them")
    submit: bool = setting(False, "submit the missing steps to SLURM instead of running them here")
    root: Path = setting(Path("reproduction"), "folder for features, results and tables", topic="files")
    data_dir: Path = setting(Path("data"), "folder of the datasets", topic="data")
    profile: tuple[Profile, ...] = setting(
        ("clean",),
        "clean: the method of the paper; published: the published code; with both, each has its own table",
        topic="features",
    )
    views: PlanName = setting(
        PUBLISHED,
        "plan of views: published, or native or budget, which cost less and have their own folders and tables",
        topic="features",
    )
    device: str = setting("auto", "auto, cpu, cuda or cuda:N", topic="machine")
    gpu: str = setting("a100", "GPU for which --list estimates hours")
    steps: Path | None = setting(None, "file with one step per array task; used by the jobs of --submit")
    sbatch: str = setting(
        "", 'further options for sbatch, for example --sbatch="--partition=gpu --account=mine"', topic="scheduler"
    )

    def __post_init__(self) -> None:
        require_values(self, "profile")
        if not (self.tables or self.overview or self.steps):
            raise FungiError("no table or figure is named. Give names such as `paper-9 figure-5`, or use --list.")
        if self.submit and self.dry_run:
            raise FungiError("--dry-run and --submit can't be combined. Use only one of them.")

    def step_settings(self) -> "list[StepSettings]":
        """Return the settings of the steps, for each profile."""
        from fungi.reproduction.plan import StepSettings

        return [StepSettings(self.root, self.data_dir, profile, self.device, self.views) for profile in self.profile]


def run(settings: ReproduceSettings) -> None:
    """List, print, submit or run the steps."""
    if settings.overview:
        _print_overviews(settings)
        return
    if settings.steps:
        from fungi.reproduction.submission import step_of_task

        if run_step(step_of_task(settings.steps, os.environ)) != 0:
            raise FungiError("this step failed. The lines above name the cause.")
        return
    failures = []
    for step_settings in settings.step_settings():
        plan = _plan_of_tables(settings.tables, step_settings)
        if settings.dry_run:
            extractions, evaluations = plan.missing
            for step in extractions + evaluations:
                print(command_line(step))
        elif settings.submit:
            from fungi.reproduction.submission import submit

            submit(plan, step_settings, shlex.split(settings.sbatch), settings.gpu, os.environ)
        else:
            failures += _run_missing_steps(plan)
            print(_tables(settings.tables, step_settings))
    if failures:
        raise FungiError(
            f"{counted(len(failures), 'step')} failed: {'; '.join(failures[:3])}."
            " Run the same command to try them again."
        )


_TITLE_WIDTH = 34
"""Largest number of characters of a title. The list then fits in 100 columns."""


def _print_overviews(settings: ReproduceSettings) -> None:
    """Print the overview of each profile. If there are several profiles, its name is the heading."""
    texts = []
    for step_settings in settings.step_settings():
        heading = [_profile_text(step_settings)] if len(settings.profile) > 1 else []
        texts += [*heading, _overview(settings, step_settings)]
    print("\n\n".join(texts))


def _overview(settings: ReproduceSettings, step_settings: "StepSettings") -> str:
    """Return one line per table or figure: its title, number of our values, missing steps and their cost.

    If the settings name tables, the text also lists the datasets and backbones of these tables.
    """
    header = ["", "shows", "filled", "data", "models", "steps", "GPU h", "GB"]
    names = settings.tables or recipe_names()
    states = {name: _state(name, step_settings, settings.gpu) for name in names}
    rows = [[name, shorten(title_of(name), _TITLE_WIDTH, placeholder=" ..."), *states[name].row] for name in names]
    lines = [aligned([header, *rows])]
    if settings.tables:
        lines += [f"{name}: {title_of(name)}\n{state.needs}" for name, state in states.items()]
    lines.append(
        "filled: number of our values / number of published values.\n"
        "data, models: numbers of datasets and backbones.\n"
        "Still to do: steps (extractions + evaluations), hours of the extractions\n"
        f"on one {settings.gpu.upper()} with {settings.views} views, GB on disk. "
        "Ablations and segmentation are not counted."
    )
    return "\n\n".join(lines)


@dataclass(frozen=True)
class _State:
    """State of a table or figure. row: cells of the overview; needs: names of its datasets and backbones."""

    row: list[str]
    needs: str


def _state(name: str, step_settings: "StepSettings", gpu: str) -> _State:
    """Return the state of a table or figure. gpu: the GPU for which hours are estimated."""
    from fungi.reproduction.outcome import our_value
    from fungi.reproduction.plan import plan_of

    values = values_of(name)
    extractions, evaluations = plan_of(values, step_settings).missing
    reproducible = [value for value in values if not value.quoted and value.published is not None]
    filled = sum(our_value(value, step_settings) is not None for value in reproducible)
    datasets = sorted({evaluation.dataset for value in values for evaluation in value.evaluations})
    backbones = sorted({evaluation.backbone for value in values for evaluation in value.evaluations})
    row = [
        f"{filled}/{len(reproducible)}" if reproducible else "-",
        str(len(datasets)),
        str(len(backbones)),
        f"{len(extractions)} + {len(evaluations)}",
        f"{sum(step.hours(gpu) for step in extractions):.1f}" if extractions else "-",
        f"{sum(step.gigabytes for step in extractions):.1f}" if extractions else "-",
    ]
    return _State(row, f"  datasets: {', '.join(datasets) or '-'}\n  backbones: {', '.join(backbones) or '-'}")


def command_line(step: "Step") -> str:
    """Return the command line of a step, quoted for a shell."""
    return shlex.join(["fungi", step.command, *step.flags])


def _plan_of_tables(names: Sequence[str], settings: "StepSettings") -> "Plan":
    """Return the plan for all values of these tables and figures."""
    from fungi.reproduction.plan import plan_of

    return plan_of([value for name in names for value in values_of(name)], settings)


def _run_missing_steps(plan: "Plan") -> list[str]:
    """Run the missing steps one after the other; return the command lines of the failed steps."""
    failures = []
    for steps in plan.missing:
        for number, step in enumerate(steps, start=1):
            logger.info(f"{number} of {len(steps)}: {command_line(step)}")
            if run_step(step) != 0:
                failures.append(command_line(step))
    return failures


def run_step(step: "Step") -> int:
    """Run a step in this process; return its exit status. Raises KeyboardInterrupt if the user interrupted the step."""
    status = COMMANDS[step.command].main(step.flags)
    if status == INTERRUPTED_STATUS:
        raise KeyboardInterrupt
    return status


def _profile_text(settings: "StepSettings") -> str:
    """Return the profile and the plan of views. The published plan is not named."""
    return f"profile {settings.profile}" + ("" if settings.views == PUBLISHED else f", {settings.views} views")


def _tables(names: Sequence[str], settings: "StepSettings") -> str:
    """Write each table to a markdown file; return the tables and, for figures, the commands that draw them."""
    from fungi.reproduction.outcome import table_text

    texts = []
    for name in names:
        if not name.startswith("figure"):
            table = table_text(values_of(name), settings)
            texts.append(f"{name}, {_profile_text(settings)}: {title_of(name)}\n\n{table}\n")
            write_text_atomically(settings.folder / "tables" / f"{name}.md", texts[-1])
        else:
            texts.append(f"{name}: run fungi report --results {settings.folder} to draw it\n")
    return "\n".join(texts)
