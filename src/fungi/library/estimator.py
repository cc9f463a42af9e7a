"""A transformer of scikit-learn that computes FUNGI features.

Example: make_pipeline(FungiTransformer(model, "blocks.11.attn.proj"), KNeighborsClassifier(20))
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Shaped
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from fungi.config import KLConfig
from fungi.errors import FungiError
from fungi.wrapper import FUNGIWrapper


class FungiTransformer(TransformerMixin, BaseEstimator):
    """A transformer from images to features `[n, f]`, float32.

    model, target_layer, input_dim, extractor_configs, include_embeddings, image_input, seed: as for `FUNGIWrapper`. If
        extractor_configs is None, KL is the only objective.
    device: `cpu`, `cuda`, ...
    pca_dim: size of the features after a PCA; None for no PCA.
    batch_size, num_workers: as for `FUNGIWrapper.extract`.

    Images are a sequence of PIL images, or a uint8 array `[n, h, w, 3]` or `[n, h, w]`. `fit` draws the negatives of
    SimCLR and fits the PCA. After `fit`, the attribute `wrapper_` is the `FUNGIWrapper`.
    """

    def __init__(
        self,
        model: Any = None,
        target_layer: Any = "",
        *,
        device: Any = "cpu",
        input_dim: Any = 224,
        extractor_configs: Any = None,
        include_embeddings: Any = True,
        image_input: Any = None,
        pca_dim: Any = None,
        batch_size: Any = 64,
        num_workers: Any = -1,
        seed: Any = 42,
    ) -> None:
        self.model = model
        self.target_layer = target_layer
        self.device = device
        self.input_dim = input_dim
        self.extractor_configs = extractor_configs
        self.include_embeddings = include_embeddings
        self.image_input = image_input
        self.pca_dim = pca_dim
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed

    def fit(self, X: Any, y: Any = None) -> "FungiTransformer":
        """Draw the negatives of the objectives and fit the PCA on training images. Labels are not used."""
        images = as_images(X)
        self.wrapper_ = FUNGIWrapper(
            self.model,
            self.target_layer,
            torch.device(self.device),
            input_dim=self.input_dim,
            extractor_configs=[KLConfig()] if self.extractor_configs is None else self.extractor_configs,
            include_embeddings=self.include_embeddings,
            image_input=self.image_input,
            seed=self.seed,
        )
        self.wrapper_.setup(images)
        if self.pca_dim is not None:
            self.wrapper_.fit_pca(images, self.pca_dim, batch_size=self.batch_size, num_workers=self.num_workers)
        return self

    def transform(self, X: Any) -> Float32[np.ndarray, "n f"]:
        """Return the features of images. Raises NotFittedError before `fit`."""
        check_is_fitted(self)
        features = self.wrapper_.extract(as_images(X), batch_size=self.batch_size, num_workers=self.num_workers)
        return features.numpy()

    def get_feature_names_out(self, input_features: Any = None) -> Shaped[np.ndarray, " f"]:
        """Return the names of the entries: `embeddings_0`, ..., `kl_0`, ..., or `pca_0`, ... after a PCA."""
        check_is_fitted(self)
        reduction = self.wrapper_.reduction
        sizes = self.wrapper_.parts if reduction is None else {"pca": reduction.dim}
        return np.array([f"{part}_{index}" for part, size in sizes.items() for index in range(size)], dtype=object)

    def __sklearn_tags__(self) -> Any:
        """Return scikit-learn's tags: the input is images, not tables, and features are always float32."""
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.transformer_tags.preserves_dtype = []
        tags.no_validation = True
        return tags


def as_images(X: Any) -> Sequence[Any]:
    """Return the images of an array as PIL images; a sequence of images is returned unchanged."""
    from PIL import Image

    if not isinstance(X, np.ndarray) or X.dtype == object:
        return X
    if X.dtype != np.uint8 or X.ndim not in (3, 4):
        raise FungiError(
            f"an array of {X.dtype} with {X.ndim} axes does not contain images. Pass uint8 [n, h, w, 3] or [n, h, w], "
            "or a list of PIL images."
        )
    return [Image.fromarray(np.ascontiguousarray(image)) for image in X]
