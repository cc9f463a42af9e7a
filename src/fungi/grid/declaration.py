"""What the grid is: declared in one TOML file (`FUNGI_GRID`), in environment variables, or in both without overlap.

    backbones = ["vit-b16", "dino_vitb16"]
    datasets = ["flowers102", "pets"]
    root = "/scratch/me/features"
    [flags]
    extract-gradients = "--profile published"
    [sbatch]
    extraction = "--partition=gpu"

Every value has one source. A variable that contradicts the file is an error, because a queued job and the person who
looks after it would otherwise see different grids.
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
from fungi.runtime.files import write_whole
from fungi.values import converted, type_hints

GRID_FILE = "FUNGI_GRID"
LAST_GRID = Path("progress") / "grid.toml"
"""Below the root: the grid that was submitted last."""
_FLAGS_PREFIX = "FUNGI_FLAGS_"
_TABLES = ("flags", "sbatch")
_IN_FILES_ALONE = (*_TABLES, "jobs", "code", "submitted_below")
_OTHER_VARIABLES = ("ARCHIVES", "GRID", "MAX_RESTARTS", "PARTIAL", "FIRST", "ELEMENT", "SLOT", "PROJECT", "PYTHON")
"""What else the job files and the submitter understand (docs/cluster.md)."""


@dataclass(frozen=True)
class Pair:
    """A backbone and a dataset that go together, as they were written and as they are."""

    backbone: str
    backbone_spec: BackboneSpec
    dataset: str
    dataset_spec: DatasetSpec


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The axes of the grid, its folders, and what else every command is told.

    datasets: none means the embedded digits, and for landmark jobs all landmark datasets.
    splits: none means all that a dataset has.
    shards: parts that each split is extracted in; 0 makes as many as give an element about an hour on `gpu`.
    pack: elements of the extraction that share an array task, side by side, each with a GPU of its own.
    limit: tasks of an array that may run at once; 0 for any number.
    flags: command -> further flags of it, as one would type them.
    sbatch: stage, or `all` -> further options of sbatch for its jobs.
    jobs, code: job files that were submitted together, and the copy of the code that they run (`fungi submit`).
    submitted_below: what the root was called then; empty for a grid that was not submitted.
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
            raise FungiError(f"the grid can't have {self.shards} shards. Use 1 or more; 0 sizes them to about an hour.")
        if self.pack < 1 or self.limit < 0:
            raise FungiError("the grid's pack has to be at least 1, its limit at least 0.")
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
        """All backbones and datasets that go together.

        landmarks: the retrieval datasets alone; masks: those that are segmented alone, which are in no other grid.
        """
        usual: tuple[str, ...] = ("digit-scenes",) if masks else ("digits",)
        if landmarks:
            usual = tuple(name for name in DATASETS if _is_landmarks(DATASETS[name]))
        texts = self.datasets or usual
        datasets = [(text, resolve_dataset(text, self.data_dir)) for text in texts]
        return [
            Pair(name, resolve_backbone(name), text, dataset)
            for name in self.backbones
            for text, dataset in datasets
            if resolve_backbone(name).modality == dataset.modality
            and (not landmarks or _is_landmarks(dataset))
            and (dataset.masks is not None) == masks
        ]

    def flags_of(self, command: str) -> list[str]:
        """Further flags of a command; FungiError for quotes that are not closed."""
        return _words(self.flags.get(command, ""), f"flags of {command}")

    def sbatch_options(self, stage: str) -> list[str]:
        """Further options of sbatch for the jobs of a stage; of an option given twice, the later one counts."""
        return [word for name in ("all", stage) for word in _words(self.sbatch.get(name, ""), f"sbatch of {name}")]

    def absolute(self) -> "Grid":
        """The same grid, for processes that start in another folder."""
        return replace(self, root=self.root.absolute(), data_dir=self.data_dir.absolute())

    def with_datasets(self) -> "Grid":
        """The same grid; the digits where no dataset is named."""
        return self if self.datasets else replace(self, datasets=("digits",))

    def variables(self) -> dict[str, str] | None:
        """Return the variables that declare the grid for a process; None for names with blanks, which do not fit."""
        axes = [axis for axis in fields(self) if axis.name not in _IN_FILES_ALONE]
        values = {axis.name: getattr(self, axis.name) for axis in axes}
        if any(len(name.split()) != 1 for value in values.values() if isinstance(value, tuple) for name in value):
            return None
        changed = {axis.name: values[axis.name] for axis in axes if values[axis.name] != axis.default}
        texts = {name: " ".join(value) if isinstance(value, tuple) else str(value) for name, value in changed.items()}
        flags = {_FLAGS_PREFIX + name.upper().replace("-", "_"): text for name, text in self.flags.items()}
        return {f"FUNGI_{name.upper()}": text for name, text in texts.items()} | flags

    def to_toml(self) -> str:
        """All of it as a grid file; what has no value is left out."""
        values = {known.name: getattr(self, known.name) for known in fields(self) if known.name not in _TABLES}
        lines = [f"{name} = {_toml(value)}" for name, value in values.items() if value not in ((), "")]
        for table in _TABLES:
            lines += ["", f"[{table}]"]
            lines += [f"{json.dumps(name)} = {_toml(text)}" for name, text in getattr(self, table).items()]
        return "\n".join([*lines, ""])


def grid_file(grid: Grid) -> tuple[Path, str]:
    """Return the file that declares a submitted grid, and its text; it is named by its content.

    Places below the root are written relative to the file, so that a root that is moved or copied is its own.
    """
    code = str(Path(grid.code).relative_to(grid.root)) if grid.code else ""
    text = replace(grid, code=code, submitted_below=str(grid.root)).to_toml()
    return grid.root / "progress" / f"grid-{sha256(text.encode()).hexdigest()[:12]}.toml", text


def store_grid(grid: Grid) -> Path:
    """Write the grid down for jobs to read: another submission does not change it."""
    path, text = grid_file(grid)
    write_whole(path, text)
    return path


def stored_grid_file(grid: Grid) -> Path | None:
    """Return the file below the root that declares this grid; None if it was never submitted.

    Below a copied root the files have the names that they had in the original.
    """
    path, _ = grid_file(grid)
    if path.exists():
        return path
    files = sorted(path.parent.glob("grid-*.toml")) if grid.submitted_below else []
    return next((file for file in files if declared_grid({GRID_FILE: str(file)}).absolute() == grid), None)


def existing_root(grid: Grid) -> Grid:
    """The grid; FungiError where its root is not there: nothing was ever done below it."""
    if not grid.root.is_dir():
        raise FungiError(f"there is no folder {grid.root}: nothing was submitted or run below it. Check --root.")
    return grid


def declared_grid(environ: Mapping[str, str], given: Mapping[str, Any] | None = None) -> Grid:
    """The grid of a process: `given` values (flags of a command), variables, the grid file, defaults.

    Raises FungiError for a file that can't be read, an unknown key or variable, and two sources that contradict
    each other.
    """
    path = environ.get(GRID_FILE)
    values = _from_file(Path(path)) if path else {}
    for name, value in {**_from_environment(environ), **(given or {})}.items():
        if name == "flags":
            _merge(values.setdefault("flags", {}), value, path)
        else:
            _merge(values, {name: value}, path)
    return Grid(**values)


def _merge(values: dict[str, Any], more: Mapping[str, Any], path: str | None) -> None:
    for name, value in more.items():
        if path and values.get(name, value) != value:
            raise FungiError(
                f"{name} is {_shown(values[name])} in the grid file {path}, and {_shown(value)} in the environment or "
                "on the command line. Take one of them away."
            )
        values[name] = value


def _from_file(path: Path) -> dict[str, Any]:
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FungiError(f"the grid file {path} ({GRID_FILE}) does not exist.") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise FungiError(f"the grid file {path} can't be read: {error}.") from None
    known = [axis.name for axis in fields(Grid)]
    try:
        for name in raw:
            if name not in known:
                raise unknown_name("key of the grid", name, known)
        hints = type_hints(Grid)
        single = {name for name, value in raw.items() if isinstance(value, str) and hints[name] == tuple[str, ...]}
        values = converted(Grid, {name: [value] if name in single else value for name, value in raw.items()})
    except FungiError as error:
        raise FungiError(f"{error} In the grid file {path}.") from None
    if values.get("submitted_below"):  # a root may be moved: its grid and its code lie below it
        values["root"] = path.absolute().parent.parent
        values["code"] = str(values["root"] / values["code"]) if values.get("code") else ""
    return values


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    axes = {axis.name.upper(): axis.name for axis in fields(Grid) if axis.name not in _IN_FILES_ALONE}
    found: dict[str, Any] = {}
    flags: dict[str, str] = {}
    for variable, text in environ.items():
        name = variable.removeprefix("FUNGI_")
        if variable.startswith(_FLAGS_PREFIX):
            flags[variable.removeprefix(_FLAGS_PREFIX).lower().replace("_", "-")] = text
        elif name in axes and name != variable:
            if text:
                try:
                    found |= converted(Grid, {axes[name]: text}, text=True)
                except FungiError as error:
                    raise FungiError(f"{error} In the variable {variable}.") from None
        elif name not in (variable, *_OTHER_VARIABLES):
            raise unknown_name("variable", variable, [f"FUNGI_{word}" for word in (*axes, *_OTHER_VARIABLES)])
    return {**found, "flags": flags} if flags else found


def _words(text: str, what: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise FungiError(f"the {what} in the grid, {text!r}, can't be split: {error}.") from None


def _is_landmarks(dataset: DatasetSpec) -> bool:
    """Whether a dataset is searched in, rather than classified."""
    return dataset.metric == "map"


def _toml(value: Any) -> str:
    """Texts, numbers and lists look the same in JSON and in TOML."""
    return json.dumps(list(value) if isinstance(value, tuple) else value, default=str)


def _shown(value: Any) -> str:
    return " ".join(value) if isinstance(value, tuple) else repr(str(value))
