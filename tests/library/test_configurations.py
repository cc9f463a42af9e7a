"""Configurations of the library refuse invalid values, and the error names the field by its published name."""

import dataclasses
from functools import cache
from typing import Any

import jaxtyping
import numpy as np
import pytest

from fungi import config
from fungi.errors import FungiError
from fungi.objectives import OBJECTIVES
from tests.library.models import wrap
from tests.objectives.test_options import INVALID_OR_RARE

WRONG_TYPES = ("x", None, (1, 2), float("nan"))
OTHER_NAMES = {"hard_negatives": "hard negative"}
"""Field -> the name in its messages. The message is about an entry of this list."""
CONFIGURATIONS = [getattr(config, f"{OBJECTIVES[name].__name__}Config") for name in OBJECTIVES]


def _fields() -> list[tuple[Any, dataclasses.Field[Any]]]:
    """Return every configuration class with each of its fields."""
    return [(config_class, field) for config_class in CONFIGURATIONS for field in dataclasses.fields(config_class)]


def _name_of(value: Any) -> str:
    """Return the name of a class or a field, for the id of a test."""
    return getattr(value, "name", None) or value.__name__


@pytest.mark.parametrize(("config_class", "field"), _fields(), ids=_name_of)
def test_a_value_of_another_type_is_refused_with_the_name_of_the_field(config_class: Any, field: Any) -> None:
    # A text or a tuple in WRONG_TYPES is valid for a field whose default is a text or a tuple.
    valid_value = {str: "x", tuple: (1, 2)}.get(type(field.default))
    for value in WRONG_TYPES:
        if value is None or value != valid_value:
            with pytest.raises(FungiError, match=rf"{config_class.__name__}\({field.name}=...\)"):
                _changed(config_class, field.name, value).get_extractor({})


@pytest.mark.parametrize(("config_class", "field"), _fields(), ids=_name_of)
def test_a_refused_value_is_refused_with_the_name_of_the_field(
    config_class: Any, field: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checks of types that only tests have are off, because users would not see their messages."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    messages = [_refusal(_changed(config_class, field.name, value)) for value in INVALID_OR_RARE]
    refusals = [message for message in messages if message]
    assert refusals, f"{field.name} accepts every value"
    names = (field.name, OTHER_NAMES.get(field.name, field.name))
    assert [message for message in refusals if not any(name in message for name in names)] == []


def _refusal(configuration: Any) -> str:
    """Return the message that refuses a configuration, or an empty text if an extractor is built from it."""
    try:
        configuration.get_extractor(dict(_base_params()))
    except FungiError as error:
        return str(error)
    return ""


@cache
def _base_params() -> dict[str, Any]:
    """Return the arguments that a wrapper passes to the constructors of its extractors."""
    return wrap(configs=[config.KLConfig()]).base_params


def _changed(config_class: Any, field: str, value: Any) -> Any:
    """Return a configuration with a value of any type.

    The field is set after construction, because in tests the constructor itself refuses values of a wrong type.
    """
    configuration = config_class()
    setattr(configuration, field, value)
    return configuration


@pytest.mark.parametrize(
    "field", ["latent_dim", "comparison_batch_size", "comparison_batch_encoding_batch_size", "num_patches", "mixing_k"]
)
def test_numbers_of_simclr_below_one_are_refused(field: str) -> None:
    with pytest.raises(FungiError, match=rf"SimCLRConfig\({field}=...\) has to be at least 1"):
        config.SimCLRConfig(**{field: 0}).get_extractor({})


@pytest.mark.parametrize("constant", [0.0, -1e9, 3e38, -float("inf")])
def test_the_self_similarity_constant_may_be_any_number_and_changes_nothing(constant: float) -> None:
    (default,), (other,) = (
        wrap(configs=[config.SimCLRConfig(**settings)]).extractors
        for settings in ({}, {"self_similarity_constant": constant})
    )
    assert other.objective == default.objective


def test_numbers_of_numpy_are_converted_to_python_numbers() -> None:
    configuration = _changed(config.KLConfig, "temperature", np.float32(0.5))
    configuration.latent_dim = np.int64(12)
    extractor: Any = wrap(configs=[configuration]).extractors[0]
    values = (extractor.objective.temperature, extractor.latent_dim)
    assert values == (0.5, 12)
    assert tuple(map(type, values)) == (float, int)
