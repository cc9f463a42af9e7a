"""A buffer that projects the gradients of many groups in one step."""

import torch
from jaxtyping import Float
from torch import Tensor

from fungi.gradients.projection import Projector, RawGradients
from fungi.gradients.terms import Terms
from fungi.runtime.device import Stopwatch


class GradientBuffer:
    """Buffer for the gradients of a loss at a target. Groups are contracted separately, and projected together.

    max_gradients: largest number of gradients that are projected in one step. stopwatch: measures contraction and
    projection.
    """

    def __init__(self, projector: Projector | RawGradients, max_gradients: int, stopwatch: Stopwatch) -> None:
        self._projector, self._max_gradients, self._stopwatch = projector, max_gradients, stopwatch
        self._contracted: list[Tensor] = []
        self._projected: list[Tensor] = []

    @torch.no_grad()
    def add(self, terms: Terms) -> None:
        """Contract the terms of a group and add them to the buffer."""
        for part in terms.split(self._max_gradients):
            if sum(map(len, self._contracted)) + len(part) > self._max_gradients:
                self._project()
            with self._stopwatch("contraction"):
                self._contracted.append(self._projector.contract(part))

    @torch.no_grad()
    def projected(self) -> Float[Tensor, "rows p"]:
        """Return the projected gradients of all rows."""
        self._project()
        return torch.cat(self._projected)

    def _project(self) -> None:
        """Project all contracted gradients, and remove them from the buffer."""
        with self._stopwatch("projection"):
            self._projected.append(self._projector.project(torch.cat(self._contracted)))
        self._contracted.clear()
