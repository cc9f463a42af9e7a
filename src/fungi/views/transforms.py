"""Convert view generators to functions `image -> tensor`, and such functions to view generators.

Users of the library pass functions: a callable that takes an image and returns its views.
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
"""Image -> one view `[c h w]`, or several `[v c h w]`."""


@dataclass(frozen=True)
class ViewTransform:
    """A view generator as a function: `transform(image)` gives its views, ready for the backbone."""

    generator: ViewGenerator

    def __call__(self, image: Image.Image) -> Any:
        """Return all views of an image `[v c h w]`, or a list with one such tensor per size.

        Random views are drawn from the global streams.
        """
        return self.generator.render(self.generator.collate([self.generator.prepare(image)]))


@dataclass(frozen=True)
class TransformedViews:
    """A function as a view generator. Its number of views is known after the first batch: see `of_batch`.

    owner: name of the class that uses the function. Random views are seeded for this name, and errors name it.
    """

    transform: Transform
    owner: str
    n_views: int = 1

    @property
    def kind(self) -> str:
        """Name for which random views are seeded."""
        return self.owner

    @property
    def identity(self) -> str:
        """Different for each function, because two functions can't be compared."""
        return f"{self.owner} {id(self.transform)}"

    def prepare(self, item: Image.Image) -> Shaped[Tensor, "v c h w"]:
        """Return the views of an image; FungiError if the function gives something else."""
        views = self.transform(item)
        if not isinstance(views, Tensor) or views.dim() not in (3, 4) or not views.is_floating_point():
            result = f"shape {list(views.shape)}" if isinstance(views, Tensor) else type(views).__name__
            if isinstance(views, Tensor) and not views.is_floating_point():
                result = str(views.dtype).removeprefix("torch.")
            raise FungiError(
                f"the input_transform of {self.owner} gave {result}; a floating tensor [c, h, w] or [v, c, h, w], "
                "normalised, is needed."
            )
        return views.unsqueeze(0) if views.dim() == 3 else views

    def collate(self, prepared: Sequence[Shaped[Tensor, "..."]]) -> Shaped[Tensor, "b v c h w"]:
        """Stack a batch; FungiError if images have different numbers or sizes of views."""
        shapes = sorted({tuple(views.shape) for views in prepared})
        if len(shapes) > 1:
            raise FungiError(
                f"the input_transform of {self.owner} gave views of different shapes ({shapes[0]}, {shapes[1]}); "
                "all images need the same number of views of one size."
            )
        return torch.stack(list(prepared))

    def render(self, batch: Shaped[Tensor, "b v c h w"]) -> Shaped[Tensor, "m c h w"]:
        """`[b v c h w] -> [b*v c h w]`."""
        return batch.flatten(0, 1)


def views_of(transform: Transform, owner: str) -> ViewGenerator:
    """Return the generator behind a function, or the function as a generator."""
    return transform.generator if isinstance(transform, ViewTransform) else TransformedViews(transform, owner)


def of_batch(views: ViewGenerator, batch: Any) -> ViewGenerator:
    """Return the generator, with the number of views that a prepared batch shows."""
    return replace(views, n_views=batch.shape[1]) if isinstance(views, TransformedViews) else views
