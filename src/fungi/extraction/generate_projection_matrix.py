"""`generate_projection_matrix.py`: write a random projection matrix."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fungi.errors import FungiError
from fungi.settings import SEEDS, required, setting

DESCRIPTION = """Write a random projection matrix R [p G] and its hash. The projected gradient is R vec(g) / sqrt(p).

Sizes (p, G) for the attention output projection: ViT-S (384, 147840), ViT-B (768, 590592), ViT-L (1024, 1049600);
`fungi list backbones` prints them all. Use one matrix for all objectives and splits of a backbone."""


LARGEST_PROJECTION = 65_536
LARGEST_MATRIX = 2**36
"""Largest number of entries, p x G: 8 GiB of sign bits, 64 times as many as the largest published backbone needs."""


@dataclass(frozen=True, kw_only=True)
class ProjectionSettings:
    """Settings of `fungi projection`: size, kind, seed and file of a matrix."""

    projection_dim: int = required("p: size of a projected gradient", within=(1, LARGEST_PROJECTION), topic="features")
    gradients_dim: int = required(
        "G: number of entries of the gradient; for a linear layer with bias: outputs * (inputs + 1)", within=(1, 2**28)
    )
    output_path: Path = required("file to write")
    kind: Literal["binary", "gaussian", "sparse", "khatri-rao"] = setting("binary", "distribution of the entries")
    layer_outputs: int = setting(
        0, "for khatri-rao: number of outputs of the layer; 0: as many as inputs", within=(0, 2**28)
    )
    seed: int = setting(42, "seed of the entries", within=SEEDS)
    overwrite: bool = setting(False, "replace a file with another matrix", topic="files")

    def __post_init__(self) -> None:
        if self.projection_dim * self.gradients_dim > LARGEST_MATRIX:
            raise FungiError(
                f"a matrix of {self.projection_dim} x {self.gradients_dim} has more than {LARGEST_MATRIX} entries."
                " Choose a smaller --projection-dim, or a layer with a smaller gradient."
            )

    def outputs(self) -> list[Path]:
        """Return the matrix file."""
        return [self.output_path]

    def difference(self, path: Path) -> str:
        """Return an empty text: the name of the file already states all settings of the matrix."""
        return ""


def run(settings: ProjectionSettings) -> None:
    """Draw the matrix and write it; keep an existing file with the same matrix.

    Raises FungiError if the file has another matrix, unless `overwrite` is set.
    """
    from fungi.gradients.projection import draw_projection, load_projection, save_projection

    size, width, outputs = settings.projection_dim, settings.gradients_dim, settings.layer_outputs
    matrix = draw_projection(size, width, kind=settings.kind, seed=settings.seed, outputs=outputs)
    path = settings.output_path
    if path.exists() and not settings.overwrite:
        stored = load_projection(path)
        if stored.hash != matrix.hash:
            raise FungiError(
                f"{path} holds another matrix (hash {stored.hash[:12]}, not {matrix.hash[:12]}). Use --overwrite to"
                " replace it, or another file."
            )
        print(f"kept {path}: it already contains this matrix")
        return
    save_projection(matrix, path)
    print(f"wrote {path}: {matrix.kind} {matrix.projection_dim} x {matrix.gradient_dim}, hash {matrix.hash[:12]}")
