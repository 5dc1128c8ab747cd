"""Read the polyhedral model of a network: the largest tile of each convolution that fits.

For every access of every statement the model tells which elements a tile touches, as a closed form
in the tile's origin and size. Here it is asked for square tiles of the output plane with all
channels and taps inside, and the largest is taken whose bytes the scratchpad holds.
"""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

import polystage as ps
from polystage.passes.tensors.normalize import NORMALIZE_PIPELINE
from polystage.pipeline import run_pipeline
from polystage.polyhedral import Kind, Statement, TensorProgram, tile_footprint

SCRATCHPAD_BYTES = 64 * 1024


def build_model():
    """Return two convolutions, the second of stride 2."""
    random = np.random.default_rng(0)
    weights = {"w1": (16, 8, 3, 3), "w2": (32, 16, 3, 3)}
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w1"], ["h"], name="conv1", pads=[1, 1, 1, 1]),
            helper.make_node("Conv", ["h", "w2"], ["y"], name="conv2", strides=[2, 2]),
        ],
        "two_convolutions",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, 65, 65])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 32, 32, 32])],
        [numpy_helper.from_array(random.random(s, np.float32), n) for n, s in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def tile_bytes(program: TensorProgram, statement: Statement, sizes: np.ndarray) -> np.ndarray:
    """Return the bytes that each tile needs on chip; an array that is read and written counts once.

    Shapes: `sizes` is [tile, dimension].
    """
    touched = {a.array: tile_footprint(statement, a) for a in statement.accesses}
    origin = np.zeros_like(sizes)
    return sum(
        form.elements(origin, sizes) * program.arrays[array].element_bytes
        for array, form in touched.items()
    )


def largest_tile(program: TensorProgram, statement: Statement) -> tuple[int, int]:
    """Return the extent of the largest square tile of the output plane, and its bytes."""
    extents = [statement.domain.dim_max_val(i).to_python() + 1 for i in range(len(statement.dims))]
    plane = [statement.dims.index(d) for d in ("h", "w")]
    sides = np.arange(1, min(extents[d] for d in plane) + 1)
    sizes = np.tile(extents, (len(sides), 1))
    sizes[:, plane] = sides[:, None]
    needed = tile_bytes(program, statement, sizes)
    best = np.flatnonzero(needed <= SCRATCHPAD_BYTES)[-1]
    return int(sides[best]), int(needed[best])


model = ps.load(build_model())
run_pipeline(model.module, NORMALIZE_PIPELINE)
program = TensorProgram.from_module(model.module)
for statement in program.statements:
    if statement.kind is Kind.CONTRACTION:
        for access in statement.reads[:1]:
            form = tile_footprint(statement, access)
            print(f"{statement.name} reads {' x '.join(e.text for e in form.extent)} elements")
        side, needed = largest_tile(program, statement)
        print(f"  largest tile {side} x {side}: {needed:,} of {SCRATCHPAD_BYTES:,} bytes")
