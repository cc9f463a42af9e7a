"""Settings that all evaluations of a pretrained vision transformer share: network, weights and device."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fungi.errors import FungiError, unknown_name
from fungi.settings import SEEDS, setting

if TYPE_CHECKING:
    from fungi.backbones.loading import Backbone

BACKBONE_BY_ARCHITECTURE = {
    "vit_small": "udi-vits16",
    "vit_tiny": "udi-vitt16",
    "vit_base": "udi-vitb16",
    "vit_micro": "udi-micro",
}


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """Settings of a vision transformer of timm: architecture, weights and device."""

    data_dir: Path = setting(Path("data"), "folder of the datasets", affects="nothing", topic="data")
    backbone: str = setting("", "backbone: a vision transformer of `fungi list backbones`", topic="model")
    arch: str = setting(
        "",
        "architecture, as an alternative to --backbone: vit_small, vit_tiny, vit_base, vit_micro",
        aliases=("--model",),
        topic="model",
    )
    checkpoint: Path | None = setting(
        None,
        "file with the weights",
        aliases=("--pretrained-weights", "--pretrained_weights", "--finetune"),
        topic="model",
    )
    random_init: bool = setting(False, "use random weights, drawn from the seed", topic="model")
    seed: int = setting(0, "seed of weights, rows and order", within=SEEDS)
    num_workers: int = setting(
        -1,
        "number of worker processes that decode; -1: 0 on a CPU, all cores except one on a GPU",
        within=(-1, 1024),
        aliases=("--num_workers",),
        affects="nothing",
        topic="machine",
    )
    device: str = setting("auto", "auto, cpu, cuda or cuda:N", affects="nothing", topic="machine")

    def __post_init__(self) -> None:
        if self.arch and self.arch not in BACKBONE_BY_ARCHITECTURE:
            raise unknown_name("architecture", self.arch, BACKBONE_BY_ARCHITECTURE)
        if bool(self.arch) == bool(self.backbone):
            raise FungiError(
                "name one network, with --backbone (such as udi-vits16) or with --arch (such as vit_small)."
            )

    @property
    def network(self) -> str:
        """The name of the backbone."""
        return self.backbone or BACKBONE_BY_ARCHITECTURE[self.arch]

    def load_network(self) -> "Backbone":
        """Return the network with its weights. Raises FungiError if `require_known_tokens` refuses the network."""
        from fungi.backbones.loading import load_backbone
        from fungi.pretraining.tokens import require_known_tokens

        backbone = load_backbone(self.network, checkpoint=self.checkpoint, random_init=self.random_init, seed=self.seed)
        require_known_tokens(backbone.model, self.network)
        return backbone
