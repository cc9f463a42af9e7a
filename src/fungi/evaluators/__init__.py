"""Arrays in, numbers out: an evaluator never sees a model, a dataset name or a path."""

from typing import Literal

Solver = Literal["cyanure", "lbfgs"]
"""What fits a logistic regression: cyanure (CPU; as published) or torch's L-BFGS (CPU or GPU)."""
