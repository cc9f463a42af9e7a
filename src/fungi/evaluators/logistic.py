"""Multinomial logistic regression without intercept: objective, optimality certificate, two solvers.

    P(W) = (1/n) sum_i [logsumexp_j z_ij - z_iy_i] + (lambda/2) |W|^2,    z = x W,  x [n r], W [r c]

With p = softmax(z) and G = (1/n) x^T (p - y) `[r c]`, the gradient of the first term, p itself is a dual candidate:

    D(p) = (1/n) sum_i H(p_i) - |G|^2 / (2 lambda)  <=  min P

so that P - D bounds how far W is from the optimum, whatever solver found it, at the cost of one pass.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from fungi.evaluators import Solver, usual_solver
from fungi.evaluators.cyanure_process import PROCESS, CyanureFit
from fungi.runtime.shared_rows import shared, shared_rows

_ROWS = 16384  # number of rows per block of logits
_PASSES_PER_CHECK = 10
_HISTORY = 20


@dataclass(frozen=True, kw_only=True)
class LogisticOptions:
    """Options of a solver.

    solver: `cyanure` (CPU; as in the published code) or `lbfgs` (torch; CPU or GPU; the default if cyanure is not
    installed). tolerance: relative duality gap (P - D) / P at which the solver stops. max_epochs: largest number of
    passes over the data.
    """

    solver: Solver = field(default_factory=usual_solver)
    tolerance: float = 1e-3
    max_epochs: int = 300
    seed: int = 42


def bytes_beside_features(solver: Solver, rows: int, classes: int) -> int:
    """Return the memory in bytes that a solver needs besides its features `[n r]`, as measured (docs/log.md)."""
    held = 2.15 * rows if solver == "cyanure" else 6 * min(rows, _ROWS)
    return int(held * classes * 8)


def room_for_rows(solver: Solver, rows: int, dim: int, device: torch.device) -> Float64[Tensor, "n r"]:
    """Allocate memory for features in which the solver reads them without a copy."""
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
        """Return the most probable class of each row, as a column of the weights."""
        return torch.cat([(rows.double() @ self.weights).argmax(dim=1) for rows in features.split(_ROWS)])


@dataclass(frozen=True)
class LogisticProblem:
    """Features `[n r]`, class codes `[n]` in 0..c-1, and lambda."""

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
            logs = torch.log_softmax(rows @ weights, dim=1)  # [b c]
            residual = logs.exp()
            entropy -= (residual * logs).sum()
            loss -= logs.gather(1, codes[:, None]).sum()
            # One number per row: no two additions meet in a place, so that a GPU repeats the sum bit for bit.
            residual.scatter_add_(1, codes[:, None], residual.new_full((len(codes), 1), -1.0))
            gradient.addmm_(rows.T, residual)  # [r b] [b c] -> [r c]
        return loss / len(self.codes), gradient / len(self.codes), entropy / len(self.codes)

    def relative_gap(self, weights: Float64[Tensor, "r c"]) -> float:
        """Return (P - D) / P. It is zero at the optimum, and an upper bound of the relative distance to it."""
        loss, gradient, entropy = self.data_term(weights)
        primal = loss + self.regularization / 2 * weights.square().sum()
        dual = entropy - gradient.square().sum() / (2 * self.regularization)
        return float((primal - dual) / primal)


def fit(problem: LogisticProblem, options: LogisticOptions, start: LogisticFit | None = None) -> LogisticFit:
    """Fit for one lambda. start: a fit for a neighbouring lambda, from which L-BFGS starts."""
    if options.solver == "lbfgs":
        return _fit_lbfgs(problem, options, start)
    return _fit_cyanure(problem, options)


def fit_path(
    features: Float[Tensor, "n r"],
    codes: Int64[Tensor, " n"],
    classes: int,
    lambdas: Float[np.ndarray, " m"],
    options: LogisticOptions,
) -> list[LogisticFit]:
    """Return a fit for each lambda, in their order. L-BFGS starts each fit from that of the next larger lambda."""
    fits: dict[float, LogisticFit] = {}
    last = None
    for value in sorted(lambdas.tolist(), reverse=True):
        last = fits[value] = fit(LogisticProblem(features, codes, classes, value), options, last)
    return [fits[value] for value in lambdas.tolist()]


def _fit_lbfgs(problem: LogisticProblem, options: LogisticOptions, start: LogisticFit | None) -> LogisticFit:
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
    rows, columns = problem.features.shape
    with shared(problem.features.double().cpu()) as handle:
        request = CyanureFit(
            rows=rows,
            columns=columns,
            offset=handle.offset,
            classes=problem.classes,
            regularization=problem.regularization,
            tolerance=options.tolerance,
            max_epochs=options.max_epochs,
            seed=options.seed,
            threads=torch.get_num_threads(),
        )
        answer = PROCESS.fit(request, handle.descriptor, problem.codes.cpu().numpy())
    weights = torch.from_numpy(answer.coefficients).to(problem.features.device)
    if problem.classes == 2:
        weights = torch.stack([-weights.flatten() / 2, weights.flatten() / 2], dim=1)  # [r] -> [r 2]
    return LogisticFit(weights, problem.regularization, problem.relative_gap(weights), answer.epochs)
