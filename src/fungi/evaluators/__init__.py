"""Evaluators: functions from arrays to numbers. Models, names of datasets and paths are not among their arguments."""

import importlib.util
from dataclasses import dataclass
from functools import cache
from typing import Literal

from fungi.search import Backend

TEMPERATURE = 0.07
"""Temperature of the weighted vote of neighbours, as in DINO (spec udi 7.1)."""
Solver = Literal["cyanure", "lbfgs"]
"""Solver of logistic regression: cyanure (CPU, as published) or L-BFGS of torch (CPU or GPU)."""


@dataclass(frozen=True)
class VoteOptions:
    """Options of kNN: number of neighbours, kind of vote, and search back-end.

    vote: `majority`, or `weighted` by exp(cosine / temperature).
    """

    k: int
    vote: Literal["majority", "weighted"] = "majority"
    temperature: float = TEMPERATURE
    backend: Backend = "exact"


NO_CYANURE = (
    "cyanure is not installed: lbfgs fits the logistic regression instead; both solvers have the same optimum"
    " (accuracies within 0.3 points on the reference features). pip install cyanure for the published solver."
)


@cache
def usual_solver() -> Solver:
    """Return the default solver: cyanure, or lbfgs if cyanure is not installed.

    The result is cached, because `fungi status` calls this function thousands of times.
    """
    try:
        is_installed = importlib.util.find_spec("cyanure") is not None
    except ImportError:
        is_installed = False
    return "cyanure" if is_installed else "lbfgs"
