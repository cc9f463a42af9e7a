"""Interfaces of view generators and of backbone inputs, and the choice of a generator by its name."""

import dataclasses
import importlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Int64
from torch import Tensor

from fungi.errors import FungiError, did_you_mean, listed, unknown_name
from fungi.values import converted

Inputs = Tensor | dict[str, Tensor]
"""Input of a backbone: images `[n c h w]`, or named tensors with the same first axis (tokens and masks)."""


@runtime_checkable
class ViewGenerator(Protocol):
    """Generator of the v views of an item, in two steps: `prepare` in a worker and `render` on the device."""

    @property
    def kind(self) -> str:
        """Name of this kind of views. This name seeds random views, unless the generator has a `stream`."""

    @property
    def identity(self) -> str:
        """Text that is equal for generators of the same views. Features of the same views share forwards."""

    @property
    def n_views(self) -> int:
        """Number of views of an item, v."""

    def prepare(self, item: Any) -> Any:
        """Decode and crop an item in a worker. The caller seeds the global random streams for this sample."""

    def collate(self, prepared: Sequence[Any]) -> Any:
        """Stack prepared samples to the batch that is sent to the device."""

    def render(self, batch: Any) -> Inputs:
        """Return the backbone input for the `b * v` views of a batch. All views of a sample are next to each other."""


@runtime_checkable
class HasStream(Protocol):
    """A view generator with random views. The seed, the stream and the sample id determine the random numbers.

    stream: name of the objective that uses the views. Two objectives therefore have different random views (spec vision
    7.2).
    """

    @property
    def stream(self) -> str:
        """Name that seeds the views. If this name is empty, the kind seeds the views."""


@runtime_checkable
class Grouping(Protocol):
    """A view generator that divides a batch into groups of samples that are encoded together: texts of similar length.

    For other generators, samples are encoded in the order of the batch.
    """

    def groups(self, batch: Any, size: int) -> Iterator[tuple[Int64[Tensor, " rows"], Any]]:
        """Yield (rows in the batch, their part of the batch) for each group of at most `size` samples, on the CPU."""


@runtime_checkable
class OwnSizes(Protocol):
    """A view generator whose views may be smaller than the backbone input.

    If some views are smaller, `render` returns a list with one backbone input per size. In each input, all views of a
    sample are next to each other.
    """

    @property
    def sizes(self) -> tuple[int, ...]:
        """Side of each view in pixels."""

    @property
    def input_size(self) -> int:
        """Side of the backbone input in pixels."""


@runtime_checkable
class HasRemarks(Protocol):
    """A view generator that reports how it changed the items."""

    def remarks(self) -> list[str]:
        """Return one sentence per kind of change since the last call (for example truncated texts)."""


@runtime_checkable
class ModalityDefaults(Protocol):
    """Input of a modality. The default settings of objectives for this modality differ from those for images."""

    def objective_defaults(self, objective: str) -> dict[str, Any]:
        """Return the settings of an objective that differ from its defaults for images.

        Settings of the user replace these settings.
        """


def forwards_of(views: ViewGenerator) -> float:
    """Return the cost of encoding the views of a sample, in forwards of the full input size.

    A smaller view counts as its share of the area of the full input. Its true cost is a little lower, because of
    attention: with ViT-S/16, a view with half the side took 0.23 of a forward, and counts as 0.25.
    """
    if not isinstance(views, OwnSizes):
        return float(views.n_views)
    return sum((size / views.input_size) ** 2 for size in views.sizes)


@runtime_checkable
class InputSpec(Protocol):
    """Description of the input of a backbone. Each modality has a class of this kind."""

    modality: str

    def views(self, kind: str, **options: Any) -> ViewGenerator:
        """Return the generator of a kind of views. Raises FungiError if the modality does not have this kind."""


Kinds = Mapping[str, tuple[str, str]]
"""Kind of views -> module and class of the generator. The module is imported at the first use of the kind."""


HIDDEN_FIELDS = ("input", "stream", "skipped")
"""Fields of view generators that users can't set."""


class NoViewsError(FungiError):
    """Raised for a kind of views that a modality does not have."""


class UnknownOptionError(FungiError):
    """Raised for an option that a kind of views does not have. known: names of the options that the kind has."""

    def __init__(self, kind: str, option: str, known: Iterable[str]) -> None:
        hint = did_you_mean(option, known) or f" They have: {listed(sorted(known))}."
        super().__init__(f"views {kind!r} have no option {option!r}.{hint}")
        self.option, self.known = option, known


def options_of(kinds: Kinds, kind: str) -> dict[str, dataclasses.Field[Any]]:
    """Return name -> field of the options of a kind of views that a user may set."""
    module, name = kinds[kind]
    fields = dataclasses.fields(getattr(importlib.import_module(module), name))
    return {field.name: field for field in fields if field.init and field.name not in HIDDEN_FIELDS}


def choose_views(kinds: Kinds, input_spec: Any, kind: str, **options: Any) -> ViewGenerator:
    """Return the generator of a kind of views for an input.

    Raises NoViewsError for a kind that the modality does not have, and UnknownOptionError for an unknown option.
    """
    if kind not in kinds:
        raise NoViewsError(str(unknown_name(f"kind of {input_spec.modality} views", kind, kinds)))
    existing_options = options_of(kinds, kind)
    for option in options:
        if option not in existing_options:
            raise UnknownOptionError(kind, option, existing_options)
    module, name = kinds[kind]
    generator = getattr(importlib.import_module(module), name)
    return generator(input=input_spec, **converted(generator, options))
