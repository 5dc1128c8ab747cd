"""Accesses written back to the IR: read again they are what was asked for, and compute the same."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import pytest
from access_rewriting_programs import (
    FILL,
    PROGRAMS,
    Expr,
    constant,
    element,
    instances,
    only_statement,
    pieces_of,
    program_of,
    random_arrays,
    ranges_of,
    rewrite,
    simulated,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from polystage.dialects import npu
from polystage.evaluator.module_evaluator import evaluate
from polystage.mlir import ir
from polystage.passes.polyhedral.access_rewriting import CannotRewriteError
from polystage.polyhedral import TensorProgram
from polystage.polyhedral.expressions import substitute
from polystage.polyhedral.model import Bound
from polystage.polyhedral.readings import Piece, Reading

# --- random readings ------------------------------------------------------------------------------


@dataclass
class Sources:
    """The arrays that a random reading reads, and the reading itself."""

    draw: Any
    kinds: Sequence[str] = ("leaf", "transpose", "reshape", "slice", "broadcast", "pad", "concat")
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    pieces: list[Piece] = field(default_factory=list)

    def view(self, shape: list[int], index: list[Expr], where: tuple[Bound, ...], depth: int):
        """Add the pieces of a random chain of views that ends in `shape`."""
        kind = self.draw(st.sampled_from(self.kinds)) if depth else "leaf"
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


@st.composite
def readings(draw, kind: str, depth: int = 4) -> Sources:
    shape = list(PROGRAMS[kind][1])
    sources = Sources(draw)
    sources.view(shape, [Expr.get_dim(d) for d in range(len(shape))], (), depth)
    return sources


@pytest.mark.parametrize("kind", PROGRAMS)
def test_reading_is_written_as_asked(kind):
    tally: Counter[str] = Counter()

    @given(data=st.data())
    @settings(max_examples=100, deadline=None, derandomize=True)
    def check(data):
        with ir.Context() as context, ir.Location.unknown():
            npu.load(context)
            check_reading(kind, data.draw(readings(kind)), tally)

    check()
    assert tally["rewritten"] > 0.7 * tally.total(), tally.most_common(5)


@pytest.mark.parametrize("kind", PROGRAMS)
def test_lowering_takes_what_is_written(kind):
    @given(data=st.data())
    @settings(max_examples=30, deadline=None, derandomize=True)
    def check(data):
        with ir.Context() as context, ir.Location.unknown():
            npu.load(context)
            checked = check_reading(kind, data.draw(readings(kind)), Counter())
            if checked is not None:
                module, values, expected = checked
                np.testing.assert_array_equal(simulated(module, values, "o"), expected)

    check()


@given(ends=st.tuples(*[st.integers(0, 19)] * 4), is_joined=st.booleans())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_pieces_that_end_within_a_row(ends, is_joined):
    with ir.Context() as context, ir.Location.unknown():
        npu.load(context)
        t, b, c = (Expr.get_dim(d) for d in range(3))
        low, high, other_low, other_high = (*sorted(ends[:2]), *sorted(ends[2:]))
        sources = Sources(None)
        place = t * 4 + b
        sources._leaf([high - low + 1, 2], [place - low, c], (Bound(place, low, high),), 0)
        if is_joined:
            inside = (Bound(place, other_low, other_high),)
            sources._leaf([25, 2], [place + 3, c], inside, 0)
        sources.pieces.append(Piece(None, (), (), ir.FloatAttr.get(ir.F32Type.get(), FILL)))
        checked = check_reading("time_in_batch", sources, Counter())
        assert checked is not None
        module, values, expected = checked
        np.testing.assert_array_equal(simulated(module, values, "o"), expected)


def check_reading(
    kind: str, sources: Sources, tally: Counter[str]
) -> tuple[ir.Module, dict[str, np.ndarray], np.ndarray] | None:
    """Rewrite and check; return the new module, its inputs and what `o` is to become."""
    shapes = sources.shapes
    reading = Reading(tuple(sources.pieces))
    before = program_of(kind, shapes)
    old = only_statement(TensorProgram.from_module(before))
    index = [e for a in old.reads if a.array == "t" for e in a.exprs or ()]
    asked = composed(reading, index, ranges_of(old))
    after = program_of(kind, shapes)
    try:
        new = rewrite(after, {0: asked}, {})
    except CannotRewriteError as error:
        tally[str(error)] += 1
        return None
    tally["rewritten"] += 1
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
    values["t"] = np.full_like(t, np.nan)
    np.testing.assert_array_equal(evaluate(after, values)["o"], expected)
    return after, values, expected


# --- writes ---------------------------------------------------------------------------------------

INJECTIVE = ("leaf", "transpose", "reshape", "slice")


@pytest.mark.parametrize("kind", PROGRAMS)
def test_write_goes_where_asked(kind):
    tally: Counter[str] = Counter()

    @given(data=st.data())
    @settings(max_examples=60, deadline=None, derandomize=True)
    def check(data):
        with ir.Context() as context, ir.Location.unknown():
            npu.load(context)
            shape = list(PROGRAMS[kind][3])
            target = Sources(data.draw, INJECTIVE)
            target.view(shape, [Expr.get_dim(d) for d in range(len(shape))], (), 4)
            check_write(kind, target, tally)

    check()
    assert tally["rewritten"] > 0.7 * tally.total(), tally.most_common(5)


def check_write(kind: str, target: Sources, tally: Counter[str]) -> None:
    before, after = (program_of(kind, target.shapes) for _ in range(2))
    old = only_statement(TensorProgram.from_module(before))
    (write,) = old.writes
    reading = Reading(tuple(target.pieces))
    asked = composed(reading, write.exprs or (), ranges_of(old))
    reads = {} if kind in ("copy", "elementwise") else {write.operand or 0: asked}
    try:
        new = rewrite(after, reads, {write.operand or 0: asked.pieces[0]})
    except CannotRewriteError as error:
        tally[str(error)] += 1
        return
    tally["rewritten"] += 1
    (found,) = new.writes
    assert found.exprs is not None
    wanted = [element(asked.pieces, point) for point in instances(old)]
    pieces = [Piece(found.array, found.exprs)]
    places = [element(pieces, point) for point in instances(new)]
    assert (sorted(places) if kind == "copy" else places) == (
        sorted(wanted) if kind == "copy" else wanted  # a memref.copy has the order of its target
    )
    values = random_arrays({**target.shapes, "t": PROGRAMS[kind][1], "w": PROGRAMS[kind][2]})
    o = np.zeros(PROGRAMS[kind][3], np.float32)
    places = {point: element(reading.pieces, point)[1:] for point in np.ndindex(*o.shape)}
    for point, place in places.items():
        o[point] = values["s0"][place]
    computed = evaluate(before, {**values, "o": o})["o"]
    expected = values["s0"].copy()
    for point, place in places.items():
        expected[place] = computed[point]
    result = evaluate(after, {**values, "o": np.full_like(o, np.nan)})["s0"]
    np.testing.assert_array_equal(result, expected)
