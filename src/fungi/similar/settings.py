"""Settings of `fungi similar`."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fungi.errors import FungiError, MissingFilesError, unknown_name
from fungi.settings import SEEDS, required, setting

OBJECTIVES = ("kl", "dino", "simclr")


@dataclass(frozen=True, kw_only=True)
class SimilarSettings:
    """Flags of `fungi similar`."""

    images: Path = required("folder of pictures, with its subfolders", topic="data")
    query: tuple[Path, ...] = setting(
        (), "pictures whose neighbours are shown, in the folder or elsewhere", topic="data"
    )
    neighbours: int = setting(
        10, "number of neighbours to show", flag="--k", aliases=("--neighbours",), within=(1, 1000)
    )
    backbone: str = setting(
        "efficientnet-lite0", "vision backbone: a name of `fungi list backbones`, or NAME=timm:ID", topic="model"
    )
    checkpoint: Path | None = setting(None, "file with weights to use instead of the published weights", topic="model")
    checkpoint_key: str = setting(
        "", "entry of the checkpoint with the weights, e.g. model_ema; default: the usual entry", topic="model"
    )
    objective: tuple[str, ...] = setting(
        ("kl", "dino"), "objectives whose gradients are used: kl, dino, simclr", topic="features"
    )
    output: Path = setting(Path("similar.html"), "page to write", flag="--page", aliases=("--output",), topic="files")
    root: Path = setting(Path("features"), "folder of the index, which is stored in similar/ below it", topic="files")
    device: str = setting("auto", "auto, cpu, cuda or cuda:N", topic="machine")
    batch_size: int = setting(16, "number of pictures per batch", within=(1, 65_536), topic="machine")
    seed: int = setting(42, "seed of heads, projection and views", within=SEEDS)

    def __post_init__(self) -> None:
        if not self.images.is_dir():
            raise MissingFilesError(
                f"--images {self.images} is not a folder. Name the folder that contains your pictures."
            )
        if not self.query:
            raise FungiError("no picture is named. Name a picture with --query.")
        for path in self.query:
            if not path.is_file():
                raise MissingFilesError(f"--query {path} does not exist. Name a picture file.")
        if not self.objective:
            raise FungiError("no objective is named. Name objectives with --objective.")
        for name in self.objective:
            if name not in OBJECTIVES:
                raise unknown_name("objective", name, OBJECTIVES)

    @property
    def index_folder(self) -> Path:
        """Folder of the index. Its name is a hash of the folder of pictures and of settings that affect features."""
        weights = (self.backbone, self.checkpoint, self.checkpoint_key)
        identity = (self.images.resolve(), *weights, sorted(self.objective), self.seed)
        return self.root / "similar" / hashlib.sha256(repr(identity).encode()).hexdigest()[:16]
