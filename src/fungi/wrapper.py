"""`FUNGIWrapper`: FUNGI features of any model.

    fungi = FUNGIWrapper(model, "blocks.11.attn.proj", device, extractor_configs=[KLConfig(), DINOConfig()])
    fungi.setup(train_dataset)
    features = fungi([image, ...])

The wrapper uses the same engine as the commands, so the features are the same. See docs/library.md.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from fungi.combine.pca import Reduction
from fungi.combine.source import l2_normalized
from fungi.data.base import Samples
from fungi.errors import FungiError
from fungi.gradients.assembly import EngineSettings, assemble_engine, embedding_dim_of
from fungi.gradients.base_extractor import BaseGradientExtractor
from fungi.gradients.core import Feature, FiniteCheck, compute, embedding_feature
from fungi.gradients.engine import GradientEngine
from fungi.library.arguments import (
    checked_configs,
    checked_device,
    checked_features,
    checked_half_dtype,
    checked_image_input,
    checked_images,
    checked_layers,
    checked_model,
    checked_projection,
    checked_views,
    checked_whole_number,
    warn_of_class_scores,
    without_parallel,
)
from fungi.library.collection import decoding_workers, fit_reduction, log_cost, objective_name
from fungi.library.dense import DenseFeatures, dense_extractor, support_from_bank, support_from_images
from fungi.library.independence import check_independence as check_extractor
from fungi.library.saving import load_wrapper, save_wrapper
from fungi.objectives import EMBEDDINGS
from fungi.runtime.compiled_code import share_compiled_code, user_folder
from fungi.runtime.device import default_torch_settings
from fungi.runtime.log import logger, progress
from fungi.views.base import ViewGenerator
from fungi.views.image import ImageInput
from fungi.views.image_sets import as_samples, rgb
from fungi.views.loading import Batch, batch_of_images, batches, row_batches
from fungi.views.plans import PUBLISHED


class FUNGIWrapper:
    """Extract the FUNGI features of images with one model.

    model: any module that maps images `[b, 3, input_dim, input_dim]` to embeddings `[b, d]`. It is moved to `device`
        and not changed otherwise; several wrappers may share it.
    target_layer: path to a linear or convolution layer, `blocks.11.attn.proj`, or to a part of a fused qkv layer,
        `blocks.11.attn.qkv[v]`. With several paths, the gradients of the layers are concatenated.
    device: device of the model and of the features.
    projection: matrix `[p, G]` with entries +1/-1 in any dtype (G: size of the flattened gradient), or a dict from
        layer name to matrix for layers of different sizes. With None, a binary matrix with p = d is drawn from `seed`,
        as in the commands. The name of another kind (`khatri-rao`) draws a matrix of this kind.
    input_dim: side of the model's input in pixels.
    use_fp16, fp16_dtype: whether the model computes in half precision, and the dtype of half precision.
    extractor_configs: the objectives, in the order of the features.

    Keyword arguments that the published library does not have:

    include_embeddings: whether to put the L2-normalised embedding before the gradients. The embedding shares its
        forward pass with KL.
    seed: seed of heads, projection, negatives and views.
    image_input: resizing and statistics; by default, the values of the timm model, or of ImageNet for other models.
    views_per_forward: number of views per forward pass; 0: choose it by the device.
    bias: whether to append the gradient of the layer's bias.
    views: `published` enlarges crops to `input_dim`; `native` does not enlarge crops, for a quarter of the forward
        passes; `budget` also uses fewer crops, for a seventh of the forward passes.
    compile: whether to compile the layers before the target layer with torch.compile. The first batch takes tens of
        seconds, and later batches are faster. Code for a GPU is stored in $TORCHINDUCTOR_CACHE_DIR or
        ~/.cache/fungi/compiled.

    Raises FungiError, which is a ValueError, for invalid arguments.
    """

    @default_torch_settings()
    def __init__(
        self,
        model: Any,
        target_layer: Any,
        device: Any,
        projection: Any = None,
        input_dim: int = 224,
        use_fp16: bool = False,
        fp16_dtype: torch.dtype = torch.bfloat16,
        extractor_configs: Any = (),
        *,
        include_embeddings: bool = False,
        seed: int = 42,
        image_input: ImageInput | None = None,
        views_per_forward: int = 0,
        bias: bool = True,
        views: Any = PUBLISHED,
        compile: bool = False,
    ) -> None:
        self.extractor_configs = checked_configs(extractor_configs)
        if not self.extractor_configs and not include_embeddings:
            raise FungiError("no objective is given. Pass extractor_configs=[KLConfig(), ...].")
        self.device, self.seed = checked_device(device), checked_whole_number("seed", seed, 0)
        model, prefix = without_parallel(checked_model(model))
        self.layers = tuple(layer.removeprefix(prefix) for layer in checked_layers(target_layer))
        self.model = model.to(self.device)
        self.dtype = checked_half_dtype(fp16_dtype) if use_fp16 else torch.float32
        self.image_input = checked_image_input(image_input, model, input_dim)
        self.include_embeddings, self.bias = include_embeddings, bias
        self.views_per_forward = checked_whole_number("views_per_forward", views_per_forward, 0)
        self.views = checked_views(views)
        self.reduction: Reduction | None = None
        black_image = torch.zeros(1, 3, input_dim, input_dim, device=self.device)
        self.embeddings_dim = embedding_dim_of(self.model, self.layers, black_image)
        warn_of_class_scores(self.model, self.embeddings_dim)
        projection = checked_projection(projection)
        settings = EngineSettings(self.device, self.dtype, projection, seed, views_per_forward, bias)
        self.engine = assemble_engine(self.model, self.layers, self.embeddings_dim, settings)
        self.base_params = {
            "model": self.model,
            "target_layer": self.layers[0] if isinstance(target_layer, str) else self.layers,
            "device": self.device,
            "projection": projection,
            "projection_scaling": None,
            "embeddings_dim": self.embeddings_dim,
            "input_dim": input_dim,
            "use_fp16": use_fp16,
            "fp16_dtype": fp16_dtype,
            "seed": seed,
            "image_input": self.image_input,
        }
        if views != PUBLISHED:  # extractors of users may not have this attribute
            self.base_params["view_plan"] = views
        self.extractors: list[BaseGradientExtractor] = [self._extractor_of(config) for config in self.extractor_configs]
        self._dense: DenseFeatures | None = None
        if compile:
            share_compiled_code(user_folder(), self.device)
            for engine in {id(feature.engine): feature.engine for feature in self._computed_features}.values():
                engine.compile()

    def _extractor_of(self, config: Any) -> BaseGradientExtractor:
        """Return the extractor of a configuration. All extractors share one engine and one projection matrix."""
        extractor: BaseGradientExtractor = config.get_extractor(base_params=dict(self.base_params))
        extractor.engine = self.engine.with_encoder(extractor.encoder)
        return extractor

    def __repr__(self) -> str:
        parts = ", ".join(f"{name} {size}" for name, size in self.parts.items())
        layers = ", ".join(self.layers)
        return f"FUNGIWrapper({type(self.model).__name__} at {layers} on {self.device}: {parts})"

    @default_torch_settings()
    def setup(self, dataset: Any, *, check_independence: bool = False) -> None:
        """Draw the negatives and prototypes of the objectives. Call this method before the extraction.

        dataset: training images, items (PIL image, label). Only the drawn images are read.
        check_independence: whether to check that the gradient of an image does not depend on the batch.

        Raises FungiError with the name of the extractor if the check fails.
        """
        for extractor in self.extractors:
            logger.info(f"setting up {type(extractor).__name__.removesuffix('GradientsExtractor')}")
            extractor.setup(dataset=dataset)
        if check_independence:
            samples = as_samples(dataset)
            for extractor in self.extractors:
                check_extractor(extractor, [samples.load(row) for row in range(min(3, len(samples)))])

    @default_torch_settings()
    def forward(self, images: Any) -> Float[Tensor, "b f"]:
        """Return the features of a list of PIL images, float32 on the device.

        A feature concatenates the embedding (if included) and one part per objective and layer, each L2-normalised:
        f = p * objectives (+ d). After `fit_pca`, f = r. A feature depends only on its image, not on the batch.
        """
        pictures = [rgb(image, f"image {index}") for index, image in enumerate(checked_images(images))]
        return self._features(batch_of_images(pictures, self._generators(), seed=self.seed))

    __call__ = forward

    @default_torch_settings()
    def extract(self, dataset: Any, *, batch_size: Any = 64, num_workers: Any = -1) -> Float[Tensor, "n f"]:
        """Return the features of a collection, in order, on the CPU. `forward` returns the same features.

        dataset: collection whose items are PIL images, pairs (image, label), or dicts with an `image`.
        num_workers: number of processes that decode and crop; -1: none on a CPU, and the number of cores less one on a
            GPU.
        """
        return torch.cat(list(self.batches(as_samples(dataset), batch_size, num_workers)))

    def batches(self, samples: Samples, batch_size: Any, num_workers: Any = -1) -> Iterator[Float[Tensor, "b f"]]:
        """Yield the features of each batch, on the CPU. The other arguments are those of `extract`."""
        checked_whole_number("batch_size", batch_size, 1)
        checked_whole_number("num_workers", num_workers, -1)
        rows = row_batches(0, len(samples), batch_size)
        loaded = batches(
            samples,
            self._generators(),
            rows,
            seed=self.seed,
            num_workers=decoding_workers(num_workers, self.device, len(rows)),
            pin_memory=self.device.type == "cuda",
            by_content=True,
        )
        start = perf_counter()
        for index, batch in enumerate(progress(loaded, list(map(len, rows)), label="features")):
            features = self._features(batch).cpu()
            if index == 0:
                log_cost(len(samples), features, perf_counter() - start)
            yield features

    @default_torch_settings()
    def fit_pca(self, data: Any, dim: Any, *, batch_size: Any = 64, num_workers: Any = -1) -> None:
        """Fit a PCA (centred, not whitened). Later features are reduced to `dim`.

        data: features `[n, f]` of training images, or the training images.

        If `dim` is at least n or at least f, the PCA is skipped with a log message (spec vision 9.1).
        """
        checked_whole_number("dim", dim, 1)
        features = checked_features(data) if isinstance(data, Tensor | np.ndarray) else None
        width = sum(self.parts.values())
        if features is not None and features.shape[1] != width:
            raise FungiError(
                f"this wrapper has features of size {width} before the PCA, but `data` has size {features.shape[1]}."
            )
        self.reduction = None
        if features is None:
            features = self.extract(data, batch_size=batch_size, num_workers=num_workers)
        self.reduction = fit_reduction(features, dim, self.device)

    @default_torch_settings()
    def setup_dense(self, dataset: Any = None, *, bank: str | Path | None = None, batch_size: int = 8) -> None:
        """Set the bank of negatives for `dense`. Pass either `dataset` or `bank`.

        dataset: training images; their patches are kept in memory. bank: folder of a bank of embeddings that `fungi
        segment` wrote (below `<root>/banks`). Raises FungiError for a model without patch tokens.
        """
        extractor = dense_extractor(self.engine, self.image_input, self.seed)
        if (dataset is None) == (bank is None):
            raise FungiError("setup_dense takes training images or the folder of a bank. Pass one of them.")
        if bank is not None:
            support = support_from_bank(extractor, Path(bank))
        else:
            support = support_from_images(extractor, as_samples(dataset), batch_size)
        self._dense = DenseFeatures(extractor, support)

    @default_torch_settings()
    def dense(self, images: Sequence[Any]) -> Float[Tensor, "b t f"]:
        """Return the features of the patches of PIL images, `[b t 2d]` float32 on the device, in row-major order.

        The feature of a patch is `normalise(cat[token, gradient])`, with both parts L2-normalised. The gradient is the
        term of the patch in SimCLR's gradient at the first target layer (spec dense 4). Images are resized to
        `input_dim` x `input_dim`, without regard to their aspect ratio. `fungi segment` gives the same values for the
        same model, projection, seed and bank.
        """
        if self._dense is None:
            raise FungiError("call setup_dense(training images) before dense(images).")
        return self._dense([rgb(image, f"image {index}") for index, image in enumerate(images)])

    def save(self, path: str | Path) -> None:
        """Save heads, negatives, projection, PCA and configuration to a folder. The model is not saved."""
        save_wrapper(self, Path(path))

    @classmethod
    @default_torch_settings()
    def load(
        cls, path: str | Path, model: nn.Module, device: torch.device | str, *, config_types: Sequence[type] = ()
    ) -> "FUNGIWrapper":
        """Load a saved wrapper for the same model. The loaded wrapper returns the same features.

        config_types: your own classes of configurations. Raises FungiError if the weights of the model differ.
        """
        return load_wrapper(cls, Path(path), model, device, config_types)

    @property
    def parts(self) -> dict[str, int]:
        """Name -> size of the parts of a feature, in order and before a PCA.

        A part has the name of its objective (`kl`, `dino`; `kl-2` for a second KL), followed by its layer if there are
        several layers (`kl.blocks_0_attn_proj`).
        """
        sizes = {"embeddings": self.embeddings_dim} if self.include_embeddings else {}
        objectives = [objective_name(extractor) for extractor in self.extractors]
        for index, objective in enumerate(objectives):
            earlier = objectives[:index].count(objective)
            part = f"{objective}-{earlier + 1}" if earlier else objective
            for layer, projector in self.engine.projectors.items():
                name = part if len(self.engine.projectors) == 1 else f"{part}.{layer}"
                sizes[name] = projector.matrix.projection_dim
        return sizes

    @cached_property
    def _computed_features(self) -> list[Feature]:
        """Features to compute. The name of a gradient feature is the index of its extractor."""
        gradients = [
            Feature(str(index), extractor.views, extractor.engine, extractor.loss)
            for index, extractor in enumerate(self.extractors)
        ]
        if not self.include_embeddings:
            return gradients
        float32_engine = GradientEngine(self.model, device=self.device, views_per_forward=self.views_per_forward)
        return [embedding_feature(float32_engine, self.engine, self.image_input.views("plain")), *gradients]

    def _generators(self) -> list[ViewGenerator]:
        """Return the view generators of the features, without duplicates."""
        return list({feature.views.identity: feature.views for feature in self._computed_features}.values())

    @default_torch_settings()
    def _features(self, batch: Batch) -> Float[Tensor, "b f"]:
        """Return the features of a batch of views. Raises FungiError if a feature is not finite."""
        arrays_of, check = compute(batch, self._computed_features), FiniteCheck()
        check.add(arrays_of)
        for name, rows in check.bad_rows().items():
            feature = name if name == EMBEDDINGS else f"the gradient of {type(self.extractors[int(name)]).__name__}"
            is_half = self.dtype == torch.float16
            advice = " Half precision may have overflowed: use bfloat16 or float32." if is_half else ""
            images = ", ".join(map(str, rows[:5]))
            raise FungiError(f"{feature} is not finite for images {images} of the batch.{advice}")
        parts = [l2_normalized(part) for arrays in arrays_of.values() for part in arrays.values()]
        features = torch.cat(parts, dim=1)
        return features if self.reduction is None else self.reduction({"features": features}, self.device)
