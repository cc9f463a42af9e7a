"""Plan the command lines that reproduce published values, with their folders, costs and state.

All features of one profile and seed are stored below one root, so that tables share them:

    <root>/<profile>/seed-<seed>/embeddings, gradients, ...      extraction
    <root>/<profile>/results/...                                 evaluations of several seeds, ablations

With --views native or budget, the folder of the profile is <profile>-native or <profile>-budget.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fungi.backbones.base import BACKBONES
from fungi.commands import COMMANDS
from fungi.data.base import DATASETS
from fungi.grid.throughput import seconds_per_row
from fungi.reproduction.recipe import SCORED, Evaluation, Value
from fungi.store.layout import EMBEDDINGS
from fungi.views.plans import PUBLISHED, PlanName


@dataclass(frozen=True)
class Home:
    """The folders, profile, plan of views and device that all commands of a plan share."""

    root: Path
    data_dir: Path
    profile: str
    device: str = "auto"
    views: PlanName = PUBLISHED

    @property
    def folder(self) -> Path:
        """Folder of the profile; another plan of views than the published one has a folder of its own."""
        return self.root / (self.profile if self.views == PUBLISHED else f"{self.profile}-{self.views}")

    def features(self, seed: int) -> Path:
        """Return the root folder of the extractions of one seed."""
        return self.folder / f"seed-{seed}"


@dataclass(frozen=True)
class Step:
    """One command line. rows, features: number of rows and names of the features to extract; empty for evaluations."""

    command: str
    flags: tuple[str, ...]
    backbone: str
    rows: int = 0
    features: tuple[str, ...] = ()
    views: PlanName = PUBLISHED

    @property
    def outputs(self) -> tuple[Path, ...]:
        """The output files of the step."""
        return _outputs(self.command, self.flags)

    @property
    def is_done(self) -> bool:
        """Whether all output files exist. The commands themselves check the settings of existing files."""
        return all(path.exists() for path in self.outputs)

    def hours(self, gpu: str) -> float:
        """Return the expected hours on a GPU (cost model of `fungi.grid.throughput`); 0 for evaluations."""
        if not self.rows:
            return 0.0
        return self.rows * seconds_per_row(BACKBONES[self.backbone], self.features, gpu, self.views) / 3600

    @property
    def gigabytes(self) -> float:
        """Size of the feature files on disk."""
        spec = BACKBONES[self.backbone]
        sizes = [spec.embedding_dim if name == EMBEDDINGS else spec.projection_dim for name in self.features]
        return self.rows * 4 * sum(sizes) / 1e9


@cache
def _outputs(command: str, flags: tuple[str, ...]) -> tuple[Path, ...]:
    """Return the output files of a command line. The result is cached, because many values are in the same file."""
    return tuple(COMMANDS[command].parse(flags).outputs())


@dataclass(frozen=True)
class Plan:
    """The steps for some published values: extractions first, then evaluations."""

    extractions: tuple[Step, ...]
    evaluations: tuple[Step, ...]

    @property
    def missing(self) -> tuple[list[Step], list[Step]]:
        """The extractions and the evaluations that are not done."""
        return [step for step in self.extractions if not step.is_done], [
            step for step in self.evaluations if not step.is_done
        ]


def plan(values: Iterable[Value], home: Home) -> Plan:
    """Return the command lines that the values need, without duplicates."""
    runs = list(dict.fromkeys(run for value in values for run in value.evaluations))
    return Plan(tuple(_extractions(runs, home)), tuple(dict.fromkeys(evaluation_step(run, home) for run in runs)))


def evaluation_step(run: Evaluation, home: Home) -> Step:
    """Return the step that runs an evaluation."""
    flags = ["--dataset", run.dataset, "--backbone", run.backbone, "--device", home.device]
    if run.command in SCORED:
        flags += ["--root", *(str(home.features(seed)) for seed in run.seeds), "--features", *run.features]
        flags += ["--data-dir", str(home.data_dir)] if run.command in ("retrieval", "in-context") else []
    else:
        flags += ["--root", str(home.folder), "--data-dir", str(home.data_dir)]
        flags += ["--profile", home.profile, *_views_flags(home, run.command)]
    return Step(run.command, (*flags, *run.flags), run.backbone)


def _extractions(runs: Sequence[Evaluation], home: Home) -> list[Step]:
    """Return one extraction per dataset, backbone and seed, with all features that the evaluations read."""
    features: dict[tuple[str, str, int], dict[str, None]] = {}
    for run in runs:
        for seed in run.seeds:
            if run.command in SCORED:
                features.setdefault((run.dataset, run.backbone, seed), {}).update(dict.fromkeys(run.features))
    return [_extraction(*key, tuple(names), home) for key, names in features.items()]


def _extraction(dataset: str, backbone: str, seed: int, features: tuple[str, ...], home: Home) -> Step:
    objectives = [name for name in features if name != EMBEDDINGS]
    flags = ["--dataset", dataset, "--backbone", backbone, "--root", str(home.features(seed))]
    flags += ["--data-dir", str(home.data_dir), "--profile", home.profile, "--seed", str(seed), "--device", home.device]
    flags += ["--split", *DATASETS[dataset].splits] if dataset in DATASETS else ["--split", "train", "test"]
    command = "extract-gradients" if objectives else "extract"
    flags += ["--objective", *objectives, "--with-embeddings"] if objectives else []
    flags += _views_flags(home, command)
    rows = sum(size or 0 for size in DATASETS[dataset].sizes.values()) if dataset in DATASETS else 0
    return Step(command, tuple(flags), backbone, rows, features, home.views)


def _views_flags(home: Home, command: str) -> list[str]:
    """Return `--views PLAN` for a command that makes views, unless the plan is the published one."""
    makes_views = command in ("extract-gradients", "ablate")
    return ["--views", home.views] if makes_views and home.views != PUBLISHED else []
