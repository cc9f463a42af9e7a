"""Settings of every evaluation that takes a pretrained vision transformer: the network, and where it computes."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fungi.errors import FungiError, unknown_name
from fungi.settings import SEEDS, setting

if TYPE_CHECKING:
    from fungi.backbones.loading import Backbone

BACKBONE_OF = {"vit_small": "udi-vits16", "vit_tiny": "udi-vitt16", "vit_base": "udi-vitb16", "vit_micro": "udi-micro"}


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """Settings of a vision transformer of timm: architecture, weights and device."""

    data_dir: Path = setting(Path("data"), "folder of the datasets", decides="nothing", topic="data")
    backbone: str = setting("", "backbone: a vision transformer of `fungi list backbones`", topic="model")
    arch: str = setting(
        "", "in place of --backbone: vit_small, vit_tiny, vit_base, vit_micro", aliases=("--model",), topic="model"
    )
    checkpoint: Path | None = setting(
        None, "weights", aliases=("--pretrained-weights", "--pretrained_weights", "--finetune"), topic="model"
    )
    random_init: bool = setting(False, "use random weights, drawn from the seed", topic="model")
    seed: int = setting(0, "seed of weights, rows and order", within=SEEDS)
    num_workers: int = setting(
        -1,
        "processes that decode; -1 picks 0 on a CPU, all cores but one on a GPU",
        within=(-1, 1024),
        aliases=("--num_workers",),
        decides="nothing",
        topic="machine",
    )
    device: str = setting("auto", "auto, cpu, cuda or cuda:N", decides="nothing", topic="machine")

    def __post_init__(self) -> None:
        if self.arch and self.arch not in BACKBONE_OF:
            raise unknown_name("architecture", self.arch, BACKBONE_OF)
        if bool(self.arch) == bool(self.backbone):
            raise FungiError("say which network: --backbone udi-vits16, or --arch vit_small.")

    @property
    def network(self) -> str:
        """Name of the backbone."""
        return self.backbone or BACKBONE_OF[self.arch]

    def load_network(self) -> "Backbone":
        """Return the network with its weights. Raises FungiError if `require_known_tokens` refuses it."""
        from fungi.backbones.loading import load_backbone
        from fungi.pretraining.tokens import require_known_tokens

        backbone = load_backbone(self.network, checkpoint=self.checkpoint, random_init=self.random_init, seed=self.seed)
        require_known_tokens(backbone.model, self.network)
        return backbone
