"""One run of in-context segmentation: load images and model, fill the banks, score the test images."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from fungi.data.base import VOID, DatasetSpec, MaskRules, Samples, resolve_dataset
from fungi.errors import FungiError, counted
from fungi.evaluators.segmentation import matched_miou, segmentation_scores
from fungi.extraction.context import StageContext, resolve_context
from fungi.extraction.features import find_layers, find_matrix
from fungi.extraction.gradient_settings import GradientSettings
from fungi.gradients.khatri_rao import make_projector
from fungi.gradients.projection import ProjectionMatrix, product_dtype
from fungi.gradients.targets import Target
from fungi.results.result_file import Scores
from fungi.runtime.log import logger, progress
from fungi.search import Backend
from fungi.search.backends import Search
from fungi.search.libraries import TreeSettings
from fungi.search.neighbours import recall
from fungi.search.stored import DATA_EFFICIENT_TREE, BankSearch, require_rows
from fungi.segmentation.dense import (
    DenseExtractor,
    DenseLoss,
    Feature,
    Support,
    grid_of,
    set_input_size,
    token_settings,
)
from fungi.segmentation.image_blocks import ImageBlock, Reader, image_blocks, subset_rows
from fungi.segmentation.memory_bank import (
    DATA_EFFICIENT_BANK_ROWS,
    PatchFeatures,
    bank_ends,
    fill_bank,
    patches_per_view,
)
from fungi.segmentation.scoring import Predictor, confusion_matrix
from fungi.segmentation.settings import SegmentSettings
from fungi.store.banks import Bank, BankManifest, Patches
from fungi.store.layout import Layout
from fungi.views.image import IMAGENET, Triple
from fungi.views.scenes import AugmentedSceneView, SceneView, as_scenes

STATISTICS_TYPO: tuple[Triple, Triple] = (IMAGENET[0], (*IMAGENET[1][:2], 0.255))
"""Mean and standard deviation in the published code, which has 0.255 instead of 0.225."""
RECALL_IMAGES = 2
"""Number of test images on which the recall of an approximate search is measured."""
_BLOCKS_PER_SEARCH = 4
"""Number of blocks of test images that are searched together in a bank on disk."""


@dataclass(frozen=True)
class Segmentation:
    """One run: settings, images, extractor and projection matrix. Its methods fill banks and compute scores.

    context: dataset, model and device. target: gradient source of the model.
    train, test: images of the bank, and images to score. size: side in pixels to which images are resized.
    """

    settings: SegmentSettings
    context: StageContext
    extractor: DenseExtractor
    target: Target
    matrix: ProjectionMatrix
    train: Samples
    test: Samples
    size: int

    @property
    def rules(self) -> MaskRules:
        """The meaning of the values of the masks."""
        assert self.context.dataset.masks is not None
        return self.context.dataset.masks

    @property
    def patches(self) -> int:
        """The number of patches per image."""
        return grid_of(self.context.backbone.model) ** 2

    def reader(self, samples: Samples) -> Reader:
        """Return a reader of the scenes of a split."""
        settings, cuda = self.settings, self.context.device.type == "cuda"
        scenes = as_scenes(samples)
        return Reader(scenes, settings.seed, settings.batch_size, self.context.num_workers, pin_memory=cuda)

    def training_blocks(self) -> list[ImageBlock]:
        """Return the blocks of training images: one view without augmentation, or one augmented view per epoch."""
        view, epochs = self.extractor.views, range(self.settings.numbers.augmentation_epochs)
        augmented = [
            AugmentedSceneView(size=view.size, statistics=view.statistics, seed=view.seed, epoch=epoch)
            for epoch in epochs
        ]
        return image_blocks(len(self.train), augmented or [view], self.settings.block_size)

    def features(self, feature: Feature, support: Support | None) -> PatchFeatures:
        """Return a function from a batch to the features of its images."""

        def batch_features(batch: dict[str, Any]) -> Float[Tensor, "b t f"]:
            return self.extractor.features(feature, batch["image"], batch["draw_seed"], support, batch["id"])

        return batch_features

    def bank(self, feature: Feature, support: Support | None) -> Bank:
        """Return the bank of a feature, after its missing blocks are computed.

        The key of the support bank is part of the identity of the bank.
        """
        blocks = self.training_blocks()
        embedding_dim, gradient_dim = self.context.backbone.spec.embedding_dim, self.matrix.projection_dim
        dims = {"embeddings": embedding_dim, "simclr": gradient_dim, "embeddings+simclr": embedding_dim + gradient_dim}
        manifest = BankManifest(
            dim=dims[feature],
            classes=len(self.train.class_names),
            dtype=self.settings.storage,
            ends=self.ends(),
            provenance=self._provenance(feature, support),
        )
        folder = Layout(self.settings.root).bank(
            self.context.dataset.name, self.context.backbone.spec.name, f"{feature}-{manifest.key}"
        )
        bank = Bank.create(folder, manifest)
        if bank.missing():
            features = self.features(feature, support)
            fill_bank(bank, self.reader(self.train), blocks, self.view_patches(), self.rules, features)
            views = sum(len(block.rows) for block in blocks)
            print(f"wrote {folder}: {counted(bank.rows, 'patch')} of {counted(views, 'view')}")
        return bank

    def view_patches(self) -> int:
        """Return the number of patches per view that a bank keeps."""
        views = sum(len(block.rows) for block in self.training_blocks())
        return patches_per_view(self.settings.numbers.memory_size, views, self.patches)

    def ends(self) -> tuple[int, ...]:
        """Return the number of rows of a bank after each block. The numbers are the same for all features."""
        settings = self.settings
        memory_size = settings.numbers.memory_size or (0 if settings.images is None else DATA_EFFICIENT_BANK_ROWS)
        return bank_ends(
            self.training_blocks(), self.view_patches(), memory_size, zero_rows=settings.deviations.zero_rows
        )

    def check_inputs(self) -> None:
        """Check the bank size and the masks of the scored split before any computation.

        Raises FungiError for a bank with too few patches, an invalid mask, or masks that contain only one class.
        """
        *_, bank_rows = self.ends()
        require_rows(bank_rows, max(self.settings.numbers.neighbours, self.extractor.loss.neighbours))
        scenes = as_scenes(self.test)
        pixels = np.zeros(VOID + 1, dtype=np.int64)
        for scene in progress(map(scenes.load, range(len(scenes))), [1] * len(scenes), label="masks"):
            pixels += np.bincount(scene.mask.reshape(-1), minlength=VOID + 1)
        present = [value for value in np.flatnonzero(pixels).tolist() if value not in (VOID, self.rules.ignored)]
        if len(present) < 2:
            classes = f"only class {present[0]}" if present else "no class"
            raise FungiError(
                f"the masks of split {self.settings.split} contain {classes} (value {VOID} is void), so every score"
                " would be perfect. Write the class number of each pixel, from 0 on."
            )

    def search(self, bank: Patches, k: int, tree: TreeSettings, *, exact: bool = False) -> BankSearch:
        """Return the search in a bank with the back-end of the settings, or the exact search."""
        settings = self.settings
        backend = "exact" if exact else cast(Backend, settings.search)
        device = self.context.device
        search = BankSearch(bank, device, backend, k=k, tree=tree, tile_bytes=settings.search_bytes(device))
        if not search.is_in_memory:
            bytes_per_number = 4  # float32
            size = bank.rows * bank.dim * bytes_per_number / 2**30
            logger.info(
                "a bank of %.2f GB does not fit into --memory-gb, so every search reads it again; a larger --block-size"
                " searches for more images at once",
                size,
            )
        return search

    @cached_property
    def support(self) -> Support:
        """The bank of embeddings of the training images, and its search. The negatives come from this bank."""
        bank, k = self.bank("embeddings", None), self.extractor.loss.neighbours
        # The index of the support bank always has the tree of the full setting (spec dense 4.1).
        return Support(bank, self.search(bank, k, TreeSettings()))

    def predictor(self, feature: Feature) -> tuple[PatchFeatures, Predictor]:
        """Fill the banks. Return the function from a batch to its features, and the predictor of classes."""
        numbers = self.settings.numbers
        support = None if feature == "embeddings" else self.support
        bank = self.bank(feature, support)
        cell = (self.size * self.size) // self.patches
        excluded = () if self.settings.predict_unscored else self.rules.unscored
        tree = TreeSettings() if self.settings.images is None else DATA_EFFICIENT_TREE
        search = self.search(bank, numbers.neighbours, tree)
        predictor = Predictor(bank, search, numbers.neighbours, numbers.temperature, self.size, cell, excluded)
        return self.features(feature, support), predictor

    def score(self, feature: Feature) -> Scores:
        """Return the scores of the test images."""
        settings = self.settings
        features, predictor = self.predictor(feature)
        is_in_memory = getattr(predictor.search, "is_in_memory", True)
        # Larger blocks need fewer passes over a bank on disk.
        size = settings.block_size * (1 if is_in_memory else _BLOCKS_PER_SEARCH)
        blocks = image_blocks(len(self.test), [self.extractor.views], size)
        folder = predictor.bank.folder / f"scores-{self._key(predictor.excluded, size)}"
        reader = self.reader(self.test)
        matrix = confusion_matrix(folder, reader, blocks, features, predictor, self.rules)
        scores = segmentation_scores(matrix, self.rules.unscored)
        if settings.deviations.class_matching:
            scores["matched-mIoU"] = matched_miou(matrix, self.rules.unscored)
        if settings.search != "exact":
            scores |= self._recalls(feature, reader, features, predictor)
        return scores

    def _recalls(self, feature: Feature, reader: Reader, features: PatchFeatures, predictor: Predictor) -> Scores:
        """Return the recall of the back-end against exact search, measured on a few test images.

        `recall` is measured on the bank of the feature. For gradients, `recall-of-negatives` is measured on the support
        bank.
        """
        block = ImageBlock(0, range(min(RECALL_IMAGES, len(self.test))), self.extractor.views)
        (_, block_batches), *_ = reader.read([block])
        batches, extractor = list(block_batches), self.extractor
        queries = torch.cat([features(batch).flatten(0, 1) for batch in batches])
        recalls = {"recall": self._recall(predictor.bank, predictor.search, queries, predictor.neighbours)}
        if feature != "embeddings":
            encoded = [extractor.engine.encode(batch["image"], extractor.views) for batch in batches]
            tokens = torch.cat([part.tokens.flatten(0, 2) for part in encoded])  # [b 1 1+t d] -> [n d]
            recalls["recall-of-negatives"] = self._recall(
                self.support.bank, self.support.search, normalize(tokens, dim=1), extractor.loss.neighbours
            )
        return recalls

    def _recall(self, bank: Patches, search: Search, queries: Float[Tensor, "q d"], k: int) -> float:
        """Return the share of the exact k nearest rows of a bank that a search retrieves."""
        exact = self.search(bank, k, TreeSettings(), exact=True)
        (_, rows), (_, exact_rows) = search(queries, k), exact(queries, k)
        return recall(rows, exact_rows)

    def _provenance(self, feature: str, support: Support | None) -> dict[str, Any]:
        """Return the provenance of a bank: all settings and hashes that decide its content."""
        settings = self.settings
        provenance = self.context.base_provenance("train", self.train) | {
            "images": list(self.train.ids),
            "views": [repr(view) for view in dict.fromkeys(block.view for block in self.training_blocks())],
            "feature": feature,
            "dtype": str(self.context.dtype),
            **token_settings(self.extractor, self.settings.profile),
        }
        if support is not None:
            assert isinstance(support.bank, Bank)
            provenance |= {
                "support": support.bank.manifest.key,
                "support_search": settings.search,
                "layer": self.target.spec,
                "projection_hash": self.matrix.hash,
                "loss": repr(self.extractor.loss),
            }
        return provenance

    def _key(self, excluded: tuple[int, ...], size: int) -> str:
        """Return a hash of everything that determines the scores, except the bank."""
        settings = self.settings
        facts = [self.test.fingerprint(), settings.numbers.neighbours, settings.numbers.temperature, excluded]
        facts += [settings.search, size, repr(self.extractor.views)]
        return hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()[:16]


def prepare(settings: SegmentSettings) -> Segmentation:
    """Open the data, load the model, set its input size, and draw head and projection matrix.

    Raises FungiError if the dataset has no masks, or if the model does not support the input size.
    """
    dataset = _dataset_with_masks(settings)
    stage = GradientSettings(
        objective=("simclr",),
        projection_kind=settings.deviations.projection_kind,
        dataset=settings.dataset,
        backbone=settings.backbone,
        split=tuple(dict.fromkeys(("train", settings.split))),
        **{name: getattr(settings, name) for name in _STAGE_SETTINGS},
    )
    context = resolve_context(stage, uses_masks=True)
    size = settings.side
    model, deviations = context.backbone.model, settings.deviations
    # On the CPU, the resized position embedding is equal bit for bit to that of a wrapper's model.
    set_input_size(model.cpu(), size)
    model.to(context.device)
    (target,) = find_layers(context, (), bias=True)
    matrix = find_matrix(stage, context, target)
    statistics = context.backbone.input.statistics
    views = SceneView(
        size=size,
        statistics=STATISTICS_TYPO if deviations.std_typo and statistics == IMAGENET else statistics,
        seed=settings.seed,
    )
    extractor = DenseExtractor(
        model,
        target,
        make_projector(matrix, context.device, product_dtype(context.dtype)),
        views,
        device=context.device,
        dtype=context.dtype,
        loss=DenseLoss(
            denominator_temperature=deviations.denominator_temperature,
            neighbour_layout=deviations.neighbour_layout,
            normalise_tokens_before_head=settings.normalise_tokens_before_head,
        ),
        seed=settings.seed,
    )
    train = context.open_split("train")
    rows = subset_rows(dataset.name, len(train), settings.images, settings.seed)
    train, test = train.take(rows), context.open_split(settings.split)
    return Segmentation(settings, context, extractor, target, matrix, train, test, size)


_STAGE_SETTINGS = [
    *("root", "data_dir", "checkpoint", "checkpoint_key", "random_init", "profile"),
    *("device", "dtype", "num_workers", "seed"),
]
"""Names of the settings that segmentation and extraction share."""


def _dataset_with_masks(settings: SegmentSettings) -> DatasetSpec:
    """Return the dataset. Raises FungiError if it has no masks."""
    dataset = resolve_dataset(settings.dataset, settings.data_dir)
    if dataset.masks is None:
        raise FungiError(
            f"dataset {dataset.name!r} has no masks. Use digit-scenes, pascal-voc, ade20k, or your own dataset: "
            "NAME=masks:PATH."
        )
    return dataset
