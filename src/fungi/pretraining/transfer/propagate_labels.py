"""`fungi propagate-labels`: video object segmentation on DAVIS-2017 by label propagation (spec udi 7.6)."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fungi.errors import MissingFilesError
from fungi.runtime.log import progress
from fungi.settings import setting

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

DESCRIPTION = """Carry the objects of each video's first frame through its other frames, by the similarity of patches.

--davis is the unpacked DAVIS-2017: JPEGImages/480p/VIDEO/*.jpg, Annotations/480p/VIDEO/*.png, names of videos in
ImageSets/2017/val.txt. Writes --output-dir/VIDEO/*.png with the palette of the first frame; score them with the DAVIS
toolkit."""

MULTIPLE = 64


@dataclass(frozen=True, kw_only=True)
class PropagateSettings:
    """Which videos, which network, and DINO's protocol."""

    davis: Path = setting(Path("data/DAVIS"), "folder of DAVIS-2017", aliases=("--data-path", "--data_path"))
    backbone: str = setting("udi-vits16", "backbone: a vision transformer of `fungi list backbones`")
    checkpoint: Path | None = setting(None, "weights", aliases=("--pretrained-weights", "--pretrained_weights"))
    output_dir: Path = setting(Path("davis"), "folder of the masks")
    shorter_side: int = setting(480, "of the frames, in pixels", within=(1, 4096))
    previous: int = setting(7, "frames of context besides the first", within=(0, 1000))
    radius: int = setting(12, "patches that a label can travel between two frames", within=(0, 1000))
    neighbours: int = setting(5, "patches that a label comes from", within=(1, 10**4))
    temperature: float = setting(0.1, "of similarities", within=(1e-4, 100))
    device: str = setting("auto", "auto, cpu, cuda or cuda:N")


def run(settings: PropagateSettings) -> list[Path]:
    """The masks that were written."""
    from fungi.backbones.loading import load_backbone
    from fungi.pretraining.tokens import require_known_tokens
    from fungi.runtime.device import choose_device

    listing = settings.davis / "ImageSets" / "2017" / "val.txt"
    if not listing.is_file():
        raise MissingFilesError(f"--davis: there is no file {listing}. Unpack DAVIS-2017-trainval-480p there.")
    backbone = load_backbone(settings.backbone, checkpoint=settings.checkpoint)
    require_known_tokens(backbone.model, settings.backbone)
    backbone.model.to(choose_device(settings.device))
    written: list[Path] = []
    for name in progress(listing.read_text().split(), label="videos", unit="video"):
        written += _segment(settings, backbone, name)
    return written


def show(settings: PropagateSettings, made: list[Path]) -> None:
    """Where they are."""
    print(f"wrote {len(made)} masks to {settings.output_dir}")


def _segment(settings: PropagateSettings, backbone: Any, name: str) -> list[Path]:
    """The masks of one video."""
    import numpy as np
    import torch
    from PIL import Image

    from fungi.evaluators.label_propagation import neighbourhood, propagated

    frames = sorted((settings.davis / "JPEGImages" / "480p" / name).glob("*.jpg"))
    if not frames:
        raise MissingFilesError(f"--davis: video {name!r} has no frames. Unpack DAVIS-2017-trainval-480p again.")
    with Image.open(settings.davis / "Annotations" / "480p" / name / f"{frames[0].stem}.png") as first:
        palette, mask = first.getpalette(), torch.from_numpy(np.array(first)).long()
    count, written = int(mask.max()) + 1, []
    history: list[tuple[Tensor, Tensor]] = []
    for frame, (tokens, grid) in zip(frames, _tokens(settings, backbone, frames), strict=True):
        if not history:
            one_hot = torch.nn.functional.one_hot(mask, count).permute(2, 0, 1)[None].float()
            labels = torch.nn.functional.interpolate(one_hot, grid, mode="area").flatten(2)[0].T.to(tokens.device)
            near = neighbourhood(*grid, settings.radius).to(tokens.device)
            found = mask
        else:
            context = [history[0], *history[1:][-settings.previous :]] if settings.previous else history[:1]
            labels = propagated(
                tokens,
                torch.stack([one for one, _ in context]),
                torch.stack([one for _, one in context]),
                near,
                temperature=settings.temperature,
                neighbours=settings.neighbours,
            )
            shares = labels.T.unflatten(1, grid)[None]  # [1 k rows columns]
            found = torch.nn.functional.interpolate(shares, tuple(mask.shape), mode="bilinear")[0].argmax(0).cpu()
        history.append((tokens, labels))
        picture = Image.fromarray(found.numpy().astype(np.uint8), mode="P")
        picture.putpalette(palette or [])
        path = settings.output_dir / name / f"{frame.stem}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
        written.append(path)
    return written


def frame_size(size: tuple[int, int], shorter: int) -> tuple[int, int]:
    """The shorter side as asked; the other in proportion, down to a multiple of 64 (spec udi 7.6)."""
    scale = shorter / min(size)
    width, height = (max(shorter, int(scale * side) // MULTIPLE * MULTIPLE) for side in size)
    return width, height


def _tokens(
    settings: PropagateSettings, backbone: Any, frames: list[Path]
) -> "Iterator[tuple[Float[Tensor, 'n d'], tuple[int, int]]]":
    """Patch tokens behind the final norm of each frame, and their grid."""
    import torch

    from fungi.data.formats.image_files import decode
    from fungi.pretraining.tokens import last_blocks
    from fungi.views.pixels import as_pixels, normalize

    model = backbone.model
    patch, device = int(model.patch_embed.patch_size[0]), next(model.parameters()).device
    for frame in frames:
        image = decode(frame, frame.name)
        width, height = frame_size(image.size, settings.shorter_side)
        pixels = normalize(as_pixels(image.resize((width, height)))[None], backbone.input.statistics)
        with torch.no_grad():
            tokens = last_blocks(model, pixels.to(device))[0][0, model.num_prefix_tokens :]
        yield tokens, (height // patch, width // patch)
