"""The report of a run as a table for people, made from its JSON document."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

Row = Mapping[str, Any]

PIPE_WIDTH = 160
"""Columns of the output where it is not a terminal."""

NARROW_WIDTH = 120
"""A terminal below this many columns shows fewer of ours."""


NAME_WIDTH, COLUMN_WIDTH = 16, 11
"""Columns of the output for a layer's name at least, and for one of its figures at most."""


@dataclass(frozen=True)
class Column:
    """One figure of a layer; `least` and `most` are the bound of the figure before them."""

    title: str
    text: Callable[[Row], str]
    only_wide: bool = False


def _over_bound(row: Row) -> str:
    bound, own = row["latency_bound_us"], row.get("own_us", row["latency_us"])
    return f"{own / bound:.2f}" if bound else "-"


def _used(row: Row) -> str:
    times = row["losses_us"]
    return f"{100 * times[0] / times[-1]:.1f}" if times else "-"


def _copied(row: Row) -> str:
    return _megabytes(row["onchip_copy_bytes"] + row["offchip_copy_bytes"])


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.3f}" if count else "-"


COLUMNS = (
    Column("latency\nus", lambda row: f"{row['latency_us']:.2f}"),
    Column("least\nus", lambda row: f"{row['latency_bound_us']:.2f}"),
    Column("times\nleast", _over_bound, only_wide=True),
    Column("used\n%", _used),
    Column("most\n%", lambda row: f"{100 * row['utilization_bound']:.1f}", only_wide=True),
    Column("read\nMB", lambda row: _megabytes(row["dram_read_bytes"])),
    Column("written\nMB", lambda row: _megabytes(row["dram_write_bytes"])),
    Column("least\nMB", lambda row: _megabytes(row["compulsory_bytes"])),
    Column("copied\nMB", _copied, only_wide=True),
    Column("energy\nuJ", lambda row: f"{row['energy_pj'] / 1e6:.2f}"),
    Column("least\nuJ", lambda row: f"{row['energy_bound_pj'] / 1e6:.2f}", only_wide=True),
)

LEGEND = (
    "latency: what a layer adds to those before it, with which it overlaps. least, most: what "
    "compute at peak and compulsory bytes (inputs, weights and outputs once) allow. times least, "
    "used: of the time in which anything is under way for the layer; used is the share of the "
    "tensor engine's peak. copied: moved without arithmetic, on and off chip."
)


def print_report(document: Row, console: Console | None = None) -> None:
    """Print the layers, the totals and the check."""
    out = console or Console()
    if not out.is_terminal:
        out = Console(width=PIPE_WIDTH)
    out.print(layer_table(document, out.width))
    for line in (LEGEND, *summary(document)):
        out.print(line, highlight=False, markup=False)


def layer_table(document: Row, width: int = PIPE_WIDTH) -> Table:
    """Return a row per layer and one for the whole."""
    title = Text(f"{document['model']} on {document['target']}", style="table.title")
    table = Table(
        title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False
    )
    shown = [c for c in COLUMNS if width >= NARROW_WIDTH or not c.only_wide]
    names = max(NAME_WIDTH, width - COLUMN_WIDTH * len(shown))
    table.add_column("layer", no_wrap=True, overflow="ellipsis", max_width=names)
    for column in shown:
        table.add_column(column.title, justify="right", no_wrap=True, min_width=7)
    for layer in document["layers"]:
        table.add_row(Text(layer["name"]), *(column.text(layer) for column in shown))
    table.add_section()
    table.add_row("total", *(c.text(document["totals"]) for c in shown), style="bold")
    return table


def summary(document: Row) -> list[str]:
    """Return the totals, phases and check as sentences."""
    totals, phases = document["totals"], document["phases_s"]
    lines = [
        f"{totals['cycles']:,} cycles, {document['flow']['throughput_per_s']:,.1f} inferences/s, "
        f"{totals['macs']:,} MACs, peak scratchpad {totals['peak_sbuf_bytes']:,} bytes",
        *_flow_line(document["flow"], document["cores"]),
        *_loss_line(document),
        *_planned_line(document),
        "seconds: " + ", ".join(f"{name} {seconds:.2f}" for name, seconds in phases.items()),
    ]
    return [*lines, _check_line(document["check"])]


def _planned_line(document: Row) -> list[str]:
    """Say what the planner expected, and how near it was."""
    planned, totals = document.get("planned"), document["totals"]
    if not planned or document["flow"]["inferences"] > 1:
        return []
    microseconds = planned["nanoseconds"] / 1000
    figures = [f"{microseconds:,.2f} us"]
    if "bytes" in planned:
        figures.insert(0, f"{planned['bytes']:,} bytes")
    if "picojoules" in planned:
        figures.append(f"{planned['picojoules'] / 1e6:,.2f} uJ")
    share = totals["latency_us"] / microseconds
    return [f"planned: {', '.join(figures)}; it took {share:.3f} of the time"]


def _flow_line(flow: Row, cores: int) -> list[str]:
    """Say what several inferences in flight do; Little's law ties the three figures together."""
    if flow["inferences"] < 2:
        return []
    where = f" on {cores} cores; the table is of the first" if cores > 1 else ""
    return [
        f"{flow['inferences']} inferences in {flow['total_us']:,.2f} us{where}: "
        f"{flow['mean_latency_us']:,.2f} us each, {flow['mean_in_flight']:.2f} in flight"
    ]


def _loss_line(document: Row) -> list[str]:
    """Say how the peak shrinks to what was achieved, step by step."""
    times = document["totals"]["losses_us"]
    if not times:
        return []
    steps = zip(document["loss_steps"], times, times[1:], strict=False)
    factors = [f"{step['key']} {before / after:.3f}" for step, before, after in steps]
    return [f"from peak to {times[0] / times[-1]:.2%}: " + " x ".join(factors)]


def _check_line(check: Row) -> str:
    if check["reference"] is None:
        return f"check: not made, {check['reason']}"
    relative = check["max_rel_error"]
    error = "not finite" if relative is None else f"{relative:.2e}"
    word = "passed" if check["passed"] else "FAILED"
    return (
        f"check against {check['reference']} {word}: largest relative error {error}, "
        f"allowed {check['tolerance']:.2e}"
    )
