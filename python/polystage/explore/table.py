"""A sweep as a table for people, and as a document for programs."""

from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from polystage.explore.axes import AXES
from polystage.explore.points import Outcome

_COLUMNS = (
    "inferences/s",
    "/s/mm2",
    "inferences/J",
    "latency us",
    "array\nused %",
    "array\nbusy %",
    "vector\nbusy %",
    "DMA\nbusy %",
    "DRAM\nbusy %",
    "DRAM MB",
    "limit",
)

LEGEND = (
    "inferences are items of the batch, of all cores; area is an estimate, to compare with. used: "
    "share of the arrays' peak; busy: share of the time. limit: the engine that is busy most, or "
    "latency where none is for more than 60 %."
)


def sweep_table(title: str, outcomes: Sequence[Outcome]) -> Table:
    """Return a row for every point; of one that cannot be compiled, the reason is a note below."""
    table = Table(
        title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False
    )
    table.add_column("design", no_wrap=True)
    for column in _COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    for position, outcome in enumerate(outcomes):
        if position and outcome.point.axis != outcomes[position - 1].point.axis:
            table.add_section()
        table.add_row(outcome.point.text(), *_cells(outcome))
    return table


def _cells(outcome: Outcome) -> list[str]:
    figures = outcome.figures
    if figures is None:
        return ["-"] * (len(_COLUMNS) - 1) + ["cannot be compiled"]
    return [
        f"{figures.inferences_per_s:,.1f}",
        f"{figures.inferences_per_s / figures.area_mm2:.3f}",
        f"{figures.inferences_per_j:.2f}",
        f"{figures.latency_us:,.1f}",
        *(
            f"{100 * share:.1f}"
            for share in (
                figures.utilization,
                figures.busy.get("tensor", 0.0),
                figures.busy.get("vector", 0.0),
                figures.busy.get("dma", 0.0),
                figures.busy["dram"],
            )
        ),
        f"{figures.dram_bytes / 1e6:.2f}",
        figures.limit,
    ]


def failures(outcomes: Sequence[Outcome]) -> list[str]:
    """Return a line for every point that cannot be compiled, with the reason."""
    return [f"{o.point.text()}: {o.reason}" for o in outcomes if o.figures is None]


def sweep_document(model: str, target: str, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return the sweep as plain data."""
    return {
        "model": model,
        "target": target,
        "axes": {name: axis.title for name, axis in AXES.items()},
        "points": [outcome.to_dict() for outcome in outcomes],
    }
