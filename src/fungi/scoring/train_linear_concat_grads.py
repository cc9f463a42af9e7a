"""Linear probing: logistic regression on nested combinations of features (spec vision 9.5)."""

from typing import Any

from fungi.combine.names import all_combinations, nested_chain
from fungi.results.text import print_gain_table
from fungi.scoring.linear_settings import LinearSettings

DESCRIPTION = """Logistic regression on nested combinations of features, from files that are already extracted.

  python train_linear_concat_grads.py --dataset flowers102 --backbone vit-b16
  python train_linear_concat_grads.py --dataset flowers102 --backbone vit-b16 --shots 5
  python train_linear_concat_grads.py --dataset imagenet-1k --backbone vit-b16 --solver lbfgs --device cuda
"""


def run(settings: LinearSettings) -> dict[str, Any]:
    """Score the missing combinations, and return the content of the result file."""
    from fungi.scoring.evaluation_loop import evaluate
    from fungi.scoring.linear_scorer import LinearScorer

    return evaluate(
        settings,
        splits=settings.splits,
        combinations=all_combinations if settings.all_combinations else nested_chain,
        prepare=lambda run: LinearScorer(settings, run),
        few_shot_seeds=settings.few_shot_seeds(),
    )


def show(settings: LinearSettings, content: dict[str, Any]) -> None:
    """Print the table of scores."""
    print_gain_table({settings.train_rows_text: content}, settings.primary_metric)
