"""What the numbers say, in sentences: what adding gradients did to the embeddings alone, good or bad."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import mean, median

from fungi.report.cells import Cell, ResultRecord, metric_of
from fungi.report.facts import long_words
from fungi.report.protocol import Protocol, setting_of, task_of
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
    """Yield what there is to say of each protocol, in the order of the tables."""
    cases: dict[Protocol, dict[tuple[str, str], Case]] = defaultdict(lambda: defaultdict(dict))
    for cell in cells:
        cases[cell.protocol][cell.backbone, cell.dataset][cell.combination] = cell
    titles = headings(cases)
    for protocol in sorted(cases, key=in_order_of_tasks):
        found = cases[protocol]
        if len(found) <= TOLD_ONE_BY_ONE:
            for (backbone, dataset), case in found.items():
                yield Finding(f"{titles[protocol]}: {dataset}, {label(backbone)}", _of_one(case))
        else:
            yield Finding(titles[protocol], _of_many(found))


def headings(protocols: Iterable[Protocol]) -> dict[Protocol, str]:
    """Return a heading for each protocol: task and setting, and where several share these, what tells them apart."""
    alike: dict[str, list[Protocol]] = defaultdict(list)
    for protocol in protocols:
        alike[asked_in_words(protocol.task, protocol.setting)].append(protocol)
    titles = {}
    for asked, group in alike.items():
        shared = set.intersection(*(set(protocol.details) for protocol in group))
        several_profiles = len({protocol.profile for protocol in group}) > 1
        for protocol in group:
            own = long_words(fact for fact in protocol.details if fact not in shared)
            own += [f"profile {protocol.profile}"] if several_profiles else []
            if len(group) > 1 and not own:
                own = ["nothing unusual"]
            titles[protocol] = ", ".join([asked, *own])
    return titles


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
            asked = asked_in_words(task_of(record.content), setting_of(record.content))
            yield Finding(f"{asked}, chosen on the train rows: {title}", text)


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
        others = (
            "The other feature does not beat" if len(case) == 2 else f"None of the other {len(case) - 1} features beats"
        )
        first = f"{others} the embeddings alone, {_score(case[EMBEDDINGS])}."
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
    of_what = ", ".join(
        _counted(len({of[place] for of in cases}), noun) for place, noun in enumerate(("backbone", "dataset"))
    )
    if not gains:
        return f"{len(cases)} cases ({of_what}), none with both the embeddings and a combination."
    least, most = min(gains, key=lambda of: gains[of]), max(gains, key=lambda of: gains[of])
    helped = sum(gain > 0 for gain in gains.values())
    return (
        f"All features together beat the embeddings alone in {helped} of {len(gains)} cases ({of_what}"
        f"{_beyond_noise(cases, gains)}), by {mean(gains.values()):+.1f} points on average: from {gains[least]:+.1f} "
        f"({label(least[0])}, {least[1]}) to {gains[most]:+.1f} ({label(most[0])}, {most[1]})."
    )


def _beyond_noise(cases: dict[tuple[str, str], Case], gains: dict[tuple[str, str], float]) -> str:
    """Return how many gains and losses are more than noise; empty where no result tells."""
    largest = {of: case[max(case, key=by_size_and_order)] for of, case in cases.items() if of in gains}
    tested = [cell for cell in largest.values() if cell.p_value is not None]
    clear = [cell.gain or 0.0 for cell in tested if not cell.within_noise]
    above, below = sum(gain > 0 for gain in clear), sum(gain < 0 for gain in clear)
    return f"; beyond noise: {above} above, {below} below, of {len(tested)} tested" if tested else ""


def _score(cell: Cell) -> str:
    spread = "" if not cell.std or cell.std < 0.05 else f" (± {cell.std:.1f} over {cell.runs} runs)"
    if cell.std is None and cell.error is not None:
        spread = f" (± {cell.error:.1f}, {cell.rows} rows)"
    metric = "" if cell.metric == "accuracy" else f" {metric_in_words(cell.metric)}"
    return f"{cell.value:.1f} %{metric}{spread}"


def _gain(cell: Cell) -> str:
    """Return `9.6 points above`, and whether that is within noise, or no more than the runs differ."""
    gain = cell.gain or 0.0
    within = ", no more than its runs differ," if cell.std is not None and abs(gain) <= cell.std else ""
    within = f", within noise (p = {cell.p_value:.2f})," if cell.within_noise else within
    return f"{abs(gain):.1f} points{within} {'above' if gain >= 0 else 'below'}"


def _counted(count: int, noun: str) -> str:
    """Return `1 backbone`, `5 datasets`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
