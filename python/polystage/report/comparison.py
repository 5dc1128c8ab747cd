"""Two runs beside each other, as a table for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from polystage.report.table import PIPE_WIDTH

Row = Mapping[str, Any]

SHOWN_LAYERS = 20
"""Layers of the table: those whose latency changed most."""

_TOTALS = (
    ("latency us", "latency_us", "{:,.2f}"),
    ("inferences/s", "throughput_per_s", "{:,.1f}"),
    ("tensor engine used %", "utilization", "{:.2%}"),
    ("DRAM read bytes", "dram_read_bytes", "{:,}"),
    ("DRAM written bytes", "dram_write_bytes", "{:,}"),
    ("energy uJ", "energy_pj", "{:,.2f}"),
    ("scratchpad at peak bytes", "peak_sbuf_bytes", "{:,}"),
)


def print_comparison(before: Row, after: Row, console: Console | None = None) -> None:
    """Print totals of both runs, and the layers that changed most."""
    out = console or Console()
    if not out.is_terminal:
        out = Console(width=PIPE_WIDTH)
    out.print(f"{_name(before)}, then {_name(after)}", highlight=False, markup=False)
    out.print(totals_table(before, after))
    out.print("latency of layers in us, the largest change first", highlight=False)
    out.print(changes_table(before, after))
    if len(after["layers"]) > SHOWN_LAYERS:
        out.print(f"{SHOWN_LAYERS} of {len(after['layers'])} layers are shown", highlight=False)


def totals_table(before: Row, after: Row) -> Table:
    """Return a row per total."""
    table = _table("")
    for title, key, form in _TOTALS:
        scale = 1e-6 if key == "energy_pj" else 1
        a, b = (run["totals"][key] * scale for run in (before, after))
        table.add_row(title, form.format(a), form.format(b), _change(a, b))
    return table


def changes_table(before: Row, after: Row, shown: int = SHOWN_LAYERS) -> Table:
    """Return a row per layer, matched by name, the largest change of latency first."""
    a, b = ({row["name"]: row["latency_us"] for row in run["layers"]} for run in (before, after))
    names = list(dict.fromkeys([*b, *a]))
    names.sort(key=lambda name: -abs(b.get(name, 0.0) - a.get(name, 0.0)))
    table = _table("layer")
    for name in names[:shown]:
        old, new = a.get(name), b.get(name)
        texts = ["-" if value is None else f"{value:,.2f}" for value in (old, new)]
        word = "gone" if new is None else "new" if old is None else _change(old, new)
        table.add_row(Text(name), *texts, word)
    return table


def _table(first: str) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    table.add_column(first, no_wrap=True, overflow="ellipsis")
    for name in ("before", "after", "change"):
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _name(run: Row) -> str:
    return f"{run['model']} on {run['target']}"


def _change(before: float, after: float) -> str:
    if before == after:
        return "same"
    return f"{100 * (after / before - 1):+.1f} %" if before else "new"
