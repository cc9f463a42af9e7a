"""Examples for the prompt of a language model: select them by nearest neighbours, and score them (spec text 5.1).

Proxy scores need no language model. The other scores compare answers of a language model with the correct labels.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int64, Integer
from torch import Tensor

from fungi.evaluators.knn import majority_vote
from fungi.search.exact import nearest
from fungi.search.neighbours import in_memory


def examples_in_order(train: Float[Tensor, "n r"], queries: Float[Tensor, "q r"], k: int) -> Int64[Tensor, "q k"]:
    """Return the k nearest train rows of each query, nearest first. Rows at equal distance are in ascending order."""
    rows = nearest(in_memory(train), queries, k).rows.cpu().sort(dim=1).values
    train, queries = train.cpu().double(), queries.cpu().double()
    distances = [(train[neighbours] - query).norm(dim=1) for neighbours, query in zip(rows, queries, strict=True)]
    return rows.gather(1, torch.stack(distances).argsort(dim=1, stable=True))


def proxies(
    examples: Int64[Tensor, "q k"], train_labels: Integer[np.ndarray, " n"], labels: Integer[np.ndarray, " q"]
) -> dict[str, float]:
    """Return proxy scores of the examples, without a language model.

    contains-label: share of queries with at least one example that has the correct label.
    majority-accuracy: share of queries for which the correct label is the most frequent label of the examples.
    """
    example_labels = train_labels[examples.numpy()]  # [q k]
    return {
        "contains-label": float((example_labels == labels[:, None]).any(axis=1).mean()),
        "majority-accuracy": float((majority_vote(example_labels) == labels).mean()),
    }


def score_answers(
    answers: Mapping[str, str], expected: Mapping[str, str], names: Sequence[str]
) -> dict[str, float | int]:
    """Return the scores of answers. Queries without an answer do not count.

    answers, expected: query -> label name. `answer-accuracy` is the share of correct answers, `answered` the number of
    answers, and `no-label` the number of answers that are not label names.
    """
    answered = [query for query in expected if query in answers]
    correct = sum(answers[query].strip() == expected[query] for query in answered)
    label_names = set(names)
    return {
        "answer-accuracy": correct / len(answered) if answered else float("nan"),
        "answered": len(answered),
        "no-label": sum(answers[query].strip() not in label_names for query in answered),
    }
