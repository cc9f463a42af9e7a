"""The engine computes the embeddings of a batch, and the projected gradient per sample, loss and target.

The engine divides a batch into groups of samples, so that one forward pass can encode the views of a group. For each
group, the engine renders the views, encodes them, computes one loss per sample and runs the backward pass down to the
gradient sources. The layers before the sources are not in the autograd graph. Signals (derivatives with respect to the
outputs of a source) and activations (inputs of the source) are the terms of the gradients (`fungi.gradients.terms`).
The projector contracts the terms of each group, and projects many groups together.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fungi.backbones.encoders import Encoded, Encoder, WholeModel
from fungi.backbones.pooled_token import pooled_token_encoder
from fungi.backbones.position_embedding import positions_version
from fungi.errors import FungiError
from fungi.gradients.capture import Capture, frozen
from fungi.gradients.gradient_buffer import GradientBuffer
from fungi.gradients.group_size import views_at_once
from fungi.gradients.parts import batch_order, equal_groups, length, map_tensors, side
from fungi.gradients.projection import Projector, RawGradients
from fungi.gradients.rules import rule_for
from fungi.gradients.targets import Target
from fungi.gradients.terms import Positions, SumOfPositions, Terms
from fungi.runtime.device import Stopwatch, autocast, default_torch_settings
from fungi.runtime.log import logger, parts_done
from fungi.views.base import Grouping, OwnSizes, ViewGenerator, forwards_of

T = TypeVar("T")
Loss = Callable[[Encoded], Float[Tensor, " b"]]
"""Function: output of the encoder for b samples, `[b v ...]` -> one loss per sample."""
FLOAT16_SIGNAL = 2.0**6
"""Approximate largest derivative in float16. Before the backward pass, the derivatives of each sample are scaled to
this maximum; the gradient is then divided by the scale. Without scaling, derivatives of KL underflow, and other
derivatives overflow."""
GRADIENTS_TOGETHER = 128
"""Largest number of gradients that are projected in one step. If the batch has more samples, their number is the limit.
The gradients of a batch are therefore projected in one step, unless there is one gradient per position."""


@dataclass(frozen=True)
class EngineOutput:
    """Results of a batch.

    encoded: output of the encoder, `[b v ...]`. gradients: loss -> target name -> `[b p]`, or `[b s p]` with
    `EachPosition`.
    """

    encoded: Encoded
    gradients: dict[str, dict[str, Float[Tensor, "b *s p"]]]

    @property
    def embeddings(self) -> Float[Tensor, "b v d"]:
        """The pooled embeddings of all views."""
        return self.encoded.pooled


class GradientEngine:
    """Engine that computes embeddings and projected per-sample gradients of a model.

    model: the model, on `device`. After each call, its hooks, mode and `requires_grad` are unchanged.
    targets: the gradient sources.
    projectors: target name -> projector. A target without a projector has unprojected, flattened gradients.
    views_per_forward: number of views per forward pass; 0: the number depends on the free memory (`views_at_once`).
    attention_input, first_token_gradient: see `Profile`.
    short_cut: compute the last block only for the pooled token, if the model allows it.
    positions: one gradient per sample (`SumOfPositions`, the default), or per position of the layer (`EachPosition`).
    stopwatch: record of the time of each step, for benchmarks.
    """

    def __init__(
        self,
        model: nn.Module,
        targets: Sequence[Target] = (),
        projectors: Mapping[str, Projector] | None = None,
        *,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        views_per_forward: int = 0,
        attention_input: bool = False,
        first_token_gradient: bool = False,
        short_cut: bool = True,
        positions: Positions | None = None,
        stopwatch: Stopwatch | None = None,
    ) -> None:
        self.model, self.targets, self.projectors = model, tuple(targets), dict(projectors or {})
        self.device, self.dtype = device, dtype
        self.positions = positions or SumOfPositions()
        self.stopwatch = stopwatch or Stopwatch(device)
        self._attention_input, self._first_token_gradient = attention_input, first_token_gradient
        paths = [target.path for target in targets]
        pooled = pooled_token_encoder(model, paths) if short_cut else None
        self.encoder: Encoder = pooled or WholeModel(model)
        self.views_per_forward = views_per_forward or views_at_once(
            model, paths, device, dtype, pooled=pooled is not None
        )
        self._was_halved = False
        # Side of the views in pixels -> (version of the position embedding, encoder).
        self._encoders_by_size: dict[int, tuple[tuple[int, int], Encoder]] = {}
        self._compiled = False
        for target in targets:
            _check_width(target, self.projectors.get(target.name))

    def with_encoder(self, encoder: Callable[[nn.Module], Encoder] | None) -> "GradientEngine":
        """Return a copy of this engine with another encoder (`Objective.encoder`); for None, the engine itself.

        Raises FungiError if the encoder can't use the model.
        """
        if encoder is None:
            return self
        engine = copy(self)
        engine.encoder, engine._encoders_by_size = encoder(self.model), {}
        return engine

    def compile(self) -> None:
        """Compile the layers before the gradient sources, at their first use. This takes tens of seconds once."""
        self._compiled = True
        self.encoder.compile([target.path for target in self.targets])

    def embed(self, batch: Any, views: ViewGenerator) -> Float[Tensor, "b v d"]:
        """Return the embeddings of all views of a collated batch."""
        return self.encode(batch, views).pooled

    @default_torch_settings()
    @torch.no_grad()
    def encode(self, batch: Any, views: ViewGenerator) -> Encoded:
        """Return the output of the encoder, `[b v ...]`, for all views of a collated batch."""
        with frozen(self.model):
            parts = list(self._by_group(batch, views, lambda part: self._encode(part, views)))
        order = batch_order([rows for rows, _ in parts]).to(self.device, non_blocking=True)
        return Encoded.concatenate_samples([encoded for _, encoded in parts], order)

    @default_torch_settings()
    def extract(self, batch: Any, views: ViewGenerator, losses: Mapping[str, Loss]) -> EngineOutput:
        """Return the output of the encoder for a collated batch, and the gradients of the losses.

        Output and gradients come from the same forward passes: one pass per group and view size.
        """
        encoded_groups: list[Encoded] = []
        rows_of_groups: list[Tensor] = []
        max_gradients = max(length(batch), GRADIENTS_TOGETHER)
        buffers = {
            name: {
                target.name: GradientBuffer(self._projector(target), max_gradients, self.stopwatch)
                for target in self.targets
            }
            for name in losses
        }
        groups = self._by_group(batch, views, lambda part: self._extract_group(part, views, losses))
        for rows, (encoded, terms_of_losses) in groups:
            encoded_groups.append(encoded)
            rows_of_groups.append(rows)
            for name, terms_of_targets in terms_of_losses.items():
                for target, terms in terms_of_targets.items():
                    buffers[name][target].add(self.positions.rows(terms))
        order = batch_order(rows_of_groups).to(self.device, non_blocking=True)
        gradients = {
            name: {
                target: self.positions.by_sample(buffer.projected(), len(order))[order]
                for target, buffer in buffers_of_targets.items()
            }
            for name, buffers_of_targets in buffers.items()
        }
        return EngineOutput(Encoded.concatenate_samples(encoded_groups, order), gradients)

    def _groups(self, batch: Any, views: ViewGenerator) -> Iterator[tuple[Tensor, Any]]:
        """Yield groups as (rows, part of the batch on the device). The views of a group fill a forward pass."""
        self._prepare_encoders(views)
        size = max(1, int(self.views_per_forward // forwards_of(views)))
        groups = views.groups(batch, size) if isinstance(views, Grouping) else equal_groups(batch, size)
        for rows, part in groups:
            yield rows, map_tensors(part, lambda values: values.to(self.device, non_blocking=True))
            parts_done(len(rows) * views.n_views)  # when the caller asks for the next group, this group is finished

    def _by_group(self, batch: Any, views: ViewGenerator, work: Callable[[Any], T]) -> Iterator[tuple[Tensor, T]]:
        """Yield (rows, result of `work`) for each group of a batch.

        If memory runs out, this group and the following groups are halved. Raises FungiError if a half does not fit.
        """
        is_halving = False
        for rows, part in self._groups(batch, views):
            result = None if is_halving else self._attempt(part, work)
            if result is not None:
                yield rows, result
                continue
            if not is_halving:
                self._halve(len(rows), views)
                is_halving = True
            middle = (len(rows) + 1) // 2
            for half in (slice(0, middle), slice(middle, None)):
                if len(rows[half]):
                    result = self._attempt(map_tensors(part, itemgetter(half)), work)
                    if result is None:
                        raise self._too_large(views)
                    yield rows[half], result

    def _attempt(self, part: Any, work: Callable[[Any], T]) -> T | None:
        """Return the result of `work` for a group; None if memory runs out."""
        try:
            return work(part)
        except torch.OutOfMemoryError:
            return None  # when this function returns, the error and the tensors of the failed pass are freed

    def _halve(self, samples: int, views: ViewGenerator) -> None:
        """Halve the number of views per forward pass.

        Raises FungiError if the number was halved before, or if the group has only one sample.
        """
        if self._was_halved or samples < 2:
            raise self._too_large(views)
        self._was_halved = True
        self.views_per_forward = max(1, self.views_per_forward // 2)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        logger.warning(f"out of memory: encoding {self.views_per_forward} views at once from now on")

    def _too_large(self, views: ViewGenerator) -> FungiError:
        """Return the error for too little memory."""
        half = max(1, self.views_per_forward // 2)
        return FungiError(
            f"the memory of {self.device} is too small for {self.views_per_forward} views at once (or for the"
            f" {views.n_views} views of a sample). Use --views-per-forward {half} (views_per_forward in the"
            " library), a smaller model, or --views native."
        )

    def _encode(self, part: Any, views: ViewGenerator, capture: Capture | None = None) -> Encoded:
        """Return the output of the encoder, `[b v ...]`, for a group, from one forward pass per size of its views."""
        with self.stopwatch("views"):
            rendered = views.render(part)
        has_sizes = isinstance(rendered, list)  # one entry per size of the views
        passes = []
        for inputs in rendered if has_sizes else [rendered]:
            encoder = self._encoders_by_size[side(inputs)][1] if has_sizes else self.encoder
            if capture is not None:
                capture.begin()
            with self.stopwatch("forward"), autocast(self.device, self.dtype):
                encoded = encoder(inputs)
            passes.append(encoded.by_sample(length(part)))
        return Encoded.concatenate_views(passes)

    @torch.no_grad()
    def _prepare_encoders(self, views: ViewGenerator) -> None:
        """Create an encoder for each size of the views, if some views do not have the input size.

        Encoders are reused while the position embedding is unchanged. Raises FungiError if the model accepts only one
        size.
        """
        if not isinstance(views, OwnSizes) or set(views.sizes) == {views.input_size}:
            return
        version = positions_version(self.model)
        with frozen(self.model):
            for size in set(views.sizes):
                stored_version, _ = self._encoders_by_size.get(size, (None, None))
                if stored_version != version:
                    encoder = self.encoder.at_size(size)
                    if self._compiled:
                        encoder.compile([target.path for target in self.targets])
                    self._encoders_by_size[size] = (version, encoder)

    def _extract_group(
        self, part: Any, views: ViewGenerator, losses: Mapping[str, Loss]
    ) -> tuple[Encoded, dict[str, dict[str, Terms]]]:
        """Return the output of the encoder for a group, and loss -> target name -> terms of the gradients."""
        modules: dict[str, nn.Module] = {}  # path of a target -> module whose input replaces the input of the target
        if self._attention_input:
            paths = [target.path for target in self.targets if _projects_attention(target)]
            modules = {path: self.encoder.activation_module(path) for path in paths}
        with torch.enable_grad(), frozen(self.model), Capture(self.model, self.targets, modules) as capture:
            encoded = self._encode(part, views, capture)
            terms = {}
            for index, (name, loss) in enumerate(losses.items()):
                terms[name] = self._terms(capture, loss, encoded, keep_graph=index + 1 < len(losses))
        return encoded.detach(), terms

    def _terms(self, capture: Capture, loss: Loss, encoded: Encoded, *, keep_graph: bool) -> dict[str, Terms]:
        """Return target name -> terms of the gradients of a loss."""
        samples, scale = len(encoded.pooled), None
        with self.stopwatch("heads and backward"):
            if self.dtype == torch.float16:
                roots, weights, scale = _scaled_derivative(loss, encoded)
            else:
                roots = [loss(encoded)]
                weights = [torch.ones_like(root) for root in roots]
            signals = capture.signals(roots, weights, keep_graph=keep_graph)
        terms = {}
        for target in self.targets:
            terms_of_passes = []
            passes = zip(capture.activations[target.path], signals[target.path], strict=True)
            for pass_activations, pass_signals in passes:
                if pass_signals is not None:
                    terms_of_passes.append(self._terms_of_pass(target, pass_activations, pass_signals, samples))
            total = Terms.concatenate_positions(terms_of_passes)
            terms[target.name] = total if scale is None else replace(total, signals=total.signals.float() / scale)
        return terms

    def _terms_of_pass(self, target: Target, activations: Tensor, signals: Tensor, samples: int) -> Terms:
        """Return the terms of the gradients of a target in one forward pass."""
        rule = rule_for(target.module)
        assert rule is not None
        if target.part is not None:
            signals = signals[..., target.rows]
        if self._first_token_gradient:
            activations, signals = activations[:, :1], signals[:, :1]  # [m t i] -> [m 1 i]
        return rule(target.module, activations, signals, samples, target.bias)

    def _projector(self, target: Target) -> Projector | RawGradients:
        return self.projectors.get(target.name) or RawGradients()


def _scaled_derivative(loss: Loss, encoded: Encoded) -> tuple[list[Tensor], list[Tensor], Float[Tensor, "b 1 1 1"]]:
    """Return the outputs of the encoder, the scaled derivatives of the losses with respect to them, and the scales.

    Each sample has its own scale. The scale is a power of two, so scaling does not round. The shape of the scales,
    `[b 1 1 1]`, is for signals `[b g s o]`.
    """
    leaves = encoded.map(lambda tensor: tensor.detach().requires_grad_(tensor.requires_grad))
    derivatives = torch.autograd.grad(loss(leaves).sum(), leaves.differentiable, allow_unused=True)
    pairs = zip(encoded.differentiable, derivatives, strict=True)
    used = [(output, derivative) for output, derivative in pairs if derivative is not None]
    largest = torch.stack([derivative.abs().flatten(1).amax(dim=1) for _, derivative in used]).amax(dim=0)  # [b]
    scale = torch.exp2(torch.log2(FLOAT16_SIGNAL / largest.clamp_min(torch.finfo(torch.float32).tiny)).floor())
    weights = [derivative * scale.view(-1, *[1] * (derivative.dim() - 1)) for _, derivative in used]
    return [output for output, _ in used], weights, scale.view(-1, 1, 1, 1)


def _projects_attention(target: Target) -> bool:
    """Return whether a target is the output projection of attention. Deviation V1 applies only to this layer."""
    return target.path.endswith(("attn.proj", "out_proj"))


def _check_width(target: Target, projector: Projector | None) -> None:
    """Raise FungiError if the gradients of a target do not have the size that the projector takes."""
    if projector is not None and projector.matrix.gradient_dim != target.gradient_dim:
        raise FungiError(
            f"the projection takes gradients of {projector.matrix.gradient_dim} entries, but those of {target.spec} "
            f"have {target.gradient_dim} ({target.shape[0]} x {target.shape[1]}). Create a matrix with "
            f"fungi projection --gradients-dim {target.gradient_dim}."
        )
