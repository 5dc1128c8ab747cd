"""The pass `convert-linalg-to-npu`: every operation on memrefs becomes a call of a kernel."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from polystage.dialects import npu
from polystage.dialects.npu.target import required_target
from polystage.errors import PassError
from polystage.machine.target import Target
from polystage.mlir import func, ir
from polystage.passes.lower.chains import Chain
from polystage.passes.lower.clusters import Cluster
from polystage.passes.lower.fills import initialising_fills
from polystage.passes.lower.flat.lowering import lower_flat
from polystage.passes.lower.fused_kernel import lower_cluster
from polystage.passes.lower.generic_op import GenericOp, static_array
from polystage.passes.lower.groups import kernels_of_groups
from polystage.passes.lower.initial import Initial
from polystage.passes.lower.inline_scalars import erase_unused, inline_scalars
from polystage.passes.lower.kernel_builder import KernelBuilder
from polystage.passes.lower.lane_engines.chain import lower_chain
from polystage.passes.lower.lane_engines.lowering import lower_copy, lower_generic
from polystage.passes.lower.overlays import bind_arguments
from polystage.passes.lower.physical_layout import lay_out_arrays, stationary_operand
from polystage.passes.lower.provenance import (
    captured_memrefs,
    cause_of,
    causes_of,
    group_key,
    kernel_key,
    kernel_kind,
    layer_name,
    sources_of,
)
from polystage.passes.lower.resident.lowering import lower_resident_groups
from polystage.passes.lower.rotating_buffers import rotate_buffers
from polystage.passes.lower.tensor_engine.contraction import Contraction
from polystage.passes.lower.tensor_engine.lowering import lower_contraction
from polystage.passes.lower.tensor_engine.plan import prefers_tensor_engine
from polystage.passes.lower.tensor_engine.prepare import prepared
from polystage.passes.lower.unfold_groups import unfold_groups
from polystage.passes.registry import Pass, register_pass

_LOWERED = ("linalg.generic", "memref.copy")


@register_pass
@dataclass
class ConvertLinalgToNpuPass(Pass):
    """Turn every linalg.generic and memref.copy into a kernel of npu instructions and a call.

    Every operation is tiled on its own: operands come from DRAM, results go back to DRAM.
    Contractions run on the tensor engine where that is faster, everything else on the vector,
    scalar and gpsimd engines. Equal operations share one kernel.

    An input that is an `npu.overlay` takes no storage: its kernel gets the arrays that show, brings
    each to its part of the tile, and writes the constant around them on chip. Tiles that reach over
    an edge stand by themselves, those between share a loop.

    A fill that only initialises the output of the operation that follows is folded into that
    operation's kernel. A contraction and the reader of its result that are in one `npu.group` share
    a kernel: the result in between is never stored.
    """

    name = "convert-linalg-to-npu"
    input_form = "buffers"
    output_form = "npu"

    contractions: Literal["auto", "tensor", "vector"] = "auto"
    """Engine that computes contractions; `auto` takes the one that is faster by estimate."""

    buffers: int = 2
    """Places of a buffer in a loop that hands data from one engine to another: with 2, the next
    tile is loaded while one is computed and the one before is stored; with 1, nothing of it."""

    def run(self, module: ir.Module) -> None:
        """Lower all operations of the module's program."""
        if self.buffers < 1:
            raise PassError(
                f"option 'buffers' is {self.buffers}, but must be at least 1",
                help="1 lets a tile wait for the one before, 2 overlaps loads, computation, stores",
            )
        npu.load(module.context)
        target = required_target(module)
        with module.context, ir.Location.unknown():
            if target.is_flat:
                self._carry_out(module, target)
                return
            for function in _programs(module):
                lay_out_arrays(function)
                ProgramLowering(self, module, function, target).run()

    def _carry_out(self, module: ir.Module, target: Target) -> None:
        """Carry out the plan of a program on a flat target, as one kernel."""
        kernel = lower_flat(module, target)
        self.count("kernels")
        self.count("buffers of several places", rotate_buffers(kernel, self.buffers))


def _programs(module: ir.Module) -> list[func.FuncOp]:
    return [
        op
        for op in module.body.operations
        if isinstance(op, func.FuncOp)
        and not op.is_external
        and "npu.kernel" not in op.attributes
        and not _is_scalar_function(op)
    ]


def _is_scalar_function(function: func.FuncOp) -> bool:
    types = function.type.inputs
    return bool(types) and not any(isinstance(t, ir.MemRefType) for t in types)


class ProgramLowering:
    """Lowers the operations of one program function."""

    def __init__(
        self,
        pass_: ConvertLinalgToNpuPass,
        module: ir.Module,
        function: func.FuncOp,
        target: Target,
    ) -> None:
        self.pass_ = pass_
        self.module = module
        self.function = function
        self.target = target
        self.kernels: dict[str, str] = {}
        self.kinds: dict[str, int] = {}
        self.layers: dict[str, int] = {}
        self.initials: dict[ir.Operation, Initial] = {}

    def run(self) -> None:
        """Lower every operation in program order; those that never run go."""
        for op in self._operations():
            if _never_runs(op):
                op.erase()
        self._lower_resident_groups()
        scalars = inline_scalars(self._operations())
        operations = self._operations()
        for op in operations:
            if op.name == "linalg.generic":
                unfold_groups(op)
        overlays = [op for op in _walk(self.function.entry_block) if op.name == "npu.overlay"]
        folded = initialising_fills(operations)
        self.initials = dict(folded.values())
        groups = list(kernels_of_groups(operations, folded, self.target))
        together = {group.operations[-1]: group for group in groups}
        before = {op for group in groups for op in group.operations[:-1]}
        for op in operations:
            if op in folded:
                self.pass_.count("fills folded")
            elif op in together:
                self._lower_together(together[op])
            elif op not in before:
                self._lower(op)
        for op in operations:
            op.erase()
        for op in reversed(overlays):  # a base comes before what lies on it
            op.erase()
        erase_unused(scalars)

    def _lower_resident_groups(self) -> None:
        groups = lower_resident_groups(self.module, self.function, self.target, self._layer)
        if groups:
            self.pass_.count("resident groups", groups)

    def _operations(self) -> list[ir.Operation]:
        """Return what there is to lower, in program order."""
        return [op for op in _walk(self.function.entry_block) if op.name in _LOWERED]

    # --- kernels ---------------------------------------------------------------------------------

    def _lower(self, op: ir.Operation) -> None:
        initial = self.initials.get(op)
        captured = captured_memrefs(op)
        arguments = sources_of([*op.operands, *captured])
        causes = causes_of(op, arguments)
        key = kernel_key(op, captured, causes, initial)
        if key not in self.kernels:
            self.kernels[key] = self._make_kernel(op, captured, causes, initial)
        self._call(key, arguments, op, op)

    def _lower_together(self, group: Cluster | Chain) -> None:
        """Write one kernel for several operations, and call it where the last of them stands."""
        first, last = group.operations[0], group.operations[-1]
        arguments = sources_of(group.operands)
        causes = [cause_of(value) for value in arguments]
        initials = [self.initials.get(op) for op in group.operations]
        key = group_key(group.operations, arguments, causes, initials)
        if key not in self.kernels:
            with _located(first):
                self.kernels[key] = self._make_group(group, causes, initials[0])
        self._call(key, arguments, last, first)
        self.pass_.count("operations fused", len(group.operations) - 1)

    def _make_group(
        self, group: Cluster | Chain, causes: list[str], initial: Initial | None
    ) -> str:
        kind = "matmul" if isinstance(group, Cluster) else "chain"
        builder, causes = self._builder(kind, group.operands, causes)
        if isinstance(group, Cluster):
            lower_cluster(builder, group, causes, initial)
        else:
            lower_chain(builder, group, causes)
        return self._finish(builder)

    def _call(
        self, key: str, arguments: Sequence[ir.Value], place: ir.Operation, named: ir.Operation
    ) -> None:
        """Call a kernel in front of `place`, with the layer of operation `named`."""
        with ir.InsertionPoint(place), named.location:
            call = func.CallOp([], self.kernels[key], list(arguments))
            call.operation.attributes["layer"] = ir.StringAttr.get(self._layer(named))
        self.pass_.count("operations lowered")

    def _layer(self, op: ir.Operation) -> str:
        """Return a name for the report that no other operation has."""
        name = layer_name(op) or kernel_kind(op)
        self.layers[name] = self.layers.get(name, 0) + 1
        return name if self.layers[name] == 1 else f"{name}#{self.layers[name]}"

    def _make_kernel(
        self,
        op: ir.Operation,
        captured: list[ir.Value],
        causes: list[str],
        initial: Initial | None,
    ) -> str:
        if op.name == "memref.copy":
            for value in op.operands:
                static_array(op, value)
            builder, causes = self._builder("copy", op.operands, causes)
            lower_copy(builder, causes)
            return self._finish(builder)
        generic = GenericOp.from_op(op.opview).without_unit_dims()
        operands = [*op.operands, *captured]
        with _located(op):
            stationary = stationary_operand(op)
            contraction = Contraction.match(generic, self.target, stationary)
            if contraction is None and stationary is not None:
                raise PassError(
                    f"operand {stationary} cannot be the stationary one of this operation",
                    op=op,
                    help="name the other operand of a contraction, or remove 'npu.stationary'",
                )
            if contraction is not None and (
                stationary is not None or self._prefers_tensor_engine(contraction)
            ):
                builder, causes = self._builder("matmul", operands, causes)
                contraction, values = prepared(
                    builder, generic, lambda g: Contraction.match(g, self.target, stationary)
                )
                lower_contraction(builder, contraction, values, causes, initial)
            else:
                builder, causes = self._builder(kernel_kind(op), operands, causes)
                lower_generic(builder, generic, causes, initial)
        return self._finish(builder)

    def _finish(self, builder: KernelBuilder) -> str:
        """Let the buffers of a kernel rotate; return its name."""
        rotated = rotate_buffers(builder.function, self.pass_.buffers)
        self.pass_.count("buffers of several places", rotated)
        self.pass_.count("kernels")
        return builder.name

    def _prefers_tensor_engine(self, contraction: Contraction) -> bool:
        if self.pass_.contractions != "auto":
            return self.pass_.contractions == "tensor"
        return prefers_tensor_engine(contraction, self.target)

    def _builder(
        self, kind: str, operands: Sequence[ir.Value], causes: list[str]
    ) -> tuple[KernelBuilder, list[str]]:
        """Return an empty kernel, and why the bytes of every operand move."""
        number = self.kinds.get(kind, 0)
        symbols = ir.SymbolTable(self.module.operation)
        while f"{kind}_{number}" in symbols:  # a scalar function may have that name
            number += 1
        self.kinds[kind] = number + 1
        types = [v.type for v in sources_of(operands)]
        name, depth = f"{kind}_{number}", self.pass_.buffers
        builder = KernelBuilder(self.module, name, types, self.target, depth)
        return builder, bind_arguments(builder, operands, causes)


@contextmanager
def _located(op: ir.Operation) -> Generator[None]:
    """Let an error that names no place name the layer of `op`."""
    try:
        yield
    except PassError as error:
        error.location = error.location or layer_name(op)
        raise


def _never_runs(op: ir.Operation) -> bool:
    """Whether an operation accesses an array without elements, so that it has no iterations."""
    memrefs = (value.type for value in op.operands if isinstance(value.type, ir.MemRefType))
    return any(0 in type_.shape for type_ in memrefs)


def _walk(block: ir.Block) -> Iterator[ir.Operation]:
    """Yield the operations of a block and of the loops in it, in program order, not those inside
    linalg bodies."""
    for op in block.operations:
        yield op.operation
        if op.operation.name.startswith("scf."):
            for region in op.regions:
                for inner in region.blocks:
                    yield from _walk(inner)
