"""In-context example retrieval without a language model: ordered neighbours, proxies, scores (spec text 5.1)."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int64, Integer
from torch import Tensor

from fungi.evaluators.knn import majority_vote
from fungi.search.exact import nearest
from fungi.search.neighbours import in_memory


def examples_in_order(train: Float[Tensor, "n r"], queries: Float[Tensor, "q r"], k: int) -> Int64[Tensor, "q k"]:
    """Return the train rows nearest to each query, nearest first. Rows at equal distance are in ascending order."""
    rows = nearest(in_memory(train), queries, k).rows.cpu().sort(dim=1).values
    train, queries = train.cpu().double(), queries.cpu().double()
    distances = torch.stack([(train[near] - query).norm(dim=1) for near, query in zip(rows, queries, strict=True)])
    return rows.gather(1, distances.argsort(dim=1, stable=True))


def proxies(
    examples: Int64[Tensor, "q k"], train_labels: Integer[np.ndarray, " n"], labels: Integer[np.ndarray, " q"]
) -> dict[str, float]:
    """Return proxy scores of the examples, without a language model.

    contains-label: share of queries with at least one example of the right label. majority-accuracy: share of queries
    for which the right label is the most frequent label of the examples.
    """
    of_examples = train_labels[examples.numpy()]  # [q k]
    return {
        "contains-label": float((of_examples == labels[:, None]).any(axis=1).mean()),
        "majority-accuracy": float((majority_vote(of_examples) == labels).mean()),
    }


def score_answers(
    answers: Mapping[str, str], expected: Mapping[str, str], names: Sequence[str]
) -> dict[str, float | int]:
    """Return the share of answers that equal the label name, over the queries with an answer.

    answers, expected: query -> label name. An answer that is not a label name is wrong; `no-label` is their number.
    """
    answered = [query for query in expected if query in answers]
    right = sum(answers[query].strip() == expected[query] for query in answered)
    known = set(names)
    return {
        "answer-accuracy": right / len(answered) if answered else float("nan"),
        "answered": len(answered),
        "no-label": sum(answers[query].strip() not in known for query in answered),
    }
