"""Scores of features that are combined with the embeddings: kNN, few rows per class, a linear classifier, retrieval."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from fungi.combine.few_shot import few_shot_rows
from fungi.combine.pca import Reducer, reduced
from fungi.combine.source import ArrayInMemory, FeatureSource
from study.settings import KL, Setting

NEIGHBOURS, FEW_NEIGHBOURS, SHOTS = 20, 5, 5
"""Numbers of neighbours with all train rows and with few train rows, and number of these few rows per class."""
LAMBDA = 5e-5
"""Strength of the regularisation of the linear classifier."""
SCORES = ("kNN", "5-shot kNN", "linear", "retrieval mAP")


def feature_folder(folder: Path, seed: int, setting: Setting) -> Path:
    """Return the folder with the features of a setting and a seed."""
    return folder / f"seed-{seed}" / setting.name.replace(" ", "-").replace("/", "_")


def _arrays(setting_folder: Path, feature: str, split: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the features and the labels of a split. For features other than embeddings, the labels are None.

    setting_folder: folder that `feature_folder` returns.
    """
    if (setting_folder / f"{split}.npy").exists():
        return np.load(setting_folder / f"{split}.npy"), None
    pattern = f"embeddings/*/*/{split}.h5" if feature == "embeddings" else f"gradients/*/*/{feature}-{split}.h5"
    (path,) = setting_folder.glob(pattern)
    with h5py.File(path) as file:
        if feature == "embeddings":
            return file["embeddings"][:], file["targets"][:].astype(np.int64)
        return file[next(iter(file))][:], None


def is_extracted(setting_folder: Path) -> bool:
    """Return whether the features in a folder are complete."""
    return (setting_folder / "done.json").exists()


def score(folder: Path, seed: int, name: str, settings: Sequence[Setting], pca_dim: int) -> None:
    """Score the embeddings combined with the gradients of some settings, and only the embeddings. Write a JSON file.

    Do nothing if the file exists, or if the embeddings or the features of a setting are not complete. name: name of the
    combination; a single setting has its own name. pca_dim: number of components of PCA.
    """
    label = name if len(settings) > 1 else settings[0].name
    path = folder / "scores" / f"{label.replace(' ', '-').replace('/', '_')}-{seed}.json"
    setting_folders = [feature_folder(folder, seed, setting) for setting in settings]
    embeddings_folder = feature_folder(folder, seed, KL)
    if path.exists() or not all(map(is_extracted, [embeddings_folder, *setting_folders])):
        return
    costs = [
        json.loads((setting_folder / "done.json").read_text(encoding="utf-8")) for setting_folder in setting_folders
    ]
    splits, labels = {}, {}
    for split in ("train", "test"):
        embeddings, labels[split] = _arrays(embeddings_folder, "embeddings", split)
        arrays = {"embeddings": embeddings}
        for setting, setting_folder in zip(settings, setting_folders, strict=True):
            arrays[setting.objective], _ = _arrays(setting_folder, setting.objective, split)
        splits[split] = {feature: ArrayInMemory(values) for feature, values in arrays.items()}
    # KL encodes the whole image, so the embeddings have no extra cost. Without KL, they cost one forward per image.
    has_kl = any(setting.objective == "kl" for setting in settings)
    content = {
        "name": label,
        "kind": "all" if len(settings) > 1 else settings[0].objective,
        "seed": seed,
        "forwards": sum(cost["forwards"] for cost in costs) + (0 if has_kl else 1),
        "seconds": sum(cost["seconds"] for cost in costs),
        "test_rows": len(labels["test"]),
        "scores": _all_scores(splits, labels, pca_dim),
        "embeddings": _all_scores(
            {split: {"embeddings": arrays["embeddings"]} for split, arrays in splits.items()}, labels, pca_dim
        ),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    print(f"seed {seed} {label}: {content['forwards']:.1f} forwards, {content['scores']}", flush=True)


def _all_scores(
    splits: Mapping[str, Mapping[str, ArrayInMemory]], labels: Mapping[str, Any], pca_dim: int
) -> dict[str, float]:
    """Return score -> value, for each of `SCORES`. The features of a split are combined.

    splits: split -> feature -> array. labels: split -> label of each row.
    """
    import torch

    from fungi.evaluators.knn import knn_predictions
    from fungi.evaluators.linear import LabelledRows, fit_classifier
    from fungi.evaluators.logistic import LogisticOptions
    from fungi.search.neighbours import in_memory

    cpu, names = torch.device("cpu"), tuple(splits["train"])

    def reduced_features(train_rows: np.ndarray | None = None) -> tuple[Any, Any]:
        """Return train and test features after a PCA that is fitted on these train rows, or on all train rows."""
        train = FeatureSource(splits["train"], train_rows)
        reduction = Reducer(train, pca_dim).fit(names)
        return reduced(train, reduction, cpu), reduced(FeatureSource(splits["test"]), reduction, cpu)

    train, test = reduced_features()
    rows_per_seed = [few_shot_rows(labels["train"], SHOTS, seed) for seed in range(5)]
    few_shot_accuracies = []
    for rows in rows_per_seed:
        few_train, few_test = reduced_features(rows)
        few_predictions = knn_predictions(in_memory(few_train), labels["train"][rows], few_test, FEW_NEIGHBOURS)
        few_shot_accuracies.append(float(np.mean(few_predictions == labels["test"])))
    predictions = knn_predictions(in_memory(train), labels["train"], test, NEIGHBOURS)
    classifier = fit_classifier(LabelledRows(train, labels["train"]), LAMBDA, LogisticOptions())
    values = (
        float(np.mean(predictions == labels["test"])),
        statistics.fmean(few_shot_accuracies),
        classifier.accuracy(LabelledRows(test, labels["test"])),
        _mean_average_precision(train.numpy(), labels["train"], test.numpy(), labels["test"]),
    )
    return dict(zip(SCORES, values, strict=True))


def _mean_average_precision(
    train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray
) -> float:
    """Return the mAP of test rows that search the train rows by cosine. Rows of the same class are relevant."""
    from fungi.evaluators.retrieval import average_precision

    train_units, test_units = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (train, test))
    order = np.argsort(-(test_units @ train_units.T), axis=1)
    relevant = train_labels[order] == test_labels[:, None]
    return float(np.mean([average_precision(np.flatnonzero(row)) for row in relevant]))
