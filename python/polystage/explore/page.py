"""A sweep as a page that needs nothing else, not even a script."""

from collections.abc import Mapping
from html import escape
from typing import Any

_STYLE = """
:root { color-scheme: light dark; --ground: #f6f6f3; --panel: #ffffff; --ink: #1d2129;
  --muted: #5d6673; --line: #dfe1e2; --bad: #b3423b; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171c; --panel: #1c2027; --ink: #e4e7ec;
  --muted: #a2abb8; --line: #333a45; --bad: #ea8f87; } }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 14px/1.5 system-ui, -apple-system, "Segoe UI", "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 24px 20px 60px; }
h1 { font-size: 24px; margin: 0 0 4px; } p { color: var(--muted); margin: 0 0 14px; }
section { background: var(--panel); border: 1px solid var(--line); border-radius: 8px;
  padding: 14px 16px; margin-top: 16px; overflow-x: auto; }
section svg { max-width: 100%; height: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%; }
th, td { text-align: right; padding: 3px 10px; border-bottom: 1px solid var(--line); }
th { color: var(--muted); font-weight: 600; } th:first-child, td:first-child { text-align: left; }
td.failed { color: var(--bad); text-align: left; }
"""

_COLUMNS: tuple[tuple[str, str], ...] = (
    ("inferences/s", "inferences_per_s"),
    ("inferences/J", "inferences_per_j"),
    ("latency us", "latency_us"),
    ("array used", "utilization"),
    ("area mm2", "area_mm2"),
    ("limit", "limit"),
)


def sweep_page(title: str, picture: str, document: Mapping[str, Any]) -> str:
    """Return the page of a sweep: its curves and its table."""
    head = "".join(f"<th>{name}</th>" for name in ("design", *(name for name, _ in _COLUMNS)))
    rows = "".join(_row(point) for point in document["points"])
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title><style>{_STYLE}</style>'
        f"</head><body><main><h1>Other sizes of the machine</h1>"
        "<p>Simulated, not measured. One size of the design changes, the others stay; point at a "
        "dot to see what limits it.</p>"
        f"<section>{picture}</section><section><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{rows}</tbody></table></section></main></body></html>\n"
    )


def _row(point: Mapping[str, Any]) -> str:
    design = ", ".join(f"{name} {value}" for name, value in point["values"].items())
    figures = point["figures"]
    if figures is None:
        reason = f'<td class="failed" colspan="{len(_COLUMNS)}">{escape(point["reason"])}</td>'
        return f"<tr><td>{escape(design)}</td>{reason}</tr>"
    cells = "".join(f"<td>{_text(key, figures[key])}</td>" for _, key in _COLUMNS)
    return f"<tr><td>{escape(design)}</td>{cells}</tr>"


def _text(key: str, value: float | str) -> str:
    if isinstance(value, str):
        return escape(value)
    return f"{100 * value:.1f} %" if key == "utilization" else f"{value:,.4g}"
