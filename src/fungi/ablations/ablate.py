"""`fungi ablate`: the ablations of the paper, from images to the table."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from fungi.ablations.settings import BenchSettings
from fungi.errors import FungiError
from fungi.identity import result_name
from fungi.runtime.files import write_whole
from fungi.settings import as_json, setting

DESCRIPTION = """Extract the variations of an ablation, score them by kNN, and print the table in the paper's form.

  fungi ablate --ablation projections --seeds 42 43 44
  fungi ablate --ablation layers --dataset imagenet-100 --backbone vit-b16
  fungi ablate --ablation pca heads --objective kl --rows 200          (a toy size of two ablations)

projections: table 29 of the author response; pca: table 23; layers: figure 8; bias, qkv, multi-layer: tables 30 to 32;
views: figure 12; heads: tables 6 and 15; objectives: figure 10; raw: table 28; throughput: table 22 of the paper;
times: of projection and PCA, as the response says them.
Tables are also kept as <root>/results/ablation-NAME/<dataset>/<backbone>.json; settings that decide a number and are
not the usual ones are part of the name (ablation-NAME-rows200)."""

Name = Literal[
    "projections",
    "pca",
    "layers",
    "bias",
    "qkv",
    "multi-layer",
    "views",
    "heads",
    "objectives",
    "raw",
    "throughput",
    "times",
]
NAMES: tuple[str, ...] = get_args(Name)


@dataclass(frozen=True, kw_only=True)
class AblateSettings(BenchSettings):
    """Flags of `fungi ablate`."""

    ablation: tuple[Name, ...] = setting(("projections",), "what to vary")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.ablation:
            raise FungiError(f"no ablation is named. Use --ablation with {', '.join(NAMES)}.")

    def outputs(self) -> list[Path]:
        """The file of each table."""
        dataset, backbone = (text.partition("=")[0] for text in (self.dataset, self.backbone))
        names = [result_name(f"ablation-{name}", self, ("dataset", "backbone", "ablation")) for name in self.ablation]
        return [self.layout.results(name, dataset, backbone) for name in names]


def run(settings: AblateSettings) -> None:
    """Run the asked ablations, one after the other."""
    from fungi.ablations.bench import Bench
    from fungi.ablations.catalogue import ABLATIONS

    bench = Bench(settings)
    for name, path in zip(settings.ablation, settings.outputs(), strict=True):
        table = ABLATIONS[name](bench)
        write_whole(path, json.dumps({"settings": as_json(settings), **table.content()}) + "\n")
        where = f"{bench.context.backbone.spec.label} on {bench.context.dataset.name}, {bench.metric}, %"
        print(f"\n{where}: {table.text()}\nwrote {path}")
