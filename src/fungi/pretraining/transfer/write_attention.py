"""`fungi udi attention-maps`: write pictures of the attention of class tokens (spec udi 7.7)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fungi.errors import FungiError, counted
from fungi.settings import setting

DESCRIPTION = """Write pictures of the attention of cls and cls+ to the patches of an image, one picture per head.

The image is --image FILE, or row --row of the first split of --dataset. With --threshold 0.6, the command also writes
the image with highlighted patches for each head: the patches that together have 60% of its attention."""


@dataclass(frozen=True, kw_only=True)
class AttentionSettings:
    """Flags of `fungi udi attention-maps`: image, network and output."""

    backbone: str = setting("udi-vits16", "backbone: a vision transformer of `fungi list backbones`", topic="model")
    checkpoint: Path | None = setting(
        None, "file with the weights", aliases=("--pretrained-weights", "--pretrained_weights"), topic="model"
    )
    image: Path | None = setting(None, "image file", aliases=("--image-path", "--image_path"))
    dataset: str = setting("patterns", "dataset of the image; not used with --image", topic="data")
    row: int = setting(0, "row of the image in the dataset", within=(0, 2**31))
    data_dir: Path = setting(Path("data"), "folder of the datasets", topic="data")
    image_size: int = setting(480, "side in pixels to which the image is resized", within=(1, 8192))
    threshold: float | None = setting(
        None, "share of the attention of a head; further pictures highlight the patches with this share", within=(0, 1)
    )
    output_dir: Path = setting(Path("attention"), "folder of the pictures", topic="files")


def run(settings: AttentionSettings) -> list[Path]:
    """Write the pictures, and return their paths."""
    import torch

    from fungi.backbones.loading import load_backbone
    from fungi.data.base import resolve_dataset
    from fungi.data.formats.image_files import decode
    from fungi.pretraining.tokens import require_known_tokens
    from fungi.pretraining.transfer.attention_maps import write_maps
    from fungi.views.pixels import as_pixels, normalize

    backbone = load_backbone(settings.backbone, checkpoint=settings.checkpoint)
    require_known_tokens(backbone.model, settings.backbone)
    if settings.image:
        picture = decode(settings.image, settings.image.name)
    else:
        dataset = resolve_dataset(settings.dataset, settings.data_dir)
        samples = dataset.open_split(dataset.splits[0], settings.data_dir)
        if settings.row >= len(samples):
            raise FungiError(f"--row {settings.row}: {settings.dataset!r} has {counted(len(samples), 'row')}, from 0.")
        picture = samples.load(settings.row)
    model: Any = backbone.model  # a VisionTransformer, as require_known_tokens checks
    patch = int(model.patch_embed.patch_size[0])
    side = max(settings.image_size // patch, 1) * patch
    picture = picture.resize((side, side))
    with torch.no_grad():
        image = normalize(as_pixels(picture)[None], backbone.input.statistics)
        return write_maps(settings.output_dir, backbone.model, picture, image, threshold=settings.threshold)


def show(settings: AttentionSettings, paths: list[Path]) -> None:
    """Print the number and the folder of the pictures."""
    print(f"wrote {counted(len(paths), 'picture')} to {settings.output_dir}")
