"""Write the comparison of two features as one HTML page of the samples that only one classifies correctly."""

from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from fungi.explain.disagreements import Comparison, Disagreement
from fungi.report.page import document, picture_address
from fungi.report.words import feature_in_words

SIZE = 160  # of pictures, in pixels
LONGEST_TEXT = 400  # number of characters
STYLE = """
ol { list-style: none; margin: 0; padding: 0; display: grid; gap: 1rem;
     grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); }
figure img { width: 100%; border-radius: 4px; display: block; image-rendering: auto; }
figure blockquote { margin: 0 0 .25rem; font-size: .9rem; overflow-wrap: anywhere; }
figcaption { font-size: .8rem; line-height: 1.35; overflow-wrap: anywhere; margin-top: .25rem; }
.right { color: var(--more); } .wrong { color: var(--less); }
"""


def page(comparison: Comparison, load: Callable[[int], Any] | None, count: int, title: str) -> str:
    """Return the page as HTML.

    load: function that returns the picture or text of a row; if None, the page lists only ids. count: maximum number of
    samples in each of the two lists.
    """
    first, second = map(feature_in_words, comparison.features)
    gained, lost = comparison.only_second, comparison.only_first
    summary = (
        f"<p>{escape(title)}. Of {comparison.rows} scored samples, {len(gained)} are classified correctly only with"
        f" <b>{escape(second)}</b>, and {len(lost)} only with <b>{escape(first)}</b>.</p>"
    )
    sections = _section(gained, 1, comparison, load, count) + _section(lost, 0, comparison, load, count)
    return document("What changes from one feature to another", summary + sections, style=STYLE)


def _section(
    samples: Sequence[Disagreement], correct: int, comparison: Comparison, load: Callable[[int], Any] | None, count: int
) -> str:
    """Return the section of the samples that only one feature classifies correctly.

    correct: index of this feature in the comparison, 0 or 1.
    """
    name, other_name = (feature_in_words(comparison.features[index]) for index in (correct, 1 - correct))
    number = f", the first {count} of {len(samples)}" if len(samples) > count else f" ({len(samples)})"
    figures = "".join(_figure(sample, other_name, sample.predicted[1 - correct], load) for sample in samples[:count])
    return (
        f"<section><h2>Correct only with {escape(name)}{number}</h2><ol>{figures or '<li>none</li>'}</ol></section>\n"
    )


def _figure(sample: Disagreement, other_name: str, wrong_class: str, load: Callable[[int], Any] | None) -> str:
    """Return a sample as HTML: picture or text, id, true class, and the wrong class of the other feature."""
    return (
        f"<li><figure>{_item(load, sample.row)}<figcaption><code>{escape(sample.id)}</code><br>"
        f"<span class='right'>{escape(sample.truth)}</span><br>"
        f"{escape(other_name)}: <span class='wrong'>{escape(wrong_class)}</span></figcaption></figure></li>"
    )


def _item(load: Callable[[int], Any] | None, row: int) -> str:
    """Return a picture or a text as HTML; an empty text for a sound, or without `load`."""
    item = None if load is None else load(row)
    if isinstance(item, tuple) and all(isinstance(part, str) for part in item):
        item = " / ".join(item)
    if isinstance(item, str):
        return f"<blockquote>{escape(item[:LONGEST_TEXT])}{'…' if len(item) > LONGEST_TEXT else ''}</blockquote>"
    return "" if item is None or not hasattr(item, "thumbnail") else f"<img alt='' src='{picture_address(item, SIZE)}'>"
