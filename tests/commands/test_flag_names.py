"""The same setting has the same flag in every command, and earlier names of flags still work."""

import dataclasses

import pytest

from fungi.commands import COMMANDS
from fungi.settings import build_parser, flag_of

# Command, flags with their earlier names, and the same flags with their present names.
EARLIER_FLAGS = [
    ("knn", "--neighbours 7", "--k 7"),
    ("segment", "--neighbours 7", "--k 7"),
    ("propagate-labels", "--data-path . --neighbours 7", "--data-path . --k 7"),
    ("evaluate-encoder", "--backbone udi-vits16 --neighbours 7", "--backbone udi-vits16 --k 7"),
    ("ablate", "--neighbours 7", "--k 7"),
    ("ablate", "--seeds 1 2", "--seed 1 2"),
    ("ablate", "--seeds 3", "--seed 3"),
    ("demo", "--seeds 1 2", "--seed 1 2"),
    ("segment", "--images 83", "--train-images 83"),
    ("segment", "--split val", "--test-split val"),
    ("knn", "--split val", "--test-split val"),
    ("extract", "--splits train", "--split train"),
    ("report", "--results . --output page", "--results . --output-dir page"),
    ("explain", "result.json --output page.html", "result.json --page page.html"),
]
OTHER_NAMES = {
    "--k": {"--neighbours"},
    "--seed": {"--seeds"},
    "--test-split": {"--query-split"},
    "--page": set(),
    "--output-dir": set(),
    "--train-images": set(),
}
"""Flag -> other names of the same setting, which no command may use. Some are accepted as earlier names."""


def settings_types() -> dict[str, type]:
    """Return command -> its class of settings."""
    return {name: command.settings_type for name, command in COMMANDS.items() if hasattr(command._load(), "run")}


@pytest.mark.parametrize(("command", "earlier_flags", "flags"), EARLIER_FLAGS)
def test_an_earlier_name_of_a_flag_gives_the_same_settings(command: str, earlier_flags: str, flags: str) -> None:
    assert COMMANDS[command].parse(earlier_flags.split()) == COMMANDS[command].parse(flags.split())


def test_the_same_setting_has_the_same_flag_in_every_command() -> None:
    flags = {flag_of(field) for settings in settings_types().values() for field in dataclasses.fields(settings)}
    assert OTHER_NAMES.keys() <= flags
    assert not flags & set().union(*OTHER_NAMES.values())


@pytest.mark.parametrize("command", list(settings_types()))
def test_the_help_of_a_command_lists_every_flag_once(command: str) -> None:
    parser = build_parser(settings_types()[command], program=command, description="")
    flags = [flag for action in parser._actions for flag in action.option_strings]
    assert len(flags) == len(set(flags))


def test_a_single_seed_of_an_ablation_is_the_seed_of_its_features() -> None:
    settings = COMMANDS["ablate"].parse(["--seed", "3"])
    assert (settings.seed, settings.all_seeds) == (3, (3,))
    settings = COMMANDS["ablate"].parse(["--seed", "1", "2"])
    assert (settings.seed, settings.all_seeds) == (42, (1, 2))
