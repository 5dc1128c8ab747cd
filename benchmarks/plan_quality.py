"""How much better plans could be: against an exhaustive search, and with ten times the effort.

Small random graphs of matmuls, filters and sums, planned by the search and by one that leaves
nothing out: all partitions into groups, all sets of resident arrays, all tiles of up to two loops
over steps, all sets of streamed inputs, all tiles and orders of every nest. Operators run in
program order in both.

    python benchmarks/plan_quality.py [--first SEED] [--graphs N] [--budget-models NAME:KIB ..]
"""

import argparse
import sys
import time
from collections.abc import Iterable, Iterator
from itertools import chain, combinations, permutations, product
from random import Random
from typing import Any

import models
from whole_models import prepare

from polystage.dialects.npu.target import required_target
from polystage.errors import PlanError
from polystage.mlir import ir
from polystage.planner.fusion.decisions import Loop
from polystage.planner.fusion.plan_program import plan_program
from polystage.planner.fusion.program import Program
from polystage.planner.fusion.search.groups import GroupSearch
from polystage.planner.fusion.search.nests import balanced_tiles
from polystage.planner.fusion.search.plans import PlanSearch, Step
from polystage.planner.fusion.search.segments import GroupOption, Segment

EVERYTHING = 10**6
"""Tilings of one operator: more than these graphs have."""
MAX_STEP_LOOPS = 2


class ExhaustiveGroups(GroupSearch):
    """All ways to run a group."""

    def _candidates(self, segment: Segment) -> Iterator[GroupOption]:
        if len(segment.span) == 1:
            yield from self._unlooped(segment)
        extents = segment.span.operators[-1].extents
        uncut = self.extents(segment.span.stop - 1).uncut
        dims = [dim for dim, extent in enumerate(extents) if extent > 1 and dim not in uncut]
        made = segment.span.written | segment.resident
        inputs = [name for name in segment.span.arrays if name not in made]
        for loops in all_loops(dims, extents):
            for streams in powerset(inputs):
                yield from self._looped(segment, loops, frozenset(streams))


class ExhaustiveSearch(PlanSearch):
    """All partitions and all sets of resident arrays."""

    def __init__(self, program: Program, capacity: int) -> None:
        super().__init__(program, capacity)
        self.beam = EVERYTHING
        self.groups = ExhaustiveGroups(program, capacity, EVERYTHING)

    def run(self) -> Step:
        """Return the best state of all."""
        count = len(self.program.operators)
        return self._best(lambda start: range(start + 1, count + 1))


def all_loops(dims: list[int], extents: tuple[int, ...]) -> Iterator[tuple[Loop, ...]]:
    """Yield every order of up to two loops with every tile."""
    for count in range(1, MAX_STEP_LOOPS + 1):
        for order in permutations(dims, count):
            for tiles in product(*(balanced_tiles(extents[dim])[:-1] for dim in order)):
                yield tuple(map(Loop, order, tiles))


def powerset(names: list[str]) -> Iterable[tuple[str, ...]]:
    return chain.from_iterable(combinations(names, size) for size in range(len(names) + 1))


# --- random graphs --------------------------------------------------------------------------------

MAPS = """
#a = affine_map<(m, n, k) -> (m, k)>
#b = affine_map<(m, n, k) -> (k, n)>
#c = affine_map<(m, n, k) -> (m, n)>
#input = affine_map<(m, n, k, t) -> (m + t, k)>
#filter = affine_map<(m, n, k, t) -> (k, n, t)>
#result = affine_map<(m, n, k, t) -> (m, n)>
#id = affine_map<(m, n) -> (m, n)>
"""

SUM = """
  ^bb0(%p: f32, %q: f32, %o: f32):
    %s = arith.addf %p, %q : f32
    linalg.yield %s : f32
  }"""

MULTIPLY = """
  ^bb0(%p: f32, %q: f32, %o: f32):
    %m = arith.mulf %p, %q : f32
    %s = arith.addf %o, %m : f32
    linalg.yield %s : f32
  }"""


Value = tuple[Any, ...]
"""Name and extents of an array."""


class RandomProgram:
    """A function of a few operators on matrices, each of which reads earlier results."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.arguments: list[str] = []
        self.body: list[str] = ["%zero = arith.constant 0.0 : f32"]
        self.count = 0
        values = [self.argument(random.randint(4, 9), random.randint(2, 5))]
        for _ in range(random.randint(2, 4)):
            values.append(self.grow(values))
        name, rows, columns = values[-1]
        kind = f"memref<{rows}x{columns}xf32>"
        alloc = f"{name} = memref.alloc() : {kind}"
        self.body.remove(alloc)
        self.arguments.append(f"{name}: {kind}")

    def text(self) -> str:
        """Return the module."""
        lines = "\n  ".join(self.body)
        return f"{MAPS}func.func @main({', '.join(self.arguments)}) {{\n  {lines}\n  return\n}}"

    def argument(self, *shape: int) -> Value:
        """Return another argument of the function."""
        name = f"%a{len(self.arguments)}"
        self.arguments.append(f"{name}: memref<{'x'.join(map(str, shape))}xf32>")
        return (name, *shape)

    def grow(self, values: list[Value]) -> Value:
        """Append an operator on the last value or an earlier one."""
        source = values[-1] if self.random.random() < 0.8 else self.random.choice(values)
        _, rows, columns = source
        alike = [v for v in values if v[1:] == (rows, columns) and v is not source]
        choice = self.random.random()
        if alike and choice < 0.4:
            return self.emit("#id, #id, #id", 2, source, alike[-1], rows, columns, SUM)
        if rows > 3 and choice < 0.7:
            weight = self.argument(columns, self.random.randint(2, 5), 2)
            maps = "#input, #filter, #result"
            return self.emit(maps, 4, source, weight, rows - 1, weight[2], MULTIPLY)
        weight = self.argument(columns, self.random.choice((columns, self.random.randint(2, 6))))
        return self.emit("#a, #b, #c", 3, source, weight, rows, weight[2], MULTIPLY)

    def emit(
        self, maps: str, dims: int, left: Value, right: Value, rows: int, columns: int, body: str
    ) -> Value:
        """Append an operator, and the fill that it accumulates on, and return its result."""
        self.count += 1
        name, kind = f"%v{self.count}", f"memref<{rows}x{columns}xf32>"
        self.body.append(f"{name} = memref.alloc() : {kind}")
        if dims > 2:
            self.body.append(
                'linalg.generic {indexing_maps = [#id], iterator_types = ["parallel", "parallel"]} '
                f"outs({name} : {kind}) {{ ^bb0(%o: f32): linalg.yield %zero : f32 }}"
            )
        iterators = '"parallel", "parallel"' + ', "reduction"' * (dims - 2)
        kinds = (f"memref<{'x'.join(map(str, v[1:]))}xf32>" for v in (left, right))
        self.body.append(
            f"linalg.generic {{indexing_maps = [{maps}], iterator_types = [{iterators}]}} "
            f"ins({left[0]}, {right[0]} : {', '.join(kinds)}) outs({name} : {kind}) {{{body}"
        )
        return name, rows, columns


def compare(seed: int) -> tuple[int, int] | None:
    """Return what the search plans for a random graph, and the least there is; None where not even
    one operator fits."""
    random = Random(seed)
    module = ir.Module.parse(RandomProgram(random).text(), ir.Context())
    program = Program.from_module(module)
    total = sum(array.size_bytes for array in program.arrays.values())
    capacity = max(160, int(total * random.uniform(0.2, 0.7)) // 16 * 16)
    try:
        searches = (PlanSearch(program, capacity), ExhaustiveSearch(program, capacity))
        found, best = (int(search.run().traffic) for search in searches)
    except PlanError:
        return None
    return found, best


def compare_all(first: int, graphs: int) -> None:
    """Print how far the search is from the best, over many graphs from one seed on."""
    gaps: list[float] = []
    start = time.perf_counter()
    for seed in range(first, first + graphs):
        found = compare(seed)
        if found is None:
            continue
        gaps.append(found[0] / found[1] - 1)
        if gaps[-1] > 0:
            print(f"graph {seed}: {found[0]} bytes, at best {found[1]}, {gaps[-1]:.1%}", flush=True)
    worse = [gap for gap in gaps if gap > 0]
    print(
        f"{len(gaps)} graphs: {len(worse)} not at the best; worst {max(gaps, default=0):.2%}, "
        f"mean {sum(gaps) / max(len(gaps), 1):.2%}; {time.perf_counter() - start:.0f} s"
    )


def compare_budgets(name: str, kib: int, times: int = 10) -> None:
    """Print what more effort is worth on a whole model."""
    module = prepare(models.load(name), kib)
    with module.context, ir.Location.unknown():
        program, target = Program.from_module(module), required_target(module)
        usual, more = (plan_program(program, target, budget=n).traffic for n in (1, times))
    gain = (usual - more) / usual
    print(f"{name} at {kib} KiB: {usual} bytes, {times} times the budget {more}, {gain:.2%} less")


def main() -> int:
    """Compare what is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--first", type=int, default=0, metavar="SEED")
    parser.add_argument("--graphs", type=int, default=200)
    parser.add_argument("--budget-models", nargs="*", default=[], metavar="NAME:KIB")
    asked = parser.parse_args()
    compare_all(asked.first, asked.graphs)
    for text in asked.budget_models:
        name, _, kib = text.rpartition(":")
        compare_budgets(name, int(kib))
    return 0


if __name__ == "__main__":
    sys.exit(main())
