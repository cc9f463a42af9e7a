"""kNN classification over every combination of features (spec vision 9.2)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

from fungi.combine.names import Combination, all_combinations, in_order, nested_chain
from fungi.errors import FungiError
from fungi.evaluators import TEMPERATURE, VoteOptions
from fungi.results.text import print_gain_table
from fungi.scoring.feature_settings import FewShotSettings
from fungi.search import Backend, BackendFlag, backend_of
from fungi.settings import SEEDS, setting

DESCRIPTION = """kNN classification over every combination of features, from files that are already extracted.

  python knn_concat.py --dataset flowers102 --backbone vit-b16
  python knn_concat.py --dataset flowers102 --backbone vit-b16 --shots 5
  python knn_concat.py --dataset flowers102 --backbone vit-b16 --k 1 5 20       (a result for each k)
  python knn_concat.py --dataset flowers102 --backbone vit-b16 --vote weighted  (votes by similarity, as in DINO)
  python knn_concat.py --root run/seed-42 run/seed-43 run/seed-44     (mean and standard deviation over extractions)
  python knn_concat.py --choose                (choose features, components and neighbours on the train rows)
"""


@dataclass(frozen=True, kw_only=True)
class KnnSettings(FewShotSettings):
    """Flags of `knn_concat.py`."""

    task: ClassVar[str] = "knn"

    combinations: Literal["all", "nested", "single"] = setting(
        "all",
        "combinations to score: all subsets; nested: the first feature, the first two, ...; single: each feature alone",
        affects="which_results",
        word_in_file_name="",
        topic="features",
    )
    k: tuple[int, ...] | int = setting(
        20,
        "number of neighbours that vote; each of several numbers has its own result",
        within=(1, 10**6),
        word_in_file_name="k",
        aliases=("--neighbours",),
    )
    vote: Literal["majority", "weighted"] = setting(
        "majority",
        "majority: most frequent label of the nearest rows (as published); weighted: the rows with the largest cosines"
        " vote, each with weight exp(cosine / temperature), as in DINO",
        word_in_file_name="",
    )
    temperature: float = setting(
        TEMPERATURE, "temperature of the weighted vote", within=(1e-4, 100), word_in_file_name="T"
    )
    choose: bool = setting(
        False,
        "choose features, components (at most --pca-dim) and neighbours (at most --k) by leave-one-out on train rows",
        word_in_file_name="chosen",
    )
    search: BackendFlag = setting(
        "exact",
        "library that searches the neighbours; all give the same rows (torch is another name for exact)",
        aliases=("--backend",),
        affects="nothing",
        topic="machine",
    )
    seed: int = setting(
        42,
        "no effect; accepted for command lines of the published code",
        within=SEEDS,
        affects="nothing",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.choose and self.combinations != "all":
            raise FungiError("--choose tries all combinations: remove --combinations.")
        object.__setattr__(self, "search", backend_of(self.search))
        if not self.all_k or len(set(self.all_k)) < len(self.all_k):
            raise FungiError("--k needs one number, or several different numbers.")
        if len(self.all_k) == 1:
            object.__setattr__(self, "k", self.all_k[0])
        if self.choose and (len(self.all_k) > 1 or self.vote != "majority"):
            raise FungiError(
                "--choose tries all numbers of neighbours up to --k, by majority vote. Use one --k, without --vote."
            )
        if self.temperature != TEMPERATURE and self.vote != "weighted":
            raise FungiError("--temperature applies only to the weighted vote: add --vote weighted.")

    @property
    def all_k(self) -> tuple[int, ...]:
        """The numbers of neighbours. Each number has its own result."""
        return (self.k,) if isinstance(self.k, int) else self.k

    @property
    def single_k_settings(self) -> "tuple[KnnSettings, ...]":
        """The settings of each result, with a single number of neighbours."""
        if isinstance(self.k, int):
            return (self,)
        outputs = [self.output and self.output.with_stem(f"{self.output.stem}-k{k}") for k in self.k]
        return tuple(replace(self, k=k, output=output) for k, output in zip(self.k, outputs, strict=True))

    @property
    def vote_options(self) -> VoteOptions:
        """Options of the vote. The settings must have a single number of neighbours."""
        assert isinstance(self.k, int)
        return VoteOptions(self.k, self.vote, self.temperature, cast(Backend, self.search))

    def outputs(self) -> list[Path]:
        """Return the result files, one for each number of neighbours."""
        if isinstance(self.k, int):
            return super().outputs()
        return [path for settings in self.single_k_settings for path in settings.outputs()]

    def difference(self, path: Path) -> str:
        """Return a sentence on a setting whose value in the result file at `path` differs; empty if all are equal."""
        if isinstance(self.k, int):
            return super().difference(path)
        matching = (settings for settings in self.single_k_settings if path in settings.outputs())
        return next((settings.difference(path) for settings in matching), "")


_COMBINATIONS: dict[str, Callable[[Sequence[str]], list[Combination]]] = {
    "all": all_combinations,
    "nested": nested_chain,
    "single": lambda features: [(name,) for name in in_order(features)],
}


def run(settings: KnnSettings) -> dict[str, Any]:
    """Score the missing combinations, and return the content of the result file.

    Each number of neighbours has its own result file. If there are several files, the content of the first file gets an
    entry `by_k` with the contents of all files.
    """
    contents = {
        single_k.all_k[0]: _run_single_k(single_k, max(settings.all_k)) for single_k in settings.single_k_settings
    }
    first_content = contents[settings.all_k[0]]
    return first_content if len(contents) == 1 else first_content | {"by_k": contents}


def _run_single_k(settings: KnnSettings, largest_k: int) -> dict[str, Any]:
    """Return the content of the result file of one k. largest_k: largest number of neighbours of the command."""
    from fungi.scoring.choose import ChoiceScorer, rows_of_the_table
    from fungi.scoring.evaluation_loop import evaluate
    from fungi.scoring.scorers import KnnScorer

    return evaluate(
        settings,
        combinations=rows_of_the_table if settings.choose else _COMBINATIONS[settings.combinations],
        prepare=lambda run: (
            ChoiceScorer(settings, run, largest_k=settings.all_k[0], metric=settings.primary_metric)
            if settings.choose
            else KnnScorer(settings, run, settings.vote_options, largest_k)
        ),
        few_shot_seeds=settings.few_shot_seeds(),
    )


def show(settings: KnnSettings, content: dict[str, Any]) -> None:
    """Print the table of scores, or with `--choose` the table of choices."""
    if settings.choose:
        from fungi.results.choice_table import choice_table

        print(choice_table(content, settings.primary_metric))
        return
    columns = {f"{settings.train_rows_text}, k {k}": result for k, result in content.get("by_k", {}).items()}
    print_gain_table(columns or {settings.train_rows_text: content}, settings.primary_metric)
