"""Base class of the gradient extractors: the views and the loss of an objective, computed by the shared engine.

For your own objective, subclass `BaseGradientExtractor` and write `input_transform` and `compute_loss`. The engine
does capture, projection and batching. The stages of the command line use the same engine.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Shaped
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import normalize

from fungi.backbones.encoders import Encoded, WholeModel
from fungi.errors import FungiError
from fungi.gradients.assembly import EngineSettings, ProjectionArgument, assemble_engine, embedding_dim_of
from fungi.gradients.core import Feature, compute
from fungi.gradients.engine import GradientEngine
from fungi.objectives.base import random_linear
from fungi.runtime.device import default_torch_settings
from fungi.views.base import ViewGenerator
from fungi.views.image import ImageInput
from fungi.views.loading import batch_of_images
from fungi.views.plans import PUBLISHED, PlanName
from fungi.views.transforms import Transform, TransformedViews, as_view_generator


class BaseGradientExtractor(ABC):
    """Compute the projected gradients `[b, p]` of images for one objective on one model.

    Arguments, in the published order:

    model, device: as for `FUNGIWrapper`; target_layer: one path or several;
    projection: `[p, G]` with entries +1/-1, or one matrix per layer name for several layers; drawn if None;
    projection_scaling: accepted for published code, without effect; the factor is always 1/sqrt(p);
    embeddings_dim: size d of the model's embedding; measured if None;
    latent_dim: output size l of the head; `default_latent_dim` of the class if None;
    input_dim: side of the model's input in pixels;
    use_fp16, fp16_dtype: whether to compute in half precision, and the dtype.

    Keyword arguments: seed (of heads, projection and views), image_input (resizing and statistics; those of ImageNet
    if None) and view_plan (`native` or `budget`: the size of the views of built-in objectives). Every other keyword
    becomes an attribute, so a custom objective with settings needs no `__init__`.
    """

    default_latent_dim = 768
    encoder: ClassVar[type[WholeModel] | None] = None

    @default_torch_settings()
    def __init__(
        self,
        model: nn.Module,
        target_layer: str | Sequence[str],
        device: torch.device | str,
        projection: ProjectionArgument = None,
        projection_scaling: float | None = None,
        embeddings_dim: int | None = None,
        latent_dim: int | None = None,
        input_dim: int = 224,
        use_fp16: bool = False,
        fp16_dtype: torch.dtype = torch.bfloat16,
        *,
        seed: int = 42,
        image_input: ImageInput | None = None,
        view_plan: PlanName = PUBLISHED,
        **settings: Any,
    ) -> None:
        self.model, self.device, self.seed = model, torch.device(device), seed
        self.target_layer, self.view_plan = target_layer, view_plan
        self.input_dim, self.use_fp16, self.fp16_dtype = input_dim, use_fp16, fp16_dtype
        self.image_input = image_input or ImageInput.square(input_dim)
        self._projection_argument = projection
        self.embeddings_dim = embeddings_dim or self._measure_embeddings_dim()
        self.latent_dim = latent_dim or self.default_latent_dim
        self.projection_head: nn.Module = random_linear(
            self.embeddings_dim, self.latent_dim, seed, type(self).__name__
        ).to(self.device)
        for name, value in settings.items():
            if hasattr(type(self), name):
                raise FungiError(
                    f"{type(self).__name__} already has an attribute {name!r}. Choose another name for this setting."
                )
            setattr(self, name, value)

    # A subclass writes these methods

    @abstractmethod
    def input_transform(self, input_dim: int) -> Transform:
        """Return a function from a PIL image to its normalised views `[c, h, w]` or `[v, c, h, w]` of side `input_dim`.

        Random parts use the global generator of torch, numpy or Python. It is seeded for each image with the content
        of the image, so a feature depends neither on the batch nor on the order.
        """

    @abstractmethod
    def compute_loss(
        self, latents: Float[Tensor, "m l"], views_per_sample: int, **kwargs: Any
    ) -> Float[Tensor, ""] | Float[Tensor, " b"]:
        """Return the loss of a batch: one value per sample, or their mean.

        latents: `[b * v, l]`; the views of a sample are consecutive rows. Samples must not interact, except in the
        mean (`FUNGIWrapper.setup(..., check_independence=True)` tests it).
        """

    def setup(self, dataset: Any) -> None:  # noqa: B027 - most objectives need none
        """Prepare supporting data from a training set of (image, label). The default does nothing."""

    def latents(self, embeddings: Float[Tensor, "m d"]) -> Float[Tensor, "m l"]:
        """Return the output of the head for L2-normalised embeddings."""
        return self.projection_head(normalize(embeddings, dim=-1))

    def loss_inputs(self, encoded: Encoded) -> dict[str, Any]:
        """Return further arguments of `compute_loss`, from the encoder's output `[b v ...]`. The default has none."""
        return {}

    # The interface of every extractor

    @cached_property
    def transform(self) -> Transform:
        """The function from image to views; created once."""
        return self.input_transform(input_dim=self.input_dim)

    @cached_property
    def views(self) -> ViewGenerator:
        """`transform` as a view generator."""
        return as_view_generator(self.transform, type(self).__name__)

    @cached_property
    def engine(self) -> GradientEngine:
        """The engine that computes embeddings and gradients. The extractors of a wrapper share it."""
        settings = EngineSettings(self.device, self.dtype, self._projection_argument, self.seed)
        engine = assemble_engine(self.model, self.layers, self.embeddings_dim, settings)
        return engine.with_encoder(self.encoder)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the model's computation."""
        return self.fp16_dtype if self.use_fp16 else torch.float32

    @property
    def layers(self) -> tuple[str, ...]:
        """Paths of the target layers."""
        return (self.target_layer,) if isinstance(self.target_layer, str) else tuple(self.target_layer)

    @property
    def projection(self) -> Any:
        """The matrix `[p, G]` on the device with entries +1/-1; one per layer name if there are several layers."""
        entries = {name: projector.entries for name, projector in self.engine.projectors.items()}
        return next(iter(entries.values())) if len(entries) == 1 else entries

    def loss(self, encoded: Encoded) -> Float[Tensor, " b"]:
        """Return one loss per sample from the embeddings of its views. The engine differentiates it."""
        samples, views, _ = encoded.pooled.shape
        latents = self.latents(encoded.pooled.flatten(0, 1))
        value = self.compute_loss(latents=latents, views_per_sample=views, **self.loss_inputs(encoded))
        return self._per_sample(value, samples, encoded.pooled.requires_grad)

    def forward(self, images: Sequence[Image.Image]) -> Float[Tensor, "b p"]:
        """Return the projected gradients of images, not normalised. Those of several layers are concatenated."""
        batch = batch_of_images(images, [self.views], seed=self.seed)
        gradients = compute(batch, [Feature("gradient", self.views, self.engine, self.loss)])["gradient"]
        return torch.cat(list(gradients.values()), dim=1)

    __call__ = forward

    @default_torch_settings()
    def encode(self, views: Float[Tensor, "m c h w"]) -> Float[Tensor, "m l"]:
        """Return the latents of views, without gradient, for the `setup` of a custom objective."""
        transformed = TransformedViews(self.transform, type(self).__name__)
        embeddings = self.engine.embed(views.unsqueeze(1), transformed)  # [m c h w] -> [m 1 c h w] -> [m 1 d]
        return self.latents(embeddings.flatten(0, 1)).detach()

    def state(self) -> dict[str, Shaped[Tensor, "..."]]:
        """Return the random and fitted values by name: attributes that are tensors, and weights of modules."""
        tensors: dict[str, Tensor] = {}
        for name, value in vars(self).items():
            if isinstance(value, nn.Module) and value is not self.model:
                tensors |= {f"{name}.{key}": tensor for key, tensor in value.state_dict().items()}
            elif isinstance(value, Tensor) and name != "_projection_argument":
                tensors[name] = value
        return tensors

    def restore(self, state: dict[str, Shaped[Tensor, "..."]]) -> None:
        """Load the `state` of an equal extractor."""
        for name, value in list(vars(self).items()):
            if isinstance(value, nn.Module) and value is not self.model:
                prefix = name + "."
                value.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
        for name, tensor in state.items():
            if "." not in name:
                setattr(self, name, tensor.to(self.device))

    def _measure_embeddings_dim(self) -> int:
        self.model.to(self.device)
        images = torch.zeros(1, 3, self.input_dim, self.input_dim, device=self.device)
        return embedding_dim_of(self.model, self.layers, images)

    def _per_sample(self, value: Any, samples: int, wants_gradient: bool) -> Float[Tensor, " b"]:
        """Check the loss, and return it per sample.

        A mean over the batch is expanded: the sum of b copies has the gradient of the sum of the samples' losses.
        """
        if not isinstance(value, Tensor):
            raise FungiError(
                f"compute_loss of {type(self).__name__} returned {type(value).__name__}. It has to return a tensor: a "
                "scalar, or one loss per sample."
            )
        if wants_gradient and not value.requires_grad:
            raise FungiError(
                f"the loss of {type(self).__name__} has no gradient with respect to the latents (was it detached, or "
                "computed under no_grad?)."
            )
        if value.dim() == 0:
            return value.expand(samples)
        if value.shape != (samples,):
            raise FungiError(
                f"compute_loss of {type(self).__name__} returned shape {list(value.shape)} for {samples} samples. "
                f"It has to return a scalar (the mean over the batch) or shape [{samples}]."
            )
        return value
