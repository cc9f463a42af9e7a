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
    """Item -> V views, in two halves."""

    @property
    def kind(self) -> str:
        """Name of this kind of views; the purpose that random views are seeded for where nothing else says it."""

    @property
    def identity(self) -> str:
        """Equal for generators that give the same views, which then share forwards (embeddings and KL do)."""

    @property
    def n_views(self) -> int:
        """V."""

    def prepare(self, item: Any) -> Any:
        """Decode and crop in a worker. The caller seeds the global random streams for this sample."""

    def collate(self, prepared: Sequence[Any]) -> Any:
        """Stack prepared samples: what travels to the device."""

    def render(self, batch: Any) -> Inputs:
        """Finish on the device: `[b ...]` -> the backbone's input for `b * v` views, view-fastest."""


@runtime_checkable
class Drawn(Protocol):
    """A view generator that draws: its views are seeded by (seed, stream, sample id).

    stream: the objective that the views are for, so that no two objectives see the same draws (spec vision 7.2).
    """

    @property
    def stream(self) -> str:
        """The purpose that views are seeded for; the kind if empty."""


@runtime_checkable
class Grouping(Protocol):
    """A view generator that chooses which samples are encoded together (texts of like length).

    Without it, samples go in the order of the batch.
    """

    def groups(self, batch: Any, size: int) -> Iterator[tuple[Int64[Tensor, " g"], Any]]:
        """Parts of at most `size` samples of a collated batch, still on the CPU: (rows in the batch, part)."""


@runtime_checkable
class OwnSizes(Protocol):
    """A view generator whose views may be smaller than the backbone's input.

    `render` then returns a list: the backbone's input for each size in turn, view-fastest within each.
    """

    @property
    def sizes(self) -> tuple[int, ...]:
        """Side of each view in pixels."""

    @property
    def input_size(self) -> int:
        """Side of the backbone's input in pixels."""


@runtime_checkable
class HasRemarks(Protocol):
    """A view generator that has something to say about the items it saw."""

    def remarks(self) -> list[str]:
        """Return what was odd since the last call (texts that were cut)."""


@runtime_checkable
class ModalityDefaults(Protocol):
    """An input whose modality asks for other settings of the objectives than images do."""

    def objective_defaults(self, objective: str) -> dict[str, Any]:
        """Return settings of an objective and its views that differ; what a user sets comes before them."""


def forwards_of(views: ViewGenerator) -> float:
    """Cost of encoding the views of a sample, in forwards of the full input size: smaller views count by their area.

    Attention makes small views cheaper still: 0.23 at half the side was measured for ViT-S/16, where this says 0.25.
    """
    if not isinstance(views, OwnSizes):
        return float(views.n_views)
    return sum((size / views.input_size) ** 2 for size in views.sizes)


@runtime_checkable
class InputSpec(Protocol):
    """How a backbone wants its input; one class per modality."""

    modality: str

    def views(self, kind: str, **options: Any) -> ViewGenerator:
        """Return the generator for an objective's kind of views; FungiError where the modality has none."""


Kinds = Mapping[str, tuple[str, str]]
"""Kind of views -> module and class of the generator; modules are imported when they are asked for."""


class NoViewsError(FungiError):
    """A modality has no views of the kind that is asked for."""


class UnknownOptionError(FungiError):
    """Views have no option of the name that is asked for; `known` are those that they have."""

    def __init__(self, kind: str, option: str, known: Iterable[str]) -> None:
        near = did_you_mean(option, known) or f" They have: {listed(sorted(known))}."
        super().__init__(f"views {kind!r} have no option {option!r}.{near}")
        self.option, self.known = option, known


def options_of(kinds: Kinds, kind: str) -> dict[str, dataclasses.Field[Any]]:
    """Return the options that a user may set of a kind of views, by name."""
    module, name = kinds[kind]
    fields = dataclasses.fields(getattr(importlib.import_module(module), name))
    return {field.name: field for field in fields if field.name not in ("input", "stream", "skipped")}


def choose_views(kinds: Kinds, input_spec: Any, kind: str, **options: Any) -> ViewGenerator:
    """Return the generator of a kind for an input description; NoViewsError, and FungiError for an unknown option."""
    if kind not in kinds:
        raise NoViewsError(str(unknown_name(f"kind of {input_spec.modality} views", kind, kinds)))
    known = options_of(kinds, kind)
    for option in options:
        if option not in known:
            raise UnknownOptionError(kind, option, known)
    module, name = kinds[kind]
    generator = getattr(importlib.import_module(module), name)
    return generator(input=input_spec, **converted(generator, options))
