"""`fungi import`: write features of other programs as feature files, so that every evaluation can use them."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from fungi.errors import FungiError, RefusedJoinError, counted
from fungi.importing.settings import ImportSettings
from fungi.runtime.files import sha256_of, written_atomically
from fungi.store.layout import EMBEDDINGS, Layout

DESCRIPTION = """Write features that another program computed as feature files, so that every evaluation can use them.

  fungi import features.npz --dataset birds --backbone mine              x_train, y_train, x_test, y_test in one file
  fungi import train.npy test.npy --targets train_y.npy test_y.npy --dataset birds --backbone mine
  fungi import run.h5:model/pooled --split train --dataset birds --backbone mine         any array of an HDF5 file
  fungi import CLIP_FEATURES_FOLDER --dataset birds --backbone ViT-B-32    features_train.pt, targets_train.pt, ...
  fungi knn --dataset birds --backbone mine

File formats are .npy, .npz, .pt / .pth (only tensors; code in them is not executed) and HDF5. The files are not
changed. The provenance of the features states that their origin is unknown."""


def run(settings: ImportSettings) -> list[Path]:
    """Import all splits. Return their feature files, including files that existed before."""
    from fungi.importing.roles import by_split

    splits = by_split(_arrays(settings))
    labels = _labels(splits, settings)
    layout, paths = Layout(settings.root), []
    for split, arrays in splits.items():
        path = layout.features(settings.feature, settings.dataset, settings.backbone, split)
        labels_of_split, class_names = labels.get(split, (None, []))
        _write(path, settings, split, arrays, labels_of_split, class_names)
        paths.append(path)
    return paths


def show(settings: ImportSettings, paths: list[Path]) -> None:
    """Print the command that evaluates the features."""
    print(f"fungi knn --dataset {settings.dataset} --backbone {settings.backbone} --root {settings.root}")


def _arrays(settings: ImportSettings) -> list[Any]:
    """Return the arrays of all files in the settings. Labels from `--targets` replace labels in other files."""
    from fungi.importing.roles import NamedArray, files_in, named_arrays
    from fungi.store.foreign import TARGET_KEYS, choose_key, split_key

    arrays = []
    for index, text in enumerate(settings.files):
        path, key = split_key(text)
        arrays_of_path = [array for file in files_in(path) for array in named_arrays(file, key, settings.split)]
        if key is not None and not any(array.key == key for array in arrays_of_path):
            from fungi.store.foreign import load_array

            load_array(path, key)  # raises an error that lists the arrays
        if settings.targets:
            features = next((array for array in arrays_of_path if array.role == "features"), None)
            labels_path, labels_key = split_key(settings.targets[index])
            labels_key = choose_key(labels_path, TARGET_KEYS, 1) if labels_key is None else labels_key
            split = features.split if features else ""
            labels = NamedArray(labels_path, labels_key, (), "labels", split)  # the shape of labels is not used
            arrays_of_path = [*(array for array in arrays_of_path if array.role != "labels"), labels]
        arrays += arrays_of_path
    return arrays


def _labels(splits: dict[str, Any], settings: ImportSettings) -> dict[str, tuple[Int64[np.ndarray, " n"], list[str]]]:
    """Return split -> (labels, class names). If labels are texts, a label becomes its position among the sorted texts.

    splits: split -> role -> array. Raises FungiError for embeddings without labels, and for labels that can't be
    matched.
    """
    from fungi.importing.roles import texts_of
    from fungi.store.foreign import load_array, targets_of

    labels_of: dict[str, Any] = {}  # split -> texts or numbers
    for split, arrays in splits.items():
        if "labels" in arrays:
            array = arrays["labels"]
            if load_array(array.path, array.key).dtype.kind in "USO":  # strings, bytes or objects
                labels_of[split] = texts_of(array)
            else:
                labels_of[split] = targets_of(f"{array.path}:{array.key}" if array.key else array.path)
        elif settings.feature == EMBEDDINGS:
            raise FungiError(
                f"there are no labels of split {split} for {arrays['features']}. Name them with --targets FILE:KEY."
            )
    texts = sorted({text for labels in labels_of.values() if isinstance(labels, list) for text in labels})
    if texts and any(not isinstance(labels, list) for labels in labels_of.values()):
        raise FungiError("the labels of some splits are texts and of others numbers: they can't be matched.")
    names = {split: texts_of(arrays["classes"]) if "classes" in arrays else [] for split, arrays in splits.items()}
    if texts:
        _require_same_names(texts, splits, settings)
        index_of = {text: index for index, text in enumerate(texts)}
        labels_of = {split: np.array([index_of[text] for text in labels]) for split, labels in labels_of.items()}
        names = dict.fromkeys(splits, texts)
    return {split: (_checked(labels, splits[split]["labels"]), names[split]) for split, labels in labels_of.items()}


def _require_same_names(names: list[str], splits: dict[str, Any], settings: ImportSettings) -> None:
    """Raise FungiError if an existing feature file of another split has other class names."""
    from fungi.store.reading import read_class_names

    folder = Layout(settings.root).embeddings(settings.dataset, settings.backbone, "any").parent
    for path in sorted(folder.glob("*.h5")):
        if path.stem not in splits:
            existing_names = read_class_names(path) or []
            if existing_names != names:
                raise FungiError(
                    f"{path} has other class names ({', '.join(existing_names[:5]) or 'none'}) than these labels"
                    f" ({', '.join(names[:5])}): import all splits in one call."
                )


def _checked(labels: Int64[np.ndarray, " n"], array: Any) -> Int64[np.ndarray, " n"]:
    """Return the labels. Raises FungiError if a label is negative or needs more than 32 bits."""
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < 2**32:
        raise FungiError(f"{array}: labels are between {labels.min()} and {labels.max()}; they must be 0 or larger.")
    return labels


def _write(
    path: Path, settings: ImportSettings, split: str, arrays_by_role: Any, labels: Any, names: list[str]
) -> None:
    """Write the feature file of a split, with checksums, unless the file exists. names: class names.

    Raises FungiError if the arrays are not features `[n d]` with a label and an id per row.
    """
    from fungi.importing.roles import texts_of
    from fungi.store.foreign import load_array
    from fungi.store.reading import CLASS_NAMES, SAMPLE_IDS, TARGETS

    array = arrays_by_role["features"]
    values = np.asarray(load_array(array.path, array.key))
    if values.ndim != 2 or values.dtype.kind not in "fiu":  # floats, signed and unsigned integers
        raise FungiError(f"{array} contains {values.dtype} of shape {values.shape}, but features are numbers [n d].")
    ids = texts_of(arrays_by_role["ids"]) if "ids" in arrays_by_role else []
    counts = {"labels": None if labels is None else len(labels), "sample ids": len(ids) or None}
    for content, count in counts.items():
        if count not in (None, len(values)):
            raise RefusedJoinError(f"row count differs: {count} {content}, {counted(len(values), 'row')} in {array}.")
    provenance = _provenance(settings, split, array, values, labels, ids)
    if path.exists() and not settings.overwrite:
        _require_same_features(path, provenance)
        print(f"{path} already exists")
        return
    arrays = {"imported": values.astype(np.float32)}
    texts: dict[str, list[str]] = {}
    if settings.feature == EMBEDDINGS:
        arrays = {EMBEDDINGS: arrays["imported"], TARGETS: labels.astype(np.uint32)}
        texts = {SAMPLE_IDS: ids, CLASS_NAMES: names}
    _write_file(path, provenance, arrays, texts)
    print(f"wrote {path}: {counted(len(values), 'row')} x {values.shape[1]}, from {array}")


def _write_file(path: Path, provenance: Any, arrays: dict[str, np.ndarray], texts: dict[str, list[str]]) -> None:
    """Write a feature file with checksums. texts: array name -> texts; empty lists are not written."""
    from fungi.store.provenance import write_provenance
    from fungi.store.skeleton import new_skeleton

    with written_atomically(path) as temporary:
        with new_skeleton() as skeleton, temporary.open("wb") as file:
            write_provenance(skeleton.file, provenance)
            for name, rows in arrays.items():
                skeleton.add(name, rows.shape, rows.dtype)
                skeleton.append_rows(file, name, rows)
            for name, column in texts.items():
                if column:
                    skeleton.add_texts(name, column)
        skeleton.write_headers(temporary)


def _require_same_features(path: Path, provenance: Any) -> None:
    """Raise FungiError if the existing feature file has other features."""
    from fungi.store.reading import provenance_of

    existing = provenance_of(path)
    existing_hash = None if existing is None else existing.settings.get("imported", {}).get("sha256")
    if existing_hash != provenance.settings["imported"]["sha256"]:
        raise FungiError(
            f"{path} already exists, with other features. Choose another --backbone or --root, or replace it with"
            " --overwrite."
        )


def _provenance(
    settings: ImportSettings,
    split: str,
    array: Any,
    values: Float[np.ndarray, "n d"],
    labels: Int64[np.ndarray, " n"] | None,
    ids: list[str],
) -> Any:
    """Return the provenance of imported features. It names the source file and its hash; the model is `unknown`.

    array: the array of features in the source file. values: its content. ids: sample ids; empty if there are none.
    """
    from fungi.store.provenance import Provenance
    from fungi.store.reading import provenance_of

    embeddings = Layout(settings.root).embeddings(settings.dataset, settings.backbone, split)
    digest = hashlib.sha256(json.dumps([split, ids, len(values)]).encode())
    digest.update(b"" if labels is None else np.ascontiguousarray(labels, dtype=np.int64).tobytes())
    fingerprint = f"imported-{digest.hexdigest()}"
    existing = provenance_of(embeddings) if settings.feature != EMBEDDINGS and embeddings.is_file() else None
    if existing is not None:
        # With the name of the split, the user states that these rows are the rows of the embeddings.
        fingerprint = existing.dataset_fingerprint
    source = {"file": str(array.path.resolve()), "array": array.key, "sha256": sha256_of(array.path)}
    return Provenance(
        feature=settings.feature,
        dataset=settings.dataset,
        split=split,
        rows=len(values),
        dataset_fingerprint=fingerprint,
        backbone=settings.backbone,
        weights_hash="unknown",
        weights_source="unknown: features imported from another program",
        input="unknown",
        profile="clean",
        seed=0,
        dtype=str(values.dtype),
        device="unknown",
        settings={"imported": source},
    )
