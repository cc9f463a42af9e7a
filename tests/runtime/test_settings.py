"""Every number in the settings has bounds, and a command with a number outside of its bounds does not start."""

import dataclasses
import importlib
import pkgutil
import re
import typing
from pathlib import Path
from typing import Any

import pytest

import fungi
from fungi.commands import COMMANDS
from fungi.errors import FungiError
from fungi.pretraining.network_settings import NetworkSettings
from fungi.settings import HEADINGS, MAX_WITHOUT_HEADINGS, build_parser, flag_of, parse, topic_of
from fungi.similar.settings import SimilarSettings


def _settings_classes() -> list[type]:
    """Return every dataclass of the package with a field that comes from `setting` or `required`, sorted by name."""
    classes: dict[str, type] = {}
    for module in pkgutil.walk_packages(fungi.__path__, "fungi."):
        if module.name != "fungi.__main__":
            members = vars(importlib.import_module(module.name)).values()
            classes |= {f"{kind.__module__}.{kind.__name__}": kind for kind in members if _is_settings(kind)}
    return [classes[name] for name in sorted(classes)]


def _is_settings(kind: Any) -> bool:
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        return False
    return any("aliases" in field.metadata for field in dataclasses.fields(kind))


def _has_numbers(hint: Any) -> bool:
    """Return whether a type is a number or contains numbers. `bool` is not a number here."""
    return hint in (int, float) or any(_has_numbers(inner) for inner in typing.get_args(hint))


def _is_list_with_values(field: "dataclasses.Field[Any]", hint: Any) -> bool:
    """Return whether a field is a tuple, possibly optional, whose default is not the empty tuple."""
    is_list = typing.get_origin(hint) is tuple or any(
        typing.get_origin(part) is tuple for part in typing.get_args(hint)
    )
    return is_list and field.default != ()


CLASSES = _settings_classes()
NUMBERS = [
    pytest.param(kind, field, id=f"{kind.__name__}.{field.name}")
    for kind in CLASSES
    for field in dataclasses.fields(kind)
    if _has_numbers(typing.get_type_hints(kind)[field.name])
]
SEVERAL = [
    pytest.param(kind, field, id=f"{kind.__name__}.{field.name}")
    for kind in CLASSES
    for field in dataclasses.fields(kind)
    if _is_list_with_values(field, typing.get_type_hints(kind)[field.name])
]
MAY_BE_EMPTY = {"lr_drops": "a learning rate that never drops"}
"""Settings of several values for which an empty list has a meaning -> this meaning."""


def test_the_classes_contain_those_of_commands():
    names = {kind.__name__ for kind in CLASSES}
    assert {"StageSettings", "GradientSettings", "KnnSettings", "GridSettings", "AblateSettings"} <= names
    assert len(NUMBERS) > 40


@pytest.mark.parametrize(("kind", "field"), NUMBERS)
def test_every_number_has_bounds_and_a_default_within_them(kind, field):
    bounds = field.metadata.get("within")
    assert bounds, f"{kind.__module__}.{kind.__name__}.{field.name}: give within=(least, most) to its setting(...)"
    values = field.default if isinstance(field.default, tuple) else (field.default,)
    for value in values:
        if value is not None and value is not dataclasses.MISSING:
            assert bounds[0] <= value <= bounds[1]


@pytest.mark.parametrize(("kind", "field"), NUMBERS)
def test_the_message_about_a_number_outside_of_its_bounds_names_the_flag(kind, field):
    flag = field.metadata.get("flag") or "--" + field.name.replace("_", "-")
    required = [
        part
        for other in dataclasses.fields(kind)
        if other.default is dataclasses.MISSING and other.name != field.name
        for part in ("--" + other.name.replace("_", "-"), "1")
    ]
    for number in (10**15, -(10**15)):
        with pytest.raises(FungiError, match=rf"^{flag} has to be at least .* and at most .*, not -?1"):
            parse(kind, [*required, f"{flag}={number}"], program="any", description="")


def _needed_flags(kind: type, folder: Path) -> list[str]:
    """Return flags that the settings need before they check anything else."""
    if issubclass(kind, SimilarSettings):
        (folder / "query.png").touch()
        return ["--images", str(folder), "--query", str(folder / "query.png")]
    if issubclass(kind, NetworkSettings):
        return ["--backbone", "udi-micro"]
    return []


@pytest.mark.parametrize(("kind", "field"), SEVERAL)
def test_a_setting_with_several_values_is_refused_without_a_value(kind, field, tmp_path):
    words = [*_needed_flags(kind, tmp_path), flag_of(field)]
    if field.name in MAY_BE_EMPTY:
        assert getattr(parse(kind, words, program="any", description=""), field.name) == ()
        return
    with pytest.raises(FungiError, match=re.escape(flag_of(field))):
        parse(kind, words, program="any", description="")


@pytest.mark.parametrize(
    ("command", "flag", "value"), [("extract-gradients", "--objective", "kl"), ("ablate", "--seed", "7")]
)
def test_a_value_that_would_be_computed_twice_is_refused(command, flag, value, capsys):
    assert COMMANDS[command].main([flag, value, value]) == 2
    assert f"{flag} names {value} twice. Name each value once." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "flags", "message"),
    [
        ("extract", ["--num-workers", "100000"], "--num-workers has to be at least -1 and at most 1024, not 100000"),
        ("extract", ["--num-workers", "1024"], "more than this machine can run"),
        ("extract", ["--shard", "1/1000000000"], "at most 100000 shards"),
        (
            "extract-gradients",
            ["--set", "simclr.negative_samples=1000000000000"],
            "'negative_samples' has to be at least -1000000 and at most 1000000",
        ),
        ("knn", ["--memory-gb", "nan"], "--memory-gb has to be at least 0 and at most 16384, not nan"),
        (
            "projection",
            ["--projection-dim", "60000", "--gradients-dim", "200000000", "--output-path", "m.pth"],
            "a matrix of 60000 x 200000000 has more than",
        ),
    ],
)
def test_the_last_line_explains_an_impossible_size(command, flags, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    assert COMMANDS[command].main(flags) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.glob("features/blocks"))


def test_help_shows_each_setting_once_under_its_topic() -> None:
    for command in COMMANDS.values():
        if not hasattr(command._load(), "main"):  # a module with its own `main` has no parser of settings
            fields = dataclasses.fields(command.settings_type)
            text = build_parser(command.settings_type, program="fungi x", description="").format_help()
            flags = [re.search(rf"^  {flag_of(field)}[ ,\n]", text, re.MULTILINE) for field in fields]
            assert all(flags), command.name
            headings = [line.removesuffix(":") for line in text.splitlines() if re.fullmatch(r"[a-z].*:", line)]
            has_headings = len(fields) > MAX_WITHOUT_HEADINGS
            expected = {HEADINGS[topic_of(field)] for field in fields} if has_headings else set()
            assert set(headings) - {"options"} == expected, command.name


def test_the_first_line_of_help_shows_required_settings() -> None:
    parser = build_parser(COMMANDS["similar"].settings_type, program="fungi similar", description="")
    assert parser.format_help().splitlines()[0] == "usage: fungi similar --images IMAGES [--flag ...]"
