"""From values to command lines: what has to be run, in which folders, what it costs, and what is there already.

Features of one profile and seed lie below one root, whichever table wants them, so tables share them:

    <root>/<profile>/seed-<seed>/embeddings, gradients, ...      extraction
    <root>/<profile>/results/...                                 evaluations of several seeds, ablations
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


@dataclass(frozen=True)
class Home:
    """Where everything goes, and how it is run. common: flags that every command of the plan takes."""

    root: Path
    data_dir: Path
    profile: str
    device: str = "auto"

    def features(self, seed: int) -> Path:
        """The root of one extraction."""
        return self.root / self.profile / f"seed-{seed}"


@dataclass(frozen=True)
class Step:
    """One command line. rows, features: what an extraction goes through; none for evaluations."""

    command: str
    flags: tuple[str, ...]
    backbone: str
    rows: int = 0
    features: tuple[str, ...] = ()

    @property
    def outputs(self) -> tuple[Path, ...]:
        """The files that show it to be done."""
        return _outputs(self.command, self.flags)

    @property
    def is_done(self) -> bool:
        """Whether all its files are there. Whether they were made in this way, the commands themselves check."""
        return all(path.exists() for path in self.outputs)

    def hours(self, gpu: str) -> float:
        """Expected hours on a GPU, by the model that sizes the shards of the grid; 0 for evaluations."""
        return self.rows * seconds_per_row(BACKBONES[self.backbone], self.features, gpu) / 3600 if self.rows else 0.0

    @property
    def gigabytes(self) -> float:
        """Disk for the feature files."""
        spec = BACKBONES[self.backbone]
        sizes = [spec.embedding_dim if name == EMBEDDINGS else spec.projection_dim for name in self.features]
        return self.rows * 4 * sum(sizes) / 1e9


@cache
def _outputs(command: str, flags: tuple[str, ...]) -> tuple[Path, ...]:
    """What a command line gives; kept, as many values are read from one file."""
    return tuple(COMMANDS[command].parse(flags).outputs())


@dataclass(frozen=True)
class Plan:
    """The steps behind some values: extractions first, then evaluations."""

    extractions: tuple[Step, ...]
    evaluations: tuple[Step, ...]

    @property
    def missing(self) -> tuple[list[Step], list[Step]]:
        """The steps of either kind that are not done."""
        return [step for step in self.extractions if not step.is_done], [
            step for step in self.evaluations if not step.is_done
        ]


def plan(values: Iterable[Value], home: Home) -> Plan:
    """Every command line that the values need, once."""
    wanted = list(dict.fromkeys(run for value in values for run in value.evaluations))
    return Plan(tuple(_extractions(wanted, home)), tuple(dict.fromkeys(evaluation_step(run, home) for run in wanted)))


def evaluation_step(run: Evaluation, home: Home) -> Step:
    """The command line of an evaluation."""
    flags = ["--dataset", run.dataset, "--backbone", run.backbone, "--device", home.device]
    if run.command in SCORED:
        flags += ["--root", *(str(home.features(seed)) for seed in run.seeds), "--features", *run.features]
        flags += ["--data-dir", str(home.data_dir)] if run.command in ("retrieval", "in-context") else []
    else:
        flags += ["--root", str(home.root / home.profile), "--data-dir", str(home.data_dir)]
        flags += ["--profile", home.profile]
    return Step(run.command, (*flags, *run.flags), run.backbone)


def _extractions(wanted: Sequence[Evaluation], home: Home) -> list[Step]:
    """One extraction for each dataset, backbone and seed, of all features that any evaluation wants of it."""
    features: dict[tuple[str, str, int], dict[str, None]] = {}
    for run in wanted:
        for seed in run.seeds:
            if run.command in SCORED:
                features.setdefault((run.dataset, run.backbone, seed), {}).update(dict.fromkeys(run.features))
    return [_extraction(*where, tuple(names), home) for where, names in features.items()]


def _extraction(dataset: str, backbone: str, seed: int, features: tuple[str, ...], home: Home) -> Step:
    objectives = [name for name in features if name != EMBEDDINGS]
    flags = ["--dataset", dataset, "--backbone", backbone, "--root", str(home.features(seed))]
    flags += ["--data-dir", str(home.data_dir), "--profile", home.profile, "--seed", str(seed), "--device", home.device]
    flags += ["--split", *DATASETS[dataset].splits] if dataset in DATASETS else ["--split", "train", "test"]
    command = "extract-gradients" if objectives else "extract"
    flags += ["--objective", *objectives, "--with-embeddings"] if objectives else []
    rows = sum(size or 0 for size in DATASETS[dataset].sizes.values()) if dataset in DATASETS else 0
    return Step(command, tuple(flags), backbone, rows, features)
