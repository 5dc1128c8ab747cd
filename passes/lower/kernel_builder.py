"""Writes one kernel function: loops over tiles, windows on memrefs, npu instructions."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from itertools import groupby
from typing import Any

from polystage.dialects import npu
from polystage.dialects.npu.views import DYNAMIC
from polystage.machine.target import Target
from polystage.mlir import arith, func, ir, memref, scf
from polystage.passes.lower import mosaic_views
from polystage.passes.lower.mosaic import Array, Mosaic
from polystage.passes.lower.offset import Offset, Tile
from polystage.passes.memref_types import (
    collapsed_type,
    expanded_type,
    reassociation,
    transposed_type,
    window_type,
)

Cut = Callable[[int, int], Hashable]
"""Start and size of a tile to what must not change within a loop over tiles."""


class KernelBuilder:
    """A private function `npu.kernel` under construction.

    Methods append to the innermost open loop. All shapes are static; where a tile does not divide a
    dimension, `tiles` yields the remainder as a piece of its own, so that the body is written once
    more for it. `buffers` is how many places a buffer in a loop will have: what tiles are chosen
    for.
    """

    def __init__(
        self,
        module: ir.Module,
        name: str,
        argument_types: Sequence[ir.Type],
        target: Target,
        buffers: int = 1,
    ) -> None:
        self.module = module
        self.name = name
        self.target = target
        self.buffers = buffers
        with ir.InsertionPoint(module.body), ir.Location.unknown(module.context):
            self.function = func.FuncOp(name, (list(argument_types), []), visibility="private")
            self.function.attributes["npu.kernel"] = ir.UnitAttr.get()
            block = self.function.add_entry_block()
            with ir.InsertionPoint(block):
                terminator = func.ReturnOp([])
        self.arguments: list[Any] = list(block.arguments)
        self._points = [ir.InsertionPoint(terminator)]
        self._constants: dict[tuple[str, object], ir.Value] = {}
        self._ranges: dict[ir.Value, tuple[int, int]] = {}

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

    def tiles(self, extent: int, tile: int, cut: Cut | None = None) -> Iterator[Tile]:
        """Yield the pieces of `range(extent)`: a loop over the full tiles, then the remainder.

        While the caller handles a piece, instructions go into that piece's loop. Neighbouring tiles
        share a loop where `cut`, which takes start and size of a tile, is the same for them.
        """
        tile = min(tile, extent)
        full = extent // tile
        first = 0
        for _, run in groupby(range(full), lambda i: cut(i * tile, tile) if cut else None):
            count = len(list(run))
            if count == 1:
                yield Tile(Offset(first * tile), tile)
            else:
                yield from self._loop(first * tile, (first + count) * tile, tile)
            first += count
        if extent % tile:
            yield Tile(Offset(full * tile), extent % tile)

    def _loop(self, start: int, stop: int, step: int) -> Iterator[Tile]:
        bounds = self.index(start), self.index(stop), self.index(step)
        with self.insertion_point, self._location():
            loop = scf.ForOp(*bounds)
            with ir.InsertionPoint(loop.body):
                terminator = scf.YieldOp([])
        self._points.append(ir.InsertionPoint(terminator))
        self._ranges[loop.induction_variable] = (start, stop - step)
        yield Tile(Offset(0, {loop.induction_variable: 1}), step)
        self._points.pop()

    def tiles_nd(
        self, extents: Sequence[int], tiles: Sequence[int], cuts: Sequence[Cut | None] = ()
    ) -> Iterator[tuple[Tile, ...]]:
        """Yield the pieces of a box, first dimension outermost."""
        if not extents:
            yield ()
            return
        for first in self.tiles(extents[0], tiles[0], cuts[0] if cuts else None):
            for rest in self.tiles_nd(extents[1:], tiles[1:], cuts[1:]):
                yield (first, *rest)

    def bounds(self, offset: Offset) -> tuple[int, int]:
        """Return the least and the greatest value of an expression over the loops around."""
        low = high = offset.constant
        for variable, coefficient in offset.terms.items():
            ends = sorted(coefficient * n for n in self._ranges[variable])
            low, high = low + ends[0], high + ends[1]
        return low, high

    # --- views ------------------------------------------------------------------------------------

    def subview(
        self,
        value: Array,
        offsets: Sequence[Offset | int],
        sizes: Sequence[int],
        steps: Sequence[int] | None = None,
        drop: Sequence[int] = (),
    ) -> Any:
        """Return the window `value[offset : offset + size * step : step]`, without the unit
        dimensions in `drop`."""
        pace: list[int] = list(steps) if steps is not None else [1] * len(sizes)
        starts = [o if isinstance(o, Offset) else Offset(o) for o in offsets]
        if isinstance(value, Mosaic):
            return mosaic_views.window(self, value, starts, sizes, pace, drop)
        type_ = ir.MemRefType(value.type)
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

    def transpose(self, value: Array, permutation: Sequence[int]) -> Any:
        """Return `value` with its dimensions reordered: result dimension i is `permutation[i]` of
        `value`."""
        if list(permutation) == list(range(len(permutation))):
            return value
        if isinstance(value, Mosaic):
            return mosaic_views.transposed(self, value, permutation)
        result = transposed_type(ir.MemRefType(value.type), permutation)
        with self.insertion_point, self._location():
            map_ = ir.AffineMap.get_permutation(list(permutation))
            return memref.TransposeOp(result, value, ir.AffineMapAttr.get(map_)).result

    def expand(self, value: Array, shapes: Sequence[Sequence[int]]) -> Any:
        """Return `value` with dimension i split into `shapes[i]` (row-major); unit dimensions may
        be added.

        expand(memref<6x4>, [[2, 3], [1, 4]]) is memref<2x3x1x4>.
        """
        if all(len(s) == 1 for s in shapes):
            return value
        if isinstance(value, Mosaic):
            return mosaic_views.expanded(self, value, shapes)
        result = expanded_type(ir.MemRefType(value.type), shapes)
        flat = [s for shape in shapes for s in shape]
        with self.insertion_point, self._location():
            groups = reassociation([len(s) for s in shapes])
            return memref.ExpandShapeOp(result, value, groups, [], flat).result

    def collapse(self, value: Array, groups: Sequence[int]) -> Any:
        """Return `value` with runs of `groups[i]` adjacent dimensions merged; they must be
        contiguous."""
        if all(g == 1 for g in groups):
            return value
        if isinstance(value, Mosaic):
            return mosaic_views.collapsed(self, value, groups)
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

    def dma(
        self, source: Array, destination: ir.Value, cause: str, queue: str | None = None
    ) -> None:
        """Copy `source` to `destination`; source extents of 1 are repeated. `queue` is the one that
        does it, where that is not left to npu-insert-sync.

        Of a mosaic, the pieces come, each with its own cause; see `fill_borders`.
        """
        if isinstance(source, Mosaic):
            mosaic_views.load(self, source, destination)
            return
        with self.insertion_point, self._location():
            op = npu.ops.DmaOp(source, destination, ir.StringAttr.get(cause))
            if queue is not None:
                op.attributes["queue"] = ir.StringAttr.get(queue)

    def fill_borders(self, sources: Sequence[Array], buffer: ir.Value) -> None:
        """Write what is constant in `sources`, which go to different partitions of a buffer."""
        mosaics = [s for s in sources if isinstance(s, Mosaic)]
        if mosaics:
            mosaic_views.fill_borders(self, mosaics, buffer)

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
        self,
        stationary: ir.Value,
        moving: ir.Value,
        psum: ir.Value,
        accumulate: ir.Value,
        auxiliary: bool = False,
    ) -> None:
        """psum (+)= stationary^T x moving; `auxiliary` where an operand is an identity or ones, so
        that it is no part of a contraction of the model."""
        with self.insertion_point, self._location():
            op = npu.ops.MatmulOp(stationary, moving, psum, accumulate)
            if auxiliary:
                op.operation.attributes[npu.AUXILIARY] = ir.UnitAttr.get()

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
        shift: ir.Value | None = None,
        factor: ir.Value | None = None,
        total: ir.Value | None = None,
    ) -> None:
        """destination = function(scale * source + bias + shift) on the scalar engine; identity
        casts and copies. `shift`, `factor`, which replaces `scale`, and `total`, which gets the sum
        of the results along the free dimensions, have one element per partition."""
        with self.insertion_point, self._location():
            f32 = ir.F32Type.get()
            npu.ops.ActivateOp(
                source,
                destination,
                shift,
                factor,
                total,
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
