"""The protocol of a score, and its comparison with the published protocol.

A setting is unusual if it can change a score and differs from its default. A result file lists its unusual settings.
Scores with unusual settings have tables of their own, and the headings of these tables show the settings. Such scores
are not compared with published values.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fungi.backbones.base import BACKBONES
from fungi.combine.protocol import usual_pca_dim
from fungi.data.base import DATASETS
from fungi.report.facts import ALWAYS_SHOWN, Facts, Setting, as_facts, heading_text
from fungi.report.features import feature_records, seeds_and_precision, unusual_features
from fungi.results.result_file import ABLATION

SEGMENTATION = "segmentation"
_UNKNOWN = "unknown"
_USUAL_ARRAY = "attn_proj"
_PUBLISHED_K = 20
_COMPARABLE_SETTINGS = {"pca_dim", "few_shot_sampling", "few_shot_seed", "seed", "test_split", "layer_key"}
"""Unusual settings that do not prevent a comparison with published values: seeds, and settings that
`has_published_protocol` checks separately."""
_PARTS_OF_SETTING = {"train_size"}
"""Unusual settings that are part of the `Setting` of a protocol."""


@dataclass(frozen=True)
class Protocol:
    """Task, setting, profile and other facts of a score. Each protocol has its own table."""

    task: str
    setting: Setting
    profile: str
    details: Facts

    def __str__(self) -> str:
        parts = (self.task, str(self.setting), f"profile {self.profile}", heading_text(self.details))
        return ", ".join(filter(None, parts))

    @property
    def sort_key(self) -> tuple[object, ...]:
        """Return the sorting key: first results on all train rows, then few-shot results by number of shots."""
        number = self.setting.amount if self.setting.kind == "shots" else 0
        return self.task, number, str(self.setting), self.profile, str(self.details)

    def without(self, *names: str) -> "Protocol":
        """Return the protocol without the facts with these names."""
        return replace(self, details=tuple(fact for fact in self.details if fact[0] not in names))


def protocol_of(content: dict[str, Any], setting: Setting | None = None) -> Protocol:
    """Return the protocol of a result. setting: the setting to use instead of the setting in the file."""
    origin = origin_of(content)
    return Protocol(task_of(content), setting or setting_of(content), origin["profile"], details_of(content, origin))


def task_of(content: dict[str, Any]) -> str:
    """Return the task without its shots: `knn` for `knn-5shot`; `ablation` for all ablations."""
    task = re.sub(r"-\d+shot$", "", str(content.get("task", "knn")))
    return ABLATION if task.startswith(f"{ABLATION}-") else task


def setting_of(content: dict[str, Any]) -> Setting:
    """Return the setting of a result: its training rows."""
    settings, task = content["settings"], task_of(content)
    if task == SEGMENTATION:
        images = settings.get("images")
        return Setting("images", images) if images else Setting("patches", settings["memory_size"])
    if task == "clustering":
        return Setting("unlabelled")
    shots, share = settings.get("shots"), settings.get("train_size")
    if shots is None and share is None:
        return Setting()
    drawn = bool(settings.get("few_shot_seed"))
    return Setting("share", share, drawn) if shots is None else Setting("shots", shots, drawn)


def origin_of(content: dict[str, Any]) -> dict[str, str]:
    """Return dataset, backbone, profile and layer of a result.

    The values come from the provenance of the features. For features without provenance, dataset and backbone come from
    the path of the first feature file. For a result without features, the values come from the settings.
    """
    records = [record for _, record in feature_records(content)]
    provenances = [record["provenance"] for record in records if record.get("provenance")]
    layers = {record["layer"]["layer"] for record in records if record.get("layer")}
    settings = content["settings"]
    if not provenances and records:
        # The published code writes features to <dataset>/<backbone>/<file>.
        folder = Path(records[0]["file"]).parent
        return {"dataset": folder.parent.name, "backbone": folder.name, "profile": _UNKNOWN, "layer": ""}
    profiles = {provenance["profile"] for provenance in provenances} or {settings.get("profile", _UNKNOWN)}
    return {
        "dataset": provenances[0]["dataset"] if provenances else settings["dataset"],
        "backbone": provenances[0]["backbone"] if provenances else settings["backbone"],
        "profile": "+".join(sorted(profiles)),
        "layer": "+".join(sorted(layers)),
    }


def unusual_settings(content: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that can change a score and differ from the defaults."""
    settings = content["settings"]
    uses_shots = bool(settings.get("shots") or settings.get("train_size"))
    unusual = content.get("unusual", {})
    return {name: value for name, value in unusual.items() if uses_shots or not name.startswith("few_shot")}


def details_of(content: dict[str, Any], origin: dict[str, str]) -> Facts:
    """Return the facts that distinguish the protocol of a result from other protocols of the same task and setting."""
    settings, unusual = content["settings"], unusual_settings(content)
    if task_of(content) == SEGMENTATION:
        return as_facts(unusual.items()) or (("settings", "as published"),)
    records = feature_records(content)
    facts = [(name, settings[name]) for name in ALWAYS_SHOWN if settings.get(name) is not None]
    facts += [] if _is_usual_layer(origin) else [("layer", origin["layer"])]
    facts += [(name, value) for name, value in unusual.items() if name not in (*ALWAYS_SHOWN, *_PARTS_OF_SETTING)]
    facts = [fact for fact in facts if fact != ("layer_key", _USUAL_ARRAY)]
    return as_facts([*facts, *unusual_features(records), *seeds_and_precision(records)])


def has_published_protocol(content: dict[str, Any], origin: dict[str, str]) -> bool:
    """Return whether settings, rows, draws and features are those of the published tables.

    For segmentation, both profiles are compared with the published values (spec dense 5).
    """
    settings, unusual = content["settings"], unusual_settings(content)
    if task_of(content) == SEGMENTATION:
        return not unusual
    backbone, dataset = origin["backbone"], origin["dataset"]
    sampling = settings.get("few_shot_sampling", "balanced") if settings.get("shots") else None
    return (
        not unusual.keys() - _COMPARABLE_SETTINGS
        and settings.get("k", _PUBLISHED_K) == _PUBLISHED_K
        and backbone in BACKBONES
        and sampling in (None, "stratified" if BACKBONES[backbone].modality == "text" else "balanced")
        and settings["pca_dim"] == usual_pca_dim(dataset, backbone)
        and settings.get("test_split", "test") in ("test", "query")
        and settings.get("layer_key") in (None, _USUAL_ARRAY)
        and _is_usual_layer(origin)
        and _uses_official_validation(content, dataset)
        and not unusual_features(feature_records(content))
    )


def _is_usual_layer(origin: dict[str, str]) -> bool:
    """Return whether the target layer is the default of the backbone; true if the files do not record the layer."""
    is_known = origin["layer"] and origin["backbone"] in BACKBONES
    spec = BACKBONES[origin["backbone"]] if is_known else None
    return spec is None or origin["layer"] == spec.layer_path(spec.layer)


def _uses_official_validation(content: dict[str, Any], dataset: str) -> bool:
    """Return whether lambda was chosen on the official validation split.

    Also return True if the dataset has no such split, or if the task does not choose lambda.
    """
    has_official = dataset in DATASETS and "valid" in DATASETS[dataset].splits
    is_linear = task_of(content) == "linear"
    return not (has_official and is_linear) or all("valid" in run for run in content["provenance"]["features"])
