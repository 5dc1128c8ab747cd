"""Attention in one pass over the keys: matmul, softmax so far, matmul, for every tile of keys.

    S = Q Kt, then scales and masks                  scores of a tile
    m' = max(m, rows of S); f = exp(m - m')          what is on chip already shrinks by f
    P = exp(S - m'); l = l * f + rows of P           weights of the tile
    O = O * f + P V                                  at the end O / l

The first tile of keys sets what later ones update, so that there is nothing to shrink where one
tile holds all keys. The maximum starts at the lowest number rather than at -inf: a row that is
masked so far then has weights 0, where -inf minus -inf would be NaN.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from polystage.dtypes import cost_dtype
from polystage.errors import PassError
from polystage.linear import Linear
from polystage.machine import cost
from polystage.mlir import ir
from polystage.passes.lower.flat.attention_bodies import (
    DIVIDE,
    DIVIDE_OR_ZERO,
    FACTOR,
    FACTOR_ALONE,
    MAXIMUM,
    NAMES,
    SHRINK,
    SUM,
    WEIGHT,
    pointwise,
)
from polystage.passes.lower.flat.bodies import ScalarFunctions, Source
from polystage.passes.lower.flat.chunk import Chunk, Location
from polystage.passes.lower.flat.forms import Indices, OperatorForm
from polystage.passes.lower.flat.indices import Index, index_of
from polystage.passes.lower.flat.pieces import Axis, Piece, address, refine
from polystage.passes.lower.flat.writer import FlatWriter, Window
from polystage.planner.fusion.attention.operator import Attention

_LOWEST = -3.4028234663852886e38

_Where = tuple[Indices, Location]
"""Where an array is, and at which indices it is accessed."""


def _mask(number: int) -> str:
    return f"mask {number}"


@dataclass(frozen=True)
class _Place:
    """Where something lies in a piece, and its address there."""

    location: Location
    at: Linear

    def moves(self, variable: int) -> bool:
        """Tell whether the address depends on a variable."""
        return bool(dict(self.at.terms).get(variable))


@dataclass(frozen=True)
class _Tile:
    """Queries and keys in which everything lies at a linear address."""

    operator: Attention
    piece: Piece
    places: Mapping[str, _Place]
    opens: bool = False
    """Whether its keys are the first ones."""

    def variable(self, dim: int) -> int:
        """Return the variable of the piece that is a dim of the operator."""
        own = [(v, c) for v, c in self.piece.dims[dim].terms if v >= self.piece.loops]
        if len(own) != 1 or own[0][1] != 1:
            raise PassError(
                f"'{self.operator.name}': dim '{self.operator.dims[dim]}' lies in several "
                f"dimensions of an array",
                help="give its arrays the place 'streamed'",
            )
        return own[0][0]

    @property
    def q(self) -> int:
        """The variable of the queries."""
        return self.variable(self.operator.queries)

    @property
    def k(self) -> int:
        """The variable of the keys."""
        return self.variable(self.operator.keys)

    @property
    def d(self) -> int:
        """The variable that Q and K are contracted over."""
        return self.variable(self.operator.depth)

    @property
    def v(self) -> int:
        """The variable of the values."""
        return self.variable(self.operator.values)

    def window(self, name: str, *variables: int) -> Window:
        """Return a window along variables of the piece, also along those of one value."""
        place = self.places[name]
        steps = dict(place.at.terms)
        terms = tuple((v, c) for v, c in place.at.terms if v < self.piece.loops)
        return Window(
            place.location.storage,
            Linear(place.at.constant, terms),
            tuple(self.piece.size(v) for v in variables),
            tuple(steps.get(v, 0) for v in variables),
        )


class AttentionEngine:
    """Attention, tile by tile."""

    def __init__(self, writer: FlatWriter, functions: ScalarFunctions, form: OperatorForm) -> None:
        assert isinstance(form.operator, Attention)
        self.writer = writer
        self.functions = functions
        self.form = form
        self.operator = form.operator

    def begin(self, chunk: Chunk) -> None:
        """Nothing: the first tile of keys sets all that later ones update."""

    def contribute(self, chunk: Chunk) -> None:
        """Add what a tile of keys and values contributes to the result of a tile of queries."""
        places = {**self._operands(chunk), **self._beside(chunk), "result": chunk.result}
        for tile in self._tiles(chunk, places):
            self._score(tile)
            if self.operator.has_maximum:
                self._take_maximum(tile)
            if self.operator.has_sum:
                self._add_weights(tile)
            self._mix(tile)

    def finish(self, chunk: Chunk) -> None:
        """Divide by the sums of the weights, and round to the output."""
        if chunk.sums is None and not self.operator.has_sum:
            return
        rows = chunk.with_sizes({self.operator.keys: 1, self.operator.depth: 1})
        output = self.form.writes[0], chunk.places[self.form.output()]
        places = {**self._beside(chunk), "result": chunk.result, "output": output}
        for tile in self._tiles(rows, places):
            source = tile.window("result", tile.q, tile.v)
            destination = tile.window("output", tile.q, tile.v)
            if not self.operator.has_sum:
                self.writer.activate(source, destination)
                continue
            text = DIVIDE_OR_ZERO if self.operator.masked_rows_are_zero else DIVIDE
            windows = [source, tile.window("sum", tile.q), destination]
            self._compute(
                "elementwise", text, tile, (tile.q, tile.v), windows, [(0, 1), (0,), (0, 1)]
            )

    # --- one tile ---------------------------------------------------------------------------------

    def _score(self, tile: _Tile) -> None:
        """S = Q Kt; then all that happens to scores one by one."""
        q, k, d = tile.q, tile.k, tile.d
        scores = tile.window("scores", q, k)
        self._multiply(tile, d, ("query", q), ("key", k), "scores", accumulate=False)
        destination = scores if self.operator.has_maximum else tile.window("weights", q, k)
        if self.operator.pointwise:
            names = [_mask(number) for number, _ in enumerate(self.operator.reads[3:])]
            own = [[v for v in (q, k) if tile.places[name].moves(v)] for name in names]
            masks = [tile.window(name, *vs) for name, vs in zip(names, own, strict=True)]
            dims = [tuple((q, k).index(v) for v in vs) for vs in own]
            windows = [scores, *masks, destination]
            text = self._pointwise()
            self._compute("elementwise", text, tile, (q, k), windows, [(0, 1), *dims, (0, 1)])
        elif destination != scores:
            self.writer.activate(scores, destination)

    def _take_maximum(self, tile: _Tile) -> None:
        """m = max(m, rows of S), all else on chip shrinks by exp(old m - m); P = exp(S - m)."""
        q, k = tile.q, tile.k
        maximum, scores = tile.window("maximum", q), tile.window("scores", q, k)
        if tile.opens:
            self._memset(maximum, _LOWEST)
        else:
            self.writer.activate(maximum, tile.window("factor", q))
        self._compute("reduce", MAXIMUM, tile, (q, k), [scores, maximum], [(0, 1), (0,)])
        if not tile.opens:
            self._shrink(tile)
        windows = [scores, maximum, tile.window("weights", q, k)]
        self._compute("elementwise", WEIGHT, tile, (q, k), windows, [(0, 1), (0,), (0, 1)])

    def _shrink(self, tile: _Tile) -> None:
        """f = exp(old m - m), l = l * f, O = O * f."""
        q, v = tile.q, tile.v
        rows = [tile.window(name, q) for name in self.operator.rows]
        text = FACTOR if self.operator.has_sum else FACTOR_ALONE
        self._compute("elementwise", text, tile, (q,), rows, [(0,)] * len(rows))
        windows = [tile.window("factor", q), tile.window("result", q, v)]
        self._compute("elementwise", SHRINK, tile, (q, v), windows, [(0,), (0, 1)])

    def _add_weights(self, tile: _Tile) -> None:
        """l = l + rows of P."""
        q, k = tile.q, tile.k
        sums, weights = tile.window("sum", q), tile.window("weights", q, k)
        if tile.opens:
            self._memset(sums, 0.0)
        self._compute("reduce", SUM, tile, (q, k), [weights, sums], [(0, 1), (0,)])

    def _mix(self, tile: _Tile) -> None:
        """O = O + P V."""
        weights, values = ("weights", tile.q), ("value", tile.v)
        self._multiply(tile, tile.k, weights, values, "result", accumulate=not tile.opens)

    def _multiply(
        self,
        tile: _Tile,
        summed: int,
        first: tuple[str, int],
        second: tuple[str, int],
        sums: str,
        accumulate: bool,
    ) -> None:
        """Write `sums (+)= first second`, each given with its own variable; the operand stays in
        the array for which the other one streams past in less time."""
        ways = [(first, second), (second, first)]
        (held, column), (streamed, row) = min(ways, key=lambda way: self._time(tile, summed, *way))
        self.writer.matmul(
            tile.window(held, summed, column),
            tile.window(streamed, summed, row),
            tile.window(sums, column, row),
            accumulate,
        )

    def _time(
        self, tile: _Tile, summed: int, held: tuple[str, int], streamed: tuple[str, int]
    ) -> float:
        """Return how long the array is busy."""
        window = tile.window(streamed[0], summed, streamed[1])
        element = window.storage.element_type
        k, m, n = (tile.piece.size(variable) for variable in (summed, held[1], streamed[1]))
        stride = window.strides[-1] * ir.FloatType(element).width // 8
        target = self.writer.builder.target
        return cost.matmul(target, k, m, n, cost_dtype(element), moving_stride_bytes=stride).busy_ns

    # --- where things are -------------------------------------------------------------------------

    def _operands(self, chunk: Chunk) -> dict[str, _Where]:
        """Return where queries, keys, values and masks are."""
        masks = (_mask(number) for number, _ in enumerate(self.operator.reads[3:]))
        return {
            name: (tuple(index_of(e) for e in read.exprs or ()), chunk.places[number])
            for number, (name, read) in enumerate(
                zip(("query", "key", "value", *masks), self.operator.reads, strict=True)
            )
        }

    def _beside(self, chunk: Chunk) -> dict[str, _Where]:
        """Return where scores and weights are, and what there is per query."""
        found: dict[str, _Where] = {}
        names = self.operator.scratch_names
        for name, needed, location in zip(names, self.operator.scratch, chunk.scratch, strict=True):
            if not needed.is_kept:
                axes = zip(location.axes, needed.dims, strict=True)
                moved = tuple(Axis(axis.stride, None, chunk.starts[d]) for axis, d in axes)
                location = Location(location.storage, moved)
            found[name] = tuple(Index(Linear.variable(d)) for d in needed.dims), location
        found.setdefault("weights", found["scores"])
        return found

    def _tiles(self, chunk: Chunk, places: Mapping[str, _Where]) -> Iterator[_Tile]:
        """Yield the pieces of a chunk in which everything is linear, keys in order."""

        def read(piece: Piece) -> dict[str, _Place]:
            return {
                name: _Place(location, address(indices, location.axes, piece))
                for name, (indices, location) in places.items()
            }

        keys = self.operator.keys
        for piece, placed in refine(chunk.piece, read):
            is_start = piece.dims[keys].constant == chunk.starts[keys].constant
            yield _Tile(self.operator, piece, placed, chunk.is_first and is_start)

    # --- instructions -----------------------------------------------------------------------------

    def _compute(
        self,
        kind: str,
        text: str,
        tile: _Tile,
        variables: Sequence[int],
        windows: Sequence[Window],
        dims: Sequence[tuple[int, ...]],
    ) -> None:
        """Write an instruction over a box of variables; `dims` say which of them a window has."""
        function = self.functions.from_text(NAMES.get(text, "score"), text)
        sizes = [tile.piece.size(v) for v in variables]
        self.writer.compute(kind, windows, function, sizes, dims)

    def _memset(self, window: Window, value: float) -> None:
        with self.writer.context, ir.Location.unknown():
            self.writer.memset(window, ir.FloatAttr.get(ir.F32Type.get(), value))

    def _pointwise(self) -> str:
        """Return the text of the function that all pointwise bodies make together."""
        sources = [Source(read.op, read.operand) for read in self.operator.reads[3:] if read.op]
        with self.writer.context, ir.Location.unknown():
            return pointwise(self.operator, sources)
