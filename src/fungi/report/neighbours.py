"""A picture of what changes: test images and their nearest train images, by embeddings and by the combined feature."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from fungi.runtime.files import written_whole

SHOWN = 8


def draw_neighbours(
    path: Path,
    *,
    query: Callable[[int], Any],
    candidate: Callable[[int], Any],
    rows: Sequence[int],
    neighbours: dict[str, Int[np.ndarray, "q k"]],
    query_labels: Int[np.ndarray, " q"],
    candidate_labels: Int[np.ndarray, " n"],
    title: str,
) -> None:
    """Write a PNG: one line per query, its neighbours by each feature beside it.

    query, candidate: row -> image. A neighbour of another class has a thick black frame and its label below; one of
    the query's own class a thin grey one, so that the picture reads in black and white.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.0 + 0.75 * (SHOWN * len(neighbours) + 2), 0.9 * len(rows) + 0.9))
    columns = 1 + len(neighbours) * (SHOWN + 1)
    axes = figure.subplots(len(rows), columns, squeeze=False, gridspec_kw={"wspace": 0.12, "hspace": 0.35})
    for axis in axes.flat:
        axis.set_axis_off()
    for line, row in zip(axes, rows, strict=True):
        _show(line[0], query(row), f"{query_labels[row]}")
        for block, found in enumerate(neighbours.values()):
            for place, chosen in enumerate(found[row][:SHOWN]):
                same = candidate_labels[chosen] == query_labels[row]
                axis = line[2 + block * (SHOWN + 1) + place]
                _show(axis, candidate(int(chosen)), "" if same else f"{candidate_labels[chosen]}", framed=not same)
    axes[0][0].set_title("query", fontsize=9)
    for block, name in enumerate(neighbours):
        axes[0][2 + block * (SHOWN + 1)].set_title(f"nearest by {name}", fontsize=9, loc="left")
    figure.suptitle(title, fontsize=10)
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, bbox_inches="tight")


def _show(axis: Any, image: Any, label: str, *, framed: bool = False) -> None:
    axis.imshow(image, cmap="gray", interpolation="nearest")
    axis.set_axis_on()
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_linewidth(2.5 if framed else 0.4)
        spine.set_color("black" if framed else "0.6")
    axis.set_xlabel(label, fontsize=8, labelpad=1)
