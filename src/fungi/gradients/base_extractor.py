"""Base class of the gradient extractors. An extractor has the views and the loss of an objective, and an engine.

For your own objective, write a subclass of `BaseGradientExtractor` with `input_transform` and `compute_loss`. The
engine captures activations, projects gradients and splits batches. The command line uses the same engine.
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
    """Function that computes the projected gradients `[b, p]` of images for an objective and a model.

    Arguments, in the order of the published library:

    model, device: as for `FUNGIWrapper`.
    target_layer: path of a layer, or several paths.
    projection: matrix `[p, G]` with entries +1/-1, a kind of random matrices such as `khatri-rao`, or layer name -> one
        of these. None: a random matrix with entries +1/-1.
    projection_scaling: without effect; the factor is always 1/sqrt(p). It exists for code that uses the published
        library.
    embeddings_dim: size d of the embedding of the model. None: the size is measured.
    latent_dim: output size l of the head. None: `default_latent_dim` of the class.
    input_dim: side of the input images of the model, in pixels.
    use_fp16, fp16_dtype: whether to compute in half precision, and the dtype.

    Keyword arguments:

    seed: seed of heads, projection and views.
    image_input: how images are resized and normalised. None: the usual way for ImageNet.
    view_plan: `native` or `budget`, for the size of the views of built-in objectives.

    Every other keyword becomes an attribute, so a custom objective with settings does not need `__init__`.
    """

    default_latent_dim = 768
    encoder: ClassVar[type[WholeModel] | None] = None
    """Class of the encoder that the loss needs, for example for patch tokens. None: the engine chooses the encoder."""

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

    # Methods that a subclass defines

    @abstractmethod
    def input_transform(self, input_dim: int) -> Transform:
        """Return a function: PIL image -> its normalised views `[c, h, w]` or `[v, c, h, w]` with the side `input_dim`.

        For random views, the function uses the global generators of torch, numpy or Python. The content of an image
        seeds these generators, so a feature does not depend on the batch or the order.
        """

    @abstractmethod
    def compute_loss(
        self, latents: Float[Tensor, "m l"], views_per_sample: int, **kwargs: Any
    ) -> Float[Tensor, ""] | Float[Tensor, " b"]:
        """Return the loss of a batch: one value per sample, or the mean of these values.

        latents: `[b * v, l]`; the views of a sample are consecutive rows. Samples must not interact, except in the
        mean. `FUNGIWrapper.setup(..., check_independence=True)` tests this.
        """

    def setup(self, dataset: Any) -> None:  # noqa: B027 - most objectives have no supporting data
        """Prepare supporting data from a training set of (image, label). The default does nothing."""

    def latents(self, embeddings: Float[Tensor, "m d"]) -> Float[Tensor, "m l"]:
        """Return the output of the head for L2-normalised embeddings."""
        return self.projection_head(normalize(embeddings, dim=-1))

    def loss_inputs(self, encoded: Encoded) -> dict[str, Any]:
        """Return further arguments of `compute_loss`, from the output `[b v ...]` of the encoder. Default: none."""
        return {}

    # Methods and properties of all extractors

    @cached_property
    def transform(self) -> Transform:
        """Function from an image to its views. The function is created only once."""
        return self.input_transform(input_dim=self.input_dim)

    @cached_property
    def views(self) -> ViewGenerator:
        """The function `transform` as a view generator."""
        return as_view_generator(self.transform, type(self).__name__)

    @cached_property
    def engine(self) -> GradientEngine:
        """Engine that computes embeddings and gradients. All extractors of a wrapper have the same engine."""
        settings = EngineSettings(self.device, self.dtype, self._projection_argument, self.seed)
        engine = assemble_engine(self.model, self.layers, self.embeddings_dim, settings)
        return engine.with_encoder(self.encoder)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype in which the model computes."""
        return self.fp16_dtype if self.use_fp16 else torch.float32

    @property
    def layers(self) -> tuple[str, ...]:
        """Paths of the target layers."""
        return (self.target_layer,) if isinstance(self.target_layer, str) else tuple(self.target_layer)

    @property
    def projection(self) -> Any:
        """Matrix `[p, G]` on the device with entries +1/-1; layer name -> matrix if there are several layers."""
        entries = {name: projector.entries for name, projector in self.engine.projectors.items()}
        return next(iter(entries.values())) if len(entries) == 1 else entries

    def loss(self, encoded: Encoded) -> Float[Tensor, " b"]:
        """Return one loss per sample from the embeddings of its views. The engine computes the gradient of the loss."""
        samples, views, _ = encoded.pooled.shape
        latents = self.latents(encoded.pooled.flatten(0, 1))
        value = self.compute_loss(latents=latents, views_per_sample=views, **self.loss_inputs(encoded))
        return self._per_sample(value, samples, needs_gradient=encoded.pooled.requires_grad)

    def forward(self, images: Sequence[Image.Image]) -> Float[Tensor, "b p"]:
        """Return the projected gradients of images, not normalised. Gradients of several layers are concatenated."""
        batch = batch_of_images(images, [self.views], seed=self.seed)
        gradients = compute(batch, [Feature("gradient", self.views, self.engine, self.loss)])["gradient"]
        return torch.cat(list(gradients.values()), dim=1)

    __call__ = forward

    @default_torch_settings()
    def encode(self, views: Float[Tensor, "m c h w"]) -> Float[Tensor, "m l"]:
        """Return the latents of views, without gradient, for the `setup` of a custom objective."""
        generator = TransformedViews(self.transform, type(self).__name__)
        embeddings = self.engine.embed(views.unsqueeze(1), generator)  # [m c h w] -> [m 1 c h w] -> [m 1 d]
        return self.latents(embeddings.flatten(0, 1)).detach()

    def state(self) -> dict[str, Shaped[Tensor, "..."]]:
        """Return name -> tensor for all random and fitted values: tensors in attributes, and weights of modules."""
        tensors: dict[str, Tensor] = {}
        for name, value in vars(self).items():
            if isinstance(value, nn.Module) and value is not self.model:
                tensors |= {f"{name}.{key}": tensor for key, tensor in value.state_dict().items()}
            elif isinstance(value, Tensor) and name != "_projection_argument":
                tensors[name] = value
        return tensors

    def restore(self, state: dict[str, Shaped[Tensor, "..."]]) -> None:
        """Load the `state` of an extractor with the same arguments."""
        for name, value in list(vars(self).items()):
            if isinstance(value, nn.Module) and value is not self.model:
                prefix = name + "."
                weights = {key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)}
                value.load_state_dict(weights)
        for name, tensor in state.items():
            if "." not in name:
                setattr(self, name, tensor.to(self.device))

    def _measure_embeddings_dim(self) -> int:
        self.model.to(self.device)
        images = torch.zeros(1, 3, self.input_dim, self.input_dim, device=self.device)
        return embedding_dim_of(self.model, self.layers, images)

    def _per_sample(self, value: Any, samples: int, *, needs_gradient: bool) -> Float[Tensor, " b"]:
        """Check the value that `compute_loss` returned, and return one loss per sample.

        If the value is the mean over the batch, repeat it b times. The engine adds the b values. Their sum is the sum
        of the losses of all samples, so the gradients are correct. Raises FungiError for a value of another type or
        shape, or without a gradient.
        """
        if not isinstance(value, Tensor):
            raise FungiError(
                f"compute_loss of {type(self).__name__} returned {type(value).__name__}. It has to return a tensor: a "
                "scalar, or one loss per sample."
            )
        if needs_gradient and not value.requires_grad:
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
