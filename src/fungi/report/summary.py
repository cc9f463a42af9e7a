"""Summarise results in sentences: the gain or loss of adding gradients to the embeddings."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import mean, median

from fungi.errors import counted
from fungi.report.cells import Cell, ResultRecord, metric_of
from fungi.report.facts import page_texts
from fungi.report.protocol import Protocol, setting_of, task_of
from fungi.report.tables import label
from fungi.report.words import TASKS, feature_in_words, metric_in_words, task_in_words
from fungi.results.text import by_size_and_order
from fungi.store.layout import EMBEDDINGS

MAX_SINGLE_CASES = 4
"""Largest number of cases per table with a sentence for each case; more cases are summarised in one sentence."""
Case = dict[str, Cell]
"""Combination -> cell, for one protocol, backbone and dataset."""


def in_order_of_tasks(protocol: Protocol) -> tuple[object, ...]:
    """Return the sorting key of a protocol: the task (kNN is first), then the sorting key of the tables."""
    tasks = list(TASKS)
    return tasks.index(protocol.task) if protocol.task in tasks else len(tasks), *protocol.sort_key


@dataclass(frozen=True)
class Finding:
    """A statement of the summary. title: task, setting, dataset and backbone. text: the outcome."""

    title: str
    text: str


def findings(cells: Sequence[Cell]) -> Iterator[Finding]:
    """Yield the statements about each protocol, in the order of the tables."""
    cases: dict[Protocol, dict[tuple[str, str], Case]] = defaultdict(lambda: defaultdict(dict))
    for cell in cells:
        cases[cell.protocol][cell.backbone, cell.dataset][cell.combination] = cell
    titles = headings(cases)
    for protocol in sorted(cases, key=in_order_of_tasks):
        cases_of_protocol = cases[protocol]
        if len(cases_of_protocol) <= MAX_SINGLE_CASES:
            for (backbone, dataset), case in cases_of_protocol.items():
                yield Finding(f"{titles[protocol]}: {dataset}, {label(backbone)}", _single_case(case))
        else:
            yield Finding(titles[protocol], _many_cases(cases_of_protocol))


def headings(protocols: Iterable[Protocol]) -> dict[Protocol, str]:
    """Return a heading for each protocol: task, setting, and the facts that distinguish it within its task."""
    groups: dict[str, list[Protocol]] = defaultdict(list)
    for protocol in protocols:
        groups[task_in_words(protocol.task, protocol.setting)].append(protocol)
    titles = {}
    for task, group in groups.items():
        shared = set.intersection(*(set(protocol.details) for protocol in group))
        has_several_profiles = len({protocol.profile for protocol in group}) > 1
        for protocol in group:
            differences = page_texts(fact for fact in protocol.details if fact not in shared)
            differences += [f"profile {protocol.profile}"] if has_several_profiles else []
            if len(group) > 1 and not differences:
                differences = ["default settings"]
            titles[protocol] = ", ".join([task, *differences])
    return titles


def choice_findings(records: Iterable[ResultRecord]) -> Iterator[Finding]:
    """Yield the statements about results of `--choose`."""
    for record in records:
        if record.has_choice:
            settings, results, metric = record.content["settings"], record.content["results"], metric_of(record.content)
            percent = {name: f"{100 * scores[metric]:.1f} %" for name, scores in results.items()}
            text = (
                f"The chosen candidate scores {percent['chosen']}. The embeddings alone, with components and "
                f"neighbours chosen in the same way, score {percent[EMBEDDINGS]}. The best of all candidates scores "
                f"{percent['hindsight']}."
            )
            title = f"{settings['dataset']}, {label(settings['backbone'])}"
            task = task_in_words(task_of(record.content), setting_of(record.content))
            yield Finding(f"{task}, chosen on the train rows: {title}", text)


def comparison_with_published(cells: Sequence[Cell]) -> str:
    """Return a sentence on the differences between our and the published values; empty if no value is comparable."""
    differences = [cell.value - cell.published.value for cell in cells if cell.published is not None]
    if not differences:
        return ""
    median_size = median(map(abs, differences))
    return (
        f"{counted(len(differences), 'value')} can be compared with the paper. Our values minus the published values "
        f"are between {min(differences):+.1f} and {max(differences):+.1f} points; the median absolute difference is "
        f"{median_size:.1f}."
    )


def _single_case(case: Case) -> str:
    """Return sentences on the best and on the largest combination of a case."""
    ordered = sorted(case, key=by_size_and_order)
    best, largest = max(ordered, key=lambda name: case[name].value), ordered[-1]
    if len(case) == 1:
        return f"{feature_in_words(best)}: {_score(case[best])}."
    if EMBEDDINGS not in case:
        return f"Best of {len(case)}: {feature_in_words(best)}, {_score(case[best])}."
    if best == EMBEDDINGS:
        subject = (
            "The other feature does not beat" if len(case) == 2 else f"None of the other {len(case) - 1} features beats"
        )
        text = f"{subject} the embeddings alone, {_score(case[EMBEDDINGS])}."
    else:
        text = (
            f"Best of {len(case)}: {feature_in_words(best)}, {_score(case[best])}; {_gain(case[best])} the embeddings "
            f"alone, {_score(case[EMBEDDINGS])}."
        )
    all_features = f" All features together: {_score(case[largest])}, {_gain(case[largest])} the embeddings."
    return text + (all_features if largest != best and "+" in largest else "")


def _many_cases(cases: dict[tuple[str, str], Case]) -> str:
    """Return a sentence on the gains of the largest combination of each case."""
    gains = {}
    for key, case in cases.items():
        largest = case[max(case, key=by_size_and_order)]
        if largest.gain is not None:
            gains[key] = largest.gain
    backbones, datasets = {backbone for backbone, _ in cases}, {dataset for _, dataset in cases}
    counts = f"{counted(len(backbones), 'backbone')}, {counted(len(datasets), 'dataset')}"
    if not gains:
        return f"{len(cases)} cases ({counts}), none with both the embeddings and a combination."
    lowest, highest = min(gains, key=lambda key: gains[key]), max(gains, key=lambda key: gains[key])
    positive = sum(gain > 0 for gain in gains.values())
    return (
        f"All features together beat the embeddings alone in {positive} of {len(gains)} cases ({counts}"
        f"{_beyond_noise(cases, gains)}), by {mean(gains.values()):+.1f} points on average: from {gains[lowest]:+.1f} "
        f"({label(lowest[0])}, {lowest[1]}) to {gains[highest]:+.1f} ({label(highest[0])}, {highest[1]})."
    )


def _beyond_noise(cases: dict[tuple[str, str], Case], gains: dict[tuple[str, str], float]) -> str:
    """Return the numbers of significant gains and losses, in words; empty if no result was tested."""
    largest = {key: case[max(case, key=by_size_and_order)] for key, case in cases.items() if key in gains}
    tested = [cell for cell in largest.values() if cell.p_value is not None]
    significant = [cell.gain or 0.0 for cell in tested if not cell.within_noise]
    above, below = sum(gain > 0 for gain in significant), sum(gain < 0 for gain in significant)
    return f"; beyond noise: {above} above, {below} below, of {len(tested)} tested" if tested else ""


def _score(cell: Cell) -> str:
    """Return a score with its deviation over the runs or its standard error: `85.3 % (± 0.7 over 3 runs)`."""
    # A deviation below 0.05 would be printed as 0.0.
    spread = "" if not cell.std or cell.std < 0.05 else f" (± {cell.std:.1f} over {cell.runs} runs)"
    if cell.std is None and cell.error is not None:
        spread = f" (± {cell.error:.1f}, {counted(cell.rows or 0, 'row')})"
    metric = "" if cell.metric == "accuracy" else f" {metric_in_words(cell.metric)}"
    return f"{cell.value:.1f} %{metric}{spread}"


def _gain(cell: Cell) -> str:
    """Return `9.6 points above` or `equal to`, with a note if the gain is within noise or within the deviation."""
    gain = cell.gain or 0.0
    if gain == 0:
        return "equal to"
    note = ", at most the deviation over its runs," if cell.std is not None and abs(gain) <= cell.std else ""
    note = f", within noise (p = {cell.p_value:.2f})," if cell.within_noise else note
    return f"{abs(gain):.1f} points{note} {'above' if gain >= 0 else 'below'}"
