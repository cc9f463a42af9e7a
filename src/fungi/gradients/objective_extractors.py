"""Extractors of the library for the objectives of `fungi.objectives`.

The extractor class of an objective is created from the objective. The extractors of DINO and SimCLR are written here,
because the published library has other names for their arguments.
"""

import inspect
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from math import isqrt
from typing import Any, ClassVar

from jaxtyping import Float, Shaped
from PIL import Image
from torch import Tensor, nn

from fungi.backbones.encoders import Encoded
from fungi.backbones.position_embedding import patch_size_of
from fungi.data.base import Samples
from fungi.errors import FungiError
from fungi.gradients.base_extractor import BaseGradientExtractor
from fungi.gradients.core import embed_samples
from fungi.objectives.base import Objective, Support, support_on
from fungi.objectives.binding import bind
from fungi.objectives.dino import DINO
from fungi.objectives.simclr import SimCLR
from fungi.runtime.device import default_torch_settings
from fungi.views.image_sets import as_samples, concatenated, rgb
from fungi.views.plans import ViewPlan
from fungi.views.transforms import Transform, ViewTransform

_BASE_ARGUMENTS = frozenset(inspect.signature(BaseGradientExtractor).parameters) - {"settings"}


def patch_size_attribute(model: nn.Module) -> int:
    """Return the attribute `patch_size` of a model, in pixels. Raises FungiError if there is no such attribute."""
    for module in (getattr(model, "patch_embed", None), getattr(model, "config", None), model):
        size = getattr(module, "patch_size", None)
        size = size[0] if isinstance(size, tuple | list) else size
        if isinstance(size, int):
            return size
    raise FungiError(f"the patch size of a {type(model).__name__} is not known. Set patch_size, for example 16.")


class ObjectiveExtractor(BaseGradientExtractor):
    """Extractor of an objective of `fungi.objectives`.

    The arguments are those of `BaseGradientExtractor`, the settings of the objective, and the settings of its views.
    Raises FungiError for other arguments. setup_batch_size: number of images per batch during `setup`.
    """

    objective_type: ClassVar[type[Objective]]
    setup_batch_size = 32

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.default_latent_dim, cls.encoder = cls.objective_type.latent_dim, cls.objective_type.encoder

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        options = {name: kwargs.pop(name) for name in list(kwargs) if name not in _BASE_ARGUMENTS}
        super().__init__(*args, **kwargs)
        if options.get("patch_size") == 0:
            options["patch_size"] = patch_size_attribute(self.model)
        bound = bind(
            self.objective_type.name,
            embedding_dim=self.embeddings_dim,
            input_spec=self.image_input,
            seed=self.seed,
            options={"latent_dim": self.latent_dim, **options},
            plan=ViewPlan(self.view_plan, patch_size_of(self.model)),
        )
        self.bound = bound.to(self.device)
        self.objective: Any = bound.objective
        self.support: Support = {}
        for name, head in self.bound.heads.items():
            setattr(self, _attribute(name), head)

    def heads(self) -> nn.ModuleDict:
        """Return the heads of the objective, from the attributes of the extractor. A user may have replaced them."""
        return nn.ModuleDict({name: getattr(self, _attribute(name)) for name in self.bound.heads})

    def input_transform(self, input_dim: int) -> Transform:
        """Return the view transform of the objective."""
        if input_dim == self.image_input.size:
            return ViewTransform(self.bound.views)
        views: Any = self.bound.views
        return ViewTransform(replace(views, input=self.image_input.resized(input_dim)))

    def latents(self, embeddings: Float[Tensor, "m d"]) -> Float[Tensor, "m l"]:
        """Return the output of the head. The settings of the objective determine whether embeddings are normalised."""
        return self.objective.latents(embeddings, self.projection_head)

    def loss_inputs(self, encoded: Encoded) -> dict[str, Any]:
        """Return the output of the encoder, if the loss of the objective needs more than the output of the head."""
        has_own_loss = type(self.objective).loss is not Objective.loss
        return {"encoded": encoded} if has_own_loss else {}

    def compute_loss(
        self, latents: Float[Tensor, "m l"], views_per_sample: int, *, encoded: Encoded | None = None, **kwargs: Any
    ) -> Float[Tensor, " b"]:
        """Return the loss of the objective per sample."""
        if encoded is not None:
            return self.objective.loss(encoded, self.heads(), self._checked_support())
        return self.objective.latent_loss(latents.unflatten(0, (-1, views_per_sample)), self._checked_support())

    def setup(self, dataset: Any) -> None:
        """Prepare supporting data from a training set of (image, label), if the objective needs supporting data."""
        if self.objective.needs_support:
            self.prepare_support(as_samples(dataset))

    @default_torch_settings()
    def prepare_support(self, samples: Samples) -> None:
        """Compute the supporting data from training samples."""
        support = self.objective.support(samples, self._embed, self.heads(), self.seed)
        self.support = support_on(self.device, support)

    def state(self) -> dict[str, Shaped[Tensor, "..."]]:
        """Return name -> tensor for heads and supporting data."""
        return {**super().state(), **{f"support.{name}": tensor for name, tensor in self.support.items()}}

    def restore(self, state: dict[str, Shaped[Tensor, "..."]]) -> None:
        """Load the heads and the supporting data in `state`."""
        super().restore(state)
        prefix = "support."
        support = {name.removeprefix(prefix): state[name] for name in state if name.startswith(prefix)}
        self.support = support_on(self.device, support)

    def _embed(self, samples: Samples) -> Float[Tensor, "n v d"]:
        """Return the embeddings of samples, for supporting data. A user may have replaced the attribute `views`."""
        views = self.bound.support_views if self.views is self.bound.views else self.views
        options = {"seed": self.seed, "batch_size": self.setup_batch_size, "label": self.objective.name}
        return embed_samples(self.engine, samples, views, by_content=True, **options)

    def _checked_support(self) -> Support:
        """Return the supporting data. Raises FungiError if the objective needs them and `setup` was not called."""
        if self.objective.needs_support and not self.support:
            raise FungiError(f"{type(self).__name__} has no supporting data yet: call setup(train_dataset) first.")
        return self.support


def _attribute(head: str) -> str:
    """Return the attribute name of a head. Student and teacher have the names of the published library."""
    return "projection_head" if head in ("head", "student") else f"{head}_projection"


@cache
def extractor_of(objective: type[Objective]) -> type[ObjectiveExtractor]:
    """Return the extractor class of an objective. Create the class, unless this module contains it."""
    for extractor in (DINOGradientsExtractor, SimCLRGradientsExtractor):
        if extractor.objective_type is objective:
            return extractor
    attributes = {"objective_type": objective, "__doc__": objective.__doc__, "__module__": "fungi.gradients"}
    return type(f"{objective.__name__}GradientsExtractor", (ObjectiveExtractor,), attributes)


class DINOGradientsExtractor(ObjectiveExtractor):
    """Extractor of DINO: cross-entropy of crops between two random heads (spec vision 4.2).

    teacher_projection: the head of the teacher.
    """

    objective_type = DINO
    teacher_projection: nn.Module

    def loss_inputs(self, encoded: Encoded) -> dict[str, Any]:
        """Return the latents of the teacher for the global crops."""
        teacher_latents = self.objective.teacher_latents(encoded.pooled, self.teacher_projection)
        return {"teacher_latents": teacher_latents.flatten(0, 1)}

    def compute_loss(  # type: ignore[override]  # published signature: loss_inputs returns the additional argument
        self, latents: Float[Tensor, "m l"], views_per_sample: int, teacher_latents: Float[Tensor, "a l"], **kwargs: Any
    ) -> Float[Tensor, " b"]:
        """Return the cross-entropy per sample. Axis a: the global crops of all samples, b * 2."""
        student = latents.unflatten(0, (-1, views_per_sample))
        return self.objective.distillation(student, teacher_latents.unflatten(0, (len(student), -1)))


class SimCLRGradientsExtractor(ObjectiveExtractor):
    """Extractor of SimCLR: InfoNCE of patches with a constant batch of negatives (spec vision 4.3).

    The arguments have their published names; `SimCLRConfig` explains them.
    """

    objective_type = SimCLR

    def __init__(
        self,
        *args: Any,
        comparison_batch_size: int = 256,
        comparison_batch_encoding_batch_size: int = 32,
        self_similarity_constant: float | None = None,
        num_patches: int = 4,
        stride_scale: int = 6,
        patch_side: int = 0,
        per_side: int = 0,
        view_size: int = 0,
        views: str = "patches",
        n_views: int = 0,
        hard_negatives: Sequence[Image.Image] = (),
        mixing_k: int = 20,
        **kwargs: Any,
    ) -> None:
        if isqrt(max(num_patches, 0)) ** 2 != num_patches or not num_patches:
            raise FungiError(f"num_patches {num_patches} is not a square number. Use 4, 9, 16, ...")
        grid_options = {"grid": isqrt(num_patches), "stride_scale": stride_scale}
        options = grid_options if views == "patches" else {"n_views": n_views}
        sizes = {"patch_side": patch_side, "per_side": per_side, "view_size": view_size}
        options |= {name: size for name, size in sizes.items() if size}  # the view plan sets the sizes that are 0
        super().__init__(
            *args,
            negative_samples=comparison_batch_size,
            mixed_negatives=mixing_k,
            view_generator=views,
            **options,
            **kwargs,
        )
        self.setup_batch_size = comparison_batch_encoding_batch_size
        self.hard_negatives = [rgb(image, "a hard negative") for image in hard_negatives]

    def setup(self, dataset: Any) -> None:
        """Draw and encode the negatives. Hard negatives come first."""
        samples = as_samples(dataset)
        if self.hard_negatives:
            rows = tuple(range(len(samples), len(samples) + len(self.hard_negatives)))
            self.objective = replace(self.objective, hard_negatives=rows)
            samples = concatenated(samples, as_samples(self.hard_negatives))
        self.prepare_support(samples)

    @property
    def comparison_batch(self) -> Float[Tensor, "m l"] | None:
        """Outputs of the head for the negatives; None before `setup`."""
        return self.support.get("negatives")

    @comparison_batch.setter
    def comparison_batch(self, negatives: Float[Tensor, "m l"]) -> None:
        self.support = {**self.support, "negatives": negatives.to(self.device)}
