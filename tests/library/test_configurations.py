"""Fields of the library's configurations: a wrong value is refused in words, with the published name of the field."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from fungi import config
from fungi.errors import FungiError
from fungi.objectives import OBJECTIVES
from tests.library.models import wrap

WRONG_TYPES = ("x", None, (1, 2), float("nan"))
CONFIGURATIONS = [getattr(config, f"{OBJECTIVES[name].__name__}Config") for name in OBJECTIVES]


def _fields() -> list[tuple[Any, dataclasses.Field[Any]]]:
    return [(kind, f) for kind in CONFIGURATIONS for f in dataclasses.fields(kind)]


@pytest.mark.parametrize(("kind", "field"), _fields(), ids=lambda value: getattr(value, "name", None) or value.__name__)
def test_a_value_of_another_type_is_refused_with_the_name_of_the_field(kind: Any, field: Any) -> None:
    fitting = {str: "x", tuple: (1, 2)}.get(type(field.default))
    for value in WRONG_TYPES:
        if value is None or value != fitting:
            with pytest.raises(FungiError, match=rf"{kind.__name__}\({field.name}=...\)"):
                _changed(kind, field.name, value).get_extractor({})


def _changed(kind: Any, field: str, value: Any) -> Any:
    """Return a configuration with a value of any type; under pytest, its constructor checks types by itself."""
    configuration = kind()
    setattr(configuration, field, value)
    return configuration


@pytest.mark.parametrize(
    "field", ["latent_dim", "comparison_batch_size", "comparison_batch_encoding_batch_size", "num_patches", "mixing_k"]
)
def test_numbers_of_simclr_below_one_are_refused(field: str) -> None:
    with pytest.raises(FungiError, match=rf"SimCLRConfig\({field}=...\) has to be at least 1"):
        config.SimCLRConfig(**{field: 0}).get_extractor({})


def test_numbers_of_numpy_are_numbers() -> None:
    configuration = _changed(config.KLConfig, "temperature", np.float32(0.5))
    configuration.latent_dim = np.int64(12)
    objective: Any = wrap(configs=[configuration]).extractors[0]
    assert [objective.objective.temperature, objective.latent_dim] == [0.5, 12]
    assert [type(objective.objective.temperature), type(objective.latent_dim)] == [float, int]
