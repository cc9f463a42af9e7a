"""The random projection of gradients to p numbers: `R vec(gradient) / sqrt(p)` (spec vision 6).

The matrix R is `[p G]`. G is the number of entries of the flattened gradient `vec(gradient)`, the axis g in signatures.

| kind | entries | stored as |
|---|---|---|
| binary (default) | +1 or -1 with equal probability | one bit each |
| sparse | sqrt(3) x (+1, 0, -1 with probabilities 1/6, 2/3, 1/6) | two bits each: sign, and 1 for nonzero entries |
| gaussian | N(0, 1) | float32 |
| khatri-rao | outer product of two rows of signs (`fungi.gradients.khatri_rao`) | o + i + 1 bits per row |

All kinds preserve inner products on average: `E <Rx, Ry> / p = <x, y>`. For the first three kinds, the standard
deviation is at most `sqrt(2/p) |x| |y|`. For khatri-rao, the standard deviation is larger if gradients have low rank.
Binary matrices are drawn as in the published code, so the same seed results in the same matrix.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import isqrt
from pathlib import Path
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from fungi.errors import FungiError, MissingFilesError
from fungi.gradients.terms import Terms
from fungi.runtime.files import save_with_torch
from fungi.runtime.products import product

Kind = Literal["binary", "gaussian", "sparse", "khatri-rao"]
KINDS: tuple[str, ...] = get_args(Kind)
FORMAT = 1
"""Version of the format of matrix files."""
_REQUIRED = {"kind", "seed", "projection_dim", "gradient_dim", "packed", "outputs", "hash"}
"""Entries that a matrix file has to contain."""
_ROWS_AT_ONCE = 16
"""Number of rows that are drawn, hashed or converted together, to use little memory."""


@dataclass(frozen=True, eq=False)
class ProjectionMatrix:
    """A projection matrix in its stored form.

    seed: seed of the random entries; -1 if `draw_projection` did not draw the matrix.
    projection_dim, gradient_dim: p and G.
    packed: bits `[p, bytes per row]`; for gaussian, entries `[p G]` in float32.
    outputs: number of outputs o of the layer, for khatri-rao; 0 for other kinds.
    """

    kind: str
    seed: int
    projection_dim: int
    gradient_dim: int
    packed: Tensor
    outputs: int = 0

    @cached_property
    def hash(self) -> str:
        """SHA-256 of kind, size and entries. This hash identifies the matrix in feature files."""
        shape = f" {self.outputs}" if self.outputs else ""
        digest = hashlib.sha256(f"{self.kind} {self.projection_dim} {self.gradient_dim}{shape}".encode())
        for start in range(0, self.projection_dim, _ROWS_AT_ONCE):
            digest.update(self.packed[start : start + _ROWS_AT_ONCE].numpy().tobytes())
        return digest.hexdigest()

    def rows(self, start: int, stop: int) -> Float[Tensor, "rows g"]:
        """Return the entries of rows `start` to `stop`, float32."""
        packed = self.packed[start:stop]
        if self.kind == "gaussian":
            return packed
        if self.kind == "khatri-rao":
            return torch.einsum("ro,ri->roi", *self.factors(start, stop)).flatten(1)
        bits = _unpack(packed, self.gradient_dim * (2 if self.kind == "sparse" else 1))
        if self.kind == "binary":
            return bits.float().mul_(2).sub_(1)
        signs, nonzero = bits[:, : self.gradient_dim].float(), bits[:, self.gradient_dim :].float()
        return (2 * signs - 1) * nonzero * 3**0.5

    def factors(
        self, start: int = 0, stop: int | None = None
    ) -> tuple[Float[Tensor, "rows o"], Float[Tensor, "rows i"]]:
        """Return the rows of S and T of a khatri-rao matrix, with entries +1 and -1, float32."""
        inputs = self.gradient_dim // self.outputs
        signs = _unpack(self.packed[start:stop], self.outputs + inputs).float().mul_(2).sub_(1)
        return signs[:, : self.outputs], signs[:, self.outputs :]

    def dense(self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Float[Tensor, "p g"]:
        """Return all entries, without the factor 1/sqrt(p)."""
        entries = torch.empty(self.projection_dim, self.gradient_dim, device=device, dtype=dtype)
        for start in range(0, self.projection_dim, _ROWS_AT_ONCE):
            stop = min(start + _ROWS_AT_ONCE, self.projection_dim)
            entries[start:stop] = self.rows(start, stop).to(device, dtype)
        return entries


@runtime_checkable
class Projector(Protocol):
    """A projection matrix on a device. It maps the terms of gradients to p entries in two steps: contract and project.

    The second step can take many gradients together. A khatri-rao projector contracts the terms of a group directly to
    `[b p]`, without computing the gradients. A dense projector computes the gradients of each group, and multiplies the
    gradients of many groups by the matrix in one step.
    """

    matrix: ProjectionMatrix

    @property
    def entries(self) -> Float[Tensor, "p g"]:
        """The dense matrix on the device, without the factor 1/sqrt(p)."""

    def contract(self, terms: Terms) -> Float[Tensor, "b m"]:
        """Return the intermediate result for the gradients of one forward pass."""

    def project(self, contracted: Float[Tensor, "b m"]) -> Float[Tensor, "b p"]:
        """Return the projected gradients of intermediate results, float32."""


class RawGradients:
    """Replacement of a projector that returns flattened gradients without projection."""

    def contract(self, terms: Terms) -> Float[Tensor, "b g"]:
        """Return the flattened gradients: `[b o i] -> [b g]`."""
        return terms.gradients().flatten(1)

    def project(self, contracted: Float[Tensor, "b g"]) -> Float[Tensor, "b g"]:
        """Return the gradients unchanged."""
        return contracted


class DenseProjector:
    """Projector with a dense matrix, in the dtype of the product."""

    def __init__(self, matrix: ProjectionMatrix, device: torch.device, dtype: torch.dtype) -> None:
        self.matrix = matrix
        self._dense = matrix.dense(device, dtype)
        self._scaling = matrix.projection_dim**-0.5

    @property
    def entries(self) -> Float[Tensor, "p g"]:
        """The matrix on its device, in the dtype of the product; without the factor 1/sqrt(p)."""
        return self._dense

    def contract(self, terms: Terms) -> Float[Tensor, "b g"]:
        """Return the flattened gradients: `[b o i] -> [b g]`."""
        return terms.gradients().flatten(1)

    def project(self, contracted: Float[Tensor, "b g"]) -> Float[Tensor, "b p"]:
        """Project flattened gradients. Rows are scaled to the same norm before rounding, and back after the product."""
        if self._dense.dtype == torch.float32:
            return contracted @ self._dense.T * self._scaling
        norms = contracted.norm(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        scaled = torch.empty(contracted.shape, dtype=self._dense.dtype, device=contracted.device)
        torch.mul(contracted, contracted.shape[1] ** 0.5 / norms, out=scaled)  # the mean square of the entries is 1
        return product(scaled, self._dense.T) * norms * (self._scaling / contracted.shape[1] ** 0.5)


def draw_projection(
    projection_dim: int, gradient_dim: int, *, kind: str = "binary", seed: int = 42, outputs: int = 0
) -> ProjectionMatrix:
    """Draw a matrix from torch's CPU generator. Blocks of rows are drawn one after the other, to use little memory.

    projection_dim, gradient_dim: p and G. kind: see the top of this file.
    outputs: number of outputs o of the layer, for khatri-rao; 0 means a square layer, with or without a bias.
    Raises FungiError for an unknown kind or impossible sizes.
    """
    if kind not in KINDS:
        raise FungiError(f"projection kind {kind!r} is not known. Use {', '.join(KINDS)}.")
    if projection_dim < 1 or gradient_dim < 1:
        raise FungiError(f"a projection of {projection_dim} x {gradient_dim} has no entries.")
    if kind == "khatri-rao":
        outputs = outputs or _square_outputs(gradient_dim)
        if gradient_dim % outputs:
            raise FungiError(
                f"a gradient of {gradient_dim} entries can't be split into {outputs} rows of equal length."
            )
        packed = torch.cat(list(_random_rows(projection_dim, outputs + gradient_dim // outputs, "binary", seed)))
        return ProjectionMatrix(kind, seed, projection_dim, gradient_dim, packed, outputs)
    packed = torch.cat(list(_random_rows(projection_dim, gradient_dim, kind, seed)))
    return ProjectionMatrix(kind, seed, projection_dim, gradient_dim, packed)


def _square_outputs(gradient_dim: int) -> int:
    """Return o of a layer with as many outputs as inputs: G = o (o + 1), or o^2 without a bias.

    Raises FungiError if there is no such layer.
    """
    side = isqrt(gradient_dim)
    if gradient_dim not in (side * side, side * (side + 1)):
        raise FungiError(
            f"a khatri-rao projection of {gradient_dim} entries needs the shape of the layer, which is not square."
            " Set its number of outputs (--layer-outputs)."
        )
    return side


def _random_rows(projection_dim: int, gradient_dim: int, kind: str, seed: int) -> Iterator[Tensor]:
    """Yield blocks of random rows in the stored form."""
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, projection_dim, _ROWS_AT_ONCE):
        shape = (min(_ROWS_AT_ONCE, projection_dim - start), gradient_dim)
        if kind == "gaussian":
            yield torch.randn(shape, generator=generator)
            continue
        uniform = torch.rand(shape, generator=generator)
        if kind == "binary":
            yield _pack(uniform > 0.5)
        else:
            positive, negative = uniform > 5 / 6, uniform < 1 / 6
            yield _pack(torch.cat([positive, positive | negative], dim=1))


def save_projection(matrix: ProjectionMatrix, path: Path) -> None:
    """Write a matrix to a file. Other processes never see an incomplete file."""
    fields = ("kind", "seed", "projection_dim", "gradient_dim", "outputs", "hash", "packed")
    save_with_torch({"format": FORMAT} | {name: getattr(matrix, name) for name in fields}, path)


def load_projection(path: Path) -> ProjectionMatrix:
    """Read a matrix in the format of this project, or of the published code (`projection` float `[p G]`, `scaling`).

    Raises MissingFilesError if the file does not exist, and FungiError if it is damaged or is not a projection matrix.
    """
    if not path.is_file():
        raise MissingFilesError(f"no projection matrix at {path}. Write one with fungi projection.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files make torch.load raise nearly anything
        raise FungiError(
            f"{path} can't be read as a projection matrix ({error.__class__.__name__}). The file is kept: choose"
            " another --projection-matrix, or write a new matrix to another file with fungi projection."
        ) from error
    if isinstance(content, dict) and "projection" in content:
        entries = content["projection"]
        if not isinstance(entries, Tensor) or entries.ndim != 2:
            raise FungiError(f"{path}: its entry 'projection' is not a matrix [p G]. Write a new matrix.")
        if not bool(entries.isfinite().all()) or not bool(entries.any(dim=1).all()):
            raise FungiError(f"{path}: its entry 'projection' has rows of zeros, or is not finite. Write a new matrix.")
        return from_entries(entries)
    if not isinstance(content, dict) or content.get("format") != FORMAT or not content.keys() >= _REQUIRED:
        raise FungiError(f"{path} is not a projection matrix of format {FORMAT}. Write a new matrix.")
    return _matrix_of_content(content, path)


def _matrix_of_content(content: dict[str, Any], path: Path) -> ProjectionMatrix:
    """Return the matrix in the content of a file. Raises FungiError if the content is damaged."""
    if not _has_valid_fields(content):
        raise FungiError(
            f"{path} is damaged: its entries do not have the stated kind and size. Write the matrix again."
        )
    matrix = ProjectionMatrix(**{name: content[name] for name in _REQUIRED - {"hash"}})
    if matrix.hash != content["hash"]:
        raise FungiError(
            f"{path} is damaged: the hash of its entries differs from the stored hash. Write the matrix again."
        )
    return matrix


def _has_valid_fields(content: dict[str, Any]) -> bool:
    """Return whether the fields of a matrix file have valid types and sizes."""
    kind, packed, outputs = content["kind"], content["packed"], content["outputs"]
    rows, columns = content["projection_dim"], content["gradient_dim"]
    are_integers = all(type(number) is int for number in (content["seed"], rows, columns, outputs))
    if kind not in KINDS or not isinstance(packed, Tensor) or not are_integers:
        return False
    if rows < 1 or columns < 1 or (kind == "khatri-rao" and (outputs < 1 or columns % outputs)):
        return False
    if kind == "gaussian":
        return packed.dtype == torch.float32 and packed.shape == (rows, columns) and bool(packed.isfinite().all())
    bits = {"binary": columns, "sparse": 2 * columns, "khatri-rao": outputs + columns // max(1, outputs)}[kind]
    bytes_per_row = -(-bits // 8)  # rounded up
    return packed.dtype == torch.uint8 and packed.shape == (rows, bytes_per_row)


def from_entries(entries: Shaped[Tensor, "p g"]) -> ProjectionMatrix:
    """Return a matrix with these entries.

    Signs and booleans (True is +1) are stored as bits. Other entries are stored as float32.
    """
    if entries.dtype != torch.bool and not bool((entries.abs() == 1).all()):
        return ProjectionMatrix("gaussian", -1, entries.shape[0], entries.shape[1], entries.float().cpu())
    return ProjectionMatrix("binary", -1, entries.shape[0], entries.shape[1], _pack((entries > 0).cpu()))


def product_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of the projection for a model in `dtype`: the same, but float32 for float16.

    In float16, sums over the G entries of a gradient would overflow.
    """
    return torch.float32 if dtype == torch.float16 else dtype


def _pack(bits: Tensor) -> Tensor:
    """Return rows of booleans as rows of bytes, with eight booleans per byte."""
    return torch.from_numpy(np.packbits(bits.numpy(), axis=1))


def _unpack(packed: Tensor, count: int) -> Tensor:
    """Return the first `count` bits of each row of bytes, as numbers 0 and 1."""
    return torch.from_numpy(np.unpackbits(packed.numpy(), axis=1, count=count))
