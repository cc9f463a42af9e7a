"""Write the neighbours as one HTML page that contains the pictures and needs no script and no network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from fungi.data.formats.image_files import decode
from fungi.report.page import document, picture_address
from fungi.report.words import objective_in_words

THUMBNAIL = 220
"""Longer side of the pictures on the page, in pixels."""
STYLE = """
.query { display: flex; gap: 1.25rem; align-items: center; margin-bottom: 1.25rem; flex-wrap: wrap; }
.ways { display: grid; grid-template-columns: 1fr 1fr; gap: 2rem; }
ol { list-style: none; margin: 0; padding: 0; display: grid; gap: .75rem;
     grid-template-columns: repeat(auto-fill, minmax(7.5rem, 1fr)); }
figure img { width: 100%; aspect-ratio: 1; object-fit: cover; border-radius: 4px; display: block; }
.query img { width: 11rem; height: 11rem; object-fit: cover; border-radius: 4px; }
figcaption { font-size: .8rem; overflow-wrap: anywhere; line-height: 1.3; margin-top: .25rem; }
.only img { outline: 4px solid var(--more); outline-offset: -4px; }
.only b { color: var(--more); }
@media (max-width: 45rem) { .ways { grid-template-columns: 1fr; } }
"""


@dataclass(frozen=True)
class Answer:
    """Neighbours of a query: name of a feature -> (file, cosine), best first."""

    query: Path
    neighbours: Mapping[str, Sequence[tuple[Path, float]]]


def page(answers: Sequence[Answer], folder: Path, backbone: str, objectives: Sequence[str]) -> str:
    """Return the page as HTML: a section for each query.

    folder: folder of the pictures; their captions are the paths below this folder. objectives: for the heading.
    """
    title = f"Pictures of <b>{escape(folder.name or str(folder))}</b>, compared by {escape(backbone)}"
    sections = "\n".join(_section(answer, folder.resolve(), objectives) for answer in answers)
    explanation = "A blue frame marks pictures that only one of the two features retrieves."
    return document("Similar pictures", f"<p>{title}. {explanation}</p>\n{sections}", style=STYLE)


def _section(answer: Answer, folder: Path, objectives: Sequence[str]) -> str:
    """Return the section of a query as HTML: the query, then its neighbours by each feature, side by side."""
    gradients = ", ".join(map(objective_in_words, objectives))
    headings = {"embeddings": "By embeddings", "FUNGI": f"By FUNGI (embeddings, gradients of {gradients})"}
    retrieved = {name: {path for path, _ in pairs} for name, pairs in answer.neighbours.items()}
    shared = set.intersection(*retrieved.values())
    columns = "".join(
        f"<div><h2>{escape(headings[name])}</h2><ol>"
        + "".join(_figure(path, score, folder, only=path not in shared) for path, score in pairs)
        + "</ol></div>"
        for name, pairs in answer.neighbours.items()
    )
    count = len(next(iter(retrieved.values())))
    agreement = f"Both features retrieve {len(shared)} of the {count} nearest pictures."
    return (
        f"<section><div class='query'><img alt='the query' src='{_thumbnail(answer.query)}'>"
        f"<p><b>{escape(answer.query.name)}</b><br>{agreement}</p></div>"
        f"<div class='ways'>{columns}</div></section>"
    )


def _figure(path: Path, score: float, folder: Path, *, only: bool) -> str:
    """Return a neighbour as HTML. only: whether just one of the two features retrieves this picture."""
    name = str(path.relative_to(folder)) if path.is_relative_to(folder) else path.name
    mark = " <b>only here</b>" if only else ""
    return (
        f"<li><figure{' class=only' if only else ''}><img alt='' src='{_thumbnail(path)}'>"
        f"<figcaption>{escape(name)} <small>{score:.2f}</small>{mark}</figcaption></figure></li>"
    )


def _thumbnail(path: Path) -> str:
    """Return a small JPEG as a data address."""
    return picture_address(decode(path, path.name, as_displayed=True), THUMBNAIL)
