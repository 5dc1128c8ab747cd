"""A report as one page that needs nothing else: styles, scripts and data in it."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PARTS = Path(__file__).parent / "page"

SCRIPTS = ("base", "header", "losses", "roofline", "layers", "course", "compare", "main")
"""The scripts of a report's page, in the order in which they are put together."""


def report_page(documents: Sequence[Mapping[str, Any]]) -> str:
    """Return the page of a report, or of two reports, the second compared with the first."""
    last = documents[-1]
    title = f"{last['model']} on {last['target']}"
    return page(title, SCRIPTS, {"runs": list(documents)})


def page(title: str, scripts: Sequence[str], data: Mapping[str, Any]) -> str:
    """Return a page of `scripts` (names in the folder `page`) that finds `data` in #data."""
    parts = {
        "title": html.escape(title),
        "style": _read("style.css"),
        "data": embedded_json(data),
        "script": "\n".join(_read(f"{name}.js") for name in scripts),
    }
    head, *rest = _read("page.html").split("{{")
    pieces = [head]
    for piece in rest:
        name, _, text = piece.partition("}}")
        pieces += [parts[name], text]
    return "".join(pieces)


def embedded_json(data: Mapping[str, Any]) -> str:
    """Return JSON that may stand in a script element, whatever names the model has.

    `<`, `>` and `&` only occur in strings, where an escape means the same:

    >>> embedded_json({"name": "</script>"})
    '{"name":"\\\\u003c/script\\\\u003e"}'
    """
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _read(name: str) -> str:
    return (PARTS / name).read_text(encoding="utf-8")
