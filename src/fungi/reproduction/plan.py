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
from fungi.reproduction.recipe import SCORING_COMMANDS, Evaluation, Value
from fungi.store.layout import EMBEDDINGS
from fungi.views.plans import PUBLISHED, PlanName


@dataclass(frozen=True)
class StepSettings:
    """The settings that all steps of a plan share: folders, profile, device and plan of views."""

    root: Path
    data_dir: Path
    profile: str
    device: str = "auto"
    views: PlanName = PUBLISHED

    @property
    def folder(self) -> Path:
        """The folder of the profile. Its name contains the plan of views, unless this is the published plan."""
        return self.root / (self.profile if self.views == PUBLISHED else f"{self.profile}-{self.views}")

    def feature_root(self, seed: int) -> Path:
        """Return the root folder of the extractions of one seed."""
        return self.folder / f"seed-{seed}"


@dataclass(frozen=True)
class Step:
    """One command line.

    rows, features: number of rows and names of the features to extract; 0 and empty for evaluations.
    views: plan of the views of an extraction.
    """

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
        """The size of the feature files on disk."""
        spec = BACKBONES[self.backbone]
        dims = [spec.embedding_dim if name == EMBEDDINGS else spec.projection_dim for name in self.features]
        bytes_per_number = 4  # float32
        return self.rows * sum(dims) * bytes_per_number / 1e9


@cache
def _outputs(command: str, flags: tuple[str, ...]) -> tuple[Path, ...]:
    """Return the output files of a command line. The function is cached, because many values are in the same file."""
    return tuple(COMMANDS[command].parse(flags).outputs())


@dataclass(frozen=True)
class Plan:
    """The steps for some published values: extractions first, then evaluations."""

    extractions: tuple[Step, ...]
    evaluations: tuple[Step, ...]

    @property
    def missing(self) -> tuple[list[Step], list[Step]]:
        """The extractions and the evaluations that are not done."""
        extractions = [step for step in self.extractions if not step.is_done]
        evaluations = [step for step in self.evaluations if not step.is_done]
        return extractions, evaluations


def plan_of(values: Iterable[Value], settings: StepSettings) -> Plan:
    """Return the command lines that the values need, without duplicates."""
    evaluations = list(dict.fromkeys(evaluation for value in values for evaluation in value.evaluations))
    steps = dict.fromkeys(evaluation_step(evaluation, settings) for evaluation in evaluations)
    return Plan(tuple(_extractions(evaluations, settings)), tuple(steps))


def evaluation_step(evaluation: Evaluation, settings: StepSettings) -> Step:
    """Return the step that runs an evaluation."""
    command = evaluation.command
    flags = ["--dataset", evaluation.dataset, "--backbone", evaluation.backbone, "--device", settings.device]
    if command in SCORING_COMMANDS:
        flags += ["--root", *(str(settings.feature_root(seed)) for seed in evaluation.seeds)]
        flags += ["--features", *evaluation.features]
        flags += ["--data-dir", str(settings.data_dir)] if command in ("retrieval", "in-context") else []
    else:
        flags += ["--root", str(settings.folder), "--data-dir", str(settings.data_dir)]
        flags += ["--profile", settings.profile, *_views_flags(settings, command)]
    return Step(command, (*flags, *evaluation.flags), evaluation.backbone)


def _extractions(evaluations: Sequence[Evaluation], settings: StepSettings) -> list[Step]:
    """Return one extraction per dataset, backbone and seed, with all features that the evaluations read."""
    features_by_key: dict[tuple[str, str, int], dict[str, None]] = {}  # dicts, because sets do not keep the order
    for evaluation in evaluations:
        for seed in evaluation.seeds:
            if evaluation.command in SCORING_COMMANDS:
                key = evaluation.dataset, evaluation.backbone, seed
                features_by_key.setdefault(key, {}).update(dict.fromkeys(evaluation.features))
    return [_extraction_step(*key, tuple(features), settings) for key, features in features_by_key.items()]


def _extraction_step(dataset: str, backbone: str, seed: int, features: tuple[str, ...], settings: StepSettings) -> Step:
    """Return the step that extracts features of all splits of a dataset."""
    objectives = [name for name in features if name != EMBEDDINGS]
    flags = ["--dataset", dataset, "--backbone", backbone, "--root", str(settings.feature_root(seed))]
    flags += ["--data-dir", str(settings.data_dir), "--profile", settings.profile]
    flags += ["--seed", str(seed), "--device", settings.device]
    flags += ["--split", *DATASETS[dataset].splits] if dataset in DATASETS else ["--split", "train", "test"]
    command = "extract-gradients" if objectives else "extract"
    flags += ["--objective", *objectives, "--with-embeddings"] if objectives else []
    flags += _views_flags(settings, command)
    # A split of unknown size counts as empty, so the estimated cost is too low.
    rows = sum(size or 0 for size in DATASETS[dataset].sizes.values()) if dataset in DATASETS else 0
    return Step(command, tuple(flags), backbone, rows, features, settings.views)


def _views_flags(settings: StepSettings, command: str) -> list[str]:
    """Return `--views PLAN` for a command that makes views, unless the plan is the published plan."""
    makes_views = command in ("extract-gradients", "ablate")
    return ["--views", settings.views] if makes_views and settings.views != PUBLISHED else []
