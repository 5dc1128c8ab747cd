"""Writes the kernel of a chain: one tile program for several operations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from polystage.errors import PassError
from polystage.passes.lower.chains import Chain, JointLoops, joint_loops, moved
from polystage.passes.lower.generic_op import GenericOp
from polystage.passes.lower.kernel_builder import KernelBuilder
from polystage.passes.lower.lane_engines.chain_body import ChainBody, Link, chain_body
from polystage.passes.lower.lane_engines.chain_planner import ChainPlanner
from polystage.passes.lower.lane_engines.loop_nest import LoopNest, cut_operand
from polystage.passes.lower.lane_engines.operand import Operand
from polystage.passes.lower.lane_engines.partition import Work, pieces
from polystage.passes.lower.lane_engines.tile_program import reuse_buffers
from polystage.passes.lower.lane_engines.tile_writer import TileWriter
from polystage.passes.lower.mosaic import Mosaic


def lower_chain(builder: KernelBuilder, chain: Chain, causes: Sequence[str]) -> None:
    """Write the kernel of a chain, whose arguments are the operands of the chain.

    Raises:
        PassError: the loops that are whole in a tile do not fit on chip.
    """
    loops = joint_loops(chain)
    assert loops is not None, "a chain has joint loops"
    generics = [GenericOp.from_op(op.opview) for op in chain.operations]
    links = _links(chain, generics)
    body = chain_body(links, builder.module.context)
    nest = _nest(builder, generics, links, loops, body, causes).collapsed(builder)
    work = Work(body.body.passes + sum(_passes(body, fold.value) for fold in body.folds.values()))
    for piece in pieces(builder, nest, work):
        planner = ChainPlanner(builder, piece, body)
        planner.elementwise()
        reuse_buffers(planner.program)
        writer = TileWriter(builder, planner.program)
        if any(writer.tiling.tiles[d] < piece.extents[d] for d in piece.reductions):
            raise PassError(
                f"a chain of {len(chain.operations)} operations does not fit the scratchpad of "
                f"'{builder.target.name}' with its inner loops whole",
                op=chain.operations[0],
                help="remove 'npu.group' from its operations",
            )
        writer.write()


def _passes(chain: ChainBody, value: object) -> float:
    return replace(chain.body, results=(value,)).passes


def _links(chain: Chain, generics: Sequence[GenericOp]) -> list[Link]:
    """Return the operations with their operands numbered: those of the chain by their place among
    its operands, then the arrays in between."""
    inner, outside = chain.inner_arrays, len(chain.operands)
    links: list[Link] = []
    taken = 0
    for op, generic, initial in zip(chain.operations, generics, chain.initials, strict=True):
        values: dict[int, int] = {}
        for i, value in enumerate(list(op.operands)[:-1]):
            if value in inner:
                values[i] = outside + inner.index(value)
            else:
                values[i] = taken
                taken += 1
        makes = outside + len(links)
        links.append(Link(generic, values, makes, None if initial is None else initial.value))
    return links


def _nest(
    builder: KernelBuilder,
    generics: Sequence[GenericOp],
    links: Sequence[Link],
    loops: JointLoops,
    body: ChainBody,
    causes: Sequence[str],
) -> LoopNest:
    """Return the joint loops with the operands that are loaded, and one without elements for every
    fold: what its result depends on."""
    folded = list(body.folds.values())
    nodes = body.body.walk([*body.body.results, *(fold.value for fold in folded)])
    used = {node.number for node in nodes if node.kind == "input"}
    inputs: dict[int, Operand] = {}
    n_dims = len(loops.extents)
    for link, place in zip(links, loops.places, strict=True):
        for access in link.generic.inputs:
            number = link.values[access.argument]
            if number in used:
                index = [moved(linear, place, n_dims) for linear in access.index]
                value = builder.arguments[number]
                inputs[number] = cut_operand(builder, value, index, loops.extents, causes[number])
        if link.makes in body.folds:
            (access,) = link.generic.outputs
            index = [moved(linear, place, n_dims) for linear in access.index]
            nothing = Mosaic(tuple(access.shape), access.element_type, (), 0)
            inputs[link.makes] = cut_operand(builder, nothing, index, loops.extents, "")
    (output,) = links[-1].generic.outputs
    index = [moved(linear, loops.places[-1], n_dims) for linear in output.index]
    last = len(builder.arguments) - 1
    written = cut_operand(builder, builder.arguments[last], index, loops.extents, causes[last])
    return LoopNest(loops.extents, loops.common, inputs, (written,), {})
