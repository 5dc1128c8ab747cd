"""Accesses written back to the IR: read again they are what was asked for, and compute the same."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polystage.dialects import npu
from polystage.evaluator.module_evaluator import evaluate
from polystage.mlir import ir
from polystage.passes.polyhedral.access_rewriting import CannotRewrite, plan_rewrite
from polystage.polyhedral import Statement, TensorProgram
from polystage.polyhedral.expressions import evaluate as evaluate_expr
from polystage.polyhedral.expressions import substitute
from polystage.polyhedral.readings import Bound, Piece, Reading

FILL = 7.0
Expr = ir.AffineExpr


@pytest.fixture(autouse=True)
def _context():
    with ir.Context() as context, ir.Location.unknown():
        npu.load(context)
        yield


# --- random readings ------------------------------------------------------------------------------


@dataclass
class Sources:
    """The arrays that a random reading reads, and the reading over the dims of what it stands for."""

    draw: Any
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    pieces: list[Piece] = field(default_factory=list)

    def view(self, shape: list[int], index: list[Expr], where: tuple[Bound, ...], depth: int):
        """Add the pieces of a random chain of views that ends in `shape`."""
        kinds = ["leaf", "transpose", "reshape", "slice", "broadcast", "pad", "concat"]
        kind = self.draw(st.sampled_from(kinds)) if depth else "leaf"
        getattr(self, f"_{kind}")(shape, index, where, depth - 1)

    def _leaf(self, shape, index, where, depth):
        name = f"s{len(self.shapes)}"
        self.shapes[name] = tuple(shape)
        self.pieces.append(Piece(name, tuple(index), where))

    def _transpose(self, shape, index, where, depth):
        order = self.draw(st.permutations(range(len(shape))))
        self.view([shape[d] for d in order], [index[d] for d in order], where, depth)

    def _reshape(self, shape, index, where, depth):
        linear = sum((x * prod(shape[d + 1 :]) for d, x in enumerate(index)), constant(0))
        left, new = prod(shape), []
        while left > 1 and len(new) < 3:
            part = self.draw(st.sampled_from([n for n in range(1, left + 1) if left % n == 0]))
            new.append(part)
            left //= part
        new.append(left)
        parts = []
        for d, extent in enumerate(new):
            value = Expr.get_floor_div(linear, prod(new[d + 1 :]))
            parts.append(Expr.get_mod(value, extent) if d else value)
        self.view(new, parts, where, depth)

    def _slice(self, shape, index, where, depth):
        d = self.draw(st.integers(0, len(shape) - 1))
        start, step, rest = (self.draw(st.integers(low, 2)) for low in (0, 1, 0))
        larger = [*shape[:d], start + step * (shape[d] - 1) + 1 + rest, *shape[d + 1 :]]
        self.view(larger, [*index[:d], index[d] * step + start, *index[d + 1 :]], where, depth)

    def _broadcast(self, shape, index, where, depth):
        if len(shape) == 1:
            return self._leaf(shape, index, where, depth)
        d = self.draw(st.integers(0, len(shape) - 1))
        return self.view([*shape[:d], *shape[d + 1 :]], [*index[:d], *index[d + 1 :]], where, depth)

    def _pad(self, shape, index, where, depth):
        d = self.draw(st.integers(0, len(shape) - 1))
        low = self.draw(st.integers(0, shape[d] - 1))
        extent = self.draw(st.integers(1, shape[d] - low))
        inside = Bound(index[d], low, low + extent - 1)
        smaller = [*shape[:d], extent, *shape[d + 1 :]]
        moved = [*index[:d], index[d] - low, *index[d + 1 :]]
        self.view(smaller, moved, (*where, inside), depth)
        self.pieces.append(Piece(None, (), where, ir.FloatAttr.get(ir.F32Type.get(), FILL)))

    def _concat(self, shape, index, where, depth):
        d = self.draw(st.integers(0, len(shape) - 1))
        cut = self.draw(st.integers(0, shape[d]))
        for low, high in ((0, cut), (cut, shape[d])):
            if low < high:
                part = [*shape[:d], high - low, *shape[d + 1 :]]
                moved = [*index[:d], index[d] - low, *index[d + 1 :]]
                self.view(part, moved, (*where, Bound(index[d], low, high - 1)), depth)


def constant(value: int) -> Expr:
    return ir.AffineConstantExpr.get(value)


def composed(reading: Reading, index: Sequence[Expr], ranges: Sequence[Any]) -> Reading:
    """Return a reading over the dims of an array as one over the dims of a statement."""

    def over(expr: Expr) -> Expr:
        return substitute(expr, index, (), ranges)

    return Reading(
        tuple(
            Piece(
                p.array,
                tuple(map(over, p.index)),
                tuple(Bound(over(b.expr), b.low, b.high) for b in p.where),
                p.fill,
            )
            for p in reading.pieces
        )
    )


def element(pieces: Sequence[Piece], point: Sequence[int]) -> tuple[Any, ...]:
    """Return the array element, or the constant, that the first piece that holds gives."""
    for piece in pieces:
        if all(b.low <= evaluate_expr(b.expr, point) <= b.high for b in piece.where):
            if piece.array is None:
                return ("fill", FILL)
            return (piece.array, *(int(evaluate_expr(e, point)) for e in piece.index))
    raise AssertionError(f"no piece holds at {point}")


# --- programs -------------------------------------------------------------------------------------

ELEMENTWISE = """
linalg.generic {{indexing_maps = [affine_map<(a, b) -> (a, b)>, affine_map<(a, b) -> (b)>,
    affine_map<(a, b) -> (a, b)>], iterator_types = ["parallel", "parallel"]}}
    ins(%t, %w : memref<{t}xf32>, memref<{w}xf32>) outs(%o : memref<{o}xf32>) {{
^bb0(%x: f32, %y: f32, %old: f32):
  %i = linalg.index 0 : index
  %j = linalg.index 1 : index
  %k = arith.muli %i, %j : index
  %l = arith.index_cast %k : index to i32
  %m = arith.sitofp %l : i32 to f32
  %s = arith.addf %x, %y : f32
  %r = arith.addf %s, %m : f32
  linalg.yield %r : f32
}}"""

MATMUL = """
linalg.generic {{indexing_maps = [affine_map<(m, n, k) -> (m, k)>, affine_map<(m, n, k) -> (k, n)>,
    affine_map<(m, n, k) -> (m, n)>], iterator_types = ["parallel", "parallel", "reduction"]}}
    ins(%t, %w : memref<{t}xf32>, memref<{w}xf32>) outs(%o : memref<{o}xf32>) {{
^bb0(%x: f32, %y: f32, %old: f32):
  %p = arith.mulf %x, %y : f32
  %r = arith.addf %old, %p : f32
  linalg.yield %r : f32
}}"""

CONVOLUTION = """
linalg.generic {{indexing_maps = [affine_map<(h, c, k) -> (2 * h + k, c)>,
    affine_map<(h, c, k) -> (k, c)>, affine_map<(h, c, k) -> (h, c)>],
    iterator_types = ["parallel", "parallel", "reduction"]}}
    ins(%t, %w : memref<{t}xf32>, memref<{w}xf32>) outs(%o : memref<{o}xf32>) {{
^bb0(%x: f32, %y: f32, %old: f32):
  %p = arith.mulf %x, %y : f32
  %r = arith.addf %old, %p : f32
  linalg.yield %r : f32
}}"""

COPY = "memref.copy %t, %o : memref<{t}xf32> to memref<{o}xf32>"

PROGRAMS = {
    "elementwise": (ELEMENTWISE, (6, 4), (4,), (6, 4)),
    "matmul": (MATMUL, (4, 6), (6, 3), (4, 3)),
    "convolution": (CONVOLUTION, (12, 4), (3, 4), (5, 4)),
    "copy": (COPY, (6, 4), (1,), (6, 4)),
}


def text_of(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def program_of(kind: str, more: dict[str, tuple[int, ...]]) -> ir.Module:
    """Return a function of one operation on %t, %w and %o; its other arguments are `more`."""
    body, *shapes = PROGRAMS[kind]
    names = dict(zip("two", shapes, strict=True))
    names = {"t": shapes[0], "w": shapes[1], "o": shapes[2]}
    arguments = ", ".join(
        f'%{name}: memref<{text_of(shape)}xf32> {{npu.name = "{name}"}}'
        for name, shape in {**names, **more}.items()
    )
    text = body.format(**{name: text_of(shape) for name, shape in names.items()})
    return ir.Module.parse(f"func.func @main({arguments}) {{\n{text}\nreturn\n}}")


def only_statement(program: TensorProgram) -> Statement:
    (statement,) = program.statements
    return statement


def instances(statement: Statement) -> Iterator[tuple[int, ...]]:
    """Yield the instances of a statement in order of execution."""
    highs = [statement.domain.dim_max_val(d).to_python() for d in range(len(statement.dims))]
    yield from product(*(range(high + 1) for high in highs))


def ranges_of(statement: Statement) -> list[tuple[int, int]]:
    dims = range(len(statement.dims))
    return [(0, statement.domain.dim_max_val(d).to_python()) for d in dims]


def pieces_of(statement: Statement, operand: int) -> list[Piece]:
    """Return what an input operand reads, as extraction sees it."""
    pieces: list[Piece] = []
    for access in statement.reads:
        if access.operand == operand:
            assert access.exprs is not None, statement.reason
            pieces.append(Piece(access.array, access.exprs, access.where))
            if access.fill is not None:
                pieces.append(Piece(None, (), (), access.fill))
    return pieces


def rewrite(module: ir.Module, reads: dict[int, Reading], writes: dict[int, Piece]) -> Statement:
    """Rewrite the only statement of `module` and return it as it is read again."""
    program = TensorProgram.from_module(module)
    plan = plan_rewrite(only_statement(program), reads, writes, program.arrays)
    values = {name: array.value for name, array in program.arrays.items()}
    plan.emit({name: value for name, value in values.items() if value is not None})
    assert module.operation.verify()
    return only_statement(TensorProgram.from_module(module))


def random_arrays(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        name: generator.integers(-9, 9, shape).astype(np.float32) for name, shape in shapes.items()
    }


@st.composite
def readings(draw, kind: str, depth: int = 4) -> Sources:
    shape = list(PROGRAMS[kind][1])
    sources = Sources(draw)
    sources.view(shape, [Expr.get_dim(d) for d in range(len(shape))], (), depth)
    return sources


@pytest.mark.parametrize("kind", PROGRAMS)
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_reading_is_written_as_asked(kind, data):
    with ir.Context() as context, ir.Location.unknown():
        npu.load(context)
        sources = data.draw(readings(kind))
        check_reading(kind, sources)


STATS: dict[str, int] = {}


def check_reading(kind: str, sources: Sources) -> None:
    shapes = sources.shapes
    reading = Reading(tuple(sources.pieces))
    before = program_of(kind, shapes)
    old = only_statement(TensorProgram.from_module(before))
    index = [e for a in old.reads if a.array == "t" for e in a.exprs or ()]
    asked = composed(reading, index, ranges_of(old))
    after = program_of(kind, shapes)
    try:
        new = rewrite(after, {0: asked}, {})
    except CannotRewrite as error:
        STATS[str(error)] = STATS.get(str(error), 0) + 1
        return
    STATS["ok"] = STATS.get("ok", 0) + 1
    elements = [element(asked.pieces, point) for point in instances(old)]
    if any(e[0] != "fill" for e in elements):
        found = pieces_of(new, 0)
        assert [element(found, point) for point in instances(new)] == elements
    values = random_arrays({**shapes, "w": PROGRAMS[kind][2], "o": PROGRAMS[kind][3]})
    t = np.zeros(PROGRAMS[kind][1], np.float32)
    for point in np.ndindex(*t.shape):
        where = element(reading.pieces, point)
        t[point] = FILL if where[0] == "fill" else values[where[0]][where[1:]]
    expected = evaluate(before, {**values, "t": t})["o"]
    found = evaluate(after, {**values, "t": np.full_like(t, np.nan)})["o"]
    np.testing.assert_array_equal(found, expected)
