"""The engine: views of a batch -> embeddings, and the projected per-sample gradient of every loss at every target.

Images are taken in groups whose views fill one forward pass. Per group: render the views, encode them with only the
gradient sources and what follows in the graph, take one loss per sample, pull the signals back, and contract them with
the activations to `[b o i]`. Groups of a batch are projected together.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fungi.backbones.pooled_token import pooled_token_encoder
from fungi.errors import FungiError
from fungi.gradients.capture import Capture
from fungi.gradients.freezing import frozen
from fungi.gradients.projection import Projector
from fungi.gradients.rules import rule_for
from fungi.gradients.targets import Target
from fungi.runtime.device import autocast
from fungi.runtime.stopwatch import Stopwatch
from fungi.views.base import Grouping, Inputs, ViewGenerator

Loss = Callable[[Float[Tensor, "b v d"]], Float[Tensor, " b"]]
FLOAT16_SIGNAL = 2.0**6
"""In float16 the largest derivative that enters the backward pass is brought to about this, sample by sample, and the
gradient is divided again: KL derivatives are below the smallest float16 number, others above the largest."""


@runtime_checkable
class Encoder(Protocol):
    """Views -> embeddings; `path` says in words which way they take."""

    path: str

    def __call__(self, inputs: Any, /) -> Float[Tensor, "n d"]:
        """Encode views."""
        ...

    def activation_module(self, path: str) -> nn.Module:
        """The attention module that owns a target, whose input may stand in for the target's."""
        ...


class WholeModel:
    """The model as it is: for any architecture and any target."""

    path = "whole model"

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __call__(self, inputs: Inputs, /) -> Float[Tensor, "n d"]:
        """Encode views."""
        return self.model(**inputs) if isinstance(inputs, dict) else self.model(inputs)

    def activation_module(self, path: str) -> nn.Module:
        """The parent of a target, which is its attention module."""
        return self.model.get_submodule(path.rpartition(".")[0])


@dataclass(frozen=True)
class Extracted:
    """What one batch gave: embeddings `[b v d]`, and `[b p]` per loss and target name."""

    embeddings: Float[Tensor, "b v d"]
    gradients: dict[str, dict[str, Float[Tensor, "b p"]]]


class GradientEngine:
    """Embeddings and projected per-sample gradients of one model.

    model: on `device`; it is left as it was found (hooks, mode, `requires_grad`); targets: its gradient sources;
    projectors: by target name (targets without one keep the raw gradient, flattened); views_per_forward: how many views
    are encoded at once; attention_input, first_token_gradient: see `Profile`; short_cut: use the pooled-token path
    where the model allows it.
    """

    def __init__(
        self,
        model: nn.Module,
        targets: Sequence[Target] = (),
        projectors: Mapping[str, Projector] | None = None,
        *,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        views_per_forward: int = 64,
        attention_input: bool = False,
        first_token_gradient: bool = False,
        short_cut: bool = True,
        stopwatch: Stopwatch | None = None,
    ) -> None:
        self.model, self.targets, self.projectors = model, tuple(targets), dict(projectors or {})
        self.device, self.dtype, self.views_per_forward = device, dtype, views_per_forward
        self.stopwatch = stopwatch or Stopwatch(device)
        self._attention_input, self._first_token_gradient = attention_input, first_token_gradient
        paths = [target.path for target in targets]
        pooled = pooled_token_encoder(model, paths) if short_cut else None
        self.encoder: Encoder = pooled or WholeModel(model)
        for target in targets:
            _check_width(target, self.projectors.get(target.name))

    def for_tokens(self) -> "GradientEngine":
        """The same engine for losses of all tokens (`Objective.tokens`); FungiError where the model has none."""
        from fungi.gradients.tokens import TokenEncoder  # builds on this module

        other = copy(self)
        other.encoder = TokenEncoder(self.model)
        return other

    @torch.no_grad()
    def embed(self, batch: Any, views: ViewGenerator) -> Float[Tensor, "b v d"]:
        """Embeddings of all views of a collated batch, without gradients."""
        with frozen(self.model):
            parts = [(rows, self._encode(part, views)) for rows, part in self._groups(batch, views)]
        places = _places([rows for rows, _ in parts]).to(self.device)
        return torch.cat([embedded for _, embedded in parts])[places]

    def extract(self, batch: Any, views: ViewGenerator, losses: Mapping[str, Loss]) -> Extracted:
        """Embeddings of a collated batch, and the gradients of the given losses, all from one forward pass."""
        embeddings: list[Tensor] = []
        order: list[Tensor] = []
        raw: dict[str, dict[str, list[Tensor]]] = {
            name: {target.name: [] for target in self.targets} for name in losses
        }
        for rows, part in self._groups(batch, views):
            embedded, gradients = self._extract_group(part, views, losses)
            embeddings.append(embedded)
            order.append(rows)
            for name, by_target in gradients.items():
                for target, gradient in by_target.items():
                    raw[name][target].append(gradient)
        places = _places(order).to(self.device)
        with self.stopwatch("projection"):
            projected = {
                name: {target: self._project(target, torch.cat(parts))[places] for target, parts in by_target.items()}
                for name, by_target in raw.items()
            }
        return Extracted(torch.cat(embeddings)[places], projected)

    def _groups(self, batch: Any, views: ViewGenerator) -> Iterator[tuple[Tensor, Any]]:
        """Parts of a batch whose views fill one forward pass, on the device, with their rows in the batch."""
        size = max(1, self.views_per_forward // views.n_views)
        groups = views.groups(batch, size) if isinstance(views, Grouping) else _in_turn(batch, size)
        for rows, part in groups:
            yield rows, _to_device(part, self.device)

    def _encode(self, part: Any, views: ViewGenerator) -> Float[Tensor, "b v d"]:
        with self.stopwatch("views"):
            rendered = views.render(part)
        with self.stopwatch("forward"), autocast(self.device, self.dtype):
            embeddings = self.encoder(rendered)
        return embeddings.float().unflatten(0, (_length(part), -1))

    def _extract_group(
        self, part: Any, views: ViewGenerator, losses: Mapping[str, Loss]
    ) -> tuple[Tensor, dict[str, dict[str, Float[Tensor, "b o i"]]]]:
        surrogates = [target.path for target in self.targets if self._attention_input and _projects_attention(target)]
        modules = {path: self.encoder.activation_module(path) for path in surrogates}
        with torch.enable_grad(), frozen(self.model), Capture(self.model, self.targets, modules) as capture:
            embeddings = self._encode(part, views)
            gradients = {}
            for index, (name, loss) in enumerate(losses.items()):
                gradients[name] = self._gradients(capture, loss, embeddings, keep_graph=index + 1 < len(losses))
        return embeddings.detach(), gradients

    def _gradients(
        self, capture: Capture, loss: Loss, embeddings: Float[Tensor, "b v d"], *, keep_graph: bool
    ) -> dict[str, Float[Tensor, "b o i"]]:
        """The gradient of each sample's loss at each target."""
        with self.stopwatch("heads and backward"):
            if self.dtype == torch.float16:
                weights, scale = _scaled_derivative(loss, embeddings)
                signals = capture.signals(embeddings, weights, keep_graph=keep_graph)
            else:
                losses = loss(embeddings)
                signals, scale = capture.signals(losses, torch.ones_like(losses), keep_graph=keep_graph), None
        gradients = {}
        with self.stopwatch("contraction"), torch.no_grad():
            for target in self.targets:
                activations = capture.activations[target.path]
                gradient = self._contract(target, activations, signals[target.path], len(embeddings))
                gradients[target.name] = gradient if scale is None else gradient / scale
        return gradients

    def _contract(self, target: Target, activations: Tensor, signals: Tensor, samples: int) -> Float[Tensor, "b o i"]:
        rule = rule_for(target.module)
        assert rule is not None
        if target.part is not None:
            signals = signals[..., target.rows]
        if self._first_token_gradient:
            activations, signals = activations[:, :1], signals[:, :1]  # [m t i] -> [m 1 i]
        return rule(target.module, activations, signals, samples, target.bias)

    @torch.no_grad()
    def _project(self, target: str, gradients: Float[Tensor, "b o i"]) -> Float[Tensor, "b p"]:
        projector = self.projectors.get(target)
        return gradients.flatten(1) if projector is None else projector(gradients)


def _scaled_derivative(
    loss: Loss, embeddings: Float[Tensor, "b v d"]
) -> tuple[Float[Tensor, "b v d"], Float[Tensor, "b 1 1"]]:
    """Derivative of the losses by the embeddings, times a power of two per sample; and those powers."""
    leaf = embeddings.detach().requires_grad_()
    (derivative,) = torch.autograd.grad(loss(leaf).sum(), leaf)
    largest = derivative.abs().amax(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    scale = torch.exp2(torch.log2(FLOAT16_SIGNAL / largest).floor())
    return derivative * scale, scale


def _projects_attention(target: Target) -> bool:
    """Whether a target is the output projection of an attention module, the only layer that quirk V1 concerns."""
    return target.path.endswith(("attn.proj", "out_proj"))


def _check_width(target: Target, projector: Projector | None) -> None:
    if projector is not None and projector.gradient_dim != target.gradient_dim:
        raise FungiError(
            f"the projection takes gradients of {projector.gradient_dim} entries, layer {target.spec} has "
            f"{target.gradient_dim} ({target.shape[0]} x {target.shape[1]}). Make one with "
            f"generate_projection_matrix.py --gradients-dim {target.gradient_dim}."
        )


def _length(batch: Any) -> int:
    return len(next(iter(batch.values()))) if isinstance(batch, dict) else len(batch)


def _in_turn(batch: Any, size: int) -> Iterator[tuple[Tensor, Any]]:
    for start in range(0, _length(batch), size):
        part = _slice(batch, start, start + size)
        yield torch.arange(start, start + _length(part)), part


def _places(order: Sequence[Tensor]) -> Tensor:
    """Where each row of a batch is among the rows of its groups."""
    return torch.argsort(torch.cat(list(order)))


def _slice(batch: Any, start: int, stop: int) -> Any:
    if isinstance(batch, dict):
        return {name: values[start:stop] for name, values in batch.items()}
    return batch[start:stop]


def _to_device(batch: Any, device: torch.device) -> Any:
    if isinstance(batch, dict):
        return {name: values.to(device, non_blocking=True) for name, values in batch.items()}
    return batch.to(device, non_blocking=True)
