"""Open and check the feature files of an evaluation."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer

from fungi.combine.names import CANONICAL_ORDER, in_order
from fungi.combine.source import FeatureSource
from fungi.errors import FungiError, MissingFilesError, did_you_mean, listed, unknown_name
from fungi.runtime.files import sha256_of
from fungi.scoring.feature_settings import DEFAULT_LAYER_KEY, FeatureSettings
from fungi.scoring.fitted_rows import refuse_fitted_rows
from fungi.store.foreign import FEATURE_KEYS, choose_key, format_of, open_any, split_key, targets_of
from fungi.store.joining import check_splits, check_targets
from fungi.store.layout import EMBEDDINGS, Layout
from fungi.store.provenance import Provenance
from fungi.store.reading import FeatureArray, array_keys, open_array, read_class_names, warn_of_unknown_origin

Arrays = dict[str, FeatureArray]


@dataclass(frozen=True)
class SplitFiles:
    """The open features of one split, and the file of its labels."""

    arrays: Arrays
    targets_path: Path

    def targets(self) -> Integer[np.ndarray, " n"]:
        """Return the labels of the split. Raises RefusedJoinError if their number differs from the number of rows."""
        labels = targets_of(self.targets_path)
        for array in self.arrays.values():
            check_targets(len(labels), self.targets_path, array)
        return labels

    def class_names(self) -> list[str]:
        """Return the names of the labels 0, 1, ...; empty if the file of the labels has no names."""
        file, _ = split_key(self.targets_path)  # explicit labels can be FILE:KEY
        return (read_class_names(file) or []) if format_of(file) == "HDF5" else []

    def source(self, settings: FeatureSettings, rows: Integer[np.ndarray, " s"] | None = None) -> FeatureSource:
        """Return the rows of the split, normalised if the settings ask for it. rows: indices; None for all rows."""
        unnormalized = frozenset(
            name
            for name in self.arrays
            if not (settings.normalize_embeddings if _is_embedding(name) else settings.normalize)
        )
        return FeatureSource(
            self.arrays,
            rows,
            unnormalized=unnormalized,
            block_rows=settings.block_rows,
            memory_bytes=int(settings.memory_gb * 2**30),
        )


def _is_embedding(name: str) -> bool:
    """Return whether a feature is `embeddings` or, if there are several embeddings, `embeddings:DETAIL`."""
    return name.split(":")[0] == EMBEDDINGS


Splits = dict[str, SplitFiles]


def open_splits(settings: FeatureSettings, root: Path, splits: Sequence[str]) -> Splits:
    """Open the features of several splits, and check that they belong together.

    splits: the roles of the splits: `train`, `test`, ... The setting `train_split` names the split with the role
    `train`. The split with the first role is fitted on.
    """
    if settings.takes_files:
        files_by_split = {split: _explicit_files(settings, split) for split in splits}
    else:
        features_on_disk = _features_on_disk(settings, Layout(root), splits[0])
        features = settings.features or features_on_disk
        for feature in features:
            if feature not in (*features_on_disk, *CANONICAL_ORDER):
                raise unknown_name("feature", feature, features_on_disk)
        files_by_split = {split: _files_below_root(settings, Layout(root), split, features) for split in splits}
    arrays = {split: files.arrays for split, files in files_by_split.items()}
    check_splits(arrays)
    if "test" in files_by_split and not settings.score_fitted_rows:
        refuse_fitted_rows(arrays, files_by_split["test"].targets_path)
    warn_of_unknown_origin([array for files in files_by_split.values() for array in files.arrays.values()])
    return files_by_split


def provenance(splits: Splits) -> dict[str, Any]:
    """Return the origin (file, array, provenance) of each feature of each split of a run."""
    return {split: {name: _origin(array) for name, array in files.arrays.items()} for split, files in splits.items()}


def provenances_of(splits: Splits) -> list[Provenance]:
    """Return the provenances of the features that have a provenance."""
    arrays = (array for files in splits.values() for array in files.arrays.values())
    return [array.provenance for array in arrays if array.provenance is not None]


def _origin(array: FeatureArray) -> dict[str, Any]:
    """Return the file, size and provenance of an array for the result file."""
    origin: dict[str, Any] = {"file": str(array.path), "array": array.key, "rows": array.rows, "size": array.dim}
    if array.provenance is None:
        # Without a provenance, only the hash shows whether the file was changed.
        return origin | {"provenance": None, "sha256": sha256_of(array.path)}
    return origin | {
        "provenance": asdict(array.provenance),
        "layer": None if array.layer is None else asdict(array.layer),
    }


def _files_below_root(settings: FeatureSettings, layout: Layout, split: str, features: Sequence[str]) -> SplitFiles:
    """Open the features of a split in the folder of the layout."""
    dataset, backbone = settings.dataset_name, settings.backbone_name
    name = getattr(settings, f"{split}_split")
    arrays = {}
    for feature in in_order(features):
        path = layout.existing(feature, dataset, backbone, name)
        if feature == EMBEDDINGS and path.is_file():
            arrays[feature] = open_any(path, None, _embedding_keys(settings))
        else:
            arrays[feature] = open_array(path, EMBEDDINGS if feature == EMBEDDINGS else _layer_key(settings, path))
    return SplitFiles(arrays, layout.embeddings(dataset, backbone, name))


def _features_on_disk(settings: FeatureSettings, layout: Layout, split: str) -> list[str]:
    """Return the names of the features that have a file for a split. Raises MissingFilesError if there are none."""
    dataset, backbone, name = settings.dataset_name, settings.backbone_name, getattr(settings, f"{split}_split")
    names = layout.objectives(dataset, backbone, name)
    embeddings = layout.embeddings(dataset, backbone, name)
    if embeddings.exists():
        names.append(EMBEDDINGS)
    if not names:
        raise MissingFilesError(
            f"there are no features of dataset {dataset!r}, backbone {backbone!r}, split {name!r} below {layout.root}"
            f" (looked for {embeddings}).{_names_on_disk(embeddings)} Run fungi extract and extract-gradients first,"
            " or give another --root."
        )
    return names


def _names_on_disk(embeddings: Path) -> str:
    """Return a sentence on what exists: the splits; if there are none, the backbones; otherwise similar datasets."""
    backbone, dataset = embeddings.parent, embeddings.parent.parent
    if splits := sorted(path.stem for path in backbone.glob("*.h5")):
        return f" There are features of the splits {listed(splits)}."
    if backbones := sorted({path.parent.name for path in dataset.glob("*/*.h5")}):
        return f" There are features of the backbones {listed(backbones)}."
    return did_you_mean(dataset.name, [path.name for path in dataset.parent.glob("*") if path.is_dir()])


def _layer_key(settings: FeatureSettings, path: Path) -> str:
    """Return the key of an array of gradients: the setting, otherwise the only array, otherwise the default."""
    if settings.layer_key is not None or not path.is_file():
        return settings.layer_key or DEFAULT_LAYER_KEY
    keys = array_keys(path)
    return keys[0] if len(keys) == 1 else DEFAULT_LAYER_KEY


def _explicit_files(settings: FeatureSettings, split: str) -> SplitFiles:
    """Open the explicit files of a split, in any format.

    The first file of each split belongs to the first feature, the second file of each split to the second feature, and
    so on. The names of the features come from the train files or, if no flag names train files, from the files of the
    split itself.
    """
    embeddings = [_embeddings_at(settings, path) for path in getattr(settings, f"{split}_embeddings_datasets")]
    gradients = [_gradients_at(settings, text) for text in getattr(settings, f"{split}_datasets")]
    has_train_files = settings.train_embeddings_datasets or settings.train_datasets
    naming_split = "train" if has_train_files else split  # the split whose files give the features their names
    naming_embeddings = [split_key(path)[0] for path in getattr(settings, f"{naming_split}_embeddings_datasets")]
    naming_gradients = [_gradients_at(settings, text) for text in getattr(settings, f"{naming_split}_datasets")]
    open_files = [open_any(path, key) for path, key in [*embeddings, *gradients]]
    expected = len(naming_embeddings) + len(naming_gradients)
    if not open_files or len(open_files) != expected:
        raise FungiError(
            f"the {split} split has {len(open_files)} feature files, but the {naming_split} split has {expected}. Give"
            f" one file of each split for every feature, with --{split}-embeddings-datasets and --{split}-datasets."
        )
    targets = getattr(settings, f"{split}_targets") or next((path for path, _ in embeddings), None)
    if targets is None:
        raise FungiError(f"the {split} split has no labels. Give their file with --{split}-targets.")
    arrays = dict(zip(_feature_names(naming_gradients, naming_embeddings), open_files, strict=True))
    return SplitFiles({name: arrays[name] for name in in_order(arrays)}, Path(targets))


def _embedding_keys(settings: FeatureSettings) -> tuple[str, ...]:
    """Return the possible names of an array of embeddings, most likely first."""
    return (*([settings.layer_key] if settings.layer_key else []), *FEATURE_KEYS)


def _embeddings_at(settings: FeatureSettings, text: Path) -> tuple[Path, str]:
    """Return file and array of the embeddings that a flag names as FILE or FILE:KEY."""
    path, key = split_key(text)
    return path, choose_key(path, _embedding_keys(settings), 2) if key is None else key


def _gradients_at(settings: FeatureSettings, text: str) -> tuple[Path, str]:
    """Return file and array of the gradients that a flag names as FILE or FILE:KEY."""
    path, key = split_key(text)
    if key is None and settings.layer_key is not None:
        key = settings.layer_key
    return path, choose_key(path, (DEFAULT_LAYER_KEY, *FEATURE_KEYS), 2) if key is None else key


def _feature_names(gradients: list[tuple[Path, str]], embeddings: Sequence[Path]) -> list[str]:
    """Return unique feature names for explicit files: `embeddings`, or the objective in `<objective>-<split>.h5`.

    If a name occurs again, it gets a detail: the folder of the embeddings, or the array of the gradients. If this is
    not enough, it also gets the number of its file.
    """
    names = [EMBEDDINGS] * len(embeddings) + [path.stem.rpartition("-")[0] or path.stem for path, _ in gradients]
    details = [path.parent.name for path in embeddings] + [key for _, key in gradients]
    if len(set(names)) == len(names):
        return names
    long_names: list[str] = []
    for index, (name, detail) in enumerate(zip(names, details, strict=True)):
        is_first = names.index(name) == index
        long_names.append(name if is_first else f"{name}:{detail}")
    return [name if long_names.count(name) == 1 else f"{name}:{index}" for index, name in enumerate(long_names)]
