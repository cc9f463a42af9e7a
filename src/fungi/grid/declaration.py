"""Declaration of the grid, in a TOML file (`FUNGI_GRID`), in environment variables, or in both.

    backbones = ["vit-b16", "dino_vitb16"]
    datasets = ["flowers102", "pets"]
    root = "/scratch/me/features"
    [flags]
    extract-gradients = "--profile published"
    [sbatch]
    extraction = "--partition=gpu"

A variable that contradicts the file is an error. Otherwise queued jobs and `fungi status` could use different grids.
"""

import json
import shlex
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from fungi.backbones.base import BackboneSpec, resolve_backbone
from fungi.commands import STAGES, grid_command
from fungi.data.base import DATASETS, DatasetSpec, resolve_dataset
from fungi.errors import FungiError, unknown_name
from fungi.grid.throughput import GPU_SPEED
from fungi.runtime.files import write_text_atomically
from fungi.values import converted, type_hints

GRID_FILE = "FUNGI_GRID"
LAST_GRID = Path("progress") / "grid.toml"
"""Path below the root of the grid that was submitted last."""
_FLAGS_PREFIX = "FUNGI_FLAGS_"
_TABLES = ("flags", "sbatch")
_ONLY_IN_FILES = (*_TABLES, "jobs", "code", "submitted_below")
"""Fields of a grid that have no environment variable."""
_OTHER_VARIABLES = ("ARCHIVES", "GRID", "MAX_RESTARTS", "PARTIAL", "FIRST", "ELEMENT", "SLOT", "PROJECT", "PYTHON")
"""Other variables, after `FUNGI_`, of the job files and of `fungi submit` (docs/cluster.md)."""


@dataclass(frozen=True)
class Pair:
    """A backbone and a dataset of the same modality: their texts in the declaration, and their specifications."""

    backbone: str
    backbone_spec: BackboneSpec
    dataset: str
    dataset_spec: DatasetSpec


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The grid: its axes, its folders, and flags of the commands and of sbatch.

    datasets: if empty, the embedded digits, or all landmark datasets in landmark jobs.
    splits: if empty, all splits of each dataset.
    shards: number of shards per split; 0 for shards of about an hour on `gpu`.
    pack: number of extraction elements that run at the same time in one array task, each on its own GPU.
    limit: number of tasks of an array that may run at the same time; 0 for any number.
    flags: command -> its additional flags, written as on a command line.
    sbatch: stage, or `all` -> additional options of sbatch for the jobs of this stage.
    jobs: job files that were submitted together (`fungi submit`).
    code: folder with the copy of the code that the submitted jobs run.
    submitted_below: path of the root at the time of submission; empty if the grid was not submitted.
    """

    backbones: tuple[str, ...] = ("digits-vit",)
    datasets: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()
    root: Path = Path("features")
    data_dir: Path = Path("data")
    shards: int = 0
    pack: int = 1
    limit: int = 0
    gpu: str = "a100"
    flags: Mapping[str, str] = field(default_factory=dict)
    sbatch: Mapping[str, str] = field(default_factory=dict)
    jobs: tuple[str, ...] = ()
    code: str = ""
    submitted_below: str = ""

    def __post_init__(self) -> None:
        if self.shards < 0:
            raise FungiError(
                f"the grid can't have {self.shards} shards. Use 1 or more, or 0 for shards of about an hour."
            )
        if not self.backbones:
            raise FungiError("the grid has no backbone. Name at least one, or leave backbones out for digits-vit.")
        if self.pack < 1 or self.limit < 0:
            raise FungiError("the pack of a grid must be at least 1, and its limit at least 0.")
        if self.gpu not in GPU_SPEED:
            raise unknown_name("gpu", self.gpu, GPU_SPEED)
        for name in self.flags:
            grid_command(name)
            self.flags_of(name)
        for name in self.sbatch:
            if name not in ("all", *STAGES):
                raise unknown_name("stage in the sbatch options of the grid", name, ("all", *STAGES))
            self.sbatch_options(name)
        for text in self.backbones:
            resolve_backbone(text)
        for text in self.datasets:
            resolve_dataset(text, self.data_dir)

    def pairs(self, *, landmarks: bool, masks: bool = False) -> list[Pair]:
        """Return all pairs of a backbone and a dataset that have the same modality.

        landmarks: whether to use only the retrieval datasets.
        masks: whether to use only datasets with masks; if it is False, only datasets without masks are used.
        """
        default: tuple[str, ...] = ("digit-scenes",) if masks else ("digits",)
        if landmarks:
            default = tuple(name for name in DATASETS if _is_landmarks(DATASETS[name]))
        datasets = [(text, resolve_dataset(text, self.data_dir)) for text in self.datasets or default]
        selected = [
            (text, dataset)
            for text, dataset in datasets
            if (not landmarks or _is_landmarks(dataset)) and (dataset.masks is not None) == masks
        ]
        return [
            Pair(name, backbone, text, dataset)
            for name, backbone in [(name, resolve_backbone(name)) for name in self.backbones]
            for text, dataset in selected
            if backbone.modality == dataset.modality
        ]

    def flags_of(self, command: str) -> list[str]:
        """Return the additional flags of a command. Raises FungiError for quotes that are not closed."""
        return _words(self.flags.get(command, ""), f"flags of {command}")

    def sbatch_options(self, stage: str) -> list[str]:
        """Return the additional options of sbatch for a stage.

        The options of the stage follow the options of `all`, so that they replace equal options.
        """
        return [word for name in ("all", stage) for word in _words(self.sbatch.get(name, ""), f"sbatch of {name}")]

    def absolute(self) -> "Grid":
        """Return the same grid with absolute folders, for processes that start in another folder."""
        return replace(self, root=self.root.absolute(), data_dir=self.data_dir.absolute())

    def with_datasets(self) -> "Grid":
        """Return the same grid; if the grid names no dataset, add the embedded digits."""
        return self if self.datasets else replace(self, datasets=("digits",))

    def variables(self) -> dict[str, str] | None:
        """Return the environment variables that declare the grid; None if a name contains a blank.

        Blanks separate names in variables.
        """
        defaults = {item.name: item.default for item in fields(self) if item.name not in _ONLY_IN_FILES}
        values = {name: getattr(self, name) for name in defaults}
        if any(len(name.split()) != 1 for value in values.values() if isinstance(value, tuple) for name in value):
            return None
        changed = {name: value for name, value in values.items() if value != defaults[name]}
        texts = {name: " ".join(value) if isinstance(value, tuple) else str(value) for name, value in changed.items()}
        flags = {_FLAGS_PREFIX + name.upper().replace("-", "_"): text for name, text in self.flags.items()}
        return {f"FUNGI_{name.upper()}": text for name, text in texts.items()} | flags

    def to_toml(self) -> str:
        """Return the text of a grid file that declares this grid, without empty values."""
        values = {item.name: getattr(self, item.name) for item in fields(self) if item.name not in _TABLES}
        lines = [f"{name} = {_toml(value)}" for name, value in values.items() if value not in ((), "")]
        for table in _TABLES:
            lines += ["", f"[{table}]"]
            lines += [f"{json.dumps(name)} = {_toml(text)}" for name, text in getattr(self, table).items()]
        return "\n".join([*lines, ""])


def grid_file(grid: Grid) -> tuple[Path, str]:
    """Return the path and the text of the file that declares a submitted grid.

    The file name contains a hash of the text. Paths below the root are written relative to the root, so that they stay
    valid if the root is moved or copied.
    """
    code = str(Path(grid.code).relative_to(grid.root)) if grid.code else ""
    text = replace(grid, code=code, submitted_below=str(grid.root)).to_toml()
    return grid.root / "progress" / f"grid-{sha256(text.encode()).hexdigest()[:12]}.toml", text


def store_grid(grid: Grid) -> Path:
    """Write the grid to a file for its jobs, and return the path. Later submissions do not change this file."""
    path, text = grid_file(grid)
    write_text_atomically(path, text)
    return path


def stored_grid_file(grid: Grid) -> Path | None:
    """Return the file below the root that declares this grid; None if the grid was never submitted.

    Below a copied root, the file names still contain the hash of the original text, so the contents are compared.
    """
    path, _ = grid_file(grid)
    if path.exists():
        return path
    files = sorted(path.parent.glob("grid-*.toml")) if grid.submitted_below else []
    return next((file for file in files if declared_grid({GRID_FILE: str(file)}).absolute() == grid), None)


def require_root(grid: Grid) -> Grid:
    """Return the grid. Raises FungiError if its root does not exist."""
    if not grid.root.is_dir():
        raise FungiError(f"there is no folder {grid.root}: nothing was submitted or run below it. Check --root.")
    return grid


def declared_grid(environ: Mapping[str, str], flags: Mapping[str, Any] | None = None) -> Grid:
    """Return the grid that the grid file, the environment variables and the `flags` of a command declare together.

    Flags replace variables. Raises FungiError if the file can't be read, if a key or variable is unknown, or if a flag
    or variable contradicts the file.
    """
    path = environ.get(GRID_FILE)
    values = _from_file(Path(path)) if path else {}
    for name, value in {**_from_environment(environ), **(flags or {})}.items():
        if name == "flags":
            _merge(values.setdefault("flags", {}), value, path)
        else:
            _merge(values, {name: value}, path)
    return Grid(**values)


def _merge(values: dict[str, Any], new_values: Mapping[str, Any], path: str | None) -> None:
    """Add new values. Raises FungiError if a new value differs from the value in the grid file at `path`."""
    for name, value in new_values.items():
        if path and values.get(name, value) != value:
            in_file, new = _value_in_words(values[name]), _value_in_words(value)
            raise FungiError(
                f"{name} is {in_file} in the grid file {path}, but {new} in the environment or on the command line."
                " Remove one of them."
            )
        values[name] = value


def _from_file(path: Path) -> dict[str, Any]:
    """Return the values in a grid file."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FungiError(f"the grid file {path} ({GRID_FILE}) does not exist. Name an existing file.") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise FungiError(f"the grid file {path} can't be read: {error}.") from None
    keys = [item.name for item in fields(Grid)]
    try:
        for name in content:
            if name not in keys:
                raise unknown_name("key of the grid", name, keys)
        hints = type_hints(Grid)
        # A text is accepted instead of a list with one name.
        texts = {name for name, value in content.items() if isinstance(value, str) and hints[name] == tuple[str, ...]}
        values = converted(Grid, {name: [value] if name in texts else value for name, value in content.items()})
    except FungiError as error:
        raise FungiError(f"{error} In the grid file {path}.") from None
    if values.get("submitted_below"):  # the root, which contains this file and the code, may have been moved
        values["root"] = path.absolute().parent.parent
        values["code"] = str(values["root"] / values["code"]) if values.get("code") else ""
    return values


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the values in the variables FUNGI_... Raises FungiError for an unknown variable."""
    keys = {item.name.upper(): item.name for item in fields(Grid) if item.name not in _ONLY_IN_FILES}
    values: dict[str, Any] = {}
    flags: dict[str, str] = {}
    for variable, text in environ.items():
        name = variable.removeprefix("FUNGI_")
        if variable.startswith(_FLAGS_PREFIX):
            flags[variable.removeprefix(_FLAGS_PREFIX).lower().replace("_", "-")] = text
        elif name in keys and name != variable:
            if text:
                try:
                    values |= converted(Grid, {keys[name]: text}, accepts_texts=True)
                except FungiError as error:
                    raise FungiError(f"{error} In the variable {variable}.") from None
        elif name not in (variable, *_OTHER_VARIABLES):
            raise unknown_name("variable", variable, [f"FUNGI_{word}" for word in (*keys, *_OTHER_VARIABLES)])
    return {**values, "flags": flags} if flags else values


def _words(text: str, label: str) -> list[str]:
    """Split a text as a shell does. label: name of the text in messages. Raises FungiError for unclosed quotes."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise FungiError(f"the {label} in the grid can't be split into words: {text!r} ({error}).") from None


def _is_landmarks(dataset: DatasetSpec) -> bool:
    """Return whether a dataset is a retrieval dataset."""
    return dataset.metric == "map"


def _toml(value: Any) -> str:
    """Return a value in TOML. Texts, numbers and lists look the same in JSON."""
    return json.dumps(list(value) if isinstance(value, tuple) else value, default=str)


def _value_in_words(value: Any) -> str:
    """Return a value for a message: names separated by blanks, or the text of any other value in quotes."""
    return " ".join(value) if isinstance(value, tuple) else repr(str(value))
