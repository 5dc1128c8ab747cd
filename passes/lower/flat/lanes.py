"""Operators on the lanes: elementwise work and reductions, one instruction per piece."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from polystage.linear import Linear
from polystage.mlir import ir
from polystage.passes.lower.flat.bodies import (
    CASTS,
    Coordinate,
    Leaf,
    ScalarFunction,
    ScalarFunctions,
    Source,
    result_source,
)
from polystage.passes.lower.flat.chunk import Chunk, Location, window, windows
from polystage.passes.lower.flat.forms import Indices, Operand, OperatorForm
from polystage.passes.lower.flat.pieces import ZERO, Piece, address, refine, shown
from polystage.passes.lower.flat.writer import FlatWriter, Window
from polystage.planner.fusion.operators import Operator, OperatorKind


@dataclass(frozen=True)
class _Placed:
    """An argument of a function in a piece: where it lies, and its address; None for a constant."""

    location: Location
    at: Linear


class LanesEngine:
    """Elementwise operators, and reductions that fold on the lanes."""

    def __init__(self, writer: FlatWriter, functions: ScalarFunctions, form: OperatorForm) -> None:
        self.writer = writer
        self.functions = functions
        self.form = form

    def begin(self, chunk: Chunk) -> None:
        """Nothing: every chunk prepares what it accumulates into."""

    def contribute(self, chunk: Chunk) -> None:
        """Compute a chunk, after setting what it folds into to the initial value."""
        operator = self.form.operator
        initialise(self.writer, chunk)
        anchor = operator.statements[0]
        wide = chunk.sums.storage.element_type if chunk.sums is not None else None
        operands = [o for o in self.form.operands if not self.form.is_late(o)]
        kind = "reduce" if operator.reductions else "elementwise"
        coordinates = Coordinates(self.writer, chunk)
        for piece, placed in read_operands(chunk, operands, self._outputs(chunk)):
            constants = {
                o.source: o.fill for o in operands if o.source not in placed and o.fill is not None
            }
            if changes_nothing(operator, constants.values()):
                continue
            function = self.functions.anchor(anchor, constants, wide)
            emit(self.writer, kind, function, piece, coordinates.added_to(placed, function, piece))

    def _outputs(self, chunk: Chunk) -> dict[Leaf, tuple[Indices, Location]]:
        """Return where the outputs of the anchor are, by what names them in its function."""
        anchor = self.form.operator.statements[0].op
        first = len(anchor.operands) - len(self.form.writes)
        if chunk.sums is not None:
            return {Source(anchor, first): chunk.result}
        return {
            Source(anchor, first + i): (indices, chunk.places[self.form.output(i)])
            for i, indices in enumerate(self.form.writes)
        }

    def finish(self, chunk: Chunk) -> None:
        """Run the epilogue."""
        run_epilogue(self.writer, self.functions, chunk)


@dataclass
class Coordinates:
    """The values of dims in a chunk, where a body asks for them."""

    writer: FlatWriter
    chunk: Chunk
    known: dict[int, Location] = field(default_factory=dict[int, Location])

    def added_to(
        self, placed: dict[Leaf, _Placed], function: ScalarFunction, piece: Piece
    ) -> dict[Leaf, _Placed]:
        """Return the arguments with the coordinates that a function takes."""
        asked = {a.dim: a for a in function.arguments if isinstance(a, Coordinate)}
        return placed | {
            leaf: _Placed(self.location(dim), piece.dims[dim] - self.chunk.starts[dim])
            for dim, leaf in asked.items()
        }

    def location(self, dim: int) -> Location:
        """Return a buffer with the values of a dim."""
        if dim not in self.known:
            size = self.chunk.sizes[dim]
            with self.writer.context:
                storage = self.writer.alloc([size], ir.IntegerType.get_signless(64))
            self.writer.iota(Window(storage, ZERO, (size,), (1,)), self.chunk.starts[dim], 0)
            self.known[dim] = Location.box(storage, [self.chunk.starts[dim]], [size])
        return self.known[dim]


def changes_nothing(operator: Operator, constants: Iterable[ir.Attribute]) -> bool:
    """Whether folding constants into a running result leaves it as it is: zeros in sums, those of
    products too, and the initial value in a maximum or minimum."""
    if not operator.reductions or operator.initial is None:
        return False
    values = [c.value for c in constants]  # type: ignore[attr-defined]
    if operator.kind is OperatorKind.CONTRACTION:
        return 0 in values
    body = operator.statements[0].op.regions[0].blocks[0]
    names = [op.operation.name for op in body.operations]
    folds = [n.partition(".")[2] for n in names if not n.startswith(CASTS)]
    if len(folds) != 1:
        return False
    start = operator.initial.value  # type: ignore[attr-defined]
    is_extremum = folds[0].startswith(("max", "min"))
    return (is_extremum and start in values) or (folds[0] in ("addf", "addi") and 0 in values)


def initialise(writer: FlatWriter, chunk: Chunk) -> None:
    """Set the running result of a chunk to what accumulation starts from, if it starts here."""
    form = chunk.form
    initial = form.operator.initial
    if initial is None or not chunk.is_first:
        return
    flat = chunk.with_sizes(dict.fromkeys(form.operator.reductions, 1))
    indices, location = chunk.result
    for part in windows(indices, location, flat.piece):
        writer.memset(part, as_type(initial, location.storage.element_type))


def as_type(value: ir.Attribute, type_: ir.Type) -> ir.Attribute:
    """Return a constant in another element type."""
    number = value.value  # type: ignore[attr-defined]
    with type_.context, ir.Location.unknown():
        if isinstance(type_, ir.FloatType):
            return ir.FloatAttr.get(type_, float(number))
        return ir.IntegerAttr.get(type_, int(number))


def run_epilogue(writer: FlatWriter, functions: ScalarFunctions, chunk: Chunk) -> None:
    """Make the output of a chunk from its running result, by all bodies of the epilogue at once.

    Without an epilogue the running result is rounded to the output.
    """
    form = chunk.form
    operator = form.operator
    if chunk.sums is None and not operator.epilogue:
        return
    anchor, last = operator.statements[0], operator.statements[-1]
    flat = chunk.with_sizes(dict.fromkeys(operator.reductions, 1))
    coordinates = Coordinates(writer, flat)
    output = chunk.form.writes[0], chunk.places[form.output()]
    operands = [o for o in form.operands if form.is_late(o)]
    extra: dict[Leaf, tuple[Indices, Location]] = {
        result_source(operator): chunk.result,
        Source(last.op, len(last.op.operands) - 1): output,
    }
    type_ = ir.MemRefType(anchor.op.operands[len(anchor.op.operands) - 1].type).element_type
    for piece, placed in read_operands(flat, operands, extra):
        constants = {
            o.source: o.fill for o in operands if o.source not in placed and o.fill is not None
        }
        function = functions.epilogue(operator, type_, constants)
        emit(writer, "elementwise", function, piece, coordinates.added_to(placed, function, piece))


def read_operands(
    chunk: Chunk,
    operands: Sequence[Operand],
    others: dict[Leaf, tuple[Indices, Location]],
) -> list[tuple[Piece, dict[Leaf, _Placed]]]:
    """Return the pieces of a chunk in which all operands are linear, and where each is.

    An operand that shows its constant in a piece is missing there.
    """

    def read(piece: Piece) -> dict[Leaf, _Placed]:
        placed: dict[Leaf, _Placed] = {}
        for operand in operands:
            found = shown(operand.alternatives, piece)
            if found is not None:
                location = chunk.places[found.access]
                placed[operand.source] = _Placed(
                    location, address(found.indices, location.axes, piece)
                )
        for leaf, (indices, location) in others.items():
            placed[leaf] = _Placed(location, address(indices, location.axes, piece))
        return placed

    return list(refine(chunk.piece, read))


def emit(
    writer: FlatWriter,
    kind: str,
    function: ScalarFunction,
    piece: Piece,
    placed: dict[Leaf, _Placed],
) -> None:
    """Write one instruction over a piece."""
    arguments = [placed[leaf] for leaf in function.arguments]
    variables = piece.variables
    operands: list[Window] = []
    dims: list[list[int]] = []
    for argument in arguments:
        steps = dict(argument.at.terms)
        moving = [v for v in variables if steps.get(v, 0)]
        operands.append(window(argument.location, argument.at, piece, moving))
        dims.append([variables.index(v) for v in moving])
    sizes = [piece.size(v) for v in variables]
    writer.compute(kind, operands, function.name, sizes, dims)
