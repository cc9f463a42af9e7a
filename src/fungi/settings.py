"""Settings of commands. A frozen dataclass defines the flags of a command, their defaults and help, and the provenance.

    @dataclass(frozen=True, kw_only=True)
    class ExtractSettings:
        dataset: str = setting("digits", "dataset to read; `fungi list datasets` prints all names")
        batch_size: int = setting(64, "number of images per batch", within=(1, 65_536))
        splits: tuple[str, ...] = setting(("train", "test"), "splits to extract")

Supported types are str, int, float, bool (`--flag / --no-flag`), Path, Literal (choices), each of these with `| None`,
and `tuple[X, ...]` (several values). Every number has bounds, so that a mistyped number can't exhaust the memory. Other
checks belong in `__post_init__` and raise FungiError before a model is loaded.
"""

import argparse
import dataclasses
import json
import sys
import typing
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal, NoReturn, TypeVar

from fungi.errors import FungiError, did_you_mean
from fungi.values import choices_of, converted, is_optional, type_hints

Settings = TypeVar("Settings")


Effect = Literal["values", "which_results", "nothing"]
"""What a setting affects. `values`: the values of features or scores. `which_results`: which features or scores there
are. `nothing`: only where and how they are computed. Settings that affect `values` or `which_results` are part of the
identity of a result."""

Bounds = tuple[int | float, int | float]
"""Smallest and largest allowed value."""

Topic = Literal["data", "model", "features", "own", "files", "machine", "explicit", "scheduler"]
HEADINGS: dict[Topic, str] = {
    "data": "data",
    "model": "model",
    "features": "features",
    "own": "this command",
    "files": "files",
    "machine": "machine",
    "explicit": "feature files by name, instead of --dataset and --backbone",
    "scheduler": "job scheduler",
}
"""Topic of a setting -> its heading in help. Help shows the headings in this order."""

SEEDS: Bounds = (0, 2**32 - 1)
"""Bounds of seeds that all random generators accept (scikit-learn accepts 32 bits)."""


def setting(
    default: Any,
    help: str,
    *,
    flag: str | None = None,
    aliases: tuple[str, ...] = (),
    within: Bounds | None = None,
    first_word: bool = False,
    affects: Effect = "values",
    word_in_file_name: str | None = None,
    topic: Topic = "own",
) -> Any:
    """Return a field of a settings class.

    flag: flag in help and documents; by default the name of the field. If it is an empty text, no flag sets the field.
    aliases: other names of the flag, e.g. in the published code.
    within: bounds of a number, or of each of several numbers. Every number needs bounds (a test checks it).
    first_word: whether the value may also be the first word of the command line, without the flag.
    affects: what the setting affects (`Effect`).
    word_in_file_name: word before a value that differs from the default, in the name of a result file: `pca` in
        `knn-pca4`. Empty: the value stands there without a word. None: the word is the name of the field.
    topic: topic of the setting, and so its heading in help.
    """
    metadata = {"help": help, "flag": flag, "aliases": aliases, "within": within, "first_word": first_word}
    metadata |= {"affects": affects, "word_in_file_name": word_in_file_name, "topic": topic}
    return dataclasses.field(default=default, metadata=metadata)


def like(settings_type: type, name: str, *, default: Any = dataclasses.MISSING) -> Any:
    """Return a copy of a field of another settings class: the same help and bounds, and the same or another default."""
    (field,) = (field for field in dataclasses.fields(settings_type) if field.name == name)
    default = field.default if default is dataclasses.MISSING else default
    return dataclasses.field(default=default, metadata=field.metadata)


def required(help: str, *, flag: str | None = None, within: Bounds | None = None, topic: Topic = "own") -> Any:
    """Return a field without a default, which the command line has to set. The arguments are those of `setting`."""
    metadata = {
        "help": help,
        "flag": flag,
        "aliases": (),
        "within": within,
        "affects": "values",
        "word_in_file_name": None,
    }
    metadata |= {"topic": topic}
    return dataclasses.field(metadata=metadata)


def require_values(settings: Any, *names: str) -> None:
    """Raise FungiError if one of these fields, which hold several values, is empty. For use in `__post_init__`."""
    fields = {field.name: field for field in dataclasses.fields(settings)}
    for name in names:
        if not getattr(settings, name):
            raise FungiError(f"{flag_of(fields[name])} needs at least one value. For its default, leave the flag out.")


def require_different_values(settings: Any, *names: str) -> None:
    """Raise FungiError if one of these fields, which hold several values, has a value twice. For `__post_init__`."""
    fields = {field.name: field for field in dataclasses.fields(settings)}
    for name in names:
        values = getattr(settings, name)
        if repeated := [value for value in values if values.count(value) > 1]:
            raise FungiError(f"{flag_of(fields[name])} names {repeated[0]} twice. Name each value once.")


MAX_WITHOUT_HEADINGS = 8
"""Largest number of settings that help shows without headings."""


class _Parser(argparse.ArgumentParser):
    """A parser that raises FungiError for every error."""

    def error(self, message: str) -> NoReturn:
        raise FungiError(f"{message}. See {self.prog} --help.")

    def _print_message(self, message: str, file: Any = None) -> None:
        """Write help. argparse itself would ignore errors such as a full disk."""
        (file or sys.stderr).write(message)


@cache
def build_parser(settings_type: type, *, program: str, description: str) -> argparse.ArgumentParser:
    """Return the parser of a settings class. It is cached, because a grid parses thousands of command lines."""
    fields = dataclasses.fields(settings_type)
    required_fields = [field for field in fields if field.default is dataclasses.MISSING]
    usage = [f"{flag_of(field)} {field.name.upper()}" for field in required_fields]
    parser = _Parser(
        prog=program,
        description=description,
        usage=" ".join([program, *usage, "[--flag ...]"]),  # only required flags; help lists the other flags below
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    hints = type_hints(settings_type)
    topics = [topic for topic in HEADINGS if len(fields) > MAX_WITHOUT_HEADINGS and topic in map(topic_of, fields)]
    groups = {topic: parser.add_argument_group(HEADINGS[topic]) for topic in topics}
    for field in fields:
        if field.metadata.get("flag") == "":
            continue
        flags = [flag_of(field), *field.metadata.get("aliases", ())]
        groups.get(topic_of(field), parser).add_argument(
            *flags,
            dest=field.name,
            default=argparse.SUPPRESS,
            required=field in required_fields,
            help=help_of(field),
            **_argparse_options(hints[field.name]),
        )
    return parser


def parse(
    settings_type: type[Settings], arguments: Sequence[str] | None, *, program: str, description: str
) -> Settings:
    """Return the settings for a command line. Raises FungiError for unknown flags and wrong values."""
    parser = build_parser(typing.cast(type, settings_type), program=program, description=description)
    words = list(sys.argv[1:] if arguments is None else arguments)
    fields = {field.name: field for field in dataclasses.fields(typing.cast(typing.Any, settings_type))}
    for field in fields.values():
        if field.metadata.get("first_word") and words and not words[0].startswith("-"):
            words.insert(0, flag_of(field))
    values, unknown = parser.parse_known_args(words)
    if unknown:
        flags = [flag for field in fields.values() for flag in (flag_of(field), *field.metadata.get("aliases", ()))]
        suggestion = did_you_mean(unknown[0].partition("=")[0], flags)
        raise FungiError(f"unknown argument: {' '.join(unknown)}.{suggestion} See {program} --help.")
    return settings_type(
        **converted(settings_type, vars(values), accepts_texts=True, label=lambda name: flag_of(fields[name]))
    )


def topic_of(field: "dataclasses.Field[Any]") -> Topic:
    """Return the topic of a field of a settings class."""
    return field.metadata.get("topic", "own")


def flag_of(field: "dataclasses.Field[Any]") -> str:
    """Return the flag of a field of a settings class."""
    return field.metadata.get("flag") or "--" + field.name.replace("_", "-")


def as_json(settings: Any) -> dict[str, Any]:
    """Return settings as plain JSON values, for the provenance."""
    return json.loads(json.dumps(dataclasses.asdict(settings), default=str))


def help_of(field: "dataclasses.Field[Any]") -> str:
    """Return the help text of a field with its default, in the format of argparse (`%%` for `%`)."""
    default = None if field.default is dataclasses.MISSING else field.default
    text = " ".join(map(str, default)) if isinstance(default, tuple) else default
    suffix = "" if default in (None, (), "") else f" (default: {text})"
    return (field.metadata.get("help", "") + suffix).replace("%", "%%")


def _argparse_options(hint: Any) -> dict[str, Any]:
    """Return the options of argparse for a type: a pair of flags, several values, choices. Values remain texts."""
    value_type = typing.get_args(hint)[0] if is_optional(hint) else hint
    if value_type is bool:
        return {"action": argparse.BooleanOptionalAction}
    choices = choices_of(value_type)
    options = {"nargs": "*"} if typing.get_origin(value_type) is tuple else {}
    return options | ({"metavar": "{" + ",".join(map(str, choices)) + "}"} if choices else {})
