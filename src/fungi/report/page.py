"""The skeleton of pages that are one file: pictures, styles and script are inside, nothing is fetched."""

import base64
from html import escape

STYLE = """
:root { color-scheme: light dark; --line: #8886; --more: #0072b2; --less: #d55e00; --quiet: #8882; }
@media (prefers-color-scheme: dark) { :root { --more: #56b4e9; --less: #e69f00; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin: 0 0 .5rem; }
section { border-top: 1px solid var(--line); margin-top: 2rem; padding-top: 1.5rem; }
figure { margin: 0; } code { white-space: nowrap; } small { opacity: .75; }
"""


def document(title: str, body: str, *, style: str = "", script: str = "") -> str:
    """A whole page. body: HTML; style, script: added to it."""
    ending = f"<script>{script}</script>\n" if script else ""
    return (
        "<!doctype html>\n<html lang='en'>\n<meta charset='utf-8'>\n"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>\n"
        f"<title>{escape(title)}</title>\n<style>{STYLE}{style}</style>\n"
        f"<h1>{escape(title)}</h1>\n{body}\n{ending}</html>\n"
    )


def data_address(content: bytes, kind: str) -> str:
    """Bytes inside an address, for `src`. kind: `image/png`."""
    return f"data:{kind};base64," + base64.b64encode(content).decode()
