"""What the grid is: declared in one TOML file (`FUNGI_GRID`), in environment variables, or in both without overlap.

    backbones = ["vit-b16", "dino_vitb16"]
    datasets = ["flowers102", "pets"]
    root = "/scratch/me/features"
    [flags]
    extract-gradients = "--profile published"

Every value has one source. A variable that contradicts the file is an error, because a queued job and the person who
looks after it would otherwise see different grids.
"""

import json
import shlex
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from fungi.backbones.base import BACKBONES, BackboneSpec
from fungi.commands import grid_command
from fungi.data.base import DATASETS, DatasetSpec, resolve_dataset
from fungi.errors import FungiError, unknown_name
from fungi.grid.throughput import GPU_SPEED

GRID_FILE = "FUNGI_GRID"
_FLAGS_PREFIX = "FUNGI_FLAGS_"
_LISTS = ("backbones", "datasets", "splits", "jobs")
_OTHER_VARIABLES = ("ARCHIVES", "GRID", "MAX_RESTARTS", "PARTIAL", "FIRST", "PROJECT", "PYTHON")
"""What else the job files and the submitter understand (docs/cluster.md)."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The axes of the grid, its folders, and what else every command is told.

    datasets: none means the embedded digits, and for landmark jobs all landmark datasets.
    splits: none means all that a dataset has.
    shards: parts that each split is extracted in; 0 makes as many as give an element about an hour on `gpu`.
    flags: command -> further flags of it, as one would type them.
    jobs, code: job files that were submitted together, and the copy of the code that they run (`fungi submit`).
    """

    backbones: tuple[str, ...] = ("digits-vit",)
    datasets: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()
    root: Path = Path("features")
    data_dir: Path = Path("data")
    shards: int = 0
    gpu: str = "a100"
    flags: Mapping[str, str] = field(default_factory=dict)
    jobs: tuple[str, ...] = ()
    code: str = ""

    def __post_init__(self) -> None:
        if self.shards < 0:
            raise FungiError(f"the grid can't have {self.shards} shards. Use 1 or more; 0 sizes them to about an hour.")
        if self.gpu not in GPU_SPEED:
            raise unknown_name("gpu", self.gpu, GPU_SPEED)
        for name in self.flags:
            grid_command(name)
            self.flags_of(name)
        for name in self.backbones:
            BACKBONES[name]
        for text in self.datasets:
            resolve_dataset(text, self.data_dir)

    def pairs(self, *, landmarks: bool) -> list[tuple[BackboneSpec, str, DatasetSpec]]:
        """(backbone, dataset as it was written, dataset) for all that go together.

        landmarks: the retrieval datasets alone.
        """
        texts = self.datasets or (_landmark_names() if landmarks else ("digits",))
        datasets = [(text, resolve_dataset(text, self.data_dir)) for text in texts]
        return [
            (backbone, text, dataset)
            for backbone in (BACKBONES[name] for name in self.backbones)
            for text, dataset in datasets
            if backbone.modality == dataset.modality and (not landmarks or is_landmarks(dataset))
        ]

    def flags_of(self, command: str) -> list[str]:
        """Further flags of a command; FungiError for quotes that are not closed."""
        text = self.flags.get(command, "")
        try:
            return shlex.split(text)
        except ValueError as error:
            raise FungiError(f"the flags of {command} in the grid, {text!r}, can't be split: {error}.") from None

    def absolute(self) -> "Grid":
        """The same grid, for processes that start in another folder."""
        return replace(self, root=self.root.absolute(), data_dir=self.data_dir.absolute())

    def to_toml(self) -> str:
        """All of it as a grid file; what has no value is left out."""
        values = {name.name: getattr(self, name.name) for name in fields(self) if name.name != "flags"}
        lines = [f"{name} = {_toml(value)}" for name, value in values.items() if value not in ((), "")]
        flags = [f"{json.dumps(command)} = {_toml(text)}" for command, text in self.flags.items()]
        return "\n".join([*lines, "", "[flags]", *flags, ""])


def is_landmarks(dataset: DatasetSpec) -> bool:
    """Whether a dataset is searched in, rather than classified."""
    return dataset.metric == "map"


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
        raw = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise FungiError(f"the grid file {path} ({GRID_FILE}) does not exist.") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise FungiError(f"the grid file {path} can't be read: {error}.") from None
    try:
        return {name: _converted(name, value) for name, value in raw.items()}
    except FungiError as error:
        raise FungiError(f"{error} In the grid file {path}.") from None


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    axes = [known.name.upper() for known in fields(Grid) if known.name not in ("flags", "jobs", "code")]
    for name in environ:
        rest = name.removeprefix("FUNGI_")
        if rest != name and rest not in (*axes, *_OTHER_VARIABLES) and not name.startswith(_FLAGS_PREFIX):
            raise unknown_name("variable", name, [f"FUNGI_{word}" for word in (*axes, *_OTHER_VARIABLES)])
    for known in fields(Grid):
        text = environ.get(f"FUNGI_{known.name.upper()}", "")
        if text and known.name not in ("flags", "jobs", "code"):
            found[known.name] = _converted(known.name, text.split() if known.name in _LISTS else text)
    flags = {
        name.removeprefix(_FLAGS_PREFIX).lower().replace("_", "-"): text
        for name, text in environ.items()
        if name.startswith(_FLAGS_PREFIX)
    }
    return {**found, "flags": flags} if flags else found


def _converted(name: str, value: Any) -> Any:
    """A value of a file or a variable in the type of its field."""
    known = {known.name for known in fields(Grid)}
    if name not in known:
        raise unknown_name("key of the grid", name, known)
    if name in _LISTS:
        texts = (value,) if isinstance(value, str) else value
        if isinstance(texts, list | tuple) and all(isinstance(text, str) for text in texts):
            return tuple(texts)
        raise FungiError(f"{name} has to be a list of names, not {value!r}.")
    if name == "shards":
        if str(value).isdecimal():
            return int(value)
        raise FungiError(f"shards has to be a number, not {value!r}.")
    if name == "flags":
        if isinstance(value, dict) and all(isinstance(text, str) for text in value.values()):
            return dict(value)
        raise FungiError(f'flags has to be a table of texts, as in knn = "--k 10", not {value!r}.')
    if not isinstance(value, str | Path):
        raise FungiError(f"{name} has to be a text, not {value!r}.")
    return Path(value) if name in ("root", "data_dir") else str(value)


def _landmark_names() -> tuple[str, ...]:
    return tuple(name for name in DATASETS if is_landmarks(DATASETS[name]))


def _toml(value: Any) -> str:
    """Texts, numbers and lists look the same in JSON and in TOML."""
    return json.dumps(list(value) if isinstance(value, tuple) else value, default=str)


def _shown(value: Any) -> str:
    return " ".join(value) if isinstance(value, tuple) else repr(str(value))
