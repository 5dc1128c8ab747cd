"""Plans resident groups: which operators, how their arrays lie, where, and when weights come."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from polystage.dtypes import byte_width, cost_dtype
from polystage.machine import cost
from polystage.machine.target import Target
from polystage.mlir import ir
from polystage.passes.lower.resident.additions import divide_additions
from polystage.passes.lower.resident.batches import BatchDims, batch_dims, cut_operators
from polystage.passes.lower.resident.crossing import inputs_of, outputs_of
from polystage.passes.lower.resident.layout import Layout, partitions_of
from polystage.passes.lower.resident.operators import (
    Other,
    Product,
    ResidentOperator,
    Table,
)
from polystage.passes.lower.resident.packing import packing_of
from polystage.passes.lower.resident.turned_rows import is_turned, stage_bytes, turning_matrix
from polystage.passes.lower.resident.windows import Window
from polystage.planner.residency import Operator, Piece, plan_groups

COLUMNS = "columns"
"""Among the addresses of a group, that of all its columns."""

STAGE = "stage"
"""Among them, that of rows which the array turns on their way."""

EFFICIENT_BYTES = 4096
"""Bytes per partition from which a transfer runs at its peak rate."""


@dataclass(frozen=True)
class Parts:
    """A batch in `count` parts of `size`; `dims` are its dimensions of arrays."""

    dims: BatchDims
    size: int
    count: int


@dataclass(frozen=True)
class ResidentGroup:
    """Operators that run together: how their arrays lie and where, and when and to where the pieces
    of every one's weights come.

    Beside arrays, `addresses` has those of `COLUMNS`, of matrices, of packed operands by product
    and of the scratch buffers of operators by name.
    """

    operators: tuple[ResidentOperator, ...]
    layouts: Mapping[ir.Value, Layout]
    addresses: Mapping[Hashable, int]
    pieces: tuple[tuple[Piece, ...], ...]
    turned: tuple[ir.Value, ...] = ()
    """Arrays that cross the border in rows, by way of the buffer `STAGE`."""
    parts: Parts | None = None

    @property
    def matrices(self) -> list[Table]:
        """What the array multiplies by: for operators, and to turn arrays."""
        found = [table for operator in self.operators for table in operator.matrices]
        return found + [turning_matrix(self.layouts[array]) for array in self.turned]


@dataclass(frozen=True)
class WeightPiece:
    """`count` channel tiles, from `first`, of one constant of a product: what one transfer
    brings."""

    constant: int
    first: int
    count: int
    bytes: int


def possible_operators(
    operators: Sequence[ResidentOperator | Other], target: Target
) -> list[ResidentOperator | Other]:
    """Return the operators of a program, with those that a group cannot run as others.

    Every operation of another stands in its place, so that no group reaches over it.
    """
    found: list[ResidentOperator | Other] = []
    layouts: dict[ir.Value, Layout] = {}
    for operator in operators:
        if isinstance(operator, Other):
            found.append(operator)
            continue
        reason = _obstacle(operator, target)
        wider = _widened(layouts, operator, partitions_of(target))
        if reason is None and wider is None:
            reason = "a border of an operand is filled with something else for another operation"
        touched = [operator.output.array, *(window.array for window, _, _ in operator.reads)]
        if wider and not all(wider[a].suits(target.access_pattern) for a in touched):
            reason = "an array has more dimensions, or larger strides, than an access"
        if reason is not None:
            found.append(Other(operator.ops, reason))
        elif wider is not None:
            layouts = wider
            found.append(operator)
    return _in_order(found)


def _in_order(
    operators: Sequence[ResidentOperator | Other],
) -> list[ResidentOperator | Other]:
    """Return operators in the order of their last operations, those of others each for itself."""
    if not operators:
        return []
    place = {op.operation: n for n, op in enumerate(operators[0].ops[-1].block.operations)}
    found: list[tuple[int, ResidentOperator | Other]] = []
    for operator in operators:
        if isinstance(operator, Other):
            found += [(place[op], Other((op,), None)) for op in operator.ops[:-1]]
        found.append((place[operator.ops[-1]], operator))
    return [operator for _, operator in sorted(found, key=lambda entry: entry[0])]


def resident_groups(
    possible: Sequence[ResidentOperator | Other], target: Target
) -> list[ResidentGroup]:
    """Return the groups of a program: runs of operators, as long as they fit.

    A run of which not all fits is one group all the same where that does a batch part by part.
    """
    found: list[ResidentGroup] = []
    for run in _runs(possible):
        groups = plan_run(run, target)
        whole = len(groups) == 1 and len(groups[0].operators) == len(run)
        in_parts = None if whole else _in_parts(run, target)
        found += groups if in_parts is None else [in_parts]
    return found


def _runs(possible: Sequence[ResidentOperator | Other]) -> Iterator[list[ResidentOperator]]:
    """Yield the runs of operators between others."""
    run: list[ResidentOperator] = []
    for operator in possible:
        if not isinstance(operator, Other):
            run.append(operator)
        elif run:
            yield run
            run = []
    if run:
        yield run


def _in_parts(run: Sequence[ResidentOperator], target: Target) -> ResidentGroup | None:
    """Return the group that does a batch part by part, in the largest parts that fit, or None where
    there are none, or where to load the weights again for each takes longer than to compute."""
    dims = batch_dims(run)
    if dims is None:
        return None
    extent = run[0].output.shape[dims[run[0].output.array]]
    for size in (n for n in range(extent - 1, 0, -1) if extent % n == 0):
        if extent // size * _weights_ns(run, target) > _array_ns(run, target):
            return None
        group = plan_parts(run, target, dims, size)
        if group is not None:
            return group
    return None


def plan_parts(
    run: Sequence[ResidentOperator], target: Target, dims: BatchDims, size: int
) -> ResidentGroup | None:
    """Return the group of a run on parts of `size` of the batch, or None where it does not fit."""
    count = run[0].output.shape[dims[run[0].output.array]] // size
    groups = plan_run(cut_operators(run, dims, size), target)
    if len(groups) != 1 or len(groups[0].operators) != len(run):
        return None
    return replace(groups[0], parts=Parts(dims, size, count))


def _weights_ns(run: Sequence[ResidentOperator], target: Target) -> float:
    products = [p for o in run for p in o.weighted]
    total = sum(p.channels * p.weight_bytes for p in products)
    return cost.dram_bound_ns(target, total)


def _array_ns(run: Sequence[ResidentOperator], target: Target) -> float:
    products = [p for o in run for p in o.weighted]
    return sum(
        cost.compute_bound_ns(target, prod(p.extents), cost_dtype(p.moving.element_type))
        for p in products
    )


def plan_run(run: Sequence[ResidentOperator], target: Target) -> list[ResidentGroup]:
    """Return the groups that a run of operators goes into, beginning with as many as fit."""
    run = divide_additions(run, target)
    partitions = partitions_of(target)
    layouts = _layouts(run, partitions)
    sizes: dict[Hashable, int] = {array: layout.bytes for array, layout in layouts.items()}
    columns = dict.fromkeys(column for operator in run for column in operator.columns)
    everywhere: dict[Hashable, int] = {COLUMNS: 4 * sum(c.tiles(partitions) for c in columns)}
    turned = _turned(run, layouts)
    if turned:
        everywhere[STAGE] = max(stage_bytes(layouts[array]) for array in turned)
    matrices = [matrix for operator in run for matrix in operator.matrices]
    matrices += [turning_matrix(layouts[array]) for array in turned]
    for matrix in dict.fromkeys(matrices):
        everywhere[matrix] = matrix.columns(partitions) * byte_width(matrix.element_type)
    facts: list[Operator] = []
    for operator in run:
        fact, extra = _facts(operator, target)
        facts.append(fact)
        sizes |= extra
    capacity = target.sbuf.bytes_per_partition
    groups: list[ResidentGroup] = []
    for found in plan_groups(facts, sizes | everywhere, list(everywhere), capacity):
        mine = tuple(run[found.first : found.last + 1])
        layouts = _layouts(mine, partitions)
        passing = tuple(
            array
            for array in _turned(mine, layouts)
            if stage_bytes(layouts[array]) <= everywhere.get(STAGE, 0)
            and turning_matrix(layouts[array]) in everywhere
        )
        groups.append(ResidentGroup(mine, layouts, found.addresses, found.pieces, passing))
    return groups


def _turned(run: Sequence[ResidentOperator], layouts: Mapping[ir.Value, Layout]) -> list[ir.Value]:
    """Return the arrays that cross the border of a run in rows."""
    crossing = {**inputs_of(run), **outputs_of(run)}
    return [
        array
        for array in crossing
        if array in layouts and is_turned(layouts[array], ir.MemRefType(array.type))
    ]


def _layouts(operators: Sequence[ResidentOperator], partitions: int) -> dict[ir.Value, Layout]:
    layouts: dict[ir.Value, Layout] = {}
    for operator in operators:
        layouts = _widened(layouts, operator, partitions) or layouts
    return layouts


def _widened(
    found: Mapping[ir.Value, Layout], operator: ResidentOperator, partitions: int
) -> dict[ir.Value, Layout] | None:
    """Return layouts that serve one more operator, or None where it wants an array otherwise than
    those before it."""
    layouts = dict(found)
    for window, dim, extents in (*operator.reads, (operator.output, operator.partition, ())):
        layout = layouts.get(window.array) or _plain_layout(window, dim, partitions)
        widened = layout.widened(window.reach(extents), window.fill) if extents else layout
        if widened is None or layout.partition != dim:
            return None
        layouts[window.array] = widened
    return layouts


def _plain_layout(window: Window, dim: int | None, partitions: int) -> Layout:
    shape = tuple(window.shape)
    none = (0,) * len(shape)
    if dim is None:
        f32 = ir.F32Type.get(window.element_type.context)
        return Layout(shape, f32, dim, partitions, none, none)
    return Layout(shape, window.element_type, dim, min(partitions, shape[dim]), none, none)


def _obstacle(operator: ResidentOperator, target: Target) -> str | None:
    """Return why a group cannot run an operator, or does not run it well."""
    types = {
        cost_dtype(operator.output.element_type),
        *(cost_dtype(w.element_type) for w, _, _ in operator.reads),
    }
    for type_ in sorted(types):
        if type_ not in ("f32", "bf16", "f16", "f8") or not target.tensor.supports(type_):
            return f"the array does not take {type_}"
    if any(product.moving.array == operator.output.array for product in operator.weighted):
        return "a contraction writes over its operand"
    capacity = target.sbuf.bytes_per_partition
    weights = sum(piece.bytes for p in operator.weighted for piece in pieces_of(p, target))
    if weights > capacity:
        return f"its weights take {weights} bytes per partition, but sbuf has {capacity}"
    return None


def _facts(operator: ResidentOperator, target: Target) -> tuple[Operator, dict[Hashable, int]]:
    """Return what a plan needs to know of an operator, and the bytes of what it alone has."""
    reads = tuple(window.array for window, _, _ in operator.reads)
    extra = dict(operator.scratch(target))
    packings = [packing_of(p, target) for p in operator.weighted if p.packed]
    extra |= {p.product: p.bytes for p in packings if p is not None}
    weights = tuple(
        piece.bytes for product in operator.weighted for piece in pieces_of(product, target)
    )
    return Operator(reads, (operator.output.array, *extra), weights), extra


def pieces_of(product: Product, target: Target) -> list[WeightPiece]:
    """Return the pieces in which the weights of a product come: whole channel tiles, as many as a
    transfer needs to be efficient."""
    packing = packing_of(product, target) if product.packed else None
    if packing is not None:
        each = product.extents[product.row] * byte_width(product.moving.element_type)
        return [WeightPiece(n, 0, 1, each) for n in range(packing.matmuls)]
    each = product.weight_bytes
    together = max(1, EFFICIENT_BYTES // each)
    full, rest = divmod(product.channels, partitions_of(target))
    found = [
        WeightPiece(0, first, min(together, full - first), min(together, full - first) * each)
        for first in range(0, full, together)
    ]
    if rest:
        found.append(WeightPiece(int(full > 0), 0, 1, each))
    return found
