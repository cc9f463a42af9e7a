"""Tables of all scores as mean and deviation over seeds, and the picture of accuracy over forwards."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from study.scores import SCORES
from study.settings import is_published


def show(root: Path, output: Path) -> None:
    """Print a table for each dataset and backbone, and draw accuracy over forwards."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(root.glob("*/scores/*.json")):
        groups.setdefault(path.parents[1].name, []).append(json.loads(path.read_text(encoding="utf-8")))
    panels = {name: _summary(contents) for name, contents in groups.items()}
    for name, rows in panels.items():
        seeds, tested = len({c["seed"] for c in groups[name]}), groups[name][0]["test_rows"]
        print(f"\n{name.replace('-', ', ', 1)}, {seeds} seeds, {tested} test rows; percent, mean and deviation\n")
        print(f"| features | forwards | {' | '.join(SCORES)} |\n|---|---:|{'---:|' * len(SCORES)}")
        for row in rows:
            cells = [f"{100 * mean:.1f} ± {100 * deviation:.1f}" for mean, deviation in row["scores"].values()]
            fewer = f" ({row['seeds']} of {seeds} seeds)" if row.get("seeds", seeds) < seeds else ""
            print(f"| {row['name']}{fewer} | {row['forwards']:.1f} | {' | '.join(cells)} |")
    if panels:
        _draw(panels, output)
        print(f"\nwrote {output}")


def _summary(contents: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for embeddings alone and one for each setting, by kind and cost."""
    rows = [{"name": "embeddings", "kind": "embeddings", "forwards": 1.0, "scores": _spread(contents, "embeddings")}]
    for name in dict.fromkeys(content["name"] for content in contents):
        same = [content for content in contents if content["name"] == name]
        facts = {key: same[0][key] for key in ("name", "kind", "forwards")}
        rows.append({**facts, "seeds": len(same), "scores": _spread(same, "scores")})
    kinds = ("embeddings", "kl", "dino", "simclr", "all")
    return sorted(rows, key=lambda row: (kinds.index(row["kind"]), row["forwards"]))


def _spread(contents: Sequence[dict[str, Any]], key: str) -> dict[str, tuple[float, float]]:
    """Score -> mean and deviation over seeds."""
    spread = {}
    for score in SCORES:
        values = [content[key][score] for content in contents]
        spread[score] = (statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0)
    return spread


def _draw(panels: Mapping[str, Sequence[dict[str, Any]]], output: Path) -> None:
    """kNN accuracy over forwards, a panel for each dataset and backbone; filled: all forwards at the full size."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from fungi.report.figures import COLOURS, MARKERS

    kinds = ("embeddings", "kl", "dino", "simclr", "all")
    words = ("embeddings alone", "+ KL", "+ DINO", "+ SimCLR", "+ KL + DINO + SimCLR")
    figure, axes = pyplot.subplots(1, len(panels), figsize=(4.6 * len(panels), 4.0), squeeze=False)
    for axis, (name, rows) in zip(axes[0], panels.items(), strict=True):
        for kind, word, colour, marker in zip(kinds, words, ("black", *COLOURS), MARKERS, strict=False):
            for row in (row for row in rows if row["kind"] == kind):
                mean, deviation = row["scores"]["kNN"]
                axis.errorbar(
                    row["forwards"],
                    100 * mean,
                    100 * deviation,
                    fmt=marker,
                    color=colour,
                    markerfacecolor=colour if is_published(row["name"]) else "white",
                    capsize=2,
                    label=word,
                )
        axis.set_xscale("log", base=2)
        axis.set_xticks([1, 2, 4, 8, 16, 32, 64], ["1", "2", "4", "8", "16", "32", "64"])
        axis.set_xlabel("forwards per image")
        axis.set_title(name.replace("-", ", ", 1), fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("kNN accuracy, %")
    handles = {}
    for axis in axes[0]:
        handles |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="lower center", ncol=len(kinds), fontsize=8, frameon=False)
    figure.suptitle(
        "Filled: views as published. Open: images at their own size, fewer views of texts and sounds.", fontsize=9
    )
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=150)
