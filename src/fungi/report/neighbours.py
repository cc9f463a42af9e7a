"""Draw test images and their nearest train images, by embeddings and by the combined feature."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from fungi.report.figures import COLOURS
from fungi.report.words import feature_in_words
from fungi.runtime.files import written_atomically

NEIGHBOURS_PER_FEATURE = 8
OTHER_CLASS_COLOUR = COLOURS[1]


def draw_neighbours(
    path: Path,
    *,
    query_image: Callable[[int], Any],
    candidate_image: Callable[[int], Any],
    rows: Sequence[int],
    neighbours: dict[str, Int[np.ndarray, "q k"]],
    query_labels: Int[np.ndarray, " q"],
    candidate_labels: Int[np.ndarray, " n"],
    names: Sequence[str],
    title: str,
) -> None:
    """Write a PNG with one row per query: the query, then its neighbours by each feature.

    query_image, candidate_image: functions that return the image of a row. rows: rows of the queries to draw.
    neighbours: feature -> rows of the nearest candidates of each query. names: class names.

    A neighbour of another class has an orange-red frame. Below its image are a cross and the name of its class. A
    neighbour of the same class has a thin grey frame.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.0 + 0.75 * (NEIGHBOURS_PER_FEATURE * len(neighbours) + 2), 0.9 * len(rows) + 0.9))
    # An empty column comes before the neighbours of each feature.
    first_columns = [2 + index * (NEIGHBOURS_PER_FEATURE + 1) for index in range(len(neighbours))]
    columns = 1 + len(neighbours) * (NEIGHBOURS_PER_FEATURE + 1)
    axes = figure.subplots(len(rows), columns, squeeze=False, gridspec_kw={"wspace": 0.12, "hspace": 0.35})
    for axis in axes.flat:
        axis.set_axis_off()
    for row_axes, row in zip(axes, rows, strict=True):
        _draw_image(row_axes[0], query_image(row), names[query_labels[row]])
        for first_column, indices in zip(first_columns, neighbours.values(), strict=True):
            for rank, index in enumerate(indices[row][:NEIGHBOURS_PER_FEATURE]):
                is_same_class = candidate_labels[index] == query_labels[row]
                text = "" if is_same_class else f"× {names[candidate_labels[index]]}"
                image = candidate_image(int(index))
                _draw_image(row_axes[first_column + rank], image, text, is_other_class=not is_same_class)
    axes[0][0].set_title("query", fontsize=9)
    for first_column, name in zip(first_columns, neighbours, strict=True):
        axes[0][first_column].set_title(f"nearest by {feature_in_words(name)}", fontsize=9, loc="left")
    figure.suptitle(title, fontsize=10)
    with written_atomically(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, bbox_inches="tight")


def _draw_image(axis: Any, image: Any, label: str, *, is_other_class: bool = False) -> None:
    """Draw an image with a frame and a label below it. is_other_class: whether to draw a wide coloured frame."""
    axis.imshow(image, cmap="gray", interpolation="nearest")
    axis.set_axis_on()
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_linewidth(3 if is_other_class else 0.4)
        spine.set_color(OTHER_CLASS_COLOUR if is_other_class else "0.6")
    axis.set_xlabel(label, fontsize=8, labelpad=2, color=OTHER_CLASS_COLOUR if is_other_class else "black")
