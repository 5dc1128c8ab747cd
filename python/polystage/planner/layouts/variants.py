"""How a statement may be executed: which loop lies across the partitions, which operand of a
contraction is stationary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod

from polystage.dtypes import cost_dtype
from polystage.linear import linear_form
from polystage.machine.target import Target
from polystage.mlir import ir
from polystage.polyhedral.expressions import used_dims
from polystage.polyhedral.model import Kind, Statement
from polystage.polyhedral.operations import indexing_maps, input_count, is_memref
from polystage.polyhedral.scalar import multiplied_arguments

MAX_STACK = 8
"""Most pieces of a loop that the lane engines put beside each other on the partitions."""

STORES_TOGETHER = 4
"""Row tiles of a contraction whose stores the lowering lets overlap."""

_FREE = ("arith.ext", "arith.trunc", "arith.index_cast", "linalg.", "memref.")


@dataclass(frozen=True)
class Variant:
    """One way to execute a statement; loops are dims of the statement.

    Results come out with `partition` across the partitions, and operands are wanted so, those of
    a contraction on the tensor engine with `contracted` instead. None: nothing is asked for.
    """

    partition: int | None
    engine_ns: float
    """Time of the engine, which may fill the partitions from loops further in as well."""
    alone_ns: float
    """Time with nothing but `partition` on the partitions, by which an operator on its own
    chooses."""
    contracted: int | None = None
    stationary: int | None = None
    """The operand that the array holds."""
    stepped: frozenset[int] = frozenset()
    """Loops that are walked one iteration at a time around the transfers."""


@dataclass(frozen=True)
class _Operand:
    """An operand of a contraction: the loops that each of its dimensions follows."""

    index: tuple[dict[int, int], ...]
    shifted: frozenset[int]
    """The dimensions that do not start at 0."""

    @property
    def loops(self) -> set[int]:
        return {loop for form in self.index for loop in form}

    @property
    def is_plain(self) -> bool:
        return self.is_window and all(
            not form or (len(form) == 1 and self.has_single(*form)) for form in self.index
        )

    @property
    def is_window(self) -> bool:
        """Whether every loop moves it in one dimension at most."""
        moving = [loop for form in self.index for loop in form]
        return len(set(moving)) == len(moving)

    def has_single(self, loop: int) -> bool:
        return any(form == {loop: 1} and d not in self.shifted for d, form in enumerate(self.index))


def variants_of(statement: Statement, extents: Sequence[int], target: Target) -> list[Variant]:
    """Return the ways to execute a statement, that first which it prefers on its own, of equals
    that of the outermost loop; `extents` are those of its dims.

    Fills, and statements that nothing is known about, have none. A contraction that names its
    stationary operand already has the ways that hold it.
    """
    if statement.kind in (Kind.FILL, Kind.OPAQUE):
        return []
    if (asked := statement.op.attributes.get("npu.stationary")) is not None:
        number = asked.value if isinstance(asked, ir.IntegerAttr) else None
        found = _array_variants(statement, extents, target)
        return [variant for variant in found if variant.stationary == number]
    lanes = _lane_variants(statement, extents, target)
    found = _array_variants(statement, extents, target)
    fastest = min((v.engine_ns for v in lanes), default=float("inf"))
    if found and min(v.engine_ns for v in found) <= fastest:
        return sorted(found, key=lambda v: v.engine_ns)
    return lanes


# --- lane engines -------------------------------------------------------------------------------


def _lane_variants(statement: Statement, extents: Sequence[int], target: Target) -> list[Variant]:
    own = range(statement.depth, len(extents))
    loops = [loop for loop in own if statement.iterators[loop] == "parallel" and extents[loop] > 1]
    loops = [loop for loop in loops if _may_lie_across(statement, loop)]
    if statement.kind == Kind.GATHER:
        loops = loops[:1]  # the others may be columns of the table, which stay whole
    elements = prod(extents[loop] for loop in own)
    stream = elements * _passes(statement) / target.vector.clock_ghz
    if not loops:
        return [Variant(None, stream, stream)]
    found: list[Variant] = []
    for loop in loops:
        merged = _merged_extent(statement, loop, extents)
        alone = filled_lanes(extents[loop], target)
        others = [extents[d] for d in own if d != loop and statement.iterators[d] == "parallel"]
        stacked = alone * _most_pieces(extents[loop], others, target)
        lanes = max(filled_lanes(merged, target), stacked)
        found.append(Variant(loop, stream / lanes, stream / alone))
    return sorted(found, key=lambda v: v.alone_ns)


def _most_pieces(extent: int, others: Sequence[int], target: Target) -> int:
    """Return how many equal pieces of another loop lie side by side on the partitions."""
    room = min(MAX_STACK, target.sbuf.partitions // extent)
    counts = range(room, 1, -1)
    return next((n for n in counts if any(other % n == 0 for other in others)), 1)


def _merged_extent(statement: Statement, loop: int, extents: Sequence[int]) -> int:
    """Return the iterations of `loop` and the loops further in that every operand runs through as
    through one."""
    if statement.op.name != "linalg.generic":
        return prod(extents[loop:])
    merged = extents[loop]
    last = loop - statement.depth
    maps = indexing_maps(statement.op)
    for d in range(last + 1, maps[0].n_dims):
        if extents[statement.depth + d] == 1:
            continue
        is_parallel = statement.iterators[statement.depth + d] == "parallel"
        if not is_parallel or not all(_follow(map_, last, d) for map_ in maps):
            break
        merged *= extents[statement.depth + d]
        last = d
    return merged


def _follow(map_: ir.AffineMap, outer: int, inner: int) -> bool:
    """Whether an operand depends on neither loop, or on `inner` right inside of `outer`."""
    singles = [
        expr.maybe_downcast().position
        if isinstance(expr.maybe_downcast(), ir.AffineDimExpr)
        else -1
        for expr in map_.results
    ]
    used = {d for expr in map_.results for d in used_dims(expr)}
    if not {outer, inner} & used:
        return True
    places = [place for place, d in enumerate(singles) if d == outer]
    return len(places) == 1 and singles[places[0] + 1 :][:1] == [inner]


def _may_lie_across(statement: Statement, loop: int) -> bool:
    """Whether every operand follows the loop in one dimension, alone, or not at all, and every
    result does."""
    op = statement.op
    if op.name != "linalg.generic":
        return True
    maps = indexing_maps(op)
    inputs = input_count(op)
    d = loop - statement.depth
    for number, map_ in enumerate(maps):
        users = [expr for expr in map_.results if d in used_dims(expr)]
        if not users and number < inputs:
            continue
        if len(users) != 1 or linear_form(users[0], map_.n_dims) != _unit_form(d, map_.n_dims):
            return False
    return True


def _unit_form(d: int, n_dims: int) -> tuple[int, list[int]]:
    return 0, [int(e == d) for e in range(n_dims)]


def filled_lanes(extent: int, target: Target) -> float:
    """Return how many partitions a loop keeps busy on average.

    >>> target = Target.load("neuroncore_v2")
    >>> filled_lanes(64, target), filled_lanes(160, target)
    (64.0, 80.0)
    """
    return extent / ceil(extent / target.sbuf.partitions)


def _passes(statement: Statement) -> int:
    """Return the operations of a body that take a pass of an engine each."""
    if not len(statement.op.regions):
        return 1
    body = statement.op.regions[0].blocks[0].operations
    return max(1, sum(not op.operation.name.startswith(_FREE) for op in body))


# --- tensor engine ------------------------------------------------------------------------------


def _array_variants(statement: Statement, extents: Sequence[int], target: Target) -> list[Variant]:
    """Return the variants of a contraction of two operands on the tensor engine."""
    if statement.kind != Kind.CONTRACTION or statement.op.name != "linalg.generic":
        return []
    maps = indexing_maps(statement.op)
    if len(maps) != 3 or not all(is_memref(value) for value in statement.op.operands):
        return []
    types = [cost_dtype(ir.MemRefType(value.type).element_type) for value in statement.op.operands]
    if not array_takes(types, target):
        return []
    if multiplied_arguments(statement.op.regions[0].blocks[0], 2) is None:
        return []
    operands = [_operand(map_, statement.depth, extents) for map_ in maps]
    first, second, output = operands
    if first is None or second is None or output is None or not output.is_plain:
        return []
    reduced = {d for d, kind in enumerate(statement.iterators) if kind == "reduction"}
    found: list[Variant] = []
    for number, (held, moving) in enumerate(((first, second), (second, first))):
        roles = _roles(held, moving, output, {d for d in reduced if extents[d] > 1}, extents)
        if roles is not None:
            ns = _array_ns(statement, roles, extents, target)
            stepped = frozenset((roles.batch | roles.rows) - {roles.row})
            found.append(Variant(roles.row, ns, ns, roles.channel, number, stepped))
    return found


def array_takes(types: Sequence[str], target: Target) -> bool:
    """Whether the tensor engine multiplies operands of the first two types to results of the third.

    >>> target = Target.load("neuroncore_v2")
    >>> array_takes(["bf16", "bf16", "f32"], target), array_takes(["bf16", "f32", "f32"], target)
    (True, False)
    """
    if types[0] != types[1] or not target.tensor.supports(types[0]):
        return False
    return types[2] in (("i32",) if types[0] == "i8" else ("f32", "bf16", "f16", "f8"))


@dataclass(frozen=True)
class _Roles:
    batch: set[int]
    rows: set[int]
    row: int | None
    columns: set[int]
    channel: int
    taps: set[int]


def _operand(map_: ir.AffineMap, depth: int, extents: Sequence[int]) -> _Operand | None:
    """Return an operand's index over the statement's dims, without loops of extent 1."""
    forms = [linear_form(expr, map_.n_dims) for expr in map_.results]
    index: list[dict[int, int]] = []
    shifted: set[int] = set()
    for dim, form in enumerate(forms):
        if form is None or any(c < 0 for c in form[1]):
            return None
        terms = {depth + d: c for d, c in enumerate(form[1]) if c and extents[depth + d] > 1}
        index.append(terms)
        if terms and form[0]:
            shifted.add(dim)
    return _Operand(tuple(index), frozenset(shifted))


def _roles(
    held: _Operand, moving: _Operand, output: _Operand, reduced: set[int], extents: Sequence[int]
) -> _Roles | None:
    """Return the part of every loop with `held` stationary, or None where that is not possible."""
    s, m, o = held.loops, moving.loops, output.loops
    columns = (m & o) - s
    if not reduced or not held.is_plain or not reduced <= (s & m) or not o <= (s | m):
        return None
    if not moving.is_window or any(len(columns & form.keys()) > 1 for form in moving.index):
        return None
    shared = [d for d in sorted(reduced) if held.has_single(d) and moving.has_single(d)]
    if not shared:
        return None
    channel = max(shared, key=lambda d: (extents[d], -d))
    rows = (s & o) - m
    in_order = [loop for form in output.index for loop in form if loop in rows]
    row = max(in_order, key=lambda d: extents[d], default=None)
    return _Roles(s & m & o, rows, row, columns, channel, reduced - {channel})


def _array_ns(statement: Statement, roles: _Roles, extents: Sequence[int], target: Target) -> float:
    """Return the time of the array: one pass of the columns per tile of channels and rows, but no
    less per row tile than the one before takes to leave."""
    array = target.tensor
    dtype = cost_dtype(ir.MemRefType(statement.op.operands[0].type).element_type)
    taps = prod(extents[d] for d in roles.taps)
    depth = extents[roles.channel]
    for tap in sorted(roles.taps):
        if depth * extents[tap] <= array.rows:
            depth, taps = depth * extents[tap], taps // extents[tap]
    row = extents[roles.row] if roles.row is not None else 1
    outer = prod(extents[d] for d in (roles.batch | roles.rows) - {roles.row})
    row_tiles = outer * ceil(row / array.columns)
    columns = max(prod(extents[d] for d in roles.columns), array.min_issue_cycles)
    cycles = taps * ceil(depth / array.rows) * columns * getattr(array.cycles_per_row, dtype)
    return row_tiles * max(cycles / array.clock_ghz, _leaving_ns(target))


def _leaving_ns(target: Target) -> float:
    """Return how long a finished row tile holds up the next: out of the array, out of psum, its
    share of the stores' start-up."""
    array, scalar = target.tensor, target.scalar
    drain = (array.rows + array.columns + array.startup_cycles) / array.clock_ghz
    evict = (scalar.startup_cycles + scalar.issue_cycles) / scalar.clock_ghz
    return drain + evict + target.dma.startup_ns / STORES_TOGETHER
