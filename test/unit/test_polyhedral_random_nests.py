"""Random affine loop nests: dependences against an enumeration, and meaning after raising."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import islpy as isl
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from polystage.mlir import ir
from polystage.passes.polyhedral.raise_affine_to_linalg import RaiseAffineToLinalgPass
from polystage.polyhedral import TensorProgram
from polystage.reference import jit_run

Index = tuple[int, tuple[int, ...]]
"""Constant, and one coefficient per enclosing loop."""
SIZE = 48


@dataclass
class Store:
    """`array[index] = constant + sum of loads`."""

    target: tuple[str, Index]
    loads: list[tuple[str, Index]]
    constant: int


@dataclass
class Loop:
    lower: Index
    upper: Index
    step: int
    body: list["Loop | Store"] = field(default_factory=list)


def value(index: Index, ivs: list[int]) -> int:
    return index[0] + sum(c * iv for c, iv in zip(index[1], ivs, strict=False))


# -- as MLIR -----------------------------------------------------------------------------------


def text(index: Index) -> str:
    terms = [f"{c} * %i{n}" for n, c in enumerate(index[1]) if c]
    return " + ".join([*terms, str(index[0])])


def bound(index: Index, depth: int) -> str:
    dims = ", ".join(f"d{n}" for n in range(depth))
    expr = " + ".join([f"{c} * d{n}" for n, c in enumerate(index[1]) if c] + [str(index[0])])
    return f"affine_map<({dims}) -> ({expr})>({', '.join(f'%i{n}' for n in range(depth))})"


class Emitter:
    def __init__(self) -> None:
        self.values = 0

    def emit(self, nodes: list[Loop | Store], depth: int) -> str:
        return "".join(
            self.loop(node, depth) if isinstance(node, Loop) else self.store(node) for node in nodes
        )

    def loop(self, loop: Loop, depth: int) -> str:
        head = f"affine.for %i{depth} = {bound(loop.lower, depth)} to {bound(loop.upper, depth)}"
        return f"{head} step {loop.step} {{\n{self.emit(loop.body, depth + 1)}}}\n"

    def store(self, store: Store) -> str:
        total = self.name()
        lines = [f"{total} = arith.constant {store.constant} : i32\n"]
        for array, index in store.loads:
            load, added = self.name(), self.name()
            lines.append(f"{load} = affine.load %{array}[{text(index)}] : memref<{SIZE}xi32>\n")
            lines.append(f"{added} = arith.addi {load}, {total} : i32\n")
            total = added
        array, index = store.target
        lines.append(f"affine.store {total}, %{array}[{text(index)}] : memref<{SIZE}xi32>\n")
        return "".join(lines)

    def name(self) -> str:
        self.values += 1
        return f"%v{self.values}"


def module_text(nodes: list[Loop | Store]) -> str:
    return f"""func.func @main(%A: memref<{SIZE}xi32> {{npu.name = "A"}},
                         %B: memref<{SIZE}xi32> {{npu.name = "B"}}) {{
      {Emitter().emit(nodes, 0)}
      return
    }}"""


# -- as executed one by one --------------------------------------------------------------------


def execute(
    nodes: list[Loop | Store], visit: Callable[[Store, tuple[int, ...], list[int]], None]
) -> None:
    """Call `visit` for every store with its instance and the values of its loops, in order."""

    def run(items: list[Loop | Store], instance: tuple[int, ...], ivs: list[int]) -> None:
        for item in items:
            if isinstance(item, Store):
                visit(item, instance, ivs)
                continue
            low = value(item.lower, ivs)
            for number, iv in enumerate(range(low, value(item.upper, ivs), item.step)):
                run(item.body, (*instance, iv if item.step == 1 else number), [*ivs, iv])

    run(nodes, (), [])


def stores_of(nodes: list[Loop | Store]) -> list[Store]:
    found: list[Store] = []
    for node in nodes:
        found += stores_of(node.body) if isinstance(node, Loop) else [node]
    return found


def enumerated_dependences(nodes: list[Loop | Store]) -> dict[str, set]:
    found: dict[str, set] = {"flow": set(), "anti": set(), "output": set()}
    number = {id(store): place for place, store in enumerate(stores_of(nodes))}
    last_write: dict = {}
    reads_since: dict = defaultdict(list)

    def visit(store: Store, instance: tuple[int, ...], ivs: list[int]) -> None:
        me = (number[id(store)], instance)
        for array, index in store.loads:
            element = (array, value(index, ivs))
            if element in last_write:
                found["flow"].add((array, last_write[element], me))
            reads_since[element].append(me)
        array, index = store.target
        written = (array, value(index, ivs))
        found["anti"].update((array, r, me) for r in reads_since[written] if r != me)
        if written in last_write:
            found["output"].add((array, last_write[written], me))
        last_write[written] = me
        reads_since[written] = []

    execute(nodes, visit)
    return found


def executed(nodes: list[Loop | Store], arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    arrays = {name: array.copy() for name, array in arrays.items()}

    def visit(store: Store, instance: tuple[int, ...], ivs: list[int]) -> None:
        total = np.int32(store.constant)
        for array, index in store.loads:
            total = np.add(total, arrays[array][value(index, ivs)], dtype=np.int32)
        array, index = store.target
        arrays[array][value(index, ivs)] = total

    with np.errstate(over="ignore"):
        execute(nodes, visit)
    return arrays


# -- as computed -------------------------------------------------------------------------------


def pairs(relation: isl.Map) -> set[tuple[tuple[int, ...], tuple[int, ...]]]:
    found = set()
    split = relation.dim(isl.dim_type.in_)
    rank = split + relation.dim(isl.dim_type.out)

    def visit(point: isl.Point) -> None:
        index = [point.get_coordinate_val(isl.dim_type.set, d).to_python() for d in range(rank)]
        found.add((tuple(index[:split]), tuple(index[split:])))

    relation.wrap().foreach_point(visit)
    return found


def computed_dependences(program: TensorProgram) -> dict[str, set]:
    place = {s.name: number for number, s in enumerate(program.statements)}
    found: dict[str, set] = {"flow": set(), "anti": set(), "output": set()}
    for d in program.dependences():
        for source, target in pairs(d.map):
            found[d.kind].add((d.array, (place[d.source], source), (place[d.target], target)))
    return found


# -- random nests ------------------------------------------------------------------------------


def stores(depth: int) -> st.SearchStrategy[Store]:
    arrays = st.sampled_from("AB")
    index = st.tuples(st.integers(0, 3), st.tuples(*[st.integers(0, 2)] * depth))
    access = st.tuples(arrays, index)
    loads = st.lists(access, max_size=2)
    plain = st.builds(Store, access, loads, st.integers(0, 9))
    accumulating = st.builds(
        lambda a, more: Store(a, [a, *more], 1), access, st.lists(access, max_size=1)
    )
    return st.one_of(plain, accumulating)


def bodies(depth: int) -> st.SearchStrategy[list[Loop | Store]]:
    items = stores(depth) if depth == 3 else st.one_of(stores(depth), loops(depth))
    return st.lists(items, min_size=1, max_size=2)


def loops(depth: int) -> st.SearchStrategy[Loop]:
    zeros = (0,) * depth
    triangle = tuple(int(level == depth - 1) for level in range(depth))
    lower = st.sampled_from([(0, zeros), (1, zeros), (0, triangle)])
    upper = st.sampled_from([(3, zeros), (4, zeros), (1, triangle)])
    step = st.sampled_from([1, 1, 1, 2])
    return st.builds(Loop, lower, upper, step, st.deferred(lambda: bodies(depth + 1)))


def nests() -> st.SearchStrategy[list[Loop | Store]]:
    return st.lists(st.one_of(loops(0), stores(0)), min_size=1, max_size=3)


@settings(max_examples=150, deadline=None)
@given(nests())
def test_dependences_match_enumeration(nodes: list[Loop | Store]) -> None:
    with ir.Context(), ir.Location.unknown():
        program = TensorProgram.from_module(ir.Module.parse(module_text(nodes)))
        assert computed_dependences(program) == enumerated_dependences(nodes)


@settings(max_examples=60, deadline=None)
@given(nests())
def test_raising_keeps_the_meaning(nodes: list[Loop | Store]) -> None:
    arrays = {"A": np.arange(SIZE, dtype=np.int32), "B": np.arange(SIZE, dtype=np.int32) ** 2 % 97}
    with ir.Context(), ir.Location.unknown():
        module = ir.Module.parse(module_text(nodes))
        RaiseAffineToLinalgPass().run(module)
        assert "affine." not in str(module).replace("affine_map", "")
        found = jit_run(module, [arrays["A"], arrays["B"]])
    expected = executed(nodes, arrays)
    np.testing.assert_array_equal(found[0], expected["A"])
    np.testing.assert_array_equal(found[1], expected["B"])
