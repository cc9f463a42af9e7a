"""What a view generator is to the rest of the program, how one is chosen, and what a backbone says about its input."""

import dataclasses
import importlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Int64
from torch import Tensor

from fungi.errors import FungiError, did_you_mean, listed, unknown_name
from fungi.values import converted

Inputs = Tensor | dict[str, Tensor]
"""What a backbone takes: images `[n c h w]`, or named arrays that share their leading axis (tokens and masks)."""


@runtime_checkable
class ViewGenerator(Protocol):
    """Makes the V views of an item in two steps: `prepare` in a worker, and `render` on the device."""

    @property
    def kind(self) -> str:
        """Name of this kind of views. Random views are seeded for this name, unless `Drawn.stream` gives another."""

    @property
    def identity(self) -> str:
        """Equal for generators of the same views. Their features share forwards, as embeddings and KL do."""

    @property
    def n_views(self) -> int:
        """V: the number of views of an item."""

    def prepare(self, item: Any) -> Any:
        """Decode and crop in a worker. The caller seeds the global random streams for this sample."""

    def collate(self, prepared: Sequence[Any]) -> Any:
        """Stack prepared samples to the batch that is sent to the device."""

    def render(self, batch: Any) -> Inputs:
        """Return the backbone's input for the `b * v` views of a batch, all views of a sample next to each other."""


@runtime_checkable
class Drawn(Protocol):
    """A view generator with random views; they are seeded by (seed, stream, sample id).

    stream: name of the objective that uses the views, so that two objectives have different random views (spec vision
    7.2).
    """

    @property
    def stream(self) -> str:
        """Name for which the views are seeded; the kind if empty."""


@runtime_checkable
class Grouping(Protocol):
    """A view generator that chooses which samples are encoded together (texts of like length).

    Without it, samples go in the order of the batch.
    """

    def groups(self, batch: Any, size: int) -> Iterator[tuple[Int64[Tensor, " g"], Any]]:
        """Yield parts of a collated batch on the CPU, at most `size` samples each: (rows in the batch, part)."""


@runtime_checkable
class OwnSizes(Protocol):
    """A view generator whose views may be smaller than the backbone's input.

    `render` then returns a list with the backbone's input for each size. In each, all views of a sample are next to
    each other.
    """

    @property
    def sizes(self) -> tuple[int, ...]:
        """Side of each view in pixels."""

    @property
    def input_size(self) -> int:
        """Side of the backbone's input in pixels."""


@runtime_checkable
class HasRemarks(Protocol):
    """A view generator that reports what it had to change in the items."""

    def remarks(self) -> list[str]:
        """Return one sentence per kind of change since the last call (texts that were cut)."""


@runtime_checkable
class ModalityDefaults(Protocol):
    """The input of a modality that needs other settings of the objectives than images do."""

    def objective_defaults(self, objective: str) -> dict[str, Any]:
        """Return the settings of an objective and its views that differ. Settings of the user replace them."""


def forwards_of(views: ViewGenerator) -> float:
    """Return the cost of encoding the views of a sample, in forwards of the full input size.

    A smaller view counts by its area. Attention makes it a little cheaper than that: ViT-S/16 took 0.23 of a forward
    for a view of half the side, which counts as 0.25.
    """
    if not isinstance(views, OwnSizes):
        return float(views.n_views)
    return sum((size / views.input_size) ** 2 for size in views.sizes)


@runtime_checkable
class InputSpec(Protocol):
    """How a backbone wants its input; one class per modality."""

    modality: str

    def views(self, kind: str, **options: Any) -> ViewGenerator:
        """Return the generator for an objective's kind of views; FungiError if the modality has none."""


Kinds = Mapping[str, tuple[str, str]]
"""Kind of views -> module and class of the generator. A module is imported when its kind is first used."""


HIDDEN_FIELDS = ("input", "stream", "skipped")
"""Fields of view generators that this package sets itself."""


class NoViewsError(FungiError):
    """Raised for a kind of views that a modality does not have."""


class UnknownOptionError(FungiError):
    """Raised for an option that a kind of views does not have. known: names of the options that it has."""

    def __init__(self, kind: str, option: str, known: Iterable[str]) -> None:
        near = did_you_mean(option, known) or f" They have: {listed(sorted(known))}."
        super().__init__(f"views {kind!r} have no option {option!r}.{near}")
        self.option, self.known = option, known


def options_of(kinds: Kinds, kind: str) -> dict[str, dataclasses.Field[Any]]:
    """Return the options of a kind of views that a user may set, by name."""
    module, name = kinds[kind]
    fields = dataclasses.fields(getattr(importlib.import_module(module), name))
    return {field.name: field for field in fields if field.init and field.name not in HIDDEN_FIELDS}


def choose_views(kinds: Kinds, input_spec: Any, kind: str, **options: Any) -> ViewGenerator:
    """Return the generator of a kind of views for an input.

    Raises NoViewsError for a kind that the modality does not have, and UnknownOptionError for an unknown option.
    """
    if kind not in kinds:
        raise NoViewsError(str(unknown_name(f"kind of {input_spec.modality} views", kind, kinds)))
    known = options_of(kinds, kind)
    for option in options:
        if option not in known:
            raise UnknownOptionError(kind, option, known)
    module, name = kinds[kind]
    generator = getattr(importlib.import_module(module), name)
    return generator(input=input_spec, **converted(generator, options))
