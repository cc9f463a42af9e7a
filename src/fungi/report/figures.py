"""Plots that read well in black and white: shades of grey, hatches, markers and line styles, never colour alone."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from fungi.runtime.files import written_whole

GREYS = ("white", "0.75", "0.45", "0.15")
LINE_GREYS = ("black", "0.3", "0.5")
HATCHES = ("", "//", "..", "xx")
LINES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "x", "P", "*")
_STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.dpi": 150,
    "hatch.linewidth": 0.6,
}

_ON_WHITE: Any = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}


@dataclass(frozen=True)
class Series:
    """One line of a plot: its name, x and y, and the deviation of y where there is one."""

    name: str
    x: Sequence[int]
    y: Sequence[float]
    std: Sequence[float] | None = None


@contextmanager
def canvas(path: Path, width: float, height: float) -> Iterator[Any]:
    """Axes of a figure that is written to `path` on leaving."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with pyplot.rc_context(_STYLE):
        figure, axes = pyplot.subplots(figsize=(width, height), layout="constrained")
        yield axes
        with written_whole(path) as temporary:
            figure.savefig(temporary, format="png")
        pyplot.close(figure)


def bars(
    path: Path, title: str, values: Mapping[str, tuple[float, float | None]], baseline: str, axis: str = "accuracy, %"
) -> None:
    """Horizontal bars, one per name: (value, deviation); a dashed line at the baseline's value.

    The baseline is white, single features light, combinations dark the more features they hold.
    """
    names = list(values)[::-1]
    with canvas(path, 6.4, 0.9 + 0.27 * len(names)) as axes:
        for place, name in enumerate(names):
            value, std = values[name]
            shade = min(name.count("+"), len(GREYS) - 1)
            axes.barh(
                place,
                value,
                xerr=std,
                color=GREYS[shade],
                hatch=HATCHES[shade] if shade == 1 else "",
                edgecolor="black",
                linewidth=0.8,
                height=0.72,
                error_kw={"linewidth": 0.9, "capsize": 2},
            )
            axes.text(
                value + (std or 0) + 0.8, place, f"{value:.1f}", va="center", fontsize=8, zorder=3, bbox=_ON_WHITE
            )
        if baseline in values:
            axes.axvline(values[baseline][0], color="black", linestyle="--", linewidth=0.9)
        axes.set_yticks(range(len(names)), names)
        axes.set_xlim(*_span([value for value, _ in values.values()]))
        axes.set_xlabel(axis + (f"  (dashed: {baseline})" if baseline in values else ""))
        axes.set_title(title, fontsize=9, loc="left")


def grouped_bars(
    path: Path, title: str, groups: Sequence[str], series: Sequence[Series], axis: str = "accuracy, %"
) -> None:
    """For each group (backbone) one bar per series; x of a series is the place of the group."""
    with canvas(path, max(4.5, 1.1 + 0.75 * len(groups)), 3.4) as axes:
        width = 0.8 / len(series)
        for number, one in enumerate(series):
            offsets = [place - 0.4 + width * (number + 0.5) for place in one.x]
            axes.bar(
                offsets,
                one.y,
                width,
                yerr=one.std,
                label=one.name,
                color=GREYS[number % 4],
                hatch=HATCHES[number % 4],
                edgecolor="black",
                linewidth=0.8,
                error_kw={"linewidth": 0.9, "capsize": 2},
            )
        axes.set_xticks(range(len(groups)), groups, rotation=30, ha="right")
        axes.set_ylim(*_span([value for one in series for value in one.y]))
        axes.set_ylabel(axis)
        axes.set_title(title, fontsize=9, loc="left")
        _legend_below(axes, len(series))


def curves(
    path: Path, title: str, series: Sequence[Series], *, x_axis: str, y_axis: str = "accuracy, %", ticks: bool = True
) -> None:
    """Lines told apart by style and marker, with bands of one deviation where there are any."""
    with canvas(path, 5.4, 3.4) as axes:
        for number, one in enumerate(series):
            grey = LINE_GREYS[number % 3]
            axes.plot(
                one.x,
                one.y,
                linestyle=LINES[number % 4],
                marker=MARKERS[number % 8],
                color=grey,
                label=one.name,
                linewidth=1.3,
                markersize=5,
                markerfacecolor="white",
            )
            if one.std is not None:
                low, high = np.array(one.y) - one.std, np.array(one.y) + one.std
                axes.fill_between(one.x, low, high, color=grey, alpha=0.15, linewidth=0)
        if ticks:
            axes.set_xticks(sorted({value for one in series for value in one.x}))
        axes.set_xlabel(x_axis)
        axes.set_ylabel(y_axis)
        axes.grid(axis="y", color="0.9", linewidth=0.6)
        axes.set_title(title, fontsize=9, loc="left")
        _legend_below(axes, len(series))


def heatmap(path: Path, title: str, names: Sequence[str], values: Float[np.ndarray, "m m"]) -> None:
    """A square of shades from 0 (white) to 1 (black), with the numbers in it."""
    size = 1.8 + 0.62 * len(names)
    with canvas(path, size + 0.6, size) as axes:
        image = axes.imshow(values, cmap="Greys", vmin=0, vmax=1)
        for row, column in np.ndindex(values.shape):
            value = values[row, column]
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color="white" if value > 0.55 else "black")
        axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
        axes.set_yticks(range(len(names)), names)
        axes.figure.colorbar(image, ax=axes, shrink=0.8)
        axes.set_title(title, fontsize=9, loc="left")


def sorted_differences(path: Path, title: str, series: Sequence[Series], axis: str) -> None:
    """For each series one panel of bars, sorted: how many classes gain, how many lose. x of a series is not used."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with pyplot.rc_context(_STYLE):
        figure, panels = pyplot.subplots(
            1, len(series), figsize=(1.2 + 2.3 * len(series), 2.8), sharey=True, squeeze=False, layout="constrained"
        )
        for panel, one in zip(panels[0], series, strict=True):
            ordered = np.sort(np.array(one.y))[::-1]
            panel.bar(
                range(len(ordered)),
                ordered,
                width=1.0,
                color=np.where(ordered >= 0, "0.35", "0.85"),
                edgecolor="black" if len(ordered) <= 50 else "none",
                linewidth=0.5,
            )
            panel.axhline(0, color="black", linewidth=0.8)
            gaining, losing = int((ordered > 0).sum()), int((ordered < 0).sum())
            panel.set_title(f"{one.name}: {gaining} up, {losing} down", fontsize=8)
            panel.set_xlabel("classes, sorted")
            panel.set_xticks([])
        panels[0][0].set_ylabel(axis)
        figure.suptitle(title, fontsize=9, x=0.01, ha="left")
        with written_whole(path) as temporary:
            figure.savefig(temporary, format="png")
        pyplot.close(figure)


def _legend_below(axes: Any, entries: int) -> None:
    """Where it hides nothing."""
    axes.figure.legend(loc="outside lower center", ncols=min(3, entries), frameon=False, fontsize=8)


def _span(values: Sequence[float]) -> tuple[float, float]:
    """From zero, or from a bit below the smallest where all are large, so that differences are seen."""
    low, high = min(values), max(values)
    start = 0.0 if low < 0.5 * high else 5 * np.floor((low - 0.35 * (high - low) - 2) / 5)
    return float(max(0.0, start)), float(high + 0.1 * (high - max(0.0, start)) + 1)
