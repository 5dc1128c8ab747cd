"""From a placed kernel to its instructions: queues, and accesses linear in loop variables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from polystage.dialects.npu import space_of, strides_of
from polystage.dialects.npu.queue_rules import places_of
from polystage.dialects.npu.queues import queue_of
from polystage.dialects.npu.rules import activate_operands
from polystage.dtypes import numpy_dtype
from polystage.errors import PassError
from polystage.linear import Linear, linear_form
from polystage.mlir import func, ir
from polystage.slices import (
    collapsed,
    expanded_strides,
    gap,
    kept_dims,
    permutation,
    reassociation,
    slice_parameters,
)
from polystage.synchronisation.accesses import (
    UNBOUNDED,
    Access,
    Buffer,
    Variables,
    View,
    Walk,
    access_of,
)
from polystage.synchronisation.kernel import Body, Instruction, Loop

Remark = Callable[[ir.Operation, str], None]
T = TypeVar("T")


@dataclass
class Extraction:
    """What is known of the values of a function while its operations are visited."""

    queues: Mapping[str, int]
    functions: Mapping[str, func.FuncOp]
    remark: Remark
    variables: Variables = field(default_factory=Variables)
    loops: tuple[int, ...] = ()
    indices: dict[ir.Value, Linear] = field(default_factory=dict[ir.Value, Linear])
    views: dict[ir.Value, View] = field(default_factory=dict[ir.Value, View])
    slices: dict[tuple[object, ...], View] = field(default_factory=dict[tuple[object, ...], View])
    """By source view, type and offsets, slices at constant offsets. Here and below, views stand for
    themselves by `id`: `views` keeps them."""
    accesses: dict[tuple[object, ...], Access] = field(
        default_factory=dict[tuple[object, ...], Access]
    )
    """By view and walk: many instructions of a long kernel share few accesses."""
    functions_used: dict[str, tuple[int, tuple[bool, ...]]] = field(
        default_factory=dict[str, tuple[int, tuple[bool, ...]]]
    )

    def kernel(self, function: func.FuncOp, same: Sequence[int]) -> Body:
        """Return the body of a kernel. Argument `i` is the same array as argument `same[i]`.

        Raises: PassError where an argument is no array.
        """
        buffers: list[Buffer] = []
        for i, argument in enumerate(function.entry_block.arguments):
            if not isinstance(argument.type, ir.MemRefType):
                raise PassError(
                    f"kernel '{function.name.value}' takes {argument.type}, "
                    "but kernels take arrays",
                    op=function.operation,
                )
            buffers.append(buffers[same[i]] if same[i] < i else dram_buffer(argument.type, i))
            self.views[argument] = whole(buffers[i])
        return self.body(function.entry_block, None, 1)

    def body(self, block: ir.Block, _: ir.Operation | None, trips: int) -> Body:
        """Return the children of a block."""
        body = Body(self.loops, trips)
        for view in block.operations:
            op = view.operation
            if op.name == "scf.for":
                inner = self.loop(op, self.body)
                if inner is not None and inner.children:
                    body.children.append(Loop(op, inner))
            elif op.name in INSTRUCTIONS:
                accesses = [self.access(*operand) for operand in INSTRUCTIONS[op.name](self, op)]
                touched = tuple(a for a in accesses if a.length > 0)
                body.children.append(Instruction(op, self.queue(op), touched))
            else:
                self.value(op)
        return body

    def queue(self, op: ir.Operation) -> int:
        """Return the number of the queue that executes an instruction."""
        name = queue_of(op)
        assert name is not None, "transfers have been given queues"
        return self.queues[name]

    def loop(
        self, op: ir.Operation, inside: Callable[[ir.Block, ir.Operation, int], T]
    ) -> T | None:
        """Return what `inside` makes of a loop's block, or None where it makes no trip."""
        low, high, step = (self.constant(v, op) for v in op.operands)
        trips = len(range(low, high, step)) if step > 0 else 0
        if not trips:
            return None
        iteration = self.variables.new((0, trips - 1))
        block = op.regions[0].blocks[0]
        self.indices[block.arguments[0]] = iteration * step + low
        outer, self.loops = self.loops, (*self.loops, iteration.terms[0][0])
        result = inside(block, op, trips)
        self.loops = outer
        return result

    def constant(self, value: ir.Value, op: ir.Operation) -> int:
        """Return the bound of a loop.

        Raises: PassError where it is not constant.
        """
        linear = self.index(value)
        if linear.terms:
            raise PassError(
                f"a bound of '{op.name}' is not constant",
                help="every queue counts a loop's executions by itself: give it constant bounds",
                op=op,
            )
        return linear.constant

    def value(self, op: ir.Operation) -> None:
        """Take note of what an operation without time computes."""
        handler = _VALUES.get(op.name)
        if handler is not None:
            handler(self, op)

    def index(self, value: ir.Value) -> Linear:
        """Return an index; one that is not linear is a variable that may be anything."""
        found = self.indices.get(value)
        if found is None:
            found = self.indices[value] = self.variables.new(UNBOUNDED)
            self.remark(
                value.owner.owner if isinstance(value.owner, ir.Block) else value.owner,
                "the index is not affine in loop variables: accesses through it may touch any part "
                "of a buffer",
            )
        return found

    def view(self, value: ir.Value) -> View:
        """Return what a memref value is.

        Raises: PassError where nothing is known of it.
        """
        if value not in self.views:
            raise PassError(f"memref {str(value)[:80]} is no view of an array or of an npu.alloc")
        return self.views[value]

    def access(self, value: ir.Value, writes: bool, box: BoxWalk | None = None) -> Access:
        """Return what an operand of an instruction touches: all of its view, or what a map does."""
        view = self.view(value)
        key = id(view), writes, box
        found = self.accesses.get(key)
        if found is None:
            walk = box.walk(view) if box else Walk(view.shape, view.strides)
            found = self.accesses[key] = access_of(view, walk, writes, self.variables)
        return found

    def used_arguments(self, function: str) -> tuple[int, tuple[bool, ...]]:
        """Return how many results a scalar function has, and which arguments it reads."""
        if function not in self.functions_used:
            op = self.functions[function]
            used = tuple(any(True for _ in a.uses) for a in op.entry_block.arguments)
            self.functions_used[function] = len(op.type.results), used
        return self.functions_used[function]


@dataclass(frozen=True)
class BoxWalk:
    """How a function over a box visits an operand."""

    map: ir.Attribute
    sizes: tuple[int, ...]

    def walk(self, view: View) -> Walk:
        """Return the strides in the buffer."""
        strides, offset = [0] * len(self.sizes), 0
        for expression, stride in zip(
            ir.AffineMapAttr(self.map).value.results, view.strides, strict=True
        ):
            form = linear_form(expression, len(self.sizes))
            assert form is not None, "the verifier admits linear maps only"
            offset += form[0] * stride
            strides = [s + c * stride for s, c in zip(strides, form[1], strict=True)]
        return Walk(self.sizes, tuple(strides), offset)


def dram_buffer(type_: ir.Type, argument: int = -1) -> Buffer:
    """Return the buffer of a memref that comes from outside."""
    memref = ir.MemRefType(type_)
    item = numpy_dtype(memref).itemsize
    return Buffer("dram", tuple(memref.shape), tuple(strides_of(memref)), item, argument=argument)


def whole(buffer: Buffer) -> View:
    """Return the view of all of a buffer."""
    return View(buffer, Linear(), buffer.shape, buffer.strides)


# --- instructions: (operand, writes, walk of a box) ---

Operand = tuple[Any, ...]


def _plain(writes: Sequence[bool]) -> Callable[[Extraction, ir.Operation], Iterator[Operand]]:
    def operands(_: Extraction, op: ir.Operation) -> Iterator[Operand]:
        memrefs = (v for v in op.operands if isinstance(v.type, ir.MemRefType))
        for i, value in enumerate(memrefs):
            yield value, i < len(writes) and writes[i]

    return operands


def _activation(_: Extraction, op: ir.Operation) -> Iterator[Operand]:
    for name, value in activate_operands(op).items():
        yield value, name in ("destination", "total")


def _box(extraction: Extraction, op: ir.Operation) -> Iterator[Operand]:
    """Yield the operands of a function over a box; an argument that is not used is not read."""
    name = ir.FlatSymbolRefAttr(op.attributes["function"]).value
    results, used = extraction.used_arguments(name)
    inputs = len(op.operands) - results
    sizes = tuple(ir.DenseI64ArrayAttr(op.attributes["sizes"]))
    maps = ir.ArrayAttr(op.attributes["indexing_maps"])
    for i, (value, map_) in enumerate(zip(op.operands, maps, strict=True)):
        if i >= inputs or used[i] or op.name == "npu.reduce":
            yield value, i >= inputs, BoxWalk(map_, sizes)


INSTRUCTIONS: dict[str, Callable[[Extraction, ir.Operation], Iterator[Operand]]] = {
    "npu.dma": _plain((False, True)),
    "npu.memset": _plain((True,)),
    "npu.matmul": _plain((False, False, True)),
    "npu.transpose": _plain((False, True)),
    "npu.activate": _activation,
    "npu.iota": _plain((True,)),
    "npu.gather": _plain((False, True)),
    "npu.elementwise": _box,
    "npu.reduce": _box,
}
"""What takes time and touches memory, by name: how its operands are found."""


# --- index values ---


def _constant(extraction: Extraction, op: ir.Operation) -> None:
    attribute = op.attributes["value"]
    if isinstance(attribute, ir.IntegerAttr):
        extraction.indices[op.results[0]] = Linear(int(attribute.value))


def _add(sign: int) -> Callable[[Extraction, ir.Operation], None]:
    def add(extraction: Extraction, op: ir.Operation) -> None:
        a, b = (extraction.index(v) for v in op.operands)
        extraction.indices[op.results[0]] = a + b * sign

    return add


def _multiply(extraction: Extraction, op: ir.Operation) -> None:
    a, b = (extraction.index(v) for v in op.operands)
    if not b.terms or not a.terms:
        extraction.indices[op.results[0]] = a * b.constant if not b.terms else b * a.constant


def _divide(remainder: bool) -> Callable[[Extraction, ir.Operation], None]:
    """Note a quotient or remainder of what is not negative by a constant."""

    def divide(extraction: Extraction, op: ir.Operation) -> None:
        a, b = (extraction.index(v) for v in op.operands)
        if b.terms or b.constant <= 0 or a.range(extraction.variables.ranges)[0] < 0:
            return
        quotient = extraction.variables.quotient(a, b.constant)
        extraction.indices[op.results[0]] = a - quotient * b.constant if remainder else quotient

    return divide


def _cast(extraction: Extraction, op: ir.Operation) -> None:
    extraction.indices[op.results[0]] = extraction.index(op.operands[0])


# --- buffers and views ---


def _alloc(extraction: Extraction, op: ir.Operation) -> None:
    type_ = ir.MemRefType(op.results[0].type)
    buffer = Buffer(
        space_of(type_),
        tuple(type_.shape),
        tuple(strides_of(type_)),
        numpy_dtype(type_).itemsize,
        tuple(places_of(op.opview)),
        extraction.loops,
    )
    extraction.views[op.results[0]] = whole(buffer)


def _subview(extraction: Extraction, op: ir.Operation) -> None:
    source = extraction.view(op.operands[0])
    if len(op.operands) > 1:
        extraction.views[op.results[0]] = _sliced(extraction, op, source)
        return
    # the type alone does not say which slice it is: the source may start anywhere
    key = id(source), op.results[0].type, op.attributes["static_offsets"]
    found = extraction.slices.get(key)
    if found is None:
        found = extraction.slices[key] = _sliced(extraction, op, source)
    extraction.views[op.results[0]] = found


def _sliced(extraction: Extraction, op: ir.Operation, source: View) -> View:
    offsets, sizes, steps = _slice(extraction, op)
    offset = source.offset
    for d, start in enumerate(offsets):
        offset = offset + start * source.strides[d]
    kept = kept_dims(sizes, list(ir.MemRefType(op.results[0].type).shape))
    strides = [s * step for s, step in zip(source.strides, steps, strict=True)]
    return View(
        source.buffer, offset, tuple(sizes[d] for d in kept), tuple(strides[d] for d in kept)
    )


def _reinterpret(extraction: Extraction, op: ir.Operation) -> None:
    source = extraction.view(op.operands[0])
    if len(op.operands) > 1:
        offsets, sizes, steps = _slice(extraction, op)
        view = View(source.buffer, offsets[0], tuple(sizes), tuple(steps))
        extraction.views[op.results[0]] = view
        return
    key = id(source), op.results[0].type
    found = extraction.slices.get(key)
    if found is None:
        type_ = ir.MemRefType(op.results[0].type)
        strides, offset = type_.get_strides_and_offset()
        found = View(source.buffer, Linear(offset), tuple(type_.shape), tuple(strides))
        extraction.slices[key] = found
    extraction.views[op.results[0]] = found


def _slice(extraction: Extraction, op: ir.Operation) -> tuple[list[Linear], list[int], list[int]]:
    """Return offsets, sizes and strides.

    Raises: PassError where sizes or strides are not constant.
    """
    operands: list[Any] = [None, *(extraction.index(v) for v in list(op.operands)[1:])]
    offsets, sizes, steps = (
        [x if isinstance(x, Linear) else Linear(x) for x in group]
        for group in slice_parameters(op, operands)
    )
    if any(x.terms for x in (*sizes, *steps)):
        raise PassError(f"sizes and strides of '{op.name}' are not constant", op=op)
    return offsets, [x.constant for x in sizes], [x.constant for x in steps]


def _expand(extraction: Extraction, op: ir.Operation) -> None:
    source = extraction.view(op.operands[0])
    shape = tuple(ir.MemRefType(op.results[0].type).shape)
    strides = expanded_strides(source.strides, shape, reassociation(op))
    extraction.views[op.results[0]] = View(source.buffer, source.offset, shape, strides)


def _collapse(extraction: Extraction, op: ir.Operation) -> None:
    source, groups = extraction.view(op.operands[0]), reassociation(op)
    if gap(source.shape, source.strides, groups):
        raise PassError(f"'{op.name}' joins dimensions that do not follow each other", op=op)
    shape, strides = collapsed(source.shape, source.strides, groups)
    extraction.views[op.results[0]] = View(source.buffer, source.offset, shape, strides)


def _transpose(extraction: Extraction, op: ir.Operation) -> None:
    source, order = extraction.view(op.operands[0]), permutation(op)
    shape = tuple(source.shape[d] for d in order)
    strides = tuple(source.strides[d] for d in order)
    extraction.views[op.results[0]] = View(source.buffer, source.offset, shape, strides)


def _same(extraction: Extraction, op: ir.Operation) -> None:
    extraction.views[op.results[0]] = extraction.view(op.operands[0])


_VALUES: dict[str, Callable[[Extraction, ir.Operation], None]] = {
    "arith.constant": _constant,
    "arith.addi": _add(1),
    "arith.subi": _add(-1),
    "arith.muli": _multiply,
    "arith.divui": _divide(remainder=False),
    "arith.divsi": _divide(remainder=False),
    "arith.floordivsi": _divide(remainder=False),
    "arith.remui": _divide(remainder=True),
    "arith.remsi": _divide(remainder=True),
    "arith.index_cast": _cast,
    "arith.index_castui": _cast,
    "npu.alloc": _alloc,
    "memref.subview": _subview,
    "memref.reinterpret_cast": _reinterpret,
    "memref.expand_shape": _expand,
    "memref.collapse_shape": _collapse,
    "memref.transpose": _transpose,
    "memref.cast": _same,
}
