"""Convert view generators to functions image -> tensor, and convert such functions to view generators.

Users of the library pass functions to the extractors.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Shaped
from PIL import Image
from torch import Tensor

from fungi.errors import FungiError
from fungi.views.base import ViewGenerator

Transform = Callable[[Image.Image], Shaped[Tensor, "*v c h w"]]
"""Function: image -> one view `[c h w]` or several views `[v c h w]`."""


@dataclass(frozen=True)
class ViewTransform:
    """A view generator as a function: `transform(image)` returns its views, ready for the backbone."""

    generator: ViewGenerator

    def __call__(self, image: Image.Image) -> Any:
        """Return all views of an image `[v c h w]`. If views have different sizes, return a list of a tensor per size.

        Random views are drawn from the global random streams.
        """
        return self.generator.render(self.generator.collate([self.generator.prepare(image)]))


@dataclass(frozen=True)
class TransformedViews:
    """A function as a view generator. Its number of views is known after the first batch (`with_views_of_batch`).

    owner: name of the class that uses the function. Random views are seeded with this name, and errors contain it.
    """

    transform: Transform
    owner: str
    n_views: int = 1

    @property
    def kind(self) -> str:
        """Name with which random views are seeded."""
        return self.owner

    @property
    def identity(self) -> str:
        """Text that differs for each function, because functions can't be compared."""
        return f"{self.owner} {id(self.transform)}"

    def prepare(self, item: Image.Image) -> Shaped[Tensor, "v c h w"]:
        """Return the views of an image. Raises FungiError if the function does not return views."""
        views = self.transform(item)
        if not isinstance(views, Tensor) or views.dim() not in (3, 4) or not views.is_floating_point():
            raise FungiError(
                f"the input_transform of {self.owner} gave {_in_words(views)}; it has to return a normalised tensor of "
                "floating numbers, [c, h, w] or [v, c, h, w]."
            )
        return views.unsqueeze(0) if views.dim() == 3 else views

    def collate(self, prepared: Sequence[Shaped[Tensor, "..."]]) -> Shaped[Tensor, "b v c h w"]:
        """Stack a batch. Raises FungiError if images differ in the number or size of their views."""
        shapes = sorted({tuple(views.shape) for views in prepared})
        if len(shapes) > 1:
            raise FungiError(
                f"the input_transform of {self.owner} gave views of different shapes ({shapes[0]}, {shapes[1]}); "
                "all images need the same number of views of one size."
            )
        return torch.stack(list(prepared))

    def render(self, batch: Shaped[Tensor, "b v c h w"]) -> Shaped[Tensor, "m c h w"]:
        """Flatten the views: `[b v c h w] -> [b*v c h w]`."""
        return batch.flatten(0, 1)


def _in_words(result: Any) -> str:
    """Return a description of a wrong result: the dtype or the shape of a tensor, or the type of another object."""
    if not isinstance(result, Tensor):
        return type(result).__name__
    if not result.is_floating_point():
        return str(result.dtype).removeprefix("torch.")
    return f"shape {list(result.shape)}"


def as_view_generator(transform: Transform, owner: str) -> ViewGenerator:
    """Return the generator of a `ViewTransform`. For any other function, return a new generator."""
    return transform.generator if isinstance(transform, ViewTransform) else TransformedViews(transform, owner)


def with_views_of_batch(views: ViewGenerator, batch: Any) -> ViewGenerator:
    """Return the generator. If it is a function of the user, set its number of views to that of a prepared batch."""
    return replace(views, n_views=batch.shape[1]) if isinstance(views, TransformedViews) else views
