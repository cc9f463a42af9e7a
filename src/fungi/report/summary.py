"""What the numbers say, in sentences: what adding gradients did to the embeddings alone, good or bad."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import mean, median

from fungi.report.cells import Cell, ResultRecord, metric_of
from fungi.report.protocol import Protocol
from fungi.report.tables import label
from fungi.report.words import TASKS, asked_in_words, feature_in_words, metric_in_words
from fungi.results.text import by_size_and_order
from fungi.store.layout import EMBEDDINGS

TOLD_ONE_BY_ONE = 4
"""Backbones and datasets of a table that get a sentence each; more are told together."""
Case = dict[str, Cell]
"""Combination -> cell, of one protocol, backbone and dataset."""


def in_order_of_tasks(protocol: Protocol) -> tuple[object, ...]:
    """Sorting key of protocols: kNN first, then as their tables stand."""
    tasks = list(TASKS)
    return tasks.index(protocol.task) if protocol.task in tasks else len(tasks), *protocol.place


@dataclass(frozen=True)
class Finding:
    """title: what was measured, on what; text: what came out."""

    title: str
    text: str


def findings(cells: Sequence[Cell]) -> Iterator[Finding]:
    """What there is to say of each protocol, in the order of the tables."""
    cases: dict[Protocol, dict[tuple[str, str], Case]] = defaultdict(lambda: defaultdict(dict))
    for cell in cells:
        cases[cell.protocol][cell.backbone, cell.dataset][cell.combination] = cell
    for protocol in sorted(cases, key=in_order_of_tasks):
        found, asked = cases[protocol], asked_in_words(protocol.task, protocol.setting)
        if len(found) <= TOLD_ONE_BY_ONE:
            for (backbone, dataset), case in found.items():
                yield Finding(f"{asked}: {dataset}, {label(backbone)}", _of_one(case))
        else:
            yield Finding(asked, _of_many(found))


def chosen_findings(records: Iterable[ResultRecord]) -> Iterator[Finding]:
    """What `--choose` came to, beside the embeddings with a choice of their own and the best there was."""
    for record in records:
        if record.choice:
            settings, results, metric = record.content["settings"], record.content["results"], metric_of(record.content)
            shown = {name: f"{100 * scores[metric]:.1f} %" for name, scores in results.items()}
            text = (
                f"What was chosen scored {shown['chosen']}; the embeddings alone, with the components and neighbours "
                f"that suit them best on the train rows, {shown[EMBEDDINGS]}; the best there was, {shown['hindsight']}."
            )
            title = f"{settings['dataset']}, {label(settings['backbone'])}"
            yield Finding(f"Nearest neighbours, chosen on the train rows: {title}", text)


def beside_published(cells: Sequence[Cell]) -> str:
    """How far ours are from the published values; empty where none stands beside ours."""
    apart = [cell.value - cell.published.value for cell in cells if cell.published is not None]
    if not apart:
        return ""
    values = "value stands" if len(apart) == 1 else "values stand"
    spread = (
        f"from {min(apart):+.1f} to {max(apart):+.1f} points, half of them by {median(map(abs, apart)):.1f} or less"
    )
    return f"{len(apart)} published {values} beside ours, which differ {spread}."


def _of_one(case: Case) -> str:
    ordered = sorted(case, key=by_size_and_order)
    best, largest = max(ordered, key=lambda name: case[name].value), ordered[-1]
    if len(case) == 1:
        return f"{feature_in_words(best)}: {_score(case[best])}."
    if EMBEDDINGS not in case:
        return f"Best of {len(case)}: {feature_in_words(best)}, {_score(case[best])}."
    if best == EMBEDDINGS:
        first = f"None of the other {len(case) - 1} features beats the embeddings alone, {_score(case[EMBEDDINGS])}."
    else:
        first = (
            f"Best of {len(case)}: {feature_in_words(best)}, {_score(case[best])}; {_gain(case[best])} the embeddings "
            f"alone, {_score(case[EMBEDDINGS])}."
        )
    together = f" All together: {_score(case[largest])}, {_gain(case[largest])} the embeddings."
    return first + (together if largest != best and "+" in largest else "")


def _of_many(cases: dict[tuple[str, str], Case]) -> str:
    """By how much the largest combination of each case gains, over all of them."""
    gains = {}
    for of, case in cases.items():
        largest = case[max(case, key=by_size_and_order)]
        if largest.gain is not None:
            gains[of] = largest.gain
    of_what = f"{len({backbone for backbone, _ in cases})} backbones, {len({dataset for _, dataset in cases})} datasets"
    if not gains:
        return f"{len(cases)} cases ({of_what}), none with both the embeddings and a combination."
    least, most = min(gains, key=lambda of: gains[of]), max(gains, key=lambda of: gains[of])
    helped = sum(gain > 0 for gain in gains.values())
    return (
        f"All features together beat the embeddings alone in {helped} of {len(gains)} cases ({of_what}), "
        f"by {mean(gains.values()):+.1f} points on average: from {gains[least]:+.1f} ({label(least[0])}, {least[1]}) "
        f"to {gains[most]:+.1f} ({label(most[0])}, {most[1]})."
    )


def _score(cell: Cell) -> str:
    spread = "" if not cell.std or cell.std < 0.05 else f" (± {cell.std:.1f} over {cell.runs} runs)"
    metric = "" if cell.metric == "accuracy" else f" {metric_in_words(cell.metric)}"
    return f"{cell.value:.1f} %{metric}{spread}"


def _gain(cell: Cell) -> str:
    """`9.6 points above`, and whether that is more than the runs differ."""
    gain = cell.gain or 0.0
    within = ", no more than its runs differ," if cell.std is not None and abs(gain) <= cell.std else ""
    return f"{abs(gain):.1f} points{within} {'above' if gain >= 0 else 'below'}"
