"""SCALE-Sim's ResNet-50, MobileNet and AlexNet, layer by layer, in SCALE-Sim and here.

First the same machine: the target presets `scalesim_ws` and `scalesim_os`. The cycles must be
equal for every layer; exit code 1 if one is not. If SCALE-Sim's Python is named, it runs as well,
and both are timed, in CPU seconds: one layer in SCALE-Sim, then the same layer here. Otherwise its
figures are those of scalesim_data/figures.csv, which this script recorded.

Then the same layers on `neuroncore_v2`, in cycles of its array: with SCALE-Sim's rules, and with
what the better rules change, one after the other.

    python benchmarks/scalesim.py                                     # figures as recorded
    python -m venv /tmp/scalesim && /tmp/scalesim/bin/pip install scalesim==3.0.0 'numpy<2'
    python benchmarks/scalesim.py --tool /tmp/scalesim/bin/python     # the tool itself, slow
    python benchmarks/scalesim.py --tool .. --topology alexnet --layer Conv1 --dataflow os
"""

import argparse
import csv
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from tables import new_table

from polystage.frontends.scalesim import ConvolutionLayer, load_scalesim, read_topology
from polystage.machine import Target
from polystage.pipeline import compile_module
from polystage.simulator import simulate

HERE = Path(__file__).parent
DATA = HERE / "scalesim_data"
"""SCALE-Sim's topologies, under its licence (MIT), and its figures as recorded here."""
RECORDED = DATA / "figures.csv"
NAMES = ("Resnet50", "mobilenet", "alexnet")
ARRAY = (32, 32)

UNLIMITED_ENGINES = {
    **{f"{engine}.elements_per_cycle": "1e9" for engine in ("vector", "scalar", "gpsimd")},
    **{f"{engine}.startup_cycles": "0" for engine in ("vector", "scalar", "gpsimd")},
    **{f"{engine}.issue_cycles": "0" for engine in ("vector", "scalar", "gpsimd")},
    "sbuf.interface_elements_per_cycle": "1000000000000",
    "psum.interface_elements_per_cycle": "1000000000000",
    "sbuf.exclusive_engines": "",
    "psum.exclusive_engines": "",
}
UNLIMITED_MEMORY = {
    "sbuf.bytes_per_partition": "67108864",
    "dma.engine_bytes_per_ns": "1e9",
    "dma.startup_ns": "0",
    "dma.descriptor_overhead_ns": "0",
    "dram.bytes_per_ns": "1e9",
    "device.dram_bytes_per_ns": "1e9",
}
NO_ISSUE_LIMITS = {
    "tensor.min_issue_cycles": "1",
    "tensor.startup_cycles": "0",
    "tensor.moving_columns": "65535",
    "psum.bank_bytes": "262144",
    "access_pattern.stride_penalty_bytes": "1073741824",
}
NO_OVERLAP = {
    "tensor.weight_load_speedup": "1",
    "tensor.background_load": "false",
    "tensor.load_whole_array": "true",
    "tensor.pipelined": "false",
}
STEPS: dict[str, tuple[dict[str, str], ...]] = {
    "SCALE-Sim's rules": (UNLIMITED_ENGINES, UNLIMITED_MEMORY, NO_ISSUE_LIMITS, NO_OVERLAP),
    "load, drain hidden": (UNLIMITED_ENGINES, UNLIMITED_MEMORY, NO_ISSUE_LIMITS),
    "issue, bank limits": (UNLIMITED_ENGINES, UNLIMITED_MEMORY),
    "lane engines": (UNLIMITED_MEMORY,),
    "DMA: all of it": (),
}
"""What is taken from `neuroncore_v2` in every column of the second table; less and less."""


@dataclass(frozen=True)
class Figure:
    """What SCALE-Sim reports for a layer, and the CPU time that it took if it ran now."""

    cycles: int
    stalls: int
    version: str
    seconds: float | None = None


Key = tuple[str | int, ...]
"""A dataflow and the numbers of a layer, its name left out."""


def key_of(dataflow: str, layer: ConvolutionLayer) -> Key:
    """Return what the figure of a layer depends on."""
    return (dataflow, *astuple(layer)[1:])


def closed_form(layer: ConvolutionLayer, dataflow: str, rows: int, columns: int) -> int:
    """Return the cycles that SCALE-Sim reports: the number of the last one, counted from 0."""
    m, k, n = layer.positions, layer.window, layer.filters
    if dataflow == "ws":
        return ceil(k, rows) * ceil(n, columns) * (2 * rows + columns + m - 2) - 1
    return ceil(m, rows) * ceil(n, columns) * (k + rows + columns - 2) - 1


def ceil(a: int, b: int) -> int:
    return -(-a // b)


# --- SCALE-Sim ----------------------------------------------------------------------------------


def recorded() -> dict[Key, Figure]:
    """Return the figures of figures.csv."""
    found: dict[Key, Figure] = {}
    with RECORDED.open(encoding="utf-8") as file:
        for row in csv.reader(line for line in file if not line.startswith("#")):
            dataflow, *numbers, cycles, stalls, version = row
            if dataflow != "dataflow":
                figure = Figure(int(cycles), int(stalls), version)
                found[(dataflow, *map(int, numbers))] = figure
    return found


def record(figures: Mapping[Key, Figure]) -> None:
    """Write figures.csv."""
    names = ["dataflow", *ConvolutionLayer.__dataclass_fields__.keys()]
    names.remove("name")
    lines = [
        "# Figures of SCALE-Sim itself for a 32 x 32 array, one layer per run, recorded by:",
        "#   python benchmarks/scalesim.py --tool PYTHON --record",
        "# cycles and stalls: 'Total Cycles' and 'Stall Cycles' of its COMPUTE_REPORT.csv.",
        ",".join([*names, "cycles", "stalls", "version"]),
    ]
    for key, figure in sorted(figures.items(), key=lambda item: tuple(map(str, item[0]))):
        values = [*key, figure.cycles, figure.stalls, figure.version]
        lines.append(",".join(map(str, values)))
    RECORDED.write_text("\n".join(lines) + "\n", encoding="utf-8")


@contextmanager
def running_tool(python: str, dataflow: str) -> Iterator[Callable[[ConvolutionLayer], Figure]]:
    """Start SCALE-Sim, and give a function that runs one layer in it."""
    command = [python, str(DATA / "tool.py")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        requests, answers = process.stdin, process.stdout
        assert requests is not None and answers is not None

        def run(layer: ConvolutionLayer) -> Figure:
            numbers = ["layer", *astuple(layer)[1:]]
            request = {"array": ARRAY, "dataflow": dataflow, "layer": numbers}
            print(json.dumps(request), file=requests, flush=True)
            answer = answers.readline()
            if not answer:
                raise SystemExit(f"SCALE-Sim failed: {' '.join(command)}")
            return Figure(**json.loads(answer))

        yield run


# --- here ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """One layer, imported, compiled and simulated here."""

    cycles: int
    seconds: float
    utilization: float


def run_here(layer: ConvolutionLayer, target: str, settings: Mapping[str, str]) -> Run:
    """Return the cycles of the whole run, which the array must account for alone where nothing
    else limits, and the CPU seconds from the layer's numbers to the result."""
    start = time.process_time()
    model = load_scalesim([layer])
    texts = [f"{key}={value}" for key, value in settings.items()]
    program = compile_module(model.module, target=target, settings=texts)
    totals = simulate(program, timing_only=True).totals
    return Run(totals.cycles, time.process_time() - start, totals.utilization)


def warm_up() -> None:
    """Run a layer, so that what is loaded once is loaded."""
    run_here(ConvolutionLayer("warm", 8, 8, 3, 3, 4, 40, 1), "scalesim_ws", {})


# --- tables -------------------------------------------------------------------------------------


def same_machine(
    topology: str,
    layers: Sequence[ConvolutionLayer],
    dataflow: str,
    figure_of: Callable[[ConvolutionLayer], Figure | None],
) -> tuple[Table, bool]:
    """Return the table of a topology on SCALE-Sim's machine, and whether all cycles are equal."""
    table = new_table(
        f"{topology} on a {ARRAY[0]} x {ARRAY[1]} array, {dataflow}",
        ["layer"],
        ["M", "K", "N", "SCALE-Sim", "ours", "equal", "its s", "our s", "ratio"],
    )
    equal, theirs, ours = True, 0.0, 0.0
    for layer in layers:
        figure = figure_of(layer)
        run = run_here(layer, f"scalesim_{dataflow}", {})
        form = closed_form(layer, dataflow, *ARRAY)
        expected = form if figure is None else figure.cycles
        same = run.cycles - 1 == expected == form
        cells = [layer.name, *map(str, (layer.positions, layer.window, layer.filters))]
        cells += [f"({form})" if figure is None else str(expected), str(run.cycles - 1)]
        cells.append("yes" if same else "NO")
        if figure is None or figure.seconds is None:
            cells += ["-", f"{run.seconds:.2f}", "-"]
        else:
            ratio = figure.seconds / run.seconds
            cells += [f"{figure.seconds:.1f}", f"{run.seconds:.2f}", f"{ratio:.0f}"]
            theirs += figure.seconds
            ours += run.seconds
        equal &= same
        table.add_row(*cells)
    if ours:
        table.add_row("all", *[""] * 6, f"{theirs:.1f}", f"{ours:.2f}", f"{theirs / ours:.0f}")
    return table, equal


def better_rules(topology: str, layers: Sequence[ConvolutionLayer]) -> tuple[Table, bool]:
    """Return the table of a topology on neuroncore_v2, and whether its first column is SCALE-Sim's
    closed form for that array."""
    v2 = Target.load("neuroncore_v2")
    table = new_table(
        f"{topology} on neuroncore_v2 in bf16, cycles of its array", ["layer"], [*STEPS, "util %"]
    )
    sums, macs, exact = dict.fromkeys(STEPS, 0), 0, True
    for layer in layers:
        runs = {
            step: run_here(
                layer, "neuroncore_v2", {k: v for part in parts for k, v in part.items()}
            )
            for step, parts in STEPS.items()
        }
        form = closed_form(layer, "ws", v2.tensor.rows, v2.tensor.columns)
        exact &= runs["SCALE-Sim's rules"].cycles - 1 == form
        for step, run in runs.items():
            sums[step] += run.cycles
        macs += layer.macs
        used = f"{100 * runs['DMA: all of it'].utilization:.1f}"
        table.add_row(layer.name, *(str(run.cycles) for run in runs.values()), used)
    used = 100 * macs / v2.tensor.macs_per_ns("bf16") * v2.tensor.clock_ghz
    table.add_row("all", *map(str, sums.values()), f"{used / sums['DMA: all of it']:.1f}")
    return table, exact


@contextmanager
def figure_source(
    tool: str, keep: bool, dataflow: str, figures: dict[Key, Figure]
) -> Iterator[Callable[[ConvolutionLayer], Figure | None]]:
    """Give a function that finds SCALE-Sim's figure of a layer: by running it, or as recorded."""
    if not tool:
        yield lambda layer: figures.get(key_of(dataflow, layer))
        return
    with running_tool(tool, dataflow) as run:
        ran: dict[Key, Figure] = {}

        def find(layer: ConvolutionLayer) -> Figure:
            key = key_of(dataflow, layer)
            if key not in ran:
                figures[key] = ran[key] = run(layer)
            if keep:
                record(figures)
            return ran[key]

        yield find


def arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description="SCALE-Sim and Polystage on the same layers")
    parser.add_argument("--tool", default="", help="a Python that has scalesim, to run it as well")
    parser.add_argument("--record", action="store_true", help="write what the tool reports")
    parser.add_argument("--topology", action="append", default=[], choices=NAMES)
    parser.add_argument("--layer", action="append", default=[], help="only this one")
    parser.add_argument("--dataflow", action="append", default=[], choices=("ws", "os"))
    parser.add_argument("--without-v2", action="store_true", help="leave out neuroncore_v2")
    return parser.parse_args()


def main() -> int:
    """Print the tables and return the exit code."""
    options = arguments()
    topologies: dict[str, list[ConvolutionLayer]] = {}
    for name in options.topology or NAMES:
        layers = read_topology(DATA / f"{name}.csv")
        wanted = [x for x in layers if not options.layer or x.name in options.layer]
        if wanted:
            topologies[name] = wanted
    figures = recorded() if RECORDED.exists() else {}
    console = Console(width=None if sys.stdout.isatty() else 130)
    warm_up()
    good = True
    for dataflow in options.dataflow or ("ws", "os"):
        with figure_source(options.tool, options.record, dataflow, figures) as figure_of:
            for name, layers in topologies.items():
                table, equal = same_machine(name, layers, dataflow, figure_of)
                console.print(table)
                good &= equal
    for name, layers in topologies.items() if not options.without_v2 else ():
        table, exact = better_rules(name, layers)
        console.print(table)
        good &= exact
    source = "run now" if options.tool else f"recorded in {RECORDED.name}"
    console.print(f"SCALE-Sim: {source}; in brackets: its closed form, not run.")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
