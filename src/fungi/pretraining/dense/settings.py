"""Settings that the dense evaluations share."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from fungi.errors import FungiError
from fungi.pretraining.transfer.encoder_settings import NetworkSettings
from fungi.settings import as_json, setting


@dataclass(frozen=True, kw_only=True)
class DenseSettings(NetworkSettings):
    """A network that is trained as a whole, with a head for a dense task."""

    output_dir: Path = setting(
        Path("dense"),
        "folder of checkpoint, log and result; a run that is there goes on",
        decides="nothing",
        topic="files",
    )
    blocks: tuple[int, ...] = setting(
        (3, 5, 7, 11),
        "four blocks of the network that the pyramid is built on, counted from 0",
        within=(0, 999),
        topic="model",
    )
    channels: int = setting(256, "channels of the feature pyramid", within=(1, 4096), topic="model")
    batch_size: int = setting(
        1, "images of one process in one step", within=(1, 65536), aliases=("--batch-size-per-gpu",), topic="machine"
    )
    lr: float = setting(5e-5, "peak learning rate", within=(0, 100))
    weight_decay: float = setting(0.05, "weight decay, except of positions and normalisation layers", within=(0, 10))
    warmup_steps: int = setting(1000, "steps of linear warm-up to the peak rate", within=(0, 10**9))
    drop_path: float = setting(
        0.05, "stochastic depth: share of branches that are dropped in the last block", within=(0, 0.99)
    )
    dtype: Literal["auto", "float32", "bfloat16"] = setting(
        "auto", "auto (bfloat16 on a GPU, float32 elsewhere), float32, bfloat16", topic="machine"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.blocks) != 4 or list(self.blocks) != sorted(set(self.blocks)):
            raise FungiError(f"--blocks {' '.join(map(str, self.blocks))}: give four numbers in ascending order.")

    def deciding(self) -> dict[str, Any]:
        """Return the settings that the numbers of a run depend on, as plain JSON values."""
        values = as_json(self)
        return {field.name: values[field.name] for field in fields(self) if field.metadata.get("decides") != "nothing"}
