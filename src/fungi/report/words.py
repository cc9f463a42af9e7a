"""What pages and figures call things: in words that need no manual."""

import re

from fungi.objectives import OBJECTIVES

_SPELLED = {"simclr": "SimCLR", "deepcluster": "DeepCluster", "ibot": "iBOT"}
_LONGEST_ABBREVIATION = 4
TASKS = {
    "knn": "Nearest neighbours",
    "linear": "Linear probe",
    "retrieval": "Retrieval",
    "segmentation": "Segmentation",
    "clustering": "Clustering",
}
"""In the order in which pages tell of them."""
METRICS = {
    "accuracy": "accuracy",
    "mean-per-class-accuracy": "mean accuracy per class",
    "mAP-M": "mean average precision",
    "mAP-H": "mean average precision",
    "mIoU": "mean intersection over union",
}
_SETTINGS = {"full": "all train rows", "M": "medium", "H": "hard"}
_PROFILES = {
    "clean": "gradients as the method says (profile clean)",
    "published": "gradients as the published code made them (profile published)",
    "unknown": "files of unknown origin",
}
_DETAILS = (
    (re.compile(r"k (\d+)"), r"\1 neighbours"),
    (re.compile(r"PCA (\d+)"), r"\1 components of a PCA"),
    (re.compile(r"(\d+)-shot( drawn)?"), r"\1 train rows per class\2"),
    (re.compile(r"([\d.]+)-percent( drawn)?"), r"\1 % of the train rows\2"),
    (re.compile(r"(\d+) patches"), r"bank of \1 patches"),
    (re.compile(r"(\d+) images"), r"\1 training images"),
    (re.compile(r"seeds ([\d ]+)"), r"extracted with seeds \1"),
)


def objective_in_words(name: str) -> str:
    """`kl` -> `KL`, `simclr` -> `SimCLR`; what is no objective keeps its name."""
    abbreviated = name in OBJECTIVES and len(name) <= _LONGEST_ABBREVIATION
    return _SPELLED.get(name, name.upper() if abbreviated else name)


def feature_in_words(name: str) -> str:
    """`embeddings+kl` -> `embeddings + KL`; an array of a layer keeps its name."""
    parts = [part.partition(":") for part in name.split("+")]
    return " + ".join(objective_in_words(feature) + colon + array for feature, colon, array in parts)


def asked_in_words(task: str, setting: str) -> str:
    """Task and setting of a protocol: `Nearest neighbours, all train rows`."""
    return f"{TASKS.get(task, task)}, {_SETTINGS.get(setting) or _detail(setting)}"


def how_in_words(profile: str, details: str) -> str:
    """Profile and details of a protocol: `20 neighbours, 512 components of a PCA, gradients as ...`."""
    parts = [*details.split(", "), _PROFILES.get(profile, f"profile {profile}")]
    return ", ".join(_detail(part) for part in parts if part)


def metric_in_words(metric: str) -> str:
    """A metric's name, written out."""
    return METRICS.get(metric, metric)


def _detail(text: str) -> str:
    for pattern, words in _DETAILS:
        if pattern.fullmatch(text):
            return pattern.sub(words, text)
    first, _, rest = text.partition(" ")
    return f"{objective_in_words(first)} {rest}" if rest else text
