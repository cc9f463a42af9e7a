"""`fungi udi propagate-labels`: video object segmentation on DAVIS-2017 by label propagation (spec udi 7.6)."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fungi.errors import FungiError, MissingFilesError
from fungi.runtime.log import progress
from fungi.settings import setting

if TYPE_CHECKING:
    from jaxtyping import Float
    from PIL import Image
    from torch import Tensor

DESCRIPTION = """Propagate the labels of the first frame of a video to its other frames, by the similarity of patches.

--davis is the folder of the unpacked DAVIS-2017: JPEGImages/480p/VIDEO/*.jpg, Annotations/480p/VIDEO/*.png, and the
names of the videos in ImageSets/2017/val.txt. The command writes --output-dir/VIDEO/*.png with the palette of the first
frame. Score these masks with the DAVIS toolkit."""


@dataclass(frozen=True, kw_only=True)
class PropagateSettings:
    """Flags of `fungi udi propagate-labels`: videos, network and the protocol of DINO."""

    davis: Path = setting(Path("data/DAVIS"), "folder of DAVIS-2017", aliases=("--data-path", "--data_path"))
    backbone: str = setting("udi-vits16", "backbone: a vision transformer of `fungi list backbones`", topic="model")
    checkpoint: Path | None = setting(
        None, "file with the weights", aliases=("--pretrained-weights", "--pretrained_weights"), topic="model"
    )
    output_dir: Path = setting(Path("davis"), "folder of the masks", topic="files")
    shorter_side: int = setting(480, "shorter side of the scaled frames, in pixels", within=(1, 4096))
    previous: int = setting(
        7, "number of previous frames that labels come from, in addition to the first frame", within=(0, 1000)
    )
    radius: int = setting(
        12, "largest distance, in patches, over which a label is propagated; 0: any distance", within=(0, 1000)
    )
    neighbours: int = setting(
        5,
        "number of most similar patches from which the label of a patch comes",
        flag="--k",
        aliases=("--neighbours",),
        within=(1, 10**4),
    )
    temperature: float = setting(0.1, "temperature of the similarities", within=(1e-4, 100))
    device: str = setting("auto", "auto, cpu, cuda or cuda:N", topic="machine")


def run(settings: PropagateSettings) -> list[Path]:
    """Propagate the labels of all videos, and return the paths of the masks."""
    from fungi.backbones.loading import load_backbone
    from fungi.pretraining.tokens import require_known_tokens
    from fungi.runtime.device import choose_device

    listing = settings.davis / "ImageSets" / "2017" / "val.txt"
    if not listing.is_file():
        raise MissingFilesError(f"--davis: there is no file {listing}. Unpack DAVIS-2017-trainval-480p there.")
    backbone = load_backbone(settings.backbone, checkpoint=settings.checkpoint)
    require_known_tokens(backbone.model, settings.backbone)
    backbone.model.to(choose_device(settings.device))
    paths: list[Path] = []
    for name in progress(listing.read_text(encoding="utf-8").split(), label="videos", unit="video"):
        paths += _segment(settings, backbone, name)
    return paths


def show(settings: PropagateSettings, paths: list[Path]) -> None:
    """Print the number and the folder of the masks."""
    print(f"wrote {len(paths)} masks to {settings.output_dir}")


def _segment(settings: PropagateSettings, backbone: Any, name: str) -> list[Path]:
    """Write the masks of one video, and return their paths."""
    import numpy as np
    import torch
    from PIL import Image

    from fungi.evaluators.label_propagation import neighbourhood, propagated_labels
    from fungi.pretraining.transfer.video_frames import mask_of, patch_labels

    frames = sorted((settings.davis / "JPEGImages" / "480p" / name).glob("*.jpg"))
    if not frames:
        raise MissingFilesError(f"--davis: video {name!r} has no frames. Unpack DAVIS-2017-trainval-480p again.")
    annotation = _open_annotation(settings.davis / "Annotations" / "480p" / name / f"{frames[0].stem}.png")
    mask = np.array(annotation)
    patch, paths = int(backbone.model.patch_embed.patch_size[0]), []
    first: tuple[Tensor, Tensor] | None = None  # tokens and labels of the first frame
    previous: deque[tuple[Tensor, Tensor]] = deque(maxlen=settings.previous)
    near_patches = None
    for frame, (tokens, grid) in zip(frames, _tokens(settings, backbone, frames), strict=True):
        if first is None:
            labels = patch_labels(annotation, grid, int(mask.max()) + 1).to(tokens.device)
            near_patches = neighbourhood(*grid, settings.radius)
            near_patches = None if near_patches is None else near_patches.to(tokens.device)
            first = tokens, labels
        else:
            # The pairs (tokens, labels) of the first frame and of the previous frames become two tensors.
            keys, key_labels = (torch.stack(tensors) for tensors in zip(first, *previous, strict=True))
            labels = propagated_labels(
                tokens,
                keys,
                key_labels,
                near_patches,
                temperature=settings.temperature,
                neighbours=settings.neighbours,
            )
            mask = mask_of(labels, grid, patch, annotation.size)
            previous.append((tokens, labels))
        picture = Image.fromarray(mask)
        picture.putpalette(annotation.getpalette() or [])
        path = settings.output_dir / name / f"{frame.stem}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
        paths.append(path)
    return paths


def _open_annotation(path: Path) -> "Image.Image":
    """Return a mask with one channel. Raises MissingFilesError without the file, FungiError for several channels."""
    from PIL import Image

    if not path.is_file():
        raise MissingFilesError(f"--davis: there is no file {path}. Unpack DAVIS-2017-trainval-480p again.")
    with Image.open(path) as annotation:
        annotation.load()
    if annotation.mode not in ("P", "L"):
        raise FungiError(f"{path} has mode {annotation.mode}, not numbers of objects (P or L). Unpack DAVIS again.")
    return annotation


def _tokens(
    settings: PropagateSettings, backbone: Any, frames: list[Path]
) -> "Iterator[tuple[Float[Tensor, 'n d'], tuple[int, int]]]":
    """Yield the patch tokens of each frame, after the final norm, and their grid (rows, columns)."""
    import torch

    from fungi.data.formats.image_files import decode
    from fungi.pretraining.tokens import last_blocks
    from fungi.pretraining.transfer.video_frames import frame_size, frame_statistics, scaled_frame
    from fungi.views.pixels import normalize

    model = backbone.model
    patch, device = int(model.patch_embed.patch_size[0]), next(model.parameters()).device
    statistics = frame_statistics(backbone.input.statistics)
    for path in frames:
        frame = decode(path, path.name)
        width, height = frame_size(frame.size, settings.shorter_side)
        pixels = normalize(scaled_frame(frame, (width, height)), statistics)
        with torch.no_grad():
            (tokens,) = last_blocks(model, pixels.to(device))  # [1 t d], with the class tokens
        yield tokens[0, model.num_prefix_tokens :], (height // patch, width // patch)
