"""Operators that read where the data says: rows of a table in DRAM come to the scratchpad."""

from __future__ import annotations

from dataclasses import dataclass

from polystage.dialects.npu.views import defining_op
from polystage.errors import PassError
from polystage.linear import Linear
from polystage.mlir import ir
from polystage.passes.lower.flat.bodies import Leaf, ScalarFunctions, Source
from polystage.passes.lower.flat.chunk import Chunk, Location
from polystage.passes.lower.flat.forms import Indices, OperatorForm
from polystage.passes.lower.flat.indices import Index
from polystage.passes.lower.flat.lanes import Coordinates, emit, read_operands
from polystage.passes.lower.flat.writer import FlatWriter, Window


@dataclass(frozen=True)
class _Lookup:
    """A load at indices that are data: `rows` are the computed indices of the table's leading axes,
    `columns` the dims that walk along the others."""

    source: Source
    table: int
    """The access."""
    axes: tuple[int, ...]
    """The axes of the table that are looked up."""
    columns: tuple[tuple[int, int], ...]
    """(axis, dim) of the others."""


class GatherEngine:
    """Lookups of rows, then whatever the body makes of them."""

    def __init__(self, writer: FlatWriter, functions: ScalarFunctions, form: OperatorForm) -> None:
        self.writer = writer
        self.functions = functions
        self.form = form
        self.lookups = [
            _lookup(form, number)
            for number, read in enumerate(form.operator.reads)
            if read.exprs is None
        ]
        tables = {lookup.table for lookup in self.lookups}
        self.operands = [
            o for o in form.operands if not tables & {a.access for a in o.alternatives}
        ]

    def begin(self, chunk: Chunk) -> None:
        """Nothing to prepare."""

    def contribute(self, chunk: Chunk) -> None:
        """Look up what a chunk reads, and compute with it; rows that are the result as they are go
        straight where it is wanted."""
        coordinates = Coordinates(self.writer, chunk)
        if (result := self._passed_on(chunk)) is not None:
            self._gather(chunk, self.lookups[0], coordinates, result)
            return
        found = {x.source: self._gathered(chunk, x, coordinates) for x in self.lookups}
        op = self.form.operator.statements[0].op
        others: dict[Leaf, tuple[Indices, Location]] = {
            source: (self._every(chunk), location) for source, location in found.items()
        }
        output = self.form.writes[0], chunk.places[self.form.output()]
        others[Source(op, len(op.operands) - 1)] = output
        function = self.functions.anchor(self.form.operator.statements[0], {}, None)
        for piece, placed in read_operands(chunk, self.operands, others):
            arguments = coordinates.added_to(placed, function, piece)
            emit(self.writer, "elementwise", function, piece, arguments)

    def finish(self, chunk: Chunk) -> None:
        """Nothing is left to do."""

    def _passed_on(self, chunk: Chunk) -> Location | None:
        """Return where the output lies, if it is what one load gives, element by element."""
        body = list(self.form.operator.statements[0].op.regions[0].blocks[0])
        given = defining_op(body[-1].operands[0])
        result = chunk.places[self.form.output()]
        in_order = tuple(self.form.writes[0]) == self._every(chunk)
        if not in_order or any(axis.extent is not None for axis in result.axes):
            return None
        return result if given == self.lookups[0].source.op else None

    def _every(self, chunk: Chunk) -> tuple[Index, ...]:
        return tuple(Index(Linear.variable(d)) for d in range(len(chunk.sizes)))

    def _gathered(self, chunk: Chunk, lookup: _Lookup, coordinates: Coordinates) -> Location:
        """Return a buffer over all dims with what a load gives in a chunk."""
        storage = self.writer.alloc(chunk.sizes, chunk.places[lookup.table].storage.element_type)
        place = Location.box(storage, chunk.starts, chunk.sizes)
        self._gather(chunk, lookup, coordinates, place)
        return place

    def _gather(
        self, chunk: Chunk, lookup: _Lookup, coordinates: Coordinates, place: Location
    ) -> None:
        """Write what a load gives in a chunk to a place, whose axes are the dims in order."""
        columns = [dim for _, dim in lookup.columns]
        rows = [d for d in range(len(chunk.sizes)) if d not in columns]
        looked_up = chunk.with_sizes(dict.fromkeys(columns, 1))
        load = lookup.source.op
        indices = [
            self._indices(looked_up, load.operands[axis + 1], coordinates) for axis in lookup.axes
        ]
        table = chunk.places[lookup.table]
        if table.storage.is_on_chip:
            raise PassError(
                f"'{self.form.operator.name}' looks rows of '{self.form.array(lookup.table)}' up, "
                f"which is on chip, but gathers read dram",
                location=self.form.operator.layer,
                help="make its place 'streamed'",
            )
        start = Linear()
        for first, axis in zip(chunk.starts, place.axes, strict=True):
            start = start + (first - axis.origin) * axis.stride
        order = [*rows, *columns]
        destination = Window(
            place.storage,
            start,
            tuple(chunk.sizes[d] for d in order),
            tuple(place.axes[d].stride for d in order),
        )
        shape = tuple(chunk.sizes[d] for d in rows)
        windows = [
            Window(index.storage, Linear(), shape, tuple(index.axes[d].stride for d in rows))
            for index in indices
        ]
        self.writer.gather(_table(table, lookup, chunk), destination, windows)

    def _indices(self, chunk: Chunk, value: ir.Value, coordinates: Coordinates) -> Location:
        """Compute the indices of a chunk along one axis."""
        function = self.functions.value(self.form.operator.statements[0], value)
        with self.writer.context:
            type_ = ir.IntegerType.get_signless(64)
        storage = self.writer.alloc(chunk.sizes, type_)
        location = Location.box(storage, chunk.starts, chunk.sizes)
        output = function.arguments[-1]
        needed = [o for o in self.operands if o.source in function.arguments]
        for piece, placed in read_operands(chunk, needed, {output: (self._every(chunk), location)}):
            arguments = coordinates.added_to(placed, function, piece)
            emit(self.writer, "elementwise", function, piece, arguments)
        return location


def _lookup(form: OperatorForm, access: int) -> _Lookup:
    """Read a load.

    Raises: PassError where its table cannot be read row by row.
    """
    load = form.operator.reads[access].op
    assert load is not None
    axes: list[int] = []
    columns: list[tuple[int, int]] = []
    for axis, index in enumerate(list(load.operands)[1:]):
        dim = _dim(index)
        if dim is None:
            axes.append(axis)
        else:
            columns.append((axis, dim))
    dims = [dim for _, dim in columns]
    if form.operator.reductions or len(set(dims)) < len(dims):
        raise PassError(
            f"'{form.operator.name}' reads '{form.array(access)}' where the data says, which no "
            f"engine does while it sums, or along a diagonal",
            location=form.operator.layer,
        )
    return _Lookup(Source(load), access, tuple(axes), tuple(columns))


def _dim(index: ir.Value) -> int | None:
    """Return the dim that an index is, or None where it is computed."""
    op = defining_op(index)
    if op is None or op.name != "linalg.index":
        return None
    return ir.IntegerAttr(op.attributes["dim"]).value


def _table(table: Location, lookup: _Lookup, chunk: Chunk) -> Window:
    """Return the view of a table with what is looked up in front, and the columns of a chunk."""
    shape = list(ir.MemRefType(table.storage.value.type).shape)
    start = Linear()
    sizes = [shape[axis] for axis in lookup.axes]
    strides = [table.axes[axis].stride for axis in lookup.axes]
    for axis, dim in lookup.columns:
        start = start + chunk.starts[dim] * table.axes[axis].stride
        sizes.append(chunk.sizes[dim])
        strides.append(table.axes[axis].stride)
    return Window(table.storage, start, tuple(sizes), tuple(strides))
