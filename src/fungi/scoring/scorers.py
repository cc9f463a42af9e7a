"""Score one combination of features by kNN, clustering or CKA."""

import numpy as np

from fungi.combine.names import counted_rows, named_class
from fungi.errors import FungiError, counted
from fungi.evaluators import VoteOptions
from fungi.evaluators.cka import cka_matrix
from fungi.evaluators.clustering import cluster
from fungi.evaluators.knn import majority_vote, neighbour_labels, require_train_rows
from fungi.evaluators.metrics import classification_scores
from fungi.evaluators.weighted_knn import weighted_predictions
from fungi.results.result_file import Scores
from fungi.scoring.evaluation_loop import CombinedFeatures, EvaluationRun, warnings_of_labels
from fungi.scoring.feature_settings import FeatureSettings, FewShotSettings


class KnnScorer:
    """Scorer of the combinations of one run by kNN, with the train rows of one few-shot draw.

    largest_k: largest number of neighbours of the command. Raises FungiError if there are too few train rows for this
    number. The command then fails before its first score.
    """

    def __init__(self, settings: FewShotSettings, run: EvaluationRun, options: VoteOptions, largest_k: int) -> None:
        train, test = run.splits["train"], run.splits["test"]
        targets, self.test_targets = train.targets(), test.targets()
        rows = settings.rows(targets, run.few_shot_seed, run.provenances, train.class_names())
        self._targets = targets if rows is None else targets[rows]
        self._options = options
        self._classes, counts = np.unique(self._targets, return_counts=True)
        self._smallest_count = int(counts.min())
        self._smallest_class = named_class(int(self._classes[counts.argmin()]), train.class_names())
        self._require_rows(largest_k)
        self.sources = train.source(settings, rows), test.source(settings)

    def score(self, features: CombinedFeatures) -> Scores:
        """Return accuracies and predictions of one combination. PCA is fitted only on the train rows of the draw."""
        (train, test), options = self.sources, self._options
        arguments = features.blocks(train), self._targets, features.rows(test), options.k
        # The decision score is the share of the votes for class 1.
        if options.vote == "weighted":
            predictions, shares = weighted_predictions(
                *arguments, temperature=options.temperature, backend=options.backend
            )
        else:
            labels = neighbour_labels(*arguments, options.backend)
            predictions, shares = majority_vote(labels), (labels == 1).mean(axis=1)
        scores = classification_scores(predictions, self.test_targets, decision_score=shares)
        return {**scores, "predictions": predictions.tolist()}

    def warnings(self) -> list[str]:
        """Return warnings about labels without train rows, and about classes with fewer than k rows."""
        texts = warnings_of_labels(self._targets, self.test_targets)
        k, smallest = self._options.k, self._smallest_count
        if self._options.vote == "majority" and k > smallest and len(self._classes) > 1:
            texts.append(
                f"k = {k} neighbours vote, but {self._smallest_class} has only {counted_rows(smallest)}: other classes"
                f" get at least {counted(k - smallest, 'vote')}. Try --k {smallest}, --vote weighted or --choose."
            )
        return texts

    def _require_rows(self, k: int) -> None:
        """Raise FungiError if there are fewer than k train rows, or if all train rows would vote.

        If all train rows vote, every scored row gets the same label.
        """
        rows = len(self._targets)
        if self._options.vote == "majority" and k >= rows > 1:
            raise FungiError(
                f"k = {k} is too large: all {rows:,} train rows would vote, and every scored row would get the same"
                f" label. Use --k {self._smallest_count}, or --choose to try all numbers of neighbours."
            )
        require_train_rows(rows, k)


class _SingleSplitScorer:
    """Base class of the scorers that read only the scored split and do not fit on labels."""

    def __init__(self, settings: FeatureSettings, run: EvaluationRun) -> None:
        files = run.splits["test"]
        self.test_targets = files.targets()
        self.sources = (files.source(settings),)

    def warnings(self) -> list[str]:
        """Return no warnings, because these scorers do not fit on labels."""
        return []


class ClusterScorer(_SingleSplitScorer):
    """Scorer of combinations by k-means. The clusters are matched with the classes."""

    def __init__(self, settings: FeatureSettings, run: EvaluationRun, *, restarts: int, seed: int) -> None:
        super().__init__(settings, run)
        self._restarts, self._seed = restarts, seed

    def score(self, features: CombinedFeatures) -> Scores:
        """Return accuracy after matching, overlap, intersection over union and NMI of one combination."""
        rows = features.rows(self.sources[0]).cpu().numpy()
        clusters = cluster(rows, self.test_targets, seed=self._seed, restarts=self._restarts)
        return {
            "accuracy": clusters.accuracy,
            "overlap": clusters.overlap,
            "intersection-over-union": clusters.intersection_over_union,
            "nmi": clusters.nmi,
            "predictions": clusters.predictions.tolist(),
        }


class CkaScorer(_SingleSplitScorer):
    """Scorer of pairs of features by CKA, from one Gram matrix of all features."""

    def score(self, features: CombinedFeatures) -> Scores:
        """Return the CKA of a pair of features without reduction."""
        (rows,) = self.sources
        first, second = (rows.names.index(name) for name in features.names)
        _, gram_matrix = features.moments()
        return {"cka": float(cka_matrix(gram_matrix.cpu(), rows.dims)[first, second])}
