"""Lowering of every linalg.generic that is not a contraction: vector, scalar and gpsimd engines.

    linalg.generic relu(x) -> y       kernel(x, y):
                                        x', y' = views of x, y as [121, 1600]
                                        for every tile of the 1600 that fits on chip:
                                          buffer = alloc [121, tile]
                                          dma x'[:, tile] -> buffer
                                          elementwise @relu buffer -> buffer
                                          dma buffer -> y'[:, tile]

The steps: read the body into a graph (`scalar_code`), bring the loops into shape (`loop_nest`,
`partition`), plan the instructions of a tile (`tile_planner`), choose the tile (`tiling`), write
the loops (`tile_writer`).
"""

from __future__ import annotations

from collections.abc import Sequence

from polystage.mlir import ir
from polystage.passes.lower.generic_op import GenericOp
from polystage.passes.lower.initial import Initial
from polystage.passes.lower.kernel_builder import KernelBuilder
from polystage.passes.lower.lane_engines import data_movement
from polystage.passes.lower.lane_engines.loop_nest import LoopNest, expand_scalar
from polystage.passes.lower.lane_engines.partition import Work, pieces
from polystage.passes.lower.lane_engines.scalar_code import read_body, widen_accumulators
from polystage.passes.lower.lane_engines.scalar_graph import Graph, ScalarBody
from polystage.passes.lower.lane_engines.tile_planner import make_program
from polystage.passes.lower.lane_engines.tile_program import reuse_buffers
from polystage.passes.lower.lane_engines.tile_writer import TileWriter


def lower_generic(
    builder: KernelBuilder,
    generic: GenericOp,
    causes: Sequence[str],
    initial: Initial | None = None,
) -> None:
    """Write the kernel of a linalg.generic on memrefs.

    `builder.arguments` are the operands of the operation in order, then the memrefs that its body
    captures, in order of first use. `causes[i]` says why the bytes of argument i move. With
    `initial`, the outputs hold that constant and are not loaded.

    Raises:
        PassError: the body holds an operation that no engine executes, or the smallest tile does
            not fit on chip.
    """
    generic = GenericOp.from_op(generic.body.owner)  # unit loops count for linalg.index
    body = read_body(generic, builder.module.context)
    if any(d in generic.reductions and n != 1 for d, n in enumerate(generic.extents)):
        body = widen_accumulators(body)
    nest = LoopNest.from_generic(builder, generic, body, causes).collapsed(builder)
    _lower_nest(builder, nest, body, initial)


def lower_copy(builder: KernelBuilder, causes: Sequence[str]) -> None:
    """Write the kernel of `memref.copy`, from argument 0 to argument 1.

    `causes` matter where the copy has to go through sbuf; a transfer within DRAM has cause `copy`.
    """
    source, destination = builder.arguments[:2]
    type_ = ir.MemRefType(source.type)
    if type_.rank == 0:
        source, destination = expand_scalar(builder, source), expand_scalar(builder, destination)
    graph = Graph(builder.module.context)
    body = ScalarBody(graph, (graph.node("input", type_.element_type),), ())
    extents = list(ir.MemRefType(source.type).shape)
    nest = data_movement.copy_nest(extents, source, destination, causes)
    _lower_nest(builder, nest.collapsed(builder), body, None)


def _lower_nest(
    builder: KernelBuilder, nest: LoopNest, body: ScalarBody, initial: Initial | None
) -> None:
    if len(body.results) == 1 and not nest.reductions:
        result, output = body.results[0], nest.outputs[0]
        if result.constant is not None and len(output.dims) == len(nest.extents):
            data_movement.fill(builder, output, result.constant)
            return
        is_copy = result.kind == "input" and result.type == output.element_type
        source = nest.inputs[result.number] if is_copy else None
        if source is not None and data_movement.copy_directly(builder, nest, source):
            return
    for piece in pieces(builder, nest, Work(body.passes, frozenset(_row_loops(nest, body)))):
        program = make_program(builder, piece, body, initial)
        reuse_buffers(program)
        TileWriter(builder, program).write()


def _row_loops(nest: LoopNest, body: ScalarBody) -> set[int]:
    """Return the loops that count the trailing indices of table look-ups: they stay whole rows of
    the table."""
    loops: set[int] = set()
    for node in body.walk():
        if node.kind == "load":
            for index in node.operands[1:]:
                if index.kind == "index":
                    loops |= set(nest.coordinates[index.number].dims)
    return loops
