"""`fungi ablate`: the ablations of the paper, from images to the table."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from fungi.ablations.settings import VariationSettings
from fungi.errors import FungiError
from fungi.results.result_file import ABLATION
from fungi.results.settings import ResultSettings
from fungi.settings import setting

DESCRIPTION = """Extract the variations of an ablation, score them by kNN, and print the table in the paper's form.

  fungi ablate --ablation projections --seed 42 43 44
  fungi ablate --ablation layers --dataset imagenet-100 --backbone vit-b16
  fungi ablate --ablation pca heads --objective kl --rows 200          (two ablations on 200 rows per split)

projections: table 29 of the author response; pca: table 23; layers: figure 8; bias, qkv, multi-layer: tables 30 to 32;
views: figure 12; heads: tables 6 and 15; objectives: figure 10; raw: table 28; throughput: table 22 of the paper;
times: milliseconds of the projection and of PCA, as in the author response.
Tables are also saved as <root>/results/ablation-NAME/<dataset>/<backbone>.json. If a setting can change the numbers and
differs from its default, it is part of the name (ablation-NAME-rows200)."""

AblationName = Literal[
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
NAMES: tuple[str, ...] = get_args(AblationName)


@dataclass(frozen=True, kw_only=True)
class AblateSettings(ResultSettings, VariationSettings):
    """Flags of `fungi ablate`."""

    ablation: tuple[AblationName, ...] = setting(("projections",), "ablations to run", affects="nothing")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.ablation:
            raise FungiError(f"no ablation is named. Use --ablation with {', '.join(NAMES)}.")
        if self.output is not None and len(self.ablation) > 1:
            raise FungiError("--output names one file, but each ablation writes its own file: name only one ablation.")

    @property
    def single_ablations(self) -> "list[AblateSettings]":
        """Return the settings of each ablation separately."""
        return [replace(self, ablation=(name,)) for name in self.ablation]

    @property
    def task_name(self) -> str:
        """Return the name of the task of the first ablation."""
        return f"{ABLATION}-{self.ablation[0]}"

    def outputs(self) -> list[Path]:
        """Return the result file of each ablation."""
        return [settings.result_path() for settings in self.single_ablations]


def run(settings: AblateSettings) -> list[dict[str, Any]]:
    """Run the ablations that are not finished; return the contents of all result files."""
    from fungi.ablations.catalogue import ABLATIONS
    from fungi.ablations.variations import VariationRunner
    from fungi.results.ablation_table import AblationTable
    from fungi.results.result_file import Run

    runner, contents = VariationRunner(settings), []
    for settings_of_ablation in settings.single_ablations:
        result_run = Run(label={}, features=runner.provenances())
        result = settings_of_ablation.open_result([result_run])
        if not result.complete:
            table = ABLATIONS[settings_of_ablation.ablation[0]](runner)
            result_run.results, result.facts = table.results(), table.facts()
            result.finish()
        contents.append(result.content())
        heading = f"{runner.context.backbone.spec.label} on {runner.context.dataset.name}, {runner.metric}, %"
        print(f"\n{heading}: {AblationTable.from_content(contents[-1]).text()}\nwrote {result.path}")
    return contents
