"""Settings of `fungi udi fine-tune`, and the published recipes (spec udi 7.3 to 7.5)."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fungi.errors import FungiError
from fungi.pretraining.transfer.encoder_settings import EncoderSettings
from fungi.settings import as_json, setting


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The values that differ between recipes; `fungi udi fine-tune --help` explains them."""

    epochs: int
    batch_size: int
    lr: float
    lr_images: int
    min_lr: float
    warmup_epochs: int
    layer_decay: float
    erasing: float
    repeats: int
    averaging: float
    classifier_scale: float
    head_layer: bool


RECIPES = {
    "imagenet": Recipe(
        epochs=200,
        batch_size=256,
        lr=1e-3,
        lr_images=0,
        min_lr=1e-6,
        warmup_epochs=20,
        layer_decay=0.55,
        erasing=0.25,
        repeats=1,
        averaging=0.0,
        classifier_scale=0.001,
        head_layer=False,
    ),
    "transfer": Recipe(
        epochs=1000,
        batch_size=96,
        lr=7.5e-6,
        lr_images=512,
        min_lr=1e-5,
        warmup_epochs=5,
        layer_decay=1.0,
        erasing=0.1,
        repeats=3,
        averaging=0.99996,
        classifier_scale=1.0,
        head_layer=False,
    ),
    "low-shot": Recipe(
        epochs=1000,
        batch_size=128,
        lr=5e-6,
        lr_images=512,
        min_lr=1e-5,
        warmup_epochs=5,
        layer_decay=1.0,
        erasing=0.25,
        repeats=1,
        averaging=0.99996,
        classifier_scale=1.0,
        head_layer=True,
    ),
}
"""Batch sizes are per process; the recipes were published for 4, 8 and 4 processes. The learning rate of `transfer` is
for CIFAR-100."""


@dataclass(frozen=True, kw_only=True)
class FineTuneSettings(EncoderSettings):
    """Settings of network, images and recipe. A setting that is None takes the value of the recipe."""

    output_dir: Path = setting(
        Path("fine-tuning"), "folder of checkpoint, log and result; a run in this folder resumes", topic="files"
    )
    recipe: Literal["imagenet", "transfer", "low-shot"] = setting(
        "imagenet", "published recipe with the values of absent flags"
    )
    epochs: int | None = setting(None, "number of passes over the images", within=(1, 10**6))
    batch_size: int | None = setting(
        None,
        "number of images per step and process",
        within=(1, 65536),
        aliases=("--batch-size-per-gpu",),
        topic="machine",
    )
    lr: float | None = setting(None, "peak learning rate of the last layer", within=(0, 100))
    lr_images: int | None = setting(
        None,
        "batch size for which --lr is meant; the rate is proportional to the batch size; 0: --lr is not changed",
        within=(0, 10**6),
    )
    min_lr: float | None = setting(None, "last learning rate; never above the peak", within=(0, 100))
    warmup_epochs: int | None = setting(
        None, "number of epochs in which the learning rate rises to its peak", within=(0, 10**6)
    )
    layer_decay: float | None = setting(
        None, "ratio of the learning rates of a layer and of the next layer", within=(0, 1)
    )
    weight_decay: float = setting(0.05, "weight decay of matrices and of the patch embedding", within=(0, 10))
    drop_path: float = setting(0.1, "stochastic depth: share of dropped branches in the last block", within=(0, 0.99))
    mixup: float = setting(0.8, "alpha of mixup; 0 turns it off", within=(0, 100))
    cutmix: float = setting(1.0, "alpha of cutmix; 0 turns it off", within=(0, 100))
    smoothing: float = setting(0.1, "label smoothing", within=(0, 0.99))
    erasing: float | None = setting(None, "probability of random erasing", within=(0, 1))
    repeats: int | None = setting(
        None, "number of augmented views of each image in a batch (repeated augmentation)", within=(1, 100)
    )
    averaging: float | None = setting(
        None, "momentum of the moving average of the weights, which is also scored; 0 turns it off", within=(0, 1)
    )
    classifier_scale: float | None = setting(None, "factor of the classifier's initial weights", within=(0, 100))
    head_layer: bool | None = setting(None, "put the classifier above the first layer of the pretraining head")
    dtype: Literal["auto", "float32", "bfloat16"] = setting(
        "auto", "compute dtype: auto (bfloat16 on a GPU, float32 on a CPU), float32, bfloat16", topic="machine"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        batch, repeats = self.recipe_with_flags.batch_size, self.recipe_with_flags.repeats
        if batch % repeats:
            raise FungiError(f"--batch-size {batch} is not a multiple of --repeats {repeats}.")
        if (self.mixup or self.cutmix) and batch % 2:
            raise FungiError(f"--batch-size {batch} is odd: mixup and cutmix mix pairs of images.")

    @property
    def recipe_with_flags(self) -> Recipe:
        """The values of the recipe. If a flag is set, its value replaces the value of the recipe."""
        recipe = RECIPES[self.recipe]
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(recipe)}
        return dataclasses.replace(recipe, **{name: value for name, value in values.items() if value is not None})

    def with_recipe(self) -> dict[str, Any]:
        """Return all settings, with the values of the recipe for absent flags, as plain JSON values."""
        return as_json(self) | dataclasses.asdict(self.recipe_with_flags)

    def identity(self) -> dict[str, Any]:
        """Return the settings that determine the numbers of a run."""
        irrelevant = {"output_dir", "data_dir", "num_workers", "device"}
        return {name: value for name, value in self.with_recipe().items() if name not in irrelevant}
