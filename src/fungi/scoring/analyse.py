"""Analyses of the paper's figures: CKA between features, accuracy by shots, accuracy by layer.

Each analysis writes result files, which `fungi report` draws. The figure of differences per class needs no analysis:
the report computes this figure from the predictions in kNN results.
"""

from contextlib import suppress
from dataclasses import dataclass, fields
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from fungi.combine.names import in_order
from fungi.errors import FungiError
from fungi.runtime.log import logger
from fungi.scoring import knn_concat
from fungi.scoring.feature_settings import FeatureSettings
from fungi.scoring.knn_concat import KnnSettings
from fungi.search import BackendFlag
from fungi.settings import like, require_values, setting
from fungi.store.layout import EMBEDDINGS, Layout

DESCRIPTION = """Analyses of features that are already extracted. `fungi report` draws their results.

  fungi analyse --analysis cka shots --dataset imagenet-100 --backbone vit-b16
  fungi analyse --analysis layers --dataset imagenet-100 --backbone vit-b16     (kNN on each array of gradient files)
"""
_KNN_SETTINGS = ("k", "vote", "temperature", "shots", "few_shot_seed", "few_shot_sampling")
Analysis = Literal["cka", "shots", "layers"]


@dataclass(frozen=True, kw_only=True)
class AnalyseSettings(FeatureSettings):
    """Flags of `fungi analyse`: features, analyses to run, and settings of the kNN runs."""

    analysis: tuple[Analysis, ...] = setting(
        ("cka", "shots"),
        "analyses to run: cka (similarity of features), shots (kNN for each number of shots), layers (kNN for each"
        " layer, on each gradient alone)",
        affects="nothing",
    )
    shot_counts: tuple[int, ...] = setting(
        (1, 2, 4, 8, 16),
        "numbers of train examples per class for the analysis `shots`",
        within=(1, 10**6),
        affects="nothing",
    )
    shots: int | None = like(KnnSettings, "shots")
    few_shot_seed: tuple[int, ...] = like(KnnSettings, "few_shot_seed")
    few_shot_sampling: Literal["balanced", "stratified"] | None = like(KnnSettings, "few_shot_sampling")
    k: tuple[int, ...] | int = like(KnnSettings, "k")
    vote: Literal["majority", "weighted"] = like(KnnSettings, "vote")
    temperature: float = like(KnnSettings, "temperature")
    search: BackendFlag = like(KnnSettings, "search")

    def __post_init__(self) -> None:
        super().__post_init__()
        require_values(self, "analysis", "shot_counts")
        if self.output is not None and self.analysis != ("cka",):
            raise FungiError(
                "--output names one file, but an analysis by kNN writes several: use it only with --analysis cka."
            )
        # The kNN settings raise FungiError if the flags contradict each other.
        self.knn_settings(shots=self.shots or (1 if "shots" in self.analysis else None))

    def knn_settings(self, **changes: Any) -> KnnSettings:
        """Return the settings of one kNN run: the flags that `fungi knn` also has, with the values in `changes`."""
        knn_names = {field.name for field in fields(KnnSettings)}
        shared = {field.name: getattr(self, field.name) for field in fields(self) if field.name in knn_names}
        return KnnSettings(**shared | changes)

    @property
    def largest_k(self) -> int:
        """The largest number of neighbours of the kNN runs."""
        return self.k if isinstance(self.k, int) else max(self.k)

    def outputs(self) -> list[Path]:
        """Return the result files, except those of `layers`, which depend on the arrays in the gradient files."""
        paths = [self.result_path("cka")] if "cka" in self.analysis else []
        return [*paths, *self._runs_by_shots()]

    def _runs_by_shots(self) -> dict[Path, KnnSettings]:
        """Return a dictionary from each result file of `shots` to the settings of its kNN run.

        If the labels are already extracted, numbers of shots with too few rows are omitted.
        """
        counts = self.shot_counts if "shots" in self.analysis else ()
        with suppress(FungiError, OSError):  # an error means that no labels are extracted yet
            smallest, classes = _class_sizes(self)
            counts = tuple(count for count in counts if _has_enough_rows(count, smallest, classes, self.largest_k))
        runs = [self.knn_settings(shots=count, combinations="nested") for count in counts]
        return {path: run for run in runs for path in run.outputs()}

    def difference(self, path: Path) -> str:
        """Return a sentence on a setting whose value in the result file at `path` differs; empty if all are equal."""
        knn_settings = self._runs_by_shots().get(path)
        return super().difference(path) if knn_settings is None else knn_settings.difference(path)

    def identity(self) -> dict[str, Any]:
        """Return the settings that decide CKA, without those that decide only the kNN runs."""
        return {name: value for name, value in super().identity().items() if name not in _KNN_SETTINGS}

    def unusual(self) -> dict[str, Any]:
        """Return the settings that decide CKA and differ from the defaults."""
        return {name: value for name, value in super().unusual().items() if name not in _KNN_SETTINGS}


def cka(settings: AnalyseSettings) -> dict[str, Any]:
    """Compute CKA of every pair of features on the scored split. Return the content of the result file."""
    from fungi.scoring.evaluation_loop import evaluate
    from fungi.scoring.scorers import CkaScorer

    return evaluate(
        settings,
        combinations=lambda features: list(combinations(in_order(features), 2)),
        prepare=lambda run: CkaScorer(settings, run),
        splits=lambda _: ("test",),
        name="cka",
    )


def shots(settings: AnalyseSettings) -> list[dict[str, Any]]:
    """Run kNN for each number of shots that has enough rows. Return the contents of the result files."""
    smallest, classes = _class_sizes(settings)
    contents = []
    for count in settings.shot_counts:
        if not _has_enough_rows(count, smallest, classes, settings.largest_k):
            logger.warning(
                "no kNN with %d shots: there are %d classes, the smallest has %d rows, and k = %d",
                count,
                classes,
                smallest,
                settings.largest_k,
            )
        else:
            contents.append(knn_concat.run(settings.knn_settings(shots=count, combinations="nested")))
    return contents


def layers(settings: AnalyseSettings) -> list[dict[str, Any]]:
    """Run kNN on each gradient alone, for every array that all files have. Return the contents of the result files."""
    from fungi.store.reading import array_keys

    layout, (dataset, backbone) = Layout(settings.root[0]), (settings.dataset_name, settings.backbone_name)
    features = settings.features or layout.objectives(dataset, backbone, settings.train_split)
    names = [name for name in features if name != EMBEDDINGS]
    if not names:
        folder = layout.gradients(dataset, backbone, "any", settings.train_split).parent
        raise FungiError(
            f"there are no gradient files of split {settings.train_split!r} in {folder}."
            " Run fungi extract-gradients first."
        )
    paths = [layout.existing(name, dataset, backbone, settings.train_split) for name in names]
    shared_keys = set.intersection(*(set(array_keys(path)) for path in paths))
    changes = {"features": tuple(names), "combinations": "single", "few_shot_seed": (), "few_shot_sampling": None}
    return [knn_concat.run(settings.knn_settings(layer_key=key, **changes)) for key in sorted(shared_keys)]


def _has_enough_rows(shots: int, smallest: int, classes: int, largest_k: int) -> bool:
    """Return whether every class has this number of shots, and all shots together are more rows than neighbours.

    smallest: number of rows of the smallest class. classes: number of classes.
    """
    return shots <= smallest and shots * classes > largest_k


def _class_sizes(settings: FeatureSettings) -> tuple[int, int]:
    """Return the number of rows of the smallest class of the train split, and the number of classes."""
    import numpy as np

    from fungi.store.reading import read_targets

    path = settings.train_targets or Layout(settings.root[0]).embeddings(
        settings.dataset_name, settings.backbone_name, settings.train_split
    )
    _, counts = np.unique(read_targets(path), return_counts=True)
    return int(counts.min()), len(counts)


def run(settings: AnalyseSettings) -> None:
    """Run the analyses that `--analysis` names."""
    if "cka" in settings.analysis:
        for name, scores in cka(settings)["results"].items():
            print(f"CKA {name.replace('+', ' - ')}: {scores['cka']:.3f}")
    if "shots" in settings.analysis:
        shots(settings)
    if "layers" in settings.analysis:
        layers(settings)
