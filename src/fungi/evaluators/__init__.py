"""Arrays in, numbers out: an evaluator never sees a model, a dataset name or a path."""

import importlib.util
from dataclasses import dataclass
from functools import cache
from typing import Literal

from fungi.search import Backend

TEMPERATURE = 0.07
"""Temperature of the weighted vote of neighbours, as in DINO (spec udi 7.1)."""
Solver = Literal["cyanure", "lbfgs"]
"""Solver of logistic regression: cyanure (CPU; as published) or L-BFGS of torch (CPU or GPU)."""


@dataclass(frozen=True)
class VoteOptions:
    """Number of neighbours, kind of vote (majority, or weighted by exp(cosine / temperature)) and search back-end."""

    k: int
    vote: Literal["majority", "weighted"] = "majority"
    temperature: float = TEMPERATURE
    backend: Backend = "exact"


NO_CYANURE = (
    "cyanure is not installed: lbfgs fits the logistic regression, which has the same optimum (accuracies within 0.3"
    " points on the reference features). pip install cyanure for the published solver."
)


@cache
def usual_solver() -> Solver:
    """Return the default solver: cyanure, or lbfgs if it is not installed. `fungi status` asks thousands of times."""
    try:
        installed = importlib.util.find_spec("cyanure") is not None
    except ImportError:
        installed = False
    return "cyanure" if installed else "lbfgs"
