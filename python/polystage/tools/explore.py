"""polystage explore: what other machines would make of a model."""

import json
from collections.abc import Sequence
from typing import Any

import click
from rich.console import Console

from polystage.errors import PolystageError
from polystage.explore.axes import AXES, parse_axis
from polystage.explore.charts import picture
from polystage.explore.page import sweep_page
from polystage.explore.points import Outcome, grid, one_by_one
from polystage.explore.sweep import Options, sweep
from polystage.explore.table import LEGEND, failures, sweep_document, sweep_table
from polystage.frontends.finish import model_name
from polystage.machine import Target
from polystage.report.table import PIPE_WIDTH
from polystage.tools.output import check_writable, write_atomically
from polystage.tools.phases import Phases
from polystage.tools.run import DEFAULT_TARGET, parse_bindings


@click.group("explore")
def explore() -> None:
    """Look for better designs."""


@explore.command("sweep")
@click.argument("model", metavar="MODEL")
@click.option(
    "--over",
    "axes",
    multiple=True,
    metavar="SIZE[:VALUES]",
    help=f"Size to change ({', '.join(AXES)}) and, separated by commas, its values, e.g. "
    "array:64,128x64 or sbuf:6MiB,12MiB or dram:205,410 (GB/s); repeatable. "
    "[default: each in turn]",
)
@click.option("--grid", "is_grid", is_flag=True, help="All combinations, not one size at a time.")
@click.option("--target", default=DEFAULT_TARGET, show_default=True, help="The design to start at.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="As for `run`.")
@click.option(
    "--dtype", default="", type=click.Choice(["", "f32", "bf16", "f16", "f8"]), help="As for `run`."
)
@click.option("--batch", type=click.IntRange(min=1), metavar="N", help="As for `run`.")
@click.option("--bind", "bindings", multiple=True, metavar="NAME=VALUE", help="As for `run`.")
@click.option(
    "--inferences",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Inferences that follow each other on every core, as far as engines are free.",
)
@click.option("--recompile", is_flag=True, help="Compile anew where only times change, too.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Processes.")
@click.option("--svg", "svg_file", default="", metavar="FILE", help="Write the curves.")
@click.option("--html", "html_file", default="", metavar="FILE", help="Write curves and table.")
@click.option("--json", "json_file", default="", metavar="FILE", help="Write all figures.")
def sweep_command(
    model: str,
    axes: Sequence[str],
    is_grid: bool,
    settings: Sequence[str],
    bindings: Sequence[str],
    svg_file: str,
    html_file: str,
    json_file: str,
    **options: Any,
) -> None:
    """Compile and simulate MODEL for machines of other sizes, and draw what comes of it.

    A point that cannot be compiled is reported with the reason.
    """
    check_writable(svg_file, html_file, json_file)
    bind = tuple(parse_bindings(bindings).items())
    given = Options(model, settings=tuple(settings), bind=bind, **options)
    base = given.base()
    swept = [parse_axis(text, base) for text in axes or AXES]
    if len({axis.name for axis, _ in swept}) < len(swept):
        raise PolystageError("--over: a size is named twice", help="give all its values at once")
    points = list(grid(swept) if is_grid else one_by_one(swept))
    phases = Phases()
    with phases.phase("sweep"):
        outcomes = sweep(
            given, points, lambda done, count, text: phases.detail(f"sweep {done}/{count}: {text}")
        )
    name = model_name(model)
    title = f"{name} on {base.name}" + (f", batch {given.batch}" if given.batch else "")
    _print(title, outcomes)
    drawn = picture(title, outcomes, _own(base))
    document = sweep_document(name, base.name, outcomes)
    if svg_file:
        write_atomically(svg_file, drawn)
    if html_file:
        write_atomically(html_file, sweep_page(title, drawn, document))
    if json_file:
        write_atomically(json_file, json.dumps(document, indent=2, allow_nan=False) + "\n")
    if all(outcome.figures is None for outcome in outcomes):
        raise PolystageError("no point of the sweep can be compiled")


def _own(base: Target) -> dict[str, float]:
    """Return where the target itself stands on every axis."""
    return {
        "array": (base.tensor.rows * base.tensor.columns) ** 0.5,
        "sbuf": float(base.sbuf.bytes),
        "dram": base.dram.bytes_per_ns,
        "cores": float(base.device.cores),
    }


def _print(title: str, outcomes: Sequence[Outcome]) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=PIPE_WIDTH)
    console.print(sweep_table(title, outcomes))
    for line in (LEGEND, *failures(outcomes)):
        console.print(line, highlight=False, markup=False)
