"""Contractions on the array of multipliers: matmuls on strided windows.

A matmul sums over one dimension and has one dimension of stationary columns; all others are columns
that move, or repeat the matmul. Reduction dims that share an index with others (the taps of a
filter) repeat it where they are cut: at a border of zeros a tap contributes less than a chunk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

from polystage.errors import PassError
from polystage.linear import Linear
from polystage.machine.target import Target
from polystage.passes.lower.flat.bodies import ScalarFunctions, Source
from polystage.passes.lower.flat.chunk import Chunk, Location
from polystage.passes.lower.flat.forms import Operand, OperatorForm
from polystage.passes.lower.flat.lanes import initialise, run_epilogue
from polystage.passes.lower.flat.pieces import Piece, address, refine, shown
from polystage.passes.lower.flat.writer import FlatWriter, Storage, Window
from polystage.planner.fusion.array_products import factors_of, suits_array
from polystage.planner.fusion.matmul_roles import Dim, Roles, merged, roles_of
from polystage.planner.fusion.operators import Operator

_STATIC_REPEATS = 16
"""Repetitions of a matmul up to which each is written; more become a loop."""


def factors(
    operator: Operator, form: OperatorForm, target: Target
) -> tuple[Operand, Operand] | None:
    """Return the operands whose products the array is to sum, if it is faster than the lanes."""
    found = factors_of(operator)
    if found is None:
        return None
    op = operator.statements[0].op
    a, b = (form.operand(Source(op, i)) for i in found)
    return (a, b) if suits_array(operator, _dims_of(form, (a, b)), target) else None


def _dims_of(form: OperatorForm, operands: tuple[Operand, Operand]) -> list[frozenset[int]]:
    """Return the dims that each factor depends on."""
    return [
        frozenset[int]().union(*(form.dims(a.access) for a in operand.alternatives))
        for operand in operands
    ]


@dataclass(frozen=True)
class _Factor:
    """A factor in a piece: where it lies, and its address."""

    storage: Storage
    at: Linear

    def step(self, variable: int) -> int:
        """Return how far apart neighbours along a variable are."""
        return dict(self.at.terms).get(variable, 0)


@dataclass(frozen=True)
class _Product:
    """A piece in which both factors and the sums are linear: (a, b, sums)."""

    piece: Piece
    places: tuple[_Factor, _Factor, _Factor]


class ContractionEngine:
    """Sums of products, chunk by chunk."""

    def __init__(
        self,
        writer: FlatWriter,
        functions: ScalarFunctions,
        form: OperatorForm,
        operands: tuple[Operand, Operand],
        target: Target,
    ) -> None:
        self.writer = writer
        self.functions = functions
        self.form = form
        self.operands = operands
        self.target = target

    def extents(self) -> dict[str, int]:
        """Return the sizes of the whole contraction: batch, and m, n and k of its products."""
        operator = self.form.operator
        first, second = _dims_of(self.form, self.operands)
        dims = {
            "batch": (first & second) & {*operator.parallels},
            "m": (second - first) & {*operator.parallels},
            "n": (first - second) & {*operator.parallels},
            "k": {*operator.reductions},
        }
        return {name: prod(operator.extents[d] for d in ds) for name, ds in dims.items()}

    def begin(self, chunk: Chunk) -> None:
        """Nothing: every chunk prepares what it accumulates into."""

    def contribute(self, chunk: Chunk) -> None:
        """Add the products of a chunk to its sums, or set the sums to them."""
        products = [p for p in self._products(chunk) if p is not None]
        opening = _opening(chunk, products) if chunk.is_first else []
        if chunk.is_first and not opening:
            initialise(self.writer, chunk)
        for found in opening:
            self._multiply(found, opens=True)
        for found in products:
            if found not in opening:
                self._multiply(found, opens=False)

    def finish(self, chunk: Chunk) -> None:
        """Run the epilogue."""
        run_epilogue(self.writer, self.functions, chunk)

    def _products(self, chunk: Chunk) -> Iterator[_Product | None]:
        """Yield the pieces of a chunk; None for one that only adds zeros."""
        indices, location = chunk.result

        def read(piece: Piece) -> tuple[_Factor, _Factor, _Factor] | None:
            a, b = (self._factor(chunk, operand, piece) for operand in self.operands)
            if a is None or b is None:
                return None
            at = address(indices, location.axes, piece)
            return a, b, _Factor(location.storage, at)

        for piece, places in refine(chunk.piece, read):
            yield _Product(piece, places) if places is not None else None

    def _factor(self, chunk: Chunk, operand: Operand, piece: Piece) -> _Factor | None:
        found = shown(operand.alternatives, piece)
        if found is None:
            if operand.fill is None or operand.fill.value != 0:  # type: ignore[attr-defined]
                raise PassError(
                    f"'{self.form.operator.name}' reads a border of {operand.fill}, but only zeros "
                    f"can be left out of a sum of products"
                )
            return None
        location: Location = chunk.places[found.access]
        return _Factor(location.storage, address(found.indices, location.axes, piece))

    # --- matmuls ----------------------------------------------------------------------------------

    def _multiply(self, found: _Product, opens: bool) -> None:
        """Write the matmuls of a piece; those that open overwrite what the sums hold."""
        dims = _dims(found)
        roles = min(roles_of(dims), key=lambda r: r.cost(self.target))
        repeated = roles.repeated
        count = prod(d.size for d in repeated)
        sums_repeat = any(not d.steps[2] for d in repeated)
        if count <= _STATIC_REPEATS or (opens and sums_repeat):
            for places in product(*(range(d.size) for d in repeated)):
                first = not any(p for p, d in zip(places, repeated, strict=True) if not d.steps[2])
                at = [Linear(p) for p in places]
                self._matmul(found, roles, at, accumulate=not (opens and first))
            return
        self._repeat(found, roles, [], accumulate=not opens)

    def _repeat(
        self, found: _Product, roles: Roles, at: Sequence[Linear], accumulate: bool
    ) -> None:
        """Write a loop for each repeated dim that has no place in `at` yet."""
        if len(at) == len(roles.repeated):
            self._matmul(found, roles, at, accumulate)
            return
        with self.writer.loop(roles.repeated[len(at)].size) as variable:
            self._repeat(found, roles, [*at, variable], accumulate)

    def _matmul(
        self, found: _Product, roles: Roles, at: Sequence[Linear], accumulate: bool
    ) -> None:
        moves = [roles.contracted, *roles.moving]
        stationary, moving = roles.stationary, 1 - roles.stationary
        self.writer.matmul(
            self._window(found, stationary, [roles.contracted, roles.column], roles, at),
            self._window(found, moving, moves, roles, at),
            self._window(found, 2, [roles.column, *roles.moving], roles, at),
            accumulate,
        )

    def _window(
        self,
        found: _Product,
        operand: int,
        dims: Sequence[Dim],
        roles: Roles,
        at: Sequence[Linear],
    ) -> Window:
        place = found.places[operand]
        terms = tuple((v, c) for v, c in place.at.terms if v < found.piece.loops)
        start = Linear(place.at.constant, terms)
        for position, dim in zip(at, roles.repeated, strict=True):
            start = start + position * dim.steps[operand]
        sizes = tuple(d.size for d in dims)
        return Window(place.storage, start, sizes, tuple(d.steps[operand] for d in dims))


def _dims(found: _Product) -> list[Dim]:
    """Return the variables of a piece; neighbours that continue each other in all operands are
    one."""
    return merged(
        [
            Dim(found.piece.size(variable), tuple(place.step(variable) for place in found.places))
            for variable in found.piece.variables
        ]
    )


def _opening(chunk: Chunk, products: Sequence[_Product]) -> list[_Product]:
    """Return products that together reach every sum of a chunk exactly once, if there are any."""
    operator = chunk.form.operator
    every = prod(chunk.sizes[d] for d in operator.parallels)
    groups: dict[tuple[object, ...], list[_Product]] = {}
    for found in products:
        taps = tuple(_hull(found.piece, d) for d in operator.reductions)
        groups.setdefault(taps, []).append(found)
    for group in groups.values():
        reached = sum(prod(_hull(p.piece, d)[1] for d in operator.parallels) for p in group)
        if reached == every:
            return group
    return []


def _hull(piece: Piece, dim: int) -> tuple[Linear, int]:
    """Return the first value of a dim in a piece, and how many it has."""
    form = piece.dims[dim]
    start = Linear(form.constant, tuple((v, c) for v, c in form.terms if v < piece.loops))
    reach = sum(c * piece.ranges[v][1] for v, c in form.terms if v >= piece.loops)
    return start, reach + 1
