"""The report of a run as a table for people, made from its JSON document."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

Row = Mapping[str, Any]

COLUMNS = {
    "layer": "left",
    "latency us": "right",
    "bound us": "right",
    "x bound": "right",
    "utilization": "right",
    "read MB": "right",
    "write MB": "right",
    "compulsory MB": "right",
    "copies MB": "right",
    "energy uJ": "right",
}


def print_report(document: Row, console: Console | None = None) -> None:
    """Print the layers, the totals and the check."""
    out = console or Console(soft_wrap=False)
    if not out.is_terminal and console is None:
        out = Console(width=140)  # a pipe has no width of its own
    out.print(layer_table(document))
    for line in summary(document):
        out.print(line, highlight=False, markup=False)


def layer_table(document: Row) -> Table:
    """Return a row per layer and one for the whole."""
    table = Table(title=f"{document['model']} on {document['target']}", title_justify="left")
    for name, side in COLUMNS.items():
        table.add_column(name, justify="left" if side == "left" else "right", no_wrap=True)
    for layer in document["layers"]:
        table.add_row(*_cells(layer["name"], layer))
    table.add_section()
    table.add_row(*_cells("total", document["totals"]), style="bold")
    return table


def _cells(name: str, row: Row) -> list[str]:
    latency, bound = row["latency_us"], row["latency_bound_us"]
    copies = row["onchip_copy_bytes"] + row["offchip_copy_bytes"]
    return [
        name if len(name) <= 40 else "..." + name[-37:],
        f"{latency:.2f}",
        f"{bound:.2f}",
        f"{latency / bound:.2f}" if bound else "-",
        f"{100 * row['utilization']:.1f} %",
        _megabytes(row["dram_read_bytes"]),
        _megabytes(row["dram_write_bytes"]),
        _megabytes(row["compulsory_bytes"]),
        _megabytes(copies),
        f"{row['energy_pj'] / 1e6:.2f}",
    ]


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.3f}" if count else "-"


def summary(document: Row) -> list[str]:
    """Return the totals, phases and check as sentences."""
    totals, phases = document["totals"], document["phases_s"]
    lines = [
        f"{totals['cycles']:,} cycles, {totals['throughput_per_s']:,.1f} inferences/s, "
        f"{totals['macs']:,} MACs, peak scratchpad {totals['peak_sbuf_bytes']:,} bytes",
        "seconds: " + ", ".join(f"{name} {seconds:.2f}" for name, seconds in phases.items()),
    ]
    return [*lines, _check_line(document["check"])]


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
