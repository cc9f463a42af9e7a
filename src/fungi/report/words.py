"""Names of features, tasks, metrics and protocols for pages and figures."""

from fungi.report.facts import Fact, Setting, objective_in_words, page_texts

TASKS = {
    "knn": "Nearest neighbours",
    "linear": "Linear probe",
    "retrieval": "Retrieval",
    "segmentation": "Segmentation",
    "clustering": "Clustering",
    "in-context": "Answers of a language model",
}
"""Task -> its name, in the order of the pages."""
METRICS = {
    "accuracy": "accuracy",
    "mean-per-class-accuracy": "mean accuracy per class",
    "mAP-M": "mean average precision",
    "mAP-H": "mean average precision",
    "mIoU": "mean intersection over union",
}
_PROFILES = {
    "clean": "gradients as in the method (profile clean)",
    "published": "gradients as in the published code (profile published)",
    "unknown": "files of unknown origin",
}


def feature_in_words(name: str) -> str:
    """Return the name of a feature in words: `embeddings + KL` for `embeddings+kl`. Names of arrays are not changed."""
    parts = [part.partition(":") for part in name.split("+")]
    return " + ".join(objective_in_words(feature) + colon + array for feature, colon, array in parts)


def task_in_words(task: str, setting: Setting) -> str:
    """Return task and setting in words: `Nearest neighbours, all train rows`."""
    return f"{TASKS.get(task, task)}, {setting.in_words()}"


def profile_in_words(profile: str) -> str:
    """Return the meaning of a profile: `gradients as in the method (profile clean)`."""
    return _PROFILES.get(profile, f"profile {profile}")


def protocol_in_words(profile: str, details: tuple[Fact, ...]) -> str:
    """Return details and profile of a protocol: `20 neighbours, ..., gradients as in the method (profile clean)`."""
    return ", ".join([*page_texts(details), profile_in_words(profile)])


def metric_in_words(metric: str) -> str:
    """Return the full name of a metric."""
    return METRICS.get(metric, metric)
