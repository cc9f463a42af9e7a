"""Compare features with the published features. The provenance of the features shows the differences."""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from typing import Any

from fungi.backbones.base import BACKBONES
from fungi.backbones.loading import choose_input
from fungi.data.base import DATASETS
from fungi.errors import FungiError
from fungi.objectives.binding import configure, settings_of
from fungi.profiles import PROFILES
from fungi.report.facts import Fact
from fungi.store.differences import arguments_of
from fungi.store.layout import EMBEDDINGS
from fungi.store.provenance import INFORMATION
from fungi.views.base import InputSpec
from fungi.views.plans import PUBLISHED

DEFAULT_SEED = 42
FeatureRecord = dict[str, Any]
"""Record of a feature of a split in the provenance of a result: file, array, provenance, layer, size."""


def feature_records(content: dict[str, Any]) -> list[tuple[str, FeatureRecord]]:
    """Return (feature, record) for every run, split and feature of a result."""
    return [
        (feature, record)
        for run in content["provenance"]["features"]
        for split in run.values()
        for feature, record in split.items()
    ]


def unusual_features(records: Iterable[tuple[str, FeatureRecord]]) -> list[Fact]:
    """Return the differences from the published features: weights, objectives, projection, bias."""
    return [fact for feature, record in records if record.get("provenance") for fact in _unusual_facts(feature, record)]


def seeds_and_precision(records: Iterable[tuple[str, FeatureRecord]]) -> list[Fact]:
    """Return the seeds and dtypes of the extractions that are not the defaults, because they change scores slightly.

    Imported features have no seed.
    """
    provenances = [record["provenance"] for _, record in records if record.get("provenance")]
    extracted = [provenance for provenance in provenances if "imported" not in (provenance.get("settings") or {})]
    seeds = sorted({provenance.get("seed", DEFAULT_SEED) for provenance in extracted})
    dtypes = sorted({provenance.get("dtype", "float32") for provenance in provenances} - {"float32"})
    facts: list[Fact] = []
    if seeds not in ([], [DEFAULT_SEED]):
        facts.append(("extraction_seed", seeds[0]) if len(seeds) == 1 else ("extraction_seeds", tuple(seeds)))
    return facts + [("extraction_dtype", name) for name in dtypes]


def identities(content: dict[str, Any]) -> dict[str, str]:
    """Return a hash of the features of each combination. Equal hashes mean the same computation on the same data."""
    facts: list[tuple[str, str]] = []
    for feature, record in feature_records(content):
        provenance = record.get("provenance") or {}
        facts_of_values = {name: value for name, value in provenance.items() if name not in INFORMATION}
        origin = facts_of_values or record.get("file")  # without a provenance, only the file identifies the features
        text = json.dumps([origin, record.get("layer"), record.get("array")], sort_keys=True)
        facts.append((feature, text))
    hashes = {}
    for combination in content["results"]:
        parts = combination.split("+")
        texts = [f"{feature} {text}" for feature, text in facts if feature in parts]
        hashes[combination] = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:6]
    return hashes


def _unusual_facts(feature: str, record: FeatureRecord) -> list[Fact]:
    """Return the differences between a feature and the published feature of the same name."""
    provenance, layer = record["provenance"], record.get("layer") or {}
    is_registered = provenance["backbone"] in BACKBONES
    spec = BACKBONES[provenance["backbone"]] if is_registered else None
    source = provenance.get("weights_source", "")
    facts: list[Fact] = [("weights", "random")] if source.startswith("random") else []
    facts += [("checkpoint", provenance["weights_hash"][:8])] if source.startswith("checkpoint") else []
    size_match = re.search(r"\bsize=(\d+)", provenance.get("input", ""))
    side = int(size_match[1]) if size_match else None
    if side and spec and side != getattr(spec.input, "size", side):  # the inputs of texts and sounds have no size
        facts.append(("input_side", side))
    kind = layer.get("projection_kind", "binary")
    facts += [("projection_kind", kind)] if kind != "binary" else []
    if spec and feature != EMBEDDINGS and record.get("size", spec.projection_dim) != spec.projection_dim:
        facts.append(("projection_dim", record["size"]))
    if spec and layer.get("bias", spec.bias) != spec.bias:
        facts.append(("bias", "no gradient of the bias" if spec.bias else "gradient of a bias"))
    objective = feature.split(":")[0]  # without the array, as in `kl:mlp_fc1`
    defaults = _default_settings(
        objective, provenance["backbone"], provenance["dataset"], provenance.get("profile", "clean")
    )
    settings = provenance.get("objective_settings") or {}
    plan = provenance.get("views", PUBLISHED)
    if plan != PUBLISHED:  # the name of the plan describes the views completely
        facts.append(("view_plan", plan))
        settings = {name: value for name, value in settings.items() if name != "views"}
    return facts + _differences(objective, settings, defaults)


@cache
def _default_settings(objective: str, backbone: str, dataset: str, profile: str) -> dict[str, Any]:
    """Return the default settings of an objective; empty if the objective or backbone is unknown."""
    if objective == EMBEDDINGS or backbone not in BACKBONES or profile not in PROFILES:
        return {}
    spec = BACKBONES[backbone]
    input_spec = choose_input(spec, PROFILES[profile])
    options = DATASETS[dataset].input_options if dataset in DATASETS else None
    if options:
        input_spec = replace(input_spec, **options)
    return _settings_for_input(objective, input_spec)


@cache
def _settings_for_input(objective: str, input_spec: InputSpec) -> dict[str, Any]:
    """Return the default settings of an objective for the input of a backbone."""
    try:
        configuration, views, _ = configure(objective, input_spec)
    except FungiError:  # the objective is not registered on this machine
        return {}
    return json.loads(json.dumps(settings_of(configuration, views), default=str))


def _differences(objective: str, settings: dict[str, Any], defaults: dict[str, Any]) -> list[Fact]:
    """Return the settings that differ from the defaults: `("simclr.temperature", 5)`.

    If the views differ, return each argument of the views that differs.
    """
    facts: list[Fact] = []
    for name in sorted(settings.keys() & defaults.keys()):
        if name == "views" and settings[name] != defaults[name]:
            arguments, default_arguments = arguments_of(settings[name]), arguments_of(defaults[name])
            changed = [
                (f"{objective}.{key}", value) for key, value in arguments.items() if default_arguments.get(key) != value
            ]
            facts += changed or [(f"{objective}.views", "of another kind")]
        elif settings[name] != defaults[name]:
            value = settings[name]
            facts.append((f"{objective}.{name}", json.dumps(value) if isinstance(value, dict | list) else value))
    return facts
