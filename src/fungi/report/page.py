"""Write HTML pages with tables. Images, styles and script are embedded, so a page is a single file.

A click on a column heading sorts the table. Scores are also drawn as dots with intervals.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

_BASE = """
:root { color-scheme: light dark; --line: #8886; --more: #0072b2; --less: #d55e00; --quiet: #8882; }
@media (prefers-color-scheme: dark) { :root { --more: #56b4e9; --less: #e69f00; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin: 0 0 .5rem; }
section { border-top: 1px solid var(--line); margin-top: 2rem; padding-top: 1.5rem; }
figure { margin: 0; } code { white-space: nowrap; } small { opacity: .75; }
"""
STYLE = """
.wide { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%; }
th, td { text-align: left; padding: .3rem .75rem .3rem 0; border-bottom: 1px solid var(--line); }
td.number, th.number { text-align: right; white-space: nowrap; } td.name { white-space: nowrap; }
td small { margin-left: .4rem; }
th button { all: unset; cursor: pointer; font-weight: 600; }
th button::after { content: " ↕"; opacity: .4; }
th[aria-sort=ascending] button::after { content: " ↑"; opacity: 1; }
th[aria-sort=descending] button::after { content: " ↓"; opacity: 1; }
th button:focus-visible { outline: 2px solid var(--more); }
.more { color: var(--more); } .less { color: var(--less); } .noise { opacity: .7; } .best { font-weight: 700; }
td.plot { min-width: 9rem; width: 40%; padding-right: 0; }
.track { position: relative; display: block; height: 1.1rem; margin: 0 .4rem; background: var(--quiet); }
.track i { position: absolute; top: 0; height: 100%; }
.track .spread { top: calc(50% - 1px); height: 2px; background: var(--more); }
.track .dot { width: .6rem; height: .6rem; top: calc(50% - .3rem); margin-left: -.3rem; border-radius: 50%;
              background: var(--more); }
.track .base { border-left: 2px dashed var(--less); }
@media (max-width: 45rem) { table { font-size: .85rem; } td.plot { min-width: 5rem; }
  th, td { padding-right: .5rem; } }
"""
SCRIPT = """
for (const table of document.querySelectorAll("table")) table.tHead?.addEventListener("click", event => {
  const head = event.target.closest("button")?.parentElement;
  if (!head) return;
  const column = head.cellIndex, rows = [...table.tBodies[0].rows];
  const value = row => { const text = row.cells[column].dataset.value;
                         return text === "" ? null : isNaN(text) ? text : Number(text); };
  const upwards = head.hasAttribute("aria-sort") ? head.ariaSort === "descending"
                                                 : rows.some(row => typeof value(row) === "string");
  const compare = (a, b) => a === null ? (b === null ? 0 : 1) : b === null ? -1
    : (typeof a === "string" ? a.localeCompare(b) : a - b) * (upwards ? 1 : -1);
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", upwards ? "ascending" : "descending");
  rows.sort((a, b) => compare(value(a), value(b)));
  table.tBodies[0].append(...rows);
});
"""
"""Sorts a table after a click. The first click sorts numbers in descending order and words from A to Z. Missing values
stay at the end."""


def document(title: str, body: str, *, style: str = "", script: str = "") -> str:
    """Return a complete page. body: HTML; style, script: CSS and JavaScript to add."""
    ending = f"<script>{script}</script>\n" if script else ""
    return (
        "<!doctype html>\n<html lang='en'>\n<meta charset='utf-8'>\n"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>\n"
        f"<title>{escape(title)}</title>\n<style>{_BASE}{style}</style>\n"
        f"<h1>{escape(title)}</h1>\n{body}\n{ending}</html>\n"
    )


def data_address(content: bytes, kind: str) -> str:
    """Return the content of a file as a data URL. kind: media type, such as `image/png`."""
    return f"data:{kind};base64," + base64.b64encode(content).decode()


def picture_address(picture: "Image", size: int) -> str:
    """Return a picture as the data URL of a JPEG with at most `size` pixels on the longer side."""
    small, buffer = picture.convert("RGB"), io.BytesIO()
    small.thumbnail((size, size))
    small.save(buffer, "JPEG", quality=82)
    return data_address(buffer.getvalue(), "image/jpeg")


@dataclass(frozen=True)
class Entry:
    """A cell of a table. html: its content. value: its sorting key; empty if missing. kind: its CSS classes."""

    html: str
    value: str | float = ""
    kind: str = ""


def text_entry(text: str) -> Entry:
    """Return a cell of plain text."""
    return Entry(escape(text), text)


def sortable_table(columns: Sequence[str], rows: Sequence[Sequence[Entry]]) -> str:
    """Return the HTML of a table. Its page needs STYLE and SCRIPT. The first row sets the types of the columns."""
    kinds = [entry.kind if entry.kind in ("number", "plot") else "" for entry in rows[0]]
    head = "".join(
        f"<th class='{kind}' scope='col'><button>{escape(column)}</button></th>"
        for column, kind in zip(columns, kinds, strict=True)
    )
    lines = "\n".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in rows)
    return f"<div class='wide'><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{lines}\n</tbody></table></div>"


def dot_entry(value: float, spread: float, baseline: float | None, span: tuple[float, float]) -> Entry:
    """Return a cell with a dot at the value, an error bar of `spread`, and a dashed line at the baseline.

    span: values at the left and right edges of the cell.
    """
    low, high = span

    def position(number: float) -> str:
        return f"{100 * (number - low) / (high - low):.2f}%"

    marks = "" if baseline is None else f"<i class='base' style='left:{position(baseline)}'></i>"
    if spread:
        width = f"{100 * 2 * spread / (high - low):.2f}%"
        marks += f"<i class='spread' style='left:{position(value - spread)};width:{width}'></i>"
    marks += f"<i class='dot' style='left:{position(value)}'></i>"
    return Entry(f"<span class='track' role='img' aria-label='{value:.1f}'>{marks}</span>", value, "plot")


def _cell(entry: Entry) -> str:
    """Return the HTML of a cell with its sorting key."""
    value = f"{entry.value:.6g}" if isinstance(entry.value, float) else escape(entry.value, quote=True)
    return f"<td class='{entry.kind}' data-value='{value}'>{entry.html}</td>"
