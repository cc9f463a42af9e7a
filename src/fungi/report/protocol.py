"""How a number came about, and whether that is how the published ones did (DESIGN: what decides a number).

Result files say which of their deciding settings are not the usual ones (`unusual`). Each of them shows in the heading
of a table, keeps its numbers out of the cells of other runs, and away from the published values.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fungi.backbones.base import BACKBONES
from fungi.combine.protocol import usual_pca_dim
from fungi.data.base import DATASETS
from fungi.report.features import entries_of, seeds_and_precision, unusual_features

_UNKNOWN = "unknown"
_USUAL_ARRAY = "attn_proj"
_PUBLISHED_K = 20
_ALWAYS_SHOWN = {"k": "k", "pca_dim": "PCA", "solver": "solver", "tolerance": "tolerance"}
_NO_OTHER_PROTOCOL = {"pca_dim", "few_shot_sampling", "few_shot_seed", "seed", "test_split", "layer_key"}
"""Unusual settings that are looked at one by one below, or, as seeds, belong to the published protocol."""
_BEFORE_THEY_SAID_IT: dict[str, Any] = {
    "train_split": "train",
    "test_split": "test",
    "valid_split": "valid",
    "layer_key": None,
    "normalize": True,
    "normalize_embeddings": True,
    "k": 20,
    "few_shot_seed": [],
    "few_shot_sampling": "balanced",
    "few_shot_validation": "published",
    "solver": "cyanure",
    "tolerance": 1e-3,
    "max_epochs": None,
    "sweep_epochs": None,
    "renormalise_after_pca": False,
    "restarts": 10,
}
"""Usual settings of result files that do not say themselves which of theirs are unusual."""
_IN_WORDS: dict[str, Callable[[Any], str]] = {
    "train_split": lambda value: f"fitted on {value}",
    "test_split": lambda value: f"rows of {value}",
    "valid_split": lambda value: f"lambda chosen on {value}",
    "layer_key": lambda value: "" if value == _USUAL_ARRAY else f"array {value}",
    "normalize": lambda _: "no L2 norm of gradients",
    "normalize_embeddings": lambda _: "no L2 norm of embeddings",
    "few_shot_seed": lambda value: "draws " + " ".join(map(str, value)),
    "few_shot_sampling": lambda value: f"{value} draw",
    "few_shot_validation": lambda value: f"lambda by {value}",
    "renormalise_after_pca": lambda _: "cosine after PCA",
    "choose": lambda _: "features, PCA and k up to these chosen on train rows",
    "train_size": lambda _: "",  # the heading begins with it
    "score_fitted_rows": lambda _: "FITTED ROWS ARE SCORED",
}


@dataclass(frozen=True)
class Protocol:
    """How a number came about. Numbers of different protocols are never put into one table."""

    task: str
    setting: str
    profile: str
    details: str

    def __str__(self) -> str:
        return f"{self.task}, {self.setting}, profile {self.profile}, {self.details}"

    @property
    def place(self) -> tuple[object, ...]:
        """Sorting key: all train rows before few shots, few shots by their number."""
        number = self.setting.partition("-")[0]
        return self.task, int(number) if number.isdigit() else 0, self.setting, self.profile, self.details


def setting_of(content: dict[str, Any]) -> str:
    """`full`, `5-shot`, `10-percent`; `5-shot drawn` where the rows are random draws."""
    settings = content["settings"]
    shots, share = settings.get("shots"), settings.get("train_size")
    if shots is None and share is None:
        return "full"
    part = f"{100 * share:g}-percent" if shots is None else f"{shots}-shot"
    return f"{part} drawn" if settings.get("few_shot_seed") else part


def origin_of(content: dict[str, Any]) -> dict[str, str]:
    """Dataset, backbone, profile and layer, as the feature files' own records say it; else as the settings say."""
    files = [entry for _, entry in entries_of(content)]
    provenances = [entry["provenance"] for entry in files if entry.get("provenance")]
    layers = {entry["layer"]["layer"] for entry in files if entry.get("layer")}
    settings = content["settings"]
    if not provenances and files:
        # The folders of the original harness: <dataset>/<backbone>/<file>.
        folder = Path(files[0]["file"]).parent
        return {"dataset": folder.parent.name, "backbone": folder.name, "profile": _UNKNOWN, "layer": ""}
    return {
        "dataset": provenances[0]["dataset"] if provenances else settings["dataset"],
        "backbone": provenances[0]["backbone"] if provenances else settings["backbone"],
        "profile": "+".join(sorted({provenance["profile"] for provenance in provenances})) or _UNKNOWN,
        "layer": "+".join(sorted(layers)),
    }


def unusual_settings(content: dict[str, Any]) -> dict[str, Any]:
    """The settings that can change a score and are not the usual ones."""
    if "unusual" in content:
        return dict(content["unusual"])
    settings = content["settings"]
    return {
        name: settings[name]
        for name, usual in _BEFORE_THEY_SAID_IT.items()
        if name in settings and settings[name] != usual
    }


def details_of(content: dict[str, Any], origin: dict[str, str]) -> str:
    """All that sets a protocol apart from another, in words."""
    settings, unusual, entries = content["settings"], unusual_settings(content), entries_of(content)
    if not (settings.get("shots") or settings.get("train_size")):
        unusual = {name: value for name, value in unusual.items() if not name.startswith("few_shot")}
    parts = [f"{word} {settings[name]}" for name, word in _ALWAYS_SHOWN.items() if settings.get(name) is not None]
    parts += [] if _is_usual_layer(origin) else [f"layer {origin['layer']}"]
    parts += [in_words(name, value) for name, value in unusual.items() if name not in _ALWAYS_SHOWN]
    return ", ".join(filter(None, [*parts, *unusual_features(entries), *seeds_and_precision(entries)]))


def in_words(name: str, value: Any) -> str:
    """A setting for a heading: `max epochs 1`."""
    if name in _IN_WORDS:
        return _IN_WORDS[name](value)
    shown = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return f"{name.replace('_', ' ')} {shown}"


def as_published(content: dict[str, Any], origin: dict[str, str]) -> bool:
    """Whether settings, rows, draws and features are those of the published tables."""
    settings, unusual = content["settings"], unusual_settings(content)
    backbone, dataset = origin["backbone"], origin["dataset"]
    sampling = settings.get("few_shot_sampling", "balanced") if settings.get("shots") else None
    return (
        not unusual.keys() - _NO_OTHER_PROTOCOL
        and settings.get("k", _PUBLISHED_K) == _PUBLISHED_K
        and backbone in BACKBONES
        and sampling in (None, "stratified" if BACKBONES[backbone].modality == "text" else "balanced")
        and settings["pca_dim"] == usual_pca_dim(dataset, backbone)
        and settings.get("test_split", "test") in ("test", "query")
        and settings.get("layer_key") in (None, _USUAL_ARRAY)
        and _is_usual_layer(origin)
        and _validated_as_published(content, dataset)
        and not unusual_features(entries_of(content))
    )


def _is_usual_layer(origin: dict[str, str]) -> bool:
    """Whether gradients are those of the backbone's own layer, as far as the files tell."""
    known = origin["layer"] and origin["backbone"] in BACKBONES
    spec = BACKBONES[origin["backbone"]] if known else None
    return spec is None or origin["layer"] == spec.layer_path(spec.layer)


def _validated_as_published(content: dict[str, Any], dataset: str) -> bool:
    """Whether a linear probe chose lambda on the official validation split where the dataset has one."""
    official = dataset in DATASETS and "valid" in DATASETS[dataset].splits
    linear = content.get("task", "").startswith("linear")
    return not (official and linear) or all("valid" in run for run in content["provenance"]["features"])
