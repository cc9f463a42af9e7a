"""Multinomial logistic regression without intercept: loss, duality gap, and two solvers.

With features x `[n r]`, weights W `[r c]` and logits z = x W, the loss is

    P(W) = (1/n) sum_i [logsumexp_j z_ij - z_iy_i] + (lambda/2) |W|^2.

Let p = softmax(z). The gradient of the first term is G = (1/n) x^T (p - y) `[r c]`. The dual function at p is a lower
bound of the optimum:

    D(p) = (1/n) sum_i H(p_i) - |G|^2 / (2 lambda)  <=  min P.

Therefore, P - D is an upper bound of the distance to the optimum, for the result of any solver. Computing it takes one
pass over the data.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from fungi.evaluators import Solver, usual_solver
from fungi.evaluators.cyanure_process import PROCESS, CyanureFit
from fungi.runtime.shared_rows import shared_memory_handle, shared_rows

_ROWS = 16384
"""Number of rows whose logits are computed together."""
_PASSES_PER_CHECK = 10
"""Number of passes of L-BFGS between two comparisons of the duality gap with the tolerance."""
_HISTORY = 20
"""Number of earlier gradients that L-BFGS stores."""


@dataclass(frozen=True, kw_only=True)
class LogisticOptions:
    """Options of a solver.

    solver: `cyanure` (CPU, as in the published code) or `lbfgs` (torch, CPU or GPU). The default is cyanure, or lbfgs
        if cyanure is not installed.
    tolerance: relative duality gap (P - D) / P at which the solver stops.
    max_epochs: largest number of passes over the data.
    """

    solver: Solver = field(default_factory=usual_solver)
    tolerance: float = 1e-3
    max_epochs: int = 300
    seed: int = 42


def bytes_beside_features(solver: Solver, rows: int, classes: int) -> int:
    """Return the measured memory in bytes that a solver needs in addition to its features `[n r]` (docs/log.md)."""
    rows_in_memory = 2.15 * rows if solver == "cyanure" else 6 * min(rows, _ROWS)
    return int(rows_in_memory * classes * 8)


def room_for_rows(solver: Solver, rows: int, dim: int, device: torch.device) -> Float64[Tensor, "n r"]:
    """Return memory for features, whose content is not defined. The solver reads the features without a copy."""
    if solver == "cyanure":
        return shared_rows(rows, dim)
    return torch.empty(rows, dim, dtype=torch.float64, device=device)


@dataclass(frozen=True)
class LogisticFit:
    """Weights `[r c]` for one lambda, their relative duality gap, and the number of passes over the data."""

    weights: Float64[Tensor, "r c"]
    regularization: float
    relative_gap: float
    epochs: int

    def codes(self, features: Float[Tensor, "q r"]) -> Int64[Tensor, " q"]:
        """Return the most probable class of each row, as the number of its column in the weights."""
        return torch.cat([(rows.double() @ self.weights).argmax(dim=1) for rows in features.split(_ROWS)])


@dataclass(frozen=True)
class LogisticProblem:
    """Features `[n r]`, class codes `[n]` from 0 to c - 1, and lambda (`regularization`)."""

    features: Float[Tensor, "n r"]
    codes: Int64[Tensor, " n"]
    classes: int
    regularization: float

    def data_term(
        self, weights: Float64[Tensor, "r c"]
    ) -> tuple[Float64[Tensor, ""], Float64[Tensor, "r c"], Float64[Tensor, ""]]:
        """Return the mean cross-entropy, its gradient and the mean entropy of the probabilities, in one pass."""
        loss, entropy = weights.new_zeros(()), weights.new_zeros(())
        gradient = torch.zeros_like(weights)
        for rows, codes in zip(self.features.split(_ROWS), self.codes.split(_ROWS), strict=True):
            rows = rows.double()
            log_p = torch.log_softmax(rows @ weights, dim=1)  # [b c]
            residual = log_p.exp()
            entropy -= (residual * log_p).sum()
            loss -= log_p.gather(1, codes[:, None]).sum()
            # p - y. Each row changes its own entry, so the result on a GPU does not depend on the order of additions.
            residual.scatter_add_(1, codes[:, None], residual.new_full((len(codes), 1), -1.0))
            gradient.addmm_(rows.T, residual)  # [r b] [b c] -> [r c]
        return loss / len(self.codes), gradient / len(self.codes), entropy / len(self.codes)

    def relative_gap(self, weights: Float64[Tensor, "r c"]) -> float:
        """Return (P - D) / P. It is an upper bound of the relative distance to the optimum, and zero at the optimum."""
        loss, gradient, entropy = self.data_term(weights)
        primal = loss + self.regularization / 2 * weights.square().sum()
        dual = entropy - gradient.square().sum() / (2 * self.regularization)
        return float((primal - dual) / primal)


def fit(problem: LogisticProblem, options: LogisticOptions, start: LogisticFit | None = None) -> LogisticFit:
    """Return the fit for one lambda. start: fit for a similar lambda, from which L-BFGS starts."""
    if options.solver == "lbfgs":
        return _fit_lbfgs(problem, options, start)
    return _fit_cyanure(problem, options)


def fit_path(
    features: Float[Tensor, "n r"],
    codes: Int64[Tensor, " n"],
    classes: int,
    lambdas: Float[np.ndarray, " lambdas"],
    options: LogisticOptions,
) -> list[LogisticFit]:
    """Return a fit for each of `lambdas`, in order. L-BFGS starts each fit from the fit of the next larger lambda."""
    fits: dict[float, LogisticFit] = {}
    previous = None
    for regularization in sorted(lambdas.tolist(), reverse=True):
        problem = LogisticProblem(features, codes, classes, regularization)
        previous = fits[regularization] = fit(problem, options, previous)
    return [fits[regularization] for regularization in lambdas.tolist()]


def _fit_lbfgs(problem: LogisticProblem, options: LogisticOptions, start: LogisticFit | None) -> LogisticFit:
    """Return the fit of torch's L-BFGS. Every ten passes, the duality gap is compared with the tolerance."""
    shape = (problem.features.shape[1], problem.classes)
    weights = torch.zeros(shape, dtype=torch.float64, device=problem.features.device)
    if start is not None:
        weights.copy_(start.weights)
    weights.requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weights],
        max_iter=_PASSES_PER_CHECK,
        max_eval=_PASSES_PER_CHECK,
        history_size=_HISTORY,
        tolerance_grad=0,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )
    epochs = 0

    def closure() -> Tensor:
        """Set the gradient of the weights, and return the loss, as torch's L-BFGS requires."""
        nonlocal epochs
        epochs += 1
        with torch.no_grad():
            loss, gradient, _ = problem.data_term(weights)
            weights.grad = gradient + problem.regularization * weights
            return loss + problem.regularization / 2 * weights.square().sum()

    gap = problem.relative_gap(weights.detach())
    while gap > options.tolerance and epochs < options.max_epochs:
        optimizer.step(closure)
        gap = problem.relative_gap(weights.detach())
    return LogisticFit(weights.detach(), problem.regularization, gap, epochs)


def _fit_cyanure(problem: LogisticProblem, options: LogisticOptions) -> LogisticFit:
    """Return the fit of cyanure, which a child process computes."""
    rows, columns = problem.features.shape
    with shared_memory_handle(problem.features.double().cpu()) as memory:
        request = CyanureFit(
            rows=rows,
            columns=columns,
            offset=memory.offset,
            classes=problem.classes,
            regularization=problem.regularization,
            tolerance=options.tolerance,
            max_epochs=options.max_epochs,
            seed=options.seed,
            threads=torch.get_num_threads(),
        )
        solution = PROCESS.fit(request, memory.descriptor, problem.codes.cpu().numpy())
    weights = torch.from_numpy(solution.coefficients).to(problem.features.device)
    if problem.classes == 2:
        weights = torch.stack([-weights.flatten() / 2, weights.flatten() / 2], dim=1)  # [r] -> [r 2]
    return LogisticFit(weights, problem.regularization, problem.relative_gap(weights), solution.epochs)
