"""Long kernels without loops, as of a flat scratchpad: right, and linear in their length."""

import sys
from itertools import pairwise

import numpy as np
import pytest
from npu_programs import Kernel, dram, program, random

from polystage.passes.placement.insert_sync import InsertSyncPass
from polystage.simulator import simulate

CHANNELS, WIDTH, RING, LAYERS = 8, 16, 4, 3
WEIGHT_BYTES = 4 * 3 * CHANNELS * CHANNELS
ROW_BYTES = 4 * CHANNELS * WIDTH


def row(kernel, buffer, i):
    return kernel.subview(buffer, [0, 0, i, 0], [1, CHANNELS, 1, WIDTH])


def convolutions(rows):
    """Return some convolutions of three rows each, row by row: every array is a ring of rows, and
    every row of sums a buffer of its own, whose place the next takes."""
    k = Kernel(
        x=dram(1, CHANNELS, rows, WIDTH),
        w=dram(1, 3 * CHANNELS, CHANNELS),
        y=dram(1, CHANNELS, rows, WIDTH),
    )
    weights = k.load(k.w, cause="weight")
    places = [WEIGHT_BYTES + i * RING * ROW_BYTES for i in range(LAYERS + 2)]
    rings = [k.alloc([1, CHANNELS, RING, WIDTH], address=at) for at in places[:-1]]
    for i in range(rows):
        k.dma(row(k, k.x, i), row(k, rings[0], i % RING))
        for source, made in pairwise(rings):
            sums = k.alloc([1, CHANNELS, 1, WIDTH], address=places[-1])
            for tap in range(min(3, i + 1)):
                taps = k.subview(weights, [0, tap * CHANNELS, 0], [1, CHANNELS, CHANNELS])
                k.matmul(taps, row(k, source, (i - tap) % RING), sums, tap > 0)
            operands, maps = [sums, row(k, made, i % RING)], ["d0, d1, d2, d3"] * 2
            k.box("elementwise", "double", operands, [1, CHANNELS, 1, WIDTH], maps)
        k.dma(row(k, rings[-1], i % RING), row(k, k.y, i), "output")
    return program(k, target="flat")


def expected(x, w):
    for _ in range(LAYERS):
        padded = np.pad(x[0], [(0, 0), (2, 0), (0, 0)])
        taps = w[0].reshape(3, CHANNELS, CHANNELS)
        shifted = (padded[:, 2 - tap : 2 - tap + x.shape[2]] for tap in range(3))
        products = (np.einsum("km,khw->mhw", t, s) for t, s in zip(taps, shifted, strict=True))
        x = 2 * sum(products)[None]
    return x


def test_rings_of_rows_make_convolutions():
    """Semaphores order rings and reused places; the simulator looks for races."""
    module = convolutions(9)
    InsertSyncPass().run(module)
    x, w = random(1, CHANNELS, 9, WIDTH), random(1, 3 * CHANNELS, CHANNELS, seed=1) / 8
    result = simulate(module, {"x": x, "w": w})
    assert result.order == "concurrent"
    np.testing.assert_allclose(result.outputs["y"], expected(x, w), rtol=1e-3, atol=1e-3)


def calls(function):
    """Return how many functions are called: a measure of time that does not depend on the load."""
    count = 0

    def note(_frame, event, _argument):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


def synchronise(module):
    return calls(lambda: InsertSyncPass().run(module))


def simulate_both(module):
    InsertSyncPass().run(module)
    x, w = (np.zeros((1, *shape), np.float32) for shape in (x_shape(module), (24, 8)))
    return calls(lambda: simulate(module, {"x": x, "w": w}))


def x_shape(module):
    main = next(op for op in module.body.operations if op.name.value == "main")
    return tuple(main.type.inputs[0].shape)[1:]


@pytest.mark.parametrize("work", [synchronise, simulate_both])
def test_time_is_linear_in_the_instructions(work):
    """What a further row costs does not depend on how many there are: 30 rows more, twice."""
    few, some, many = (work(convolutions(rows)) for rows in (30, 60, 90))
    assert many - some <= 1.05 * (some - few)
