"""Tables of all scores as mean and standard deviation over seeds, and the figure of accuracy over forwards."""

import json
import statistics
from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any

from study.scores import SCORES
from study.settings import is_published


def show(root: Path, output: Path) -> None:
    """Print a table for each dataset and backbone, and draw the figure of accuracy over forwards."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(root.glob("*/scores/*.json")):
        groups.setdefault(path.parents[1].name, []).append(json.loads(path.read_text(encoding="utf-8")))
    rows_by_group = {name: _summary(contents) for name, contents in groups.items()}
    for name, rows in rows_by_group.items():
        seeds = len({content["seed"] for content in groups[name]})
        test_rows = groups[name][0]["test_rows"]  # all scores of a group have the same test rows
        print(f"\n{name.replace('-', ', ', 1)}, {seeds} seeds, {test_rows} test rows; percent, mean and deviation\n")
        print(f"| features | forwards | {' | '.join(SCORES)} |\n|---|---:|{'---:|' * len(SCORES)}")
        for row in rows:
            cells = [f"{100 * mean:.1f} ± {100 * deviation:.1f}" for mean, deviation in row["scores"].values()]
            fewer = f" ({row['seeds']} of {seeds} seeds)" if row.get("seeds", seeds) < seeds else ""
            print(f"| {row['name']}{fewer} | {row['forwards']:.1f} | {' | '.join(cells)} |")
    if rows_by_group:
        _draw(rows_by_group, output)
        print(f"\nwrote {output}")


def _summary(contents: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of a table: the embeddings alone, then every setting, sorted by kind and cost."""
    rows = [{"name": "embeddings", "kind": "embeddings", "forwards": 1.0, "scores": _spread(contents, "embeddings")}]
    for name in dict.fromkeys(content["name"] for content in contents):
        same_name = [content for content in contents if content["name"] == name]
        facts = {key: same_name[0][key] for key in ("name", "kind", "forwards")}
        rows.append({**facts, "seeds": len(same_name), "scores": _spread(same_name, "scores")})
    kinds = ("embeddings", "kl", "dino", "simclr", "all")
    return sorted(rows, key=lambda row: (kinds.index(row["kind"]), row["forwards"]))


def _spread(contents: Sequence[dict[str, Any]], key: str) -> dict[str, tuple[float, float]]:
    """Return score -> (mean, population standard deviation) over seeds."""
    spread = {}
    for score in SCORES:
        values = [content[key][score] for content in contents]
        spread[score] = (statistics.fmean(values), statistics.pstdev(values))
    return spread


def _draw(rows_by_group: Mapping[str, Sequence[dict[str, Any]]], output: Path) -> None:
    """Draw a panel for each dataset and backbone. A marker is filled if all forwards have the full size."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from fungi.report.figures import COLOURS, MARKERS

    kinds = ("embeddings", "kl", "dino", "simclr", "all")
    labels = ("embeddings alone", "+ KL", "+ DINO", "+ SimCLR", "+ KL + DINO + SimCLR")
    columns = min(3, len(rows_by_group))
    panel_rows = ceil(len(rows_by_group) / columns)
    figure, axes = pyplot.subplots(panel_rows, columns, figsize=(4.6 * columns, 3.6 * panel_rows), squeeze=False)
    for axis in axes.flat[len(rows_by_group) :]:
        axis.set_visible(False)
    for axis, (name, rows) in zip(axes.flat, rows_by_group.items(), strict=False):
        for kind, label, colour, marker in zip(kinds, labels, ("black", *COLOURS), MARKERS, strict=False):
            for row in [row for row in rows if row["kind"] == kind]:
                mean, deviation = row["scores"]["kNN"]
                axis.errorbar(
                    row["forwards"],
                    100 * mean,
                    100 * deviation,
                    fmt=marker,
                    color=colour,
                    markerfacecolor=colour if is_published(row["name"]) else "white",
                    capsize=2,
                    label=label,
                )
        axis.set_xscale("log", base=2)
        axis.set_xticks([1, 2, 4, 8, 16, 32, 64], ["1", "2", "4", "8", "16", "32", "64"])
        axis.set_xlabel("forwards per image")
        axis.set_title(name.replace("-", ", ", 1), fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel("kNN accuracy, %")
    handle_by_label = {}  # one entry per label, although all panels have the same labels
    for axis in axes.flat[: len(rows_by_group)]:
        handles, panel_labels = axis.get_legend_handles_labels()
        handle_by_label |= dict(zip(panel_labels, handles, strict=True))
    figure.legend(
        handle_by_label.values(), handle_by_label.keys(), loc="lower center", ncol=len(kinds), fontsize=8, frameon=False
    )
    figure.suptitle(
        "Filled: views as published. Open: images at their own size, fewer views of texts and sounds.", fontsize=9
    )
    figure.tight_layout(rect=(0, 0.04, 1, 1))
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=150)
