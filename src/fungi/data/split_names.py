"""Recognise the train, valid and test splits by the names of folders, or of the splits of a saved dataset."""

from collections.abc import Sequence

from fungi.runtime.log import logger

SPLIT_NAMES = {
    "train": ("train", "training", "train_set", "training_set", "trainset"),
    "valid": ("valid", "val", "validation", "dev", "valid_set", "validation_set"),
    "test": ("test", "testing", "test_set", "testset", "eval", "evaluation", "holdout"),
}
"""Split -> its accepted names, in lower case."""


def recognised_splits(names: Sequence[str]) -> dict[str, str]:
    """Return split -> its name among `names`. Splits that have no accepted name in `names` are left out."""
    by_lower = {name.lower().replace("-", "_"): name for name in reversed(names)}
    split_names = {
        split: next((by_lower[name] for name in accepted if name in by_lower), None)
        for split, accepted in SPLIT_NAMES.items()
    }
    return {split: name for split, name in split_names.items() if name is not None}


def resolve_splits(dataset: str, names: Sequence[str], *, accept_any_name: bool = False) -> dict[str, str]:
    """Return split -> its name among `names`, with `train` first; empty if no split is recognised.

    If there are two names, and only one is recognised (as train or test), the unrecognised name is the other split.
    If only train and valid are recognised, the folder or split of valid is used as test.

    accept_any_name: whether two unrecognised names are accepted as train and test, in this order.
    Logs each name that is used for a split but is not an accepted name of this split, and warns of ignored names.
    """
    split_names = recognised_splits(names)
    other_names = [name for name in names if name not in split_names.values()]
    if len(names) == 2 and len(other_names) == 1 and ("train" in split_names) != ("test" in split_names):
        missing = "test" if "train" in split_names else "train"
        split_names, other_names = {**split_names, missing: other_names[0]}, []
    elif len(names) == 2 and len(other_names) == 2 and accept_any_name:
        split_names, other_names = dict(zip(("train", "test"), names, strict=True)), []
    elif set(split_names) == {"train", "valid"}:
        split_names = {"train": split_names["train"], "test": split_names["valid"]}
    for split, name in split_names.items():
        if name.lower() not in SPLIT_NAMES[split]:
            logger.info(f"{dataset}: {name} is used as the split {split}.")
    if split_names and other_names:
        logger.warning(f"{dataset}: ignored, because not train, valid or test: {', '.join(sorted(other_names))}.")
    return {split: split_names[split] for split in SPLIT_NAMES if split in split_names}
