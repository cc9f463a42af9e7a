"""The provenance: the record of the origin of a feature file, stored in the HDF5 attributes of the file."""

import json
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from fungi.errors import FungiError

if TYPE_CHECKING:
    import h5py

SCHEMA_VERSION = 2
"""Version of the set of fields of a provenance."""
OTHER_FILE_ADVICE = "Choose another --root, or extract again with --overwrite."
"""Last sentence of the errors about a feature file that was computed in another way or by another version."""

INFORMATION = (
    "weights_source",
    "settings",
    "versions",
    "commit",
    "code_versions",
    "computed_on",
    "skipped_samples",
    "complete",
)
"""Fields that describe how a file was computed but do not decide its content."""


@dataclass(frozen=True, kw_only=True)
class LayerProvenance:
    """Provenance of an array of a gradient file: its layer and its projection.

    layer: path of the target layer, with the part of a qkv layer. bias: whether the gradient contains the bias.
    projection_hash, projection_kind, projection_seed: hash, kind and seed of the projection matrix. For gradients that
        are not projected, they are empty, `none` and -1.
    """

    layer: str
    bias: bool
    projection_hash: str
    projection_kind: str
    projection_seed: int


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Provenance of a feature file: facts that decide its numbers, and information for people (`INFORMATION`).

    feature: `embeddings`, or the objective. objective_settings: temperatures, views, heads.
    device: type of the device, `cpu` or `cuda`. dtype: dtype or precision of the computation.
    code_versions: versions of this program that computed the rows; several only if the user accepted this.
    views: `published`, or the name of the view plan that determines all options of the views (`fungi.views.plans`).
    computed_on: names of the devices that computed the rows (`NVIDIA H200`), with `, compiled` for compiled code.
    skipped_samples: ids of items that were left out because they can't be read; the fingerprint ignores these items.
    support_hash: hash of the negatives or prototypes of the objective; empty if the objective needs no such data.
    """

    feature: str
    dataset: str
    split: str
    rows: int
    dataset_fingerprint: str
    backbone: str
    weights_hash: str
    weights_source: str
    input: str
    profile: str
    seed: int
    dtype: str
    device: str
    objective_settings: dict[str, Any] = field(default_factory=dict)
    views: str = "published"
    support_hash: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    commit: str = "unknown"
    code_versions: list[dict[str, Any]] = field(default_factory=list)
    computed_on: list[str] = field(default_factory=list)
    skipped_samples: list[str] = field(default_factory=list)
    schema_version: int = SCHEMA_VERSION
    complete: bool = True

    def identity(self) -> dict[str, Any]:
        """Return the fields that determine the numbers. Files with equal identities have the same content."""
        values = {name: value for name, value in asdict(self).items() if name not in INFORMATION}
        return json.loads(json.dumps(values, default=str))  # converts tuples to lists, as in a record from a file


_AS_JSON = ("objective_settings", "settings", "versions", "code_versions", "computed_on", "skipped_samples")
"""Fields that are stored as JSON text, because they are lists or dictionaries."""


def write_provenance(file: "h5py.File", provenance: Provenance) -> None:
    """Store the provenance of a file as one attribute per field."""
    for name, value in asdict(provenance).items():
        file.attrs[name] = json.dumps(value, sort_keys=True) if name in _AS_JSON else value


def read_provenance(file: "h5py.File") -> Provenance | None:
    """Return the provenance of a file; None for files of the published code, which have no provenance.

    Raises FungiError if the provenance is incomplete.
    """
    if "schema_version" not in file.attrs:
        return None
    values = {}
    for name in (provenance_field.name for provenance_field in fields(Provenance)):
        if name not in file.attrs:
            raise FungiError(
                f"{file.filename} has no entry {name!r} in its provenance: it is damaged, or another version of"
                f" this program wrote it. {OTHER_FILE_ADVICE}"
            )
        value = _python_value(file.attrs[name])
        values[name] = json.loads(value) if name in _AS_JSON else value
    return Provenance(**values)


def write_layer_provenance(array: "h5py.Dataset", provenance: LayerProvenance) -> None:
    """Store the provenance of an array of a gradient file as attributes."""
    for name, value in asdict(provenance).items():
        array.attrs[name] = value


def read_layer_provenance(array: "h5py.Dataset") -> LayerProvenance | None:
    """Return the provenance of an array of a gradient file; None for files of the published code."""
    if "projection_hash" not in array.attrs:
        return None
    names = [layer_field.name for layer_field in fields(LayerProvenance)]
    return LayerProvenance(**{name: _python_value(array.attrs[name]) for name in names})


def _python_value(value: Any) -> Any:
    """Return the Python number of a number of NumPy; return other values unchanged."""
    return value.item() if hasattr(value, "item") else value
