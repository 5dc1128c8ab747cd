"""The cycles of SCALE-Sim, exactly: every layer of its topologies, on targets that describe it.

A topology is one program here, as any model is; what is compared is what the simulator reports of
every layer. SCALE-Sim counts its last cycle from 0, so its totals are one less.
"""

import csv
from functools import cache
from pathlib import Path

import pytest

from polystage.frontends.scalesim import ConvolutionLayer, load_scalesim, read_topology
from polystage.pipeline import compile_module
from polystage.simulator import simulate
from polystage.simulator.result import Result

DATA = Path(__file__).parents[2] / "benchmarks" / "scalesim_data"
TOPOLOGIES = {"alexnet": 5, "mobilenet": 27, "Resnet50": 54}
ROWS = COLUMNS = 32

both_dataflows = pytest.mark.parametrize("dataflow", ["ws", "os"])
every_topology = pytest.mark.parametrize("name", TOPOLOGIES)


@cache
def layers_of(name: str) -> tuple[ConvolutionLayer, ...]:
    return tuple(read_topology(DATA / f"{name}.csv"))


@cache
def run(name: str, dataflow: str) -> Result:
    model = load_scalesim(layers_of(name), name)
    return simulate(compile_module(model.module, target=f"scalesim_{dataflow}"), timing_only=True)


def cycles(name: str, dataflow: str) -> list[tuple[str, float, int]]:
    """Return (layer, cycles in which the array was busy, cycles that the layer took)."""
    return [
        (layer.name, layer.cost.busy_ns["tensor"], round(layer.cost.latency_ns))
        for layer in run(name, dataflow).layers
    ]


def closed_form(layer: ConvolutionLayer, dataflow: str) -> int:
    """Return ANCHORS section 5: folds of M x K by K x N, each charged in full."""
    m, k, n = layer.positions, layer.window, layer.filters
    if dataflow == "ws":
        return -(-k // ROWS) * -(-n // COLUMNS) * (2 * ROWS + COLUMNS + m - 2)
    return -(-m // ROWS) * -(-n // COLUMNS) * (k + ROWS + COLUMNS - 2)


def recorded(dataflow: str) -> dict[tuple[int, ...], tuple[int, int]]:
    """Return (total cycles, stalls) by the numbers of a layer, as SCALE-Sim 3.0.0 reported them.

    `benchmarks/scalesim.py --tool PYTHON` recorded the file; it runs the tool.
    """
    lines = (DATA / "figures.csv").read_text(encoding="utf-8").splitlines()
    rows = [row for row in csv.reader(lines) if row[0] == dataflow]
    return {tuple(map(int, row[1:8])): (int(row[8]), int(row[9])) for row in rows}


def numbers(layer: ConvolutionLayer) -> tuple[int, ...]:
    return tuple(value for name, value in vars(layer).items() if name != "name")


@both_dataflows
@every_topology
def test_every_layer_takes_the_cycles_of_the_closed_form(name: str, dataflow: str) -> None:
    layers = layers_of(name)
    assert len(layers) == TOPOLOGIES[name]
    expected = [(x.name, closed_form(x, dataflow), closed_form(x, dataflow)) for x in layers]
    assert cycles(name, dataflow) == expected


@both_dataflows
@every_topology
def test_every_layer_takes_the_cycles_that_the_tool_reports(name: str, dataflow: str) -> None:
    figures = recorded(dataflow)
    reported = [(x.name, *figures[numbers(x)]) for x in layers_of(name)]
    ours = [(layer, took - 1, 0) for layer, _, took in cycles(name, dataflow)]
    assert ours == reported


@both_dataflows
@pytest.mark.parametrize(("rows", "columns"), [(16, 64), (64, 16), (8, 8)])
def test_other_arrays(rows: int, columns: int, dataflow: str) -> None:
    """The closed forms hold for an array that is not square, where rows and columns differ."""
    layer = ConvolutionLayer("conv", 14, 14, 3, 3, 24, 100, 1)
    settings = [f"tensor.rows={rows}", f"tensor.columns={columns}"]
    settings += [f"sbuf.partitions={max(rows, columns)}", "sbuf.partition_start_granule=1"]
    settings += [f"psum.partitions={columns}"]
    if dataflow == "os":
        settings += [f"tensor.moving_columns={rows}", "psum.bank_bytes=1024"]
    model = load_scalesim([layer])
    program = compile_module(model.module, target=f"scalesim_{dataflow}", settings=settings)
    m, k, n = layer.positions, layer.window, layer.filters
    folds = {
        "ws": -(-k // rows) * -(-n // columns) * (2 * rows + columns + m - 2),
        "os": -(-m // rows) * -(-n // columns) * (k + rows + columns - 2),
    }
    assert simulate(program, timing_only=True).totals.busy_ns["tensor"] == folds[dataflow]
