"""The pass `npu-map-banks`: which dimension of every array lies across the partitions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from polystage.dialects import npu
from polystage.dialects.npu.target import required_target
from polystage.dialects.npu.views import VIEW_OPS, defining_op
from polystage.mlir import ir, memref
from polystage.passes.lower.physical_layout import (
    PARTITION,
    PARTITION_LOOP,
    STATIONARY,
    possible_dims,
)
from polystage.passes.registry import Form, Pass, register_pass
from polystage.planner.layouts import (
    LayoutProblem,
    Mapping,
    Reshuffle,
    build_problem,
    map_globally,
    map_locally,
)
from polystage.polyhedral import Role, TensorProgram

_SHOWING = (*VIEW_OPS, "npu.overlay")


@register_pass
@dataclass
class MapBanksPass(Pass):
    """Choose which dimension of every array lies across the scratchpad's partitions.

    Contractions want the contracted dimension of both operands across the partitions and leave
    the stationary operand's rows there, reductions want what they do not reduce, everything else
    wants all its operands alike. An access that finds its array otherwise is a reshuffle: short
    runs, tiles that are turned by the tensor engine, or a copy in DRAM, whichever the target
    charges least for. Constants are laid out at compile time for nothing.

    The result are attributes, which `convert-linalg-to-npu` obeys and which may be edited:

    * `npu.partition = d` on an allocation: dimension d is stored outermost, so that every
      partition takes one run;
    * `npu.stationary = i` on a contraction: operand i is held by the tensor engine; one that says
      so already keeps it;
    * `npu.partition_loop = d` on any other `linalg.generic` of which some operand lies otherwise:
      loop d lies across the partitions.

    Source: "Optimizing Memory-Access Patterns for Deep Learning Accelerators", arXiv 2002.12798;
    the objective, in nanoseconds of the target, and the algorithm are ours (`planner.layouts`).
    """

    name: ClassVar[str] = "npu-map-banks"
    input_form: ClassVar[Form] = "buffers"
    output_form: ClassVar[Form] = "buffers"

    mode: Literal["global", "local"] = "global"
    """`global` considers the whole model at once; `local` lets every operation take what is fastest
    for it alone, the baseline of the paper."""

    def run(self, module: ir.Module) -> None:
        """Choose layouts and write them on the module."""
        npu.load(module.context)
        target = required_target(module)
        with module.context, ir.Location.unknown():
            program = TensorProgram.from_module(module)
            problem = build_problem(program, target, storable_dims(program))
            choose = map_globally if self.mode == "global" else map_locally
            mapping = choose(problem)
            self._report(problem, mapping)
            self._make_copies(problem, mapping)
            _annotate(program, mapping)

    # --- what was decided -------------------------------------------------------------------------

    def _report(self, problem: LayoutProblem, mapping: Mapping) -> None:
        self.count("arrays mapped", len(mapping.layouts))
        self.count("reshuffles", len(mapping.reshuffles))
        self.count("copies", sum(r.charge.way == "copied" for r in mapping.reshuffles))
        self.count("bytes turned on chip", mapping.onchip_bytes)
        self.count("bytes copied off chip", mapping.offchip_bytes)
        self.count("ns charged", round(sum(r.charge.ns for r in mapping.reshuffles)))
        for reshuffle in mapping.reshuffles:
            op = reshuffle.statement.op if reshuffle.statement else None
            self.remark(op, clash_text(reshuffle))

    def _make_copies(self, problem: LayoutProblem, mapping: Mapping) -> None:
        """Make every copy that was chosen, and let those read it that find there what they want."""
        for name, layout in mapping.layouts.items():
            if layout.copy is None:
                continue
            copy: ir.Value | None = None
            for use in problem.uses:
                if use.access.array != name or use.is_write:
                    continue
                variant = mapping.variants[use.statement.name]
                if problem.charge(use, variant, layout)[1] != layout.copy:
                    continue
                source = problem.program.arrays[name].value
                op, operand = use.access.op, use.access.operand
                assert source is not None and op is not None and operand is not None
                copy = copy if copy is not None else _copied(source, layout.copy, op)
                op.operands[operand] = _through_copy(op.operands[operand], source, copy, op)


def storable_dims(program: TensorProgram) -> dict[str, list[int]]:
    """Return for every array but constants the dimensions that it, or a copy, may be stored with
    outermost."""
    found: dict[str, list[int]] = {}
    for name, array in program.arrays.items():
        if array.role != Role.WEIGHT and array.value is not None:
            found[name] = possible_dims(array.value)
    return found


def clash_text(reshuffle: Reshuffle) -> str:
    """Return what a reshuffle is, in words of a remark."""
    array, charge = reshuffle.array, reshuffle.charge
    what = f"'{array.name}' of {array.dtype}{list(array.shape)}"
    us = f"{charge.ns / 1000:.2f} us"
    if charge.way == "copied":
        return (
            f"{what} lies along dimension {reshuffle.home} and is copied once to lie along "
            f"{reshuffle.wanted}, {charge.offchip_bytes} bytes through DRAM, {us}"
        )
    verb = "written" if reshuffle.is_write else "read"
    how = {
        "strided": "in short runs",
        "turned": f"turned by the tensor engine, {charge.onchip_bytes} bytes",
    }[charge.way]
    return (
        f"{what} lies along dimension {reshuffle.home}, but is {verb} along {reshuffle.wanted}: "
        f"{how}, {us}"
    )


def _annotate(program: TensorProgram, mapping: Mapping) -> None:
    """Write layouts and variants on the operations.

    An operation that finds all its operands as it wants them may fill the partitions from that
    loop and its neighbours as it likes; the others are told their loop.
    """
    clashing = {r.statement.name for r in mapping.reshuffles if r.statement is not None}
    i64 = ir.IntegerType.get_signless(64)
    for name, layout in mapping.layouts.items():
        value = program.arrays[name].value
        op = defining_op(value) if value is not None else None
        if op is not None and op.name == "memref.alloc":
            op.attributes[PARTITION] = ir.IntegerAttr.get(i64, layout.home)
    for statement in program.statements:
        variant = mapping.variants.get(statement.name)
        if variant is None or statement.op.name != "linalg.generic":
            continue
        if variant.stationary is not None:
            statement.op.attributes[STATIONARY] = ir.IntegerAttr.get(i64, variant.stationary)
        elif variant.partition is not None and statement.name in clashing:
            loop = variant.partition - statement.depth
            statement.op.attributes[PARTITION_LOOP] = ir.IntegerAttr.get(i64, loop)


def _copied(source: ir.Value, dim: int, reader: ir.Operation) -> ir.Value:
    """Return a copy of an array that lies along `dim`, made right before its first reader."""
    i64 = ir.IntegerType.get_signless(64)
    with ir.InsertionPoint(reader), reader.location:
        copy = memref.AllocOp(ir.MemRefType(source.type), [], [])
        copy.operation.attributes[PARTITION] = ir.IntegerAttr.get(i64, dim)
        memref.CopyOp(source, copy.memref)
    return copy.memref


def _through_copy(
    value: ir.Value, source: ir.Value, copy: ir.Value, reader: ir.Operation
) -> ir.Value:
    """Return what `value` shows, views and overlays, with `copy` in place of `source`."""
    if value == source:
        return copy
    op = defining_op(value)
    if op is None or op.name not in _SHOWING:
        return value
    operands = [_through_copy(operand, source, copy, reader) for operand in op.operands]
    if all(new == old for new, old in zip(operands, op.operands, strict=True)):
        return value
    clone = op.clone(ip=ir.InsertionPoint(reader))
    for number, operand in enumerate(operands):
        clone.operands[number] = operand
    return clone.results[0]
