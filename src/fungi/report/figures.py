"""Draw plots in colours that colour-blind people can distinguish (Okabe and Ito 2008).

Markers, line styles or words repeat the meaning of each colour. An axis of bars starts at zero. An axis of dots may
start at another value. An axis of percentages ends at 100.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from fungi.report.words import feature_in_words
from fungi.results.naming import short_name
from fungi.runtime.files import written_atomically

BLACK = "#000000"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Blue, vermillion, green, purple, orange, sky blue."""
MAX_CLASS_NAMES = 40
"""Largest number of class names next to the bars; more names would not be legible."""
TITLE_WIDTH = 72
"""Number of characters per line of a title."""
LINES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "x", "P", "*")
_STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.dpi": 200,
    "savefig.bbox": "tight",  # include labels that reach beyond the axes
    "savefig.pad_inches": 0.08,
}


@dataclass(frozen=True)
class Series:
    """The points of a line in a plot. std: standard deviation of y. captions: text above each point."""

    name: str
    x: Sequence[int]
    y: Sequence[float]
    std: Sequence[float] | None = None
    captions: Sequence[str] = ()


def figure_path(folder: Path, *parts: object) -> Path:
    """Return the path of a figure. The parts become its file name."""
    text = "_".join(str(part) for part in parts if str(part))
    return folder / (short_name(re.sub(r"[^A-Za-z0-9.+_-]+", "-", text).strip("-"), 200) + ".png")


@contextmanager
def canvas(path: Path, width: float, height: float, title: str = "") -> Iterator[Any]:
    """Yield the axes of a figure, and write the figure to `path` at the end of the block.

    width, height: size in inches; further lines of the title add to the height.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with pyplot.rc_context(_STYLE):
        title_height = 0.17 * title.count("\n")  # `height` includes the first line
        figure, axes = pyplot.subplots(figsize=(width, height + title_height), layout="constrained")
        if title:
            figure.suptitle(title, fontsize=9, x=0.01, ha="left")
        yield axes
        with written_atomically(path) as temporary:
            figure.savefig(temporary, format="png")
        pyplot.close(figure)


def draw_dots(
    path: Path, title: str, values: Mapping[str, tuple[float, float | None]], baseline: str, x_axis: str = "accuracy, %"
) -> None:
    """Draw one row per name: a dot at its value, with an error bar of one standard deviation.

    values: name -> value and standard deviation. A dashed line marks the baseline. The baseline is a square, single
    features are open circles, and combinations are filled circles.
    """
    names = list(values)[::-1]
    with canvas(path, 5.2, 0.9 + 0.25 * len(names), title) as axes:
        axes.grid(axis="x", color="0.92", linewidth=0.6)
        if baseline in values:
            axes.axvline(values[baseline][0], color=BLACK, linestyle="--", linewidth=0.9)
        for row, name in enumerate(names):
            value, std = values[name]
            is_single = "+" not in name
            marker, color = ("s", BLACK) if name == baseline else ("o", COLOURS[0])
            axes.errorbar(
                value,
                row,
                xerr=_error_bars([value], None if std is None else [std]),
                marker=marker,
                color=color,
                markerfacecolor="white" if is_single and name != baseline else color,
                markersize=6,
                linewidth=1.4,
                capsize=2,
                clip_on=False,  # draw the complete marker at the end of the axis
            )
            _write_value(axes, row, value, std)
        axes.set_yticks(range(len(names)), [feature_in_words(name) for name in names])
        axes.set_ylim(-0.6, len(names) - 0.4)
        axes.margins(x=0.12)
        axes.set_xlim(right=min(axes.get_xlim()[1], 100))
        axes.set_xlabel(x_axis + (f"  (dashed: {feature_in_words(baseline)})" if baseline in values else ""))


def _write_value(axes: Any, row: int, value: float, std: float | None) -> None:
    """Write a value on the right of its error bar."""
    axes.annotate(
        f"{value:.1f}",
        (min(value + (std or 0), 100), row),
        (6, 0),
        textcoords="offset points",
        va="center",
        fontsize=8,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},  # hides the dashed line behind the number
    )


def draw_compared_dots(
    path: Path, title: str, groups: Sequence[str], series: Sequence[Series], x_axis: str = "accuracy, %"
) -> None:
    """Draw one row per group (backbone), with a dot per series and a line between the dots.

    The x values of a series are indices of groups.
    """
    with canvas(path, 5.2, 1.3 + 0.3 * len(groups), title) as axes:
        axes.grid(axis="x", color="0.92", linewidth=0.6)
        for group in range(len(groups)):
            values = [line.y[list(line.x).index(group)] for line in series if group in line.x]
            axes.hlines(group, min(values), max(values), color="0.6", linewidth=1.2, zorder=1)
        for number, line in enumerate(series):
            axes.errorbar(
                line.y,
                line.x,
                xerr=_error_bars(line.y, line.std),
                linestyle="none",
                clip_on=False,
                marker=MARKERS[number % len(MARKERS)],
                color=COLOURS[number % len(COLOURS)],
                label=feature_in_words(line.name),
                markersize=6,
            )
            for text, dot in zip(line.captions, zip(line.y, line.x, strict=True), strict=bool(line.captions)):
                axes.annotate(text, dot, (0, 4), textcoords="offset points", ha="center", va="bottom", fontsize=7)
        axes.set_xlim(right=min(axes.get_xlim()[1], 100))
        axes.set_yticks(range(len(groups)), groups)
        axes.set_ylim(len(groups) - 0.5, -0.5)
        axes.set_xlabel(x_axis)
        _legend_below(axes, len(series))


def draw_curves(
    path: Path, title: str, series: Sequence[Series], *, x_axis: str, y_axis: str = "accuracy, %", ticks: bool = True
) -> None:
    """Draw each series as a line with its own style and marker. Known standard deviations are drawn as a band.

    ticks: whether every x value has a tick.
    """
    with canvas(path, 5.2, 3.4, title) as axes:
        for number, line in enumerate(series):
            color = COLOURS[number % len(COLOURS)]
            axes.plot(
                line.x,
                line.y,
                linestyle=LINES[number % len(LINES)],
                marker=MARKERS[number % len(MARKERS)],
                color=color,
                label=feature_in_words(line.name),
                linewidth=1.3,
                markersize=5,
                markerfacecolor="white",
                clip_on=False,
            )
            if line.std is not None:
                low, high = np.array(line.y) - line.std, np.minimum(np.array(line.y) + line.std, 100)
                axes.fill_between(line.x, low, high, color=color, alpha=0.15, linewidth=0)
        if ticks:
            axes.set_xticks(sorted({value for line in series for value in line.x}))
        axes.set_ylim(top=min(axes.get_ylim()[1], 100))
        axes.set_xlabel(x_axis)
        axes.set_ylabel(y_axis)
        axes.grid(axis="y", color="0.9", linewidth=0.6)
        _legend_below(axes, len(series))


def draw_heatmap(path: Path, title: str, names: Sequence[str], values: Float[np.ndarray, "m m"]) -> None:
    """Draw a matrix in grey levels from 0 (white) to 1 (black), with the values in the cells."""
    size = 1.8 + 0.62 * len(names)
    with canvas(path, size + 0.6, size, title) as axes:
        image = axes.imshow(values, cmap="Greys", vmin=0, vmax=1)
        for row, column in np.ndindex(values.shape):
            value = values[row, column]
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color="white" if value > 0.55 else "black")
        words = [feature_in_words(name) for name in names]
        axes.set_xticks(range(len(names)), words, rotation=30, ha="right")
        axes.set_yticks(range(len(names)), words)
        axes.figure.colorbar(image, ax=axes, shrink=0.8)


def draw_sorted_differences(
    path: Path, title: str, series: Sequence[Series], x_axis: str, classes: Sequence[str] = ()
) -> None:
    """Draw a panel per series, with a sorted bar for the gain or loss of each class. The x values are not used.

    classes: class names, in the order of y. More than `MAX_CLASS_NAMES` names are not drawn.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    has_names = 0 < len(classes) <= MAX_CLASS_NAMES
    height = max(2.4, 0.9 + 0.17 * len(classes)) if has_names else 2.8
    with pyplot.rc_context(_STYLE):
        figure, panels = pyplot.subplots(
            1, len(series), figsize=(1.2 + 1.9 * len(series), height), sharex=True, squeeze=False, layout="constrained"
        )
        for panel, line in zip(panels[0], series, strict=True):
            _draw_sorted_bars(panel, line, classes if has_names else ())
        figure.supxlabel(x_axis, fontsize=9)
        if not has_names:
            figure.supylabel("classes, sorted", fontsize=9)
        figure.suptitle(title, fontsize=9, x=0.01, ha="left")
        with written_atomically(path) as temporary:
            figure.savefig(temporary, format="png")
        pyplot.close(figure)


def _draw_sorted_bars(panel: Any, line: Series, names: Sequence[str]) -> None:
    """Draw the bars of a series, with the largest gain at the top. names: class names; empty for bars without names."""
    values = np.array(line.y)
    order = np.argsort(values, kind="stable")
    colours = np.where(values[order] >= 0, COLOURS[0], COLOURS[1])
    panel.barh(range(len(order)), values[order], height=0.8 if names else 1.0, color=colours)
    panel.axvline(0, color=BLACK, linewidth=0.8)
    panel.use_sticky_edges = False  # keeps a margin next to the line at zero
    gains, losses = int((values > 0).sum()), int((values < 0).sum())
    panel.set_title(f"{feature_in_words(line.name)}: {gains} up, {losses} down", fontsize=8)
    ticks, sorted_names = (range(len(order)), [names[row] for row in order]) if names else ([], [])
    panel.set_yticks(ticks, sorted_names)
    panel.tick_params(labelsize=8)


def _error_bars(values: Sequence[float], stds: Sequence[float] | None) -> Float[np.ndarray, "2 n"] | None:
    """Return the lengths of error bars to both sides; None if there are no deviations. No bar extends beyond 100 %."""
    if stds is None:
        return None
    return np.array([stds, np.minimum(stds, 100 - np.array(values))])


def _legend_below(axes: Any, entries: int) -> None:
    """Draw the legend below the axes, where it does not cover data."""
    axes.figure.legend(loc="outside lower center", ncols=min(3, entries), frameon=False, fontsize=8)
