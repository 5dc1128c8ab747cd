"""Boxes against the points that they stand for."""

from itertools import product

import numpy as np
from fusion_programs import Graph, parse
from hypothesis import given, settings
from hypothesis import strategies as st

from polystage.planner.fusion.boxes import (
    EMPTY,
    from_ranges,
    is_empty,
    to_ranges,
    volumes,
    without,
)
from polystage.planner.fusion.steps import carried, first_needed, fresh, spread, window_extents


def points(box: np.ndarray) -> set[tuple[int, ...]]:
    return set(product(*(range(start, stop) for start, stop in to_ranges(box))))


ends = st.tuples(st.integers(0, 4), st.integers(0, 4))
boxes = st.lists(st.tuples(ends, ends), min_size=1, max_size=6).map(
    lambda rows: from_ranges(np.array(rows))
)


class TestBoxes:
    @given(boxes, boxes)
    def test_without_is_the_difference_or_nothing(self, some, others):
        gone = others[:1]
        rest = without(some, gone)
        wanted = [points(box) - points(gone[0]) for box in some]
        if rest is None:
            hulls = [_hull_volume(left) for left in wanted]
            assert any(size != len(left) for size, left in zip(hulls, wanted, strict=True))
        else:
            assert [points(box) for box in rest] == wanted

    @given(boxes)
    def test_hull_and_intersection_are_minimum_and_maximum(self, some):
        a, b = some[0], some[-1]
        assert points(np.maximum(a, b)) == points(a) & points(b)
        assert points(np.minimum(a, b)) >= points(a) | points(b)

    def test_an_empty_box_has_no_points_and_no_place(self):
        box = from_ranges(np.array([[3, 3], [0, 2]]))
        assert bool(is_empty(box)) and (box == EMPTY).all()
        assert volumes(box) == 0 and to_ranges(box).tolist() == [[0, 0], [0, 0]]


def _hull_volume(found: set[tuple[int, ...]]) -> int:
    if not found:
        return 0
    rows = np.array(sorted(found))
    return int((rows.max(axis=0) - rows.min(axis=0) + 1).prod())


@st.composite
def accesses(draw):
    """Linear indices over three dims, mixed radices among them, with extents of the dims."""
    extents = [draw(st.integers(1, 4)) for _ in range(3)]
    exprs: list[str] = []
    shape: list[int] = []
    for _ in range(draw(st.integers(1, 2))):
        chosen = draw(st.permutations(range(3)))[: draw(st.integers(0, 2))]
        factors = {dim: draw(st.sampled_from([1, 1, 2, 3, 4])) for dim in chosen}
        constant = draw(st.integers(0, 2))
        terms = [f"d{dim} * {factor}" for dim, factor in factors.items()]
        exprs.append(" + ".join([*terms, str(constant)]))
        reach = constant + sum(f * (extents[dim] - 1) for dim, f in factors.items())
        shape.append(reach + 1)
    return extents, exprs, shape


class TestBoxMap:
    @settings(max_examples=40, deadline=None)
    @given(accesses(), st.data())
    def test_image_is_the_hull_and_preimage_holds_all_that_touch(self, access, data):
        extents, exprs, shape = access
        program = parse(_copy(extents, exprs, shape))
        operator = program.operators[-1]
        form = program.maps(operator).reads[0]
        box = np.array([sorted(data.draw(st.tuples(*[st.integers(0, n)] * 2))) for n in extents])
        image = form.image(from_ranges(box))
        touched = [_element(exprs, x) for x in points(from_ranges(box))]
        if not touched:
            assert bool(is_empty(image))
            return
        rows = np.array(touched)
        hull = np.stack([rows.min(axis=0), rows.max(axis=0) + 1], axis=-1)
        assert to_ranges(image).tolist() == hull.tolist()
        wanted = np.array([sorted(data.draw(st.tuples(*[st.integers(0, n)] * 2))) for n in shape])
        back = points(form.preimage(from_ranges(wanted)))
        inside = points(from_ranges(wanted))
        everything = product(*map(range, extents))
        assert back >= {x for x in everything if _element(exprs, x) in inside}

    def test_what_another_array_hides_is_not_touched(self):
        graph = Graph()
        top, below = graph.input(4, 3, 5), graph.input(10, 3, 5)
        name, _ = graph.over(top, below)
        graph.shapes[name] = (10, 3, 5)
        program = graph.program(graph.elementwise(name))
        first, second = program.maps(program.operators[-1]).reads
        boxes = from_ranges(np.array([[[0, 4], [0, 3], [0, 5]], [[2, 7], [1, 3], [0, 5]]]))
        assert to_ranges(first.image(boxes))[..., 0, :].tolist() == [[0, 4], [2, 4]]
        assert bool(is_empty(second.image(boxes))[0])
        assert to_ranges(second.image(boxes))[1].tolist() == [[4, 7], [1, 3], [0, 5]]


def _element(exprs: list[str], iteration: tuple[int, ...]) -> tuple[int, ...]:
    names = {f"d{dim}": value for dim, value in enumerate(iteration)}
    return tuple(eval(expr, {}, names) for expr in exprs)


def _copy(extents, exprs, shape) -> str:
    source = "x".join(map(str, [*shape, "f32"]))
    target = "x".join(map(str, [*extents, "f32"]))
    return f"""
    func.func @main(%a: memref<{source}>) -> memref<{target}> {{
      %o = memref.alloc() : memref<{target}>
      linalg.generic {{indexing_maps = [affine_map<(d0, d1, d2) -> ({", ".join(exprs)})>,
          affine_map<(d0, d1, d2) -> (d0, d1, d2)>], iterator_types = ["parallel", "parallel",
          "parallel"]}} ins(%a : memref<{source}>) outs(%o : memref<{target}>) {{
      ^bb0(%x: f32, %y: f32):
        %s = arith.addf %x, %x : f32
        linalg.yield %s : f32
      }}
      return %o : memref<{target}>
    }}"""


@st.composite
def sweeps(draw) -> np.ndarray:
    """Needs of steps in one to three loops, each axis moving forwards in at most one of them, which
    skip some iterations of loops."""
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    needed = np.empty((*shape, 2, 2), dtype=np.int64)
    for axis in range(2):
        level = draw(st.integers(0, len(shape) - 1))
        count = shape[level]
        starts = np.cumsum([draw(st.integers(0, 2)) for _ in range(count)])
        stops = np.maximum.accumulate([s + draw(st.integers(1, 3)) for s in starts])
        along = [1] * len(shape)
        along[level] = count
        needed[..., axis, 0] = starts.reshape(along)
        needed[..., axis, 1] = -stops.reshape(along)
    for level, count in enumerate(shape):
        skipped = [draw(st.integers(0, 4)) == 0 for _ in range(count)]
        np.moveaxis(needed, level, 0)[skipped] = EMPTY
    return needed


class TestSteps:
    @settings(max_examples=100, deadline=None)
    @given(sweeps())
    def test_fresh_is_what_no_earlier_step_needed(self, needed):
        new = fresh(needed)
        before: set[tuple[int, ...]] = set()
        wanted: list[set[tuple[int, ...]]] = []
        for box in needed.reshape(-1, 2, 2):
            wanted.append(points(box) - before)
            before |= points(box)
        if new is None:  # both axes move at once
            assert any(_hull_volume(part) != len(part) for part in wanted)
        else:
            assert [points(box) for box in new.reshape(-1, 2, 2)] == wanted

    @settings(max_examples=100, deadline=None)
    @given(sweeps())
    def test_carried_holds_what_an_earlier_and_a_later_step_need(self, needed):
        steps = [points(box) for box in needed.reshape(-1, 2, 2)]
        kept = carried(needed, needed.shape[:-2])
        extents = window_extents(needed, kept)
        for place, box in enumerate(kept.reshape(-1, 2, 2)):
            until = set().union(*steps[: place + 1])
            later = set().union(*steps[place + 1 :])
            assert until & later <= points(box)
            alive = steps[place] | (until & later)
            slots = {tuple(x % r for x, r in zip(p, extents, strict=True)) for p in alive}
            assert len(slots) == len(alive)

    @settings(max_examples=100, deadline=None)
    @given(sweeps())
    def test_spread_needs_everything_once_and_keeps_an_order(self, needed):
        wide = spread(needed, (12, 12))
        assert (wide <= needed).all()
        assert int(volumes(first_needed(wide, wide.shape[:-2])).sum()) == 144

    def test_what_moves_backwards_is_new_all_at_once(self):
        needed = np.array([[[4, -6]], [[2, -4]], [[0, -2]]])
        assert fresh(needed) is None
        assert to_ranges(first_needed(needed, (3,))).tolist() == [[[0, 6]], [[0, 0]], [[0, 0]]]
