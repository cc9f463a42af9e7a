"""Compare two features of a result: the rows that exactly one of them classifies correctly, with ids and classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fungi.data.base import Samples, resolve_dataset
from fungi.errors import FungiError, unknown_name
from fungi.profiles import choose_profile
from fungi.results.result_file import runs_of
from fungi.runtime.log import logger
from fungi.store.reading import read_class_names, read_sample_ids


@dataclass(frozen=True)
class Disagreement:
    """A row that exactly one of two features classifies correctly.

    truth: class of the row. predicted: class predicted with the first feature, and with the second feature.
    """

    row: int
    id: str
    truth: str
    predicted: tuple[str, str]


@dataclass(frozen=True)
class Comparison:
    """Two features of a result. rows: number of scored rows.

    only_first, only_second: rows that only the first feature, or only the second feature, classifies correctly.
    """

    features: tuple[str, str]
    rows: int
    only_first: Sequence[Disagreement]
    only_second: Sequence[Disagreement]


def compare(content: Mapping[str, Any], path: Path, features: Sequence[str]) -> Comparison:
    """Compare the predictions of two features in the first run of a result.

    features: names of two features in the result; if it is empty, the first feature and the combination of the most
        features are compared.

    Raises FungiError if the result has no predictions.
    """
    results = runs_of(content)[0]["results"]
    predictions = {name: scores["predictions"] for name, scores in results.items() if "predictions" in scores}
    targets = np.array(content.get("test_targets", []))
    if len(predictions) == 1 and len(targets):
        raise FungiError(
            f"{path} has only one feature ({next(iter(predictions))}), but explain compares two."
            " Extract gradients, and run the evaluation again."
        )
    if not predictions or not len(targets):
        raise FungiError(
            f"{path} has no predictions of two features for each row. Use a result of knn, linear or cluster."
        )
    first, second = features or (next(iter(predictions)), max(predictions, key=lambda name: name.count("+")))
    for name in (first, second):
        if name not in predictions:
            raise unknown_name(f"feature of {path}", name, predictions)
    if first == second:
        raise FungiError("--features takes two different features of the result.")
    first_labels, second_labels = np.array(predictions[first]), np.array(predictions[second])
    ids, class_names = _ids(content, len(targets)), _class_names(content)
    first_correct, second_correct = first_labels == targets, second_labels == targets

    def disagreements(is_disagreement: np.ndarray) -> list[Disagreement]:
        """Return the rows for which this mask `[q]` is true."""
        return [
            Disagreement(
                row,
                ids[row],
                _name(class_names, targets[row]),
                (_name(class_names, first_labels[row]), _name(class_names, second_labels[row])),
            )
            for row in np.flatnonzero(is_disagreement).tolist()
        ]

    only_first = disagreements(first_correct & ~second_correct)
    only_second = disagreements(second_correct & ~first_correct)
    return Comparison((first, second), len(targets), only_first, only_second)


def samples_of(content: Mapping[str, Any], data_dir: Path | None) -> Samples | None:
    """Return the scored samples, from the dataset in the provenance of the result.

    If the data is missing, or if the features were computed from other data, log the reason and return None.
    """
    provenances = (origin["provenance"] for origin in _origins(content).values() if origin.get("provenance"))
    provenance = next(provenances, None)
    if provenance is None or "imported" in provenance.get("settings", {}):
        logger.info("the features come from another program: samples are listed by id.")
        return None
    settings = provenance.get("settings", {})
    folder = data_dir or Path(settings.get("data_dir", "data"))
    try:
        dataset = resolve_dataset(settings.get("dataset") or provenance["dataset"], folder)
        if choose_profile(provenance["profile"]).published_labels:
            dataset = dataset.as_published()  # a few published loaders have other labels (spec text 6, T3)
        samples = _scored_samples(dataset.open_split(provenance["split"], folder), content)
    except (FungiError, OSError) as error:
        logger.warning(
            f"samples are listed by id, because the data can't be opened: {error} Give its folder with --data-dir."
        )
        return None
    if samples.fingerprint() != provenance["dataset_fingerprint"]:
        logger.warning(
            f"samples are listed by id, because {provenance['dataset']} in {folder} is not the data that the features"
            " were computed from. Give its folder with --data-dir."
        )
        return None
    return samples


def _scored_samples(samples: Samples, content: Mapping[str, Any]) -> Samples:
    """Return the samples with the ids in the result: extraction may leave out some (`--limit`, `--skip-damaged`).

    If an id of the result is not among the samples, all samples are returned.
    """
    row_of = {sample_id: row for row, sample_id in enumerate(samples.ids)}
    rows = [row_of.get(sample_id) for sample_id in _ids(content, len(content["test_targets"]))]
    return samples if None in rows else samples.take([row for row in rows if row is not None])


def _origins(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the origin of each feature in the scored split, for the first run."""
    features = content["provenance"].get("features") or [{}]
    return (features[0] if isinstance(features, list) else features).get("test", {})


def _ids(content: Mapping[str, Any], rows: int) -> Sequence[str]:
    """Return the sample ids; row numbers if the result and its embeddings file have no ids of these rows."""
    ids = content.get("sample_ids") or _from_file(content, read_sample_ids)
    return ids if ids and len(ids) == rows else [f"row {row}" for row in range(rows)]


def _class_names(content: Mapping[str, Any]) -> Sequence[str]:
    return content.get("class_names") or _from_file(content, read_class_names) or []


def _from_file(content: Mapping[str, Any], read: Any) -> Sequence[str] | None:
    """Return texts of the embeddings file that the result names, or None if the file is missing or damaged."""
    path = Path(_origins(content).get("embeddings", {}).get("file", ""))
    try:
        texts: Sequence[str] | None = read(path) if path.is_file() else None
    except FungiError:
        return None
    return texts


def _name(class_names: Sequence[str], label: np.integer) -> str:
    return class_names[int(label)] if 0 <= label < len(class_names) else f"class {label}"
