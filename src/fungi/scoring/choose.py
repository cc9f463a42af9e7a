"""`--choose`: choose combination, number of components and number of neighbours from the train rows alone.

Each combination is reduced once, by a PCA fitted on its train rows without their labels. The first components of a PCA
are the components of a smaller PCA, so one decomposition gives all sizes. One search gives all k.

A candidate is a combination with a number of components and a number of neighbours. The candidate with the best
leave-one-out score is chosen. For this score, the other train rows predict the label of each train row. Test labels are
used only for the test scores and for the row `hindsight`.

The rows of the result are means over all runs:

    embeddings, embeddings+kl+...   test score of the combination, with components and neighbours chosen for it
    chosen                          test score of the candidate with the best leave-one-out score
    hindsight                       best test score of all candidates: a choice that uses the test labels
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from jaxtyping import Float
from torch import Tensor

from fungi.combine.names import Combination, all_combinations, in_order, name_of
from fungi.combine.pca import Reducer, reduced
from fungi.evaluators.knn import neighbour_labels, other_labels, votes_by_k
from fungi.evaluators.metrics import classification_scores
from fungi.results.result_file import Scores
from fungi.runtime.device import choose_device
from fungi.scoring.evaluation_loop import CombinedFeatures, EvaluationRun, warnings_of_labels
from fungi.scoring.feature_settings import FewShotSettings
from fungi.search.neighbours import in_memory
from fungi.store.layout import EMBEDDINGS

CHOSEN, HINDSIGHT = "chosen", "hindsight"
DIMS = tuple(2**power for power in range(4, 13))
"""Numbers of components to try, in addition to the largest number."""


@dataclass(frozen=True)
class Candidate:
    """A combination, a number of components and a number of neighbours.

    train_score: leave-one-out score on the train rows. Result files call it `judged`.
    """

    combination: Combination
    dim: int
    k: int
    train_score: float

    def describe(self) -> dict[str, Any]:
        """Return the candidate as plain data for the result file."""
        return {"combination": name_of(self.combination), "dim": self.dim, "k": self.k, "judged": self.train_score}


def rows_of_the_table(features: Sequence[str]) -> list[Combination]:
    """Return the rows of the result: embeddings alone, all features together, `chosen` and `hindsight`."""
    embeddings = [(EMBEDDINGS,)] if EMBEDDINGS in features else []
    return [*embeddings, in_order(features), (CHOSEN,), (HINDSIGHT,)]


class ChoiceScorer:
    """Scorer of one run of `--choose`.

    largest_k: largest number of neighbours to try. settings.reduced_dim: largest number of components to try.
    metric: the metric that selects the best candidate.
    """

    def __init__(self, settings: FewShotSettings, run: EvaluationRun, *, largest_k: int, metric: str) -> None:
        train, test = run.splits["train"], run.splits["test"]
        targets, self.test_targets = train.targets(), test.targets()
        rows = settings.rows(targets, run.few_shot_seed, run.provenances, train.class_names())
        self._targets = targets if rows is None else targets[rows]
        self._train, self._test = train.source(settings, rows), test.source(settings)
        self.sources = (self._train, self._test)
        self._device, self._metric = choose_device(settings.device), metric
        self._largest_k = min(largest_k, len(self._targets) - 1)
        self._reducer = Reducer(self._train, settings.reduced_dim, self._device)
        self._candidates: dict[Combination, list[Candidate]] = {}

    def score(self, features: CombinedFeatures) -> Scores:
        """Return the test scores of a row of the result, with the best candidate and its leave-one-out score."""
        combination = features.names
        if combination == (HINDSIGHT,):
            _, scores, best = max(self._test_scores(), key=itemgetter(0))  # by the metric
            return {**scores, "chosen": best.describe()}
        combinations = all_combinations(self._train.names) if combination == (CHOSEN,) else [combination]
        # If several candidates are best, `max` returns the first candidate, which has the fewest features, components
        # and neighbours.
        candidates = (candidate for names in combinations for candidate in self.candidates(names))
        best = max(candidates, key=lambda candidate: candidate.train_score)
        _, train, test = self._rows(best.combination)
        labels = neighbour_labels(in_memory(train[:, : best.dim]), self._targets, test[:, : best.dim], best.k)
        *_, predictions = votes_by_k(labels)  # the last predictions are those of `best.k` neighbours
        scores = classification_scores(predictions, self.test_targets, decision_score=(labels == 1).mean(axis=1))
        return {**scores, "judged": best.train_score, "chosen": best.describe(), "predictions": predictions.tolist()}

    def candidates(self, combination: Combination) -> list[Candidate]:
        """Return all candidates of a combination with their leave-one-out scores. Test rows are not used."""
        if combination not in self._candidates:
            candidates = []
            dims, train, _ = self._rows(combination, with_test=False)
            for dim in dims:
                labels = other_labels(train[:, :dim].contiguous(), self._targets, self._largest_k)
                for k, predictions in enumerate(votes_by_k(labels), start=1):
                    train_score = classification_scores(predictions, self._targets)[self._metric]
                    candidates.append(Candidate(combination, dim, k, train_score))
            self._candidates[combination] = candidates
        return self._candidates[combination]

    def warnings(self) -> list[str]:
        """Return warnings about the labels."""
        return warnings_of_labels(self._targets, self.test_targets)

    def _test_scores(self) -> Iterator[tuple[float, Scores, Candidate]]:
        """Yield, for every candidate, its metric on the test rows, all its test scores, and the candidate."""
        for combination in all_combinations(self._train.names):
            dims, train, test = self._rows(combination)
            candidates = iter(self.candidates(combination))
            for dim in dims:
                labels = neighbour_labels(in_memory(train[:, :dim]), self._targets, test[:, :dim], self._largest_k)
                for predictions in votes_by_k(labels):
                    scores = classification_scores(predictions, self.test_targets)
                    yield scores[self._metric], scores, next(candidates)

    def _rows(
        self, combination: Combination, *, with_test: bool = True
    ) -> tuple[list[int], Float[Tensor, "n r"], Float[Tensor, "q r"]]:
        """Return the numbers of components to try, and the train and test rows with the largest of these numbers.

        The numbers are the size of the largest PCA and all smaller numbers in `DIMS`. If PCA is skipped, the only
        number is the full size of the features. with_test: whether to return the test rows; if not, their
        tensor is empty.
        """
        reduction = self._reducer.fit(combination)
        train = reduced(self._train, reduction, self._device)
        smaller_dims = [] if reduction.skipped else [dim for dim in DIMS if dim < reduction.dim]
        test_rows = reduced(self._test, reduction, self._device) if with_test else train[:0]
        return [*smaller_dims, reduction.dim], train, test_rows
