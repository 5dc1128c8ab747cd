"""Writes one kernel function: loops over tiles, windows on memrefs, npu instructions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from polystage.dialects import npu
from polystage.dialects.npu.views import DYNAMIC
from polystage.machine.target import Target
from polystage.mlir import arith, func, ir, memref, scf
from polystage.passes.lower.memref_types import (
    collapsed_type,
    expanded_type,
    reassociation,
    transposed_type,
    window_type,
)


@dataclass(frozen=True)
class Offset:
    """A linear index expression: `constant + sum(coefficient * loop variable)`."""

    constant: int = 0
    terms: Mapping[ir.Value, int] = field(default_factory=dict)

    def __add__(self, other: Offset | int) -> Offset:
        """Return the sum of two expressions."""
        other = other if isinstance(other, Offset) else Offset(other)
        terms = dict(self.terms)
        for variable, coefficient in other.terms.items():
            terms[variable] = terms.get(variable, 0) + coefficient
        return Offset(self.constant + other.constant, {v: c for v, c in terms.items() if c})

    def __mul__(self, factor: int) -> Offset:
        """Return the expression times a constant."""
        if factor == 0:
            return Offset()
        return Offset(self.constant * factor, {v: c * factor for v, c in self.terms.items()})

    @property
    def is_constant(self) -> bool:
        """Whether no loop variable occurs."""
        return not self.terms


@dataclass(frozen=True)
class Tile:
    """A piece of a loop dimension: `size` iterations from `start`."""

    start: Offset
    size: int


class KernelBuilder:
    """A private function `npu.kernel` under construction.

    Methods append to the innermost open loop. All shapes are static; where a tile does not divide
    a dimension, `tiles`
    yields the remainder as a piece of its own, so that the body is written once more for it.
    """

    def __init__(
        self, module: ir.Module, name: str, argument_types: Sequence[ir.Type], target: Target
    ) -> None:
        self.module = module
        self.name = name
        self.target = target
        with ir.InsertionPoint(module.body), ir.Location.unknown(module.context):
            self.function = func.FuncOp(name, (list(argument_types), []), visibility="private")
            self.function.attributes["npu.kernel"] = ir.UnitAttr.get()
            block = self.function.add_entry_block()
            with ir.InsertionPoint(block):
                terminator = func.ReturnOp([])
        self.arguments: list[Any] = list(block.arguments)
        self._points = [ir.InsertionPoint(terminator)]
        self._constants: dict[tuple[str, object], ir.Value] = {}

    @classmethod
    def for_operands(
        cls, module: ir.Module, name: str, types: Sequence[ir.Type], target: Target
    ) -> KernelBuilder:
        """Return a builder whose `arguments[i]` is operand i; operands that are no memrefs get no
        argument."""
        memrefs = [t for t in types if isinstance(t, ir.MemRefType)]
        builder = cls(module, name, memrefs, target)
        arguments = iter(builder.arguments)
        builder.arguments = [
            next(arguments) if isinstance(t, ir.MemRefType) else None for t in types
        ]
        return builder

    # --- position and constants -------------------------------------------------------------------

    @property
    def insertion_point(self) -> ir.InsertionPoint:
        """Where the next operation goes."""
        return self._points[-1]

    def _constant(self, kind: str, key: object, type_: ir.Type, value: int | bool) -> ir.Value:
        if (kind, key) not in self._constants:
            with ir.InsertionPoint.at_block_begin(self.function.entry_block), self._location():
                attribute = ir.IntegerAttr.get(type_, int(value))
                self._constants[kind, key] = arith.ConstantOp(type_, attribute).result
        return self._constants[kind, key]

    def _location(self) -> ir.Location:
        return ir.Location.unknown(self.module.context)

    def index(self, value: int) -> ir.Value:
        """Return an index constant, made once per kernel at its top."""
        with self.module.context:
            return self._constant("index", value, ir.IndexType.get(), value)

    def flag(self, value: bool) -> ir.Value:
        """Return an i1 constant."""
        with self.module.context:
            return self._constant("i1", value, ir.IntegerType.get_signless(1), value)

    def materialise(self, offset: Offset) -> ir.Value:
        """Return the index value of a linear expression."""
        with self.insertion_point, self._location():
            total = self.index(offset.constant) if offset.constant or not offset.terms else None
            for variable, coefficient in offset.terms.items():
                term = variable
                if coefficient != 1:
                    term = arith.MulIOp(variable, self.index(coefficient)).result
                total = term if total is None else arith.AddIOp(total, term).result
        assert total is not None
        return total

    def is_not_zero(self, offset: Offset) -> ir.Value:
        """Return the i1 value `offset != 0`."""
        if offset.is_constant:
            return self.flag(offset.constant != 0)
        value = self.materialise(offset)
        with self.insertion_point, self._location():
            return arith.CmpIOp(arith.CmpIPredicate.ne, value, self.index(0)).result

    # --- loops ------------------------------------------------------------------------------------

    def tiles(self, extent: int, tile: int) -> Iterator[Tile]:
        """Yield the pieces of `range(extent)`: a loop over the full tiles, then the remainder.

        While the caller handles a piece, instructions go into that piece's loop.
        """
        tile = min(tile, extent)
        full = extent // tile
        if full == 1:
            yield Tile(Offset(), tile)
        else:
            yield from self._loop(full * tile, tile)
        if extent % tile:
            yield Tile(Offset(full * tile), extent % tile)

    def _loop(self, extent: int, step: int) -> Iterator[Tile]:
        bounds = self.index(0), self.index(extent), self.index(step)
        with self.insertion_point, self._location():
            loop = scf.ForOp(*bounds)
            with ir.InsertionPoint(loop.body):
                terminator = scf.YieldOp([])
        self._points.append(ir.InsertionPoint(terminator))
        yield Tile(Offset(0, {loop.induction_variable: 1}), step)
        self._points.pop()

    def tiles_nd(self, extents: Sequence[int], tiles: Sequence[int]) -> Iterator[tuple[Tile, ...]]:
        """Yield the pieces of a box, first dimension outermost."""
        if not extents:
            yield ()
            return
        for first in self.tiles(extents[0], tiles[0]):
            for rest in self.tiles_nd(extents[1:], tiles[1:]):
                yield (first, *rest)

    # --- views ------------------------------------------------------------------------------------

    def subview(
        self,
        value: ir.Value,
        offsets: Sequence[Offset | int],
        sizes: Sequence[int],
        steps: Sequence[int] | None = None,
        drop: Sequence[int] = (),
    ) -> ir.Value:
        """Return the window `value[offset : offset + size * step : step]`, without the unit
        dimensions in `drop`."""
        type_ = ir.MemRefType(value.type)
        pace: list[int] = list(steps) if steps is not None else [1] * type_.rank
        starts = [o if isinstance(o, Offset) else Offset(o) for o in offsets]
        whole = list(sizes) == list(type_.shape) and all(s == Offset() for s in starts)
        if whole and not drop and all(s == 1 for s in pace):
            return value
        static_starts = [s.constant if s.is_constant else DYNAMIC for s in starts]
        kept = [d for d in range(type_.rank) if d not in drop]
        result = window_type(type_, static_starts, sizes, pace, kept)
        dynamic = [self.materialise(s) for s in starts if not s.is_constant]
        with self.insertion_point, self._location():
            return memref.SubViewOp(
                result,
                value,
                dynamic,
                [],
                [],
                static_starts,
                list(sizes),
                pace,
            ).result

    def transpose(self, value: ir.Value, permutation: Sequence[int]) -> ir.Value:
        """Return `value` with its dimensions reordered: result dimension i is `permutation[i]` of
        `value`."""
        if list(permutation) == list(range(len(permutation))):
            return value
        result = transposed_type(ir.MemRefType(value.type), permutation)
        with self.insertion_point, self._location():
            map_ = ir.AffineMap.get_permutation(list(permutation))
            return memref.TransposeOp(result, value, ir.AffineMapAttr.get(map_)).result

    def expand(self, value: ir.Value, shapes: Sequence[Sequence[int]]) -> ir.Value:
        """Return `value` with dimension i split into `shapes[i]` (row-major); unit dimensions may
        be added.

        expand(memref<6x4>, [[2, 3], [1, 4]]) is memref<2x3x1x4>.
        """
        if all(len(s) == 1 for s in shapes):
            return value
        result = expanded_type(ir.MemRefType(value.type), shapes)
        flat = [s for shape in shapes for s in shape]
        with self.insertion_point, self._location():
            groups = reassociation([len(s) for s in shapes])
            return memref.ExpandShapeOp(result, value, groups, [], flat).result

    def collapse(self, value: ir.Value, groups: Sequence[int]) -> ir.Value:
        """Return `value` with runs of `groups[i]` adjacent dimensions merged; they must be
        contiguous."""
        if all(g == 1 for g in groups):
            return value
        result = collapsed_type(ir.MemRefType(value.type), groups)
        with self.insertion_point, self._location():
            return memref.CollapseShapeOp(result, value, reassociation(groups)).result

    # --- scalar functions ---------------------------------------------------------------------

    def scalar_function(self, name: str, text: str) -> str:
        """Make the private function `name` of the module, written as MLIR `text`, and return its
        name.

        A function that exists already is taken as it is.
        """
        symbols = ir.SymbolTable(self.module.operation)
        if name not in symbols:
            with self.module.context, self._location():
                parsed = ir.Module.parse(text)  # must outlive its operation
                self.module.body.append(parsed.body.operations[0].operation.clone(ip=False))
        return name

    # --- instructions -----------------------------------------------------------------------------

    def alloc(self, shape: Sequence[int], element_type: ir.Type, space: str = "sbuf") -> ir.Value:
        """Reserve an on-chip buffer; dimension 0 is the partition."""
        with self.insertion_point, self._location():
            type_ = ir.MemRefType.get(list(shape), element_type, memory_space=npu.space_attr(space))
            return npu.ops.AllocOp(type_).buffer

    def dma(self, source: ir.Value, destination: ir.Value, cause: str) -> None:
        """Copy `source` to `destination`; source extents of 1 are repeated."""
        with self.insertion_point, self._location():
            npu.ops.DmaOp(source, destination, ir.StringAttr.get(cause))

    def memset(self, destination: ir.Value, value: float | int, engine: str = "vector") -> None:
        """Fill a buffer with a constant of its element type."""
        type_ = ir.MemRefType(destination.type).element_type
        is_float = isinstance(type_, ir.FloatType)
        with self.insertion_point, self._location():
            attribute = (
                ir.FloatAttr.get(type_, float(value))
                if is_float
                else ir.IntegerAttr.get(type_, int(value))
            )
            npu.ops.MemsetOp(destination, attribute, npu.engine_attr(engine))

    def matmul(
        self, stationary: ir.Value, moving: ir.Value, psum: ir.Value, accumulate: ir.Value
    ) -> None:
        """psum (+)= stationary^T x moving."""
        with self.insertion_point, self._location():
            npu.ops.MatmulOp(stationary, moving, psum, accumulate)

    def transpose_tile(self, source: ir.Value, destination: ir.Value) -> None:
        """destination[b, a] = source[a, b] through the tensor engine; destination lies in psum."""
        with self.insertion_point, self._location():
            npu.ops.TransposeOp(source, destination)

    def activate(
        self,
        source: ir.Value,
        destination: ir.Value,
        function: str = "identity",
        scale: float = 1.0,
        bias: float = 0.0,
    ) -> None:
        """destination = function(scale * source + bias) on the scalar engine; identity casts and
        copies."""
        with self.insertion_point, self._location():
            f32 = ir.F32Type.get()
            npu.ops.ActivateOp(
                source,
                destination,
                ir.StringAttr.get(function),
                ir.FloatAttr.get(f32, scale),
                ir.FloatAttr.get(f32, bias),
            )

    def compute(
        self,
        kind: str,
        inputs: Sequence[ir.Value],
        outputs: Sequence[ir.Value],
        function: str,
        sizes: Sequence[int],
        maps: Sequence[ir.AffineMap],
        engine: str = "vector",
    ) -> None:
        """Emit `npu.elementwise` or `npu.reduce` (`kind`) with the scalar function named
        `function`."""
        make = {"elementwise": npu.ops.ElementwiseOp, "reduce": npu.ops.ReduceOp}[kind]
        operands = [*inputs, *outputs]
        missing = [None] * (make.MAX_OPERANDS - len(operands))
        with self.insertion_point, self._location():
            make(
                *operands,
                *missing,
                ir.FlatSymbolRefAttr.get(function),
                npu.engine_attr(engine),
                ir.DenseI64ArrayAttr.get(list(sizes)),
                ir.ArrayAttr.get([ir.AffineMapAttr.get(m) for m in maps]),
            )

    def iota(self, destination: ir.Value, offset: Offset, dimension: int) -> None:
        """destination[i..] = offset + i_dimension."""
        value = self.materialise(offset)
        with self.insertion_point, self._location():
            i64 = ir.IntegerType.get_signless(64)
            npu.ops.IotaOp(destination, value, ir.IntegerAttr.get(i64, dimension))

    def gather(self, table: ir.Value, destination: ir.Value, indices: Sequence[ir.Value]) -> None:
        """destination = table[indices[0], ..]."""
        with self.insertion_point, self._location():
            npu.ops.GatherOp(table, destination, list(indices))
