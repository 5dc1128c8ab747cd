"""Reads a program as operators that can run in a resident group, and others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from polystage.dialects.npu.views import defining_op
from polystage.errors import PassError
from polystage.machine.target import Target
from polystage.mlir import ir
from polystage.passes.lower.finite import may_be_infinite
from polystage.passes.lower.generic_op import GenericOp
from polystage.passes.lower.lane_engines.scalar_code import read_body
from polystage.passes.lower.resident.attention.reading import AttentionReader
from polystage.passes.lower.resident.hints import wanted_partitions
from polystage.passes.lower.resident.lanes.operators import Lanes
from polystage.passes.lower.resident.lanes.reading import computes_floats, read_lanes
from polystage.passes.lower.resident.layout import partitions_of
from polystage.passes.lower.resident.operators import (
    Fold,
    Other,
    Product,
    ResidentOperator,
    Sum,
    plain_dims,
)
from polystage.passes.lower.resident.packing import packing_of
from polystage.passes.lower.resident.placing import read_placing
from polystage.passes.lower.resident.reading import (
    Declined,
    Reading,
    constant_of,
    users_of,
)
from polystage.passes.lower.resident.terms import Terms, read_terms
from polystage.passes.lower.resident.windows import Window, matching_dims, root_of, window_of
from polystage.passes.lower.tensor_engine.contraction import Contraction

FEW_CHANNELS = 4
"""A contraction with taps and this many times fewer channels than the array has rows has taps
beside the channels on the partitions, if its operand comes from memory."""

_FOLDS = {"arith.maximumf": "max", "arith.addf": "add"}


@dataclass(frozen=True)
class _Waiting:
    """A contraction whose result only one sum reads: it runs as a part of that."""

    product: Product
    output: Window
    ops: tuple[ir.Operation, ...]
    partition: int


def recognise(operations: Sequence[ir.Operation], target: Target) -> list[ResidentOperator | Other]:
    """Return the operators of a program, in its order.

    `operations` are those of one block that compute. A fill belongs to the operation that it
    initialises, a contraction to the sum that alone reads its result.
    """
    return _Reader(operations, target).read()


class _Reader(Reading):
    def __init__(self, operations: Sequence[ir.Operation], target: Target) -> None:
        super().__init__(operations, target)
        self.hints |= wanted_partitions(operations, target)
        self.sums: dict[ir.Operation, tuple[GenericOp, Terms]] = {}
        self.waiting: dict[ir.Value, _Waiting] = {}
        self.attention = AttentionReader(self)

    def read(self) -> list[ResidentOperator | Other]:
        for op in self.operations:
            self._note_sum(op)
        found: list[ResidentOperator | Other] = []
        for op in self.operations:
            if op in self.attention.members:
                found += self._read_attention(op)
            elif op not in self.fills:
                found += self._read(op)
        return found

    def _read_attention(self, op: ir.Operation) -> list[ResidentOperator | Other]:
        """Return the attention whose last operation is `op`."""
        operator = self.attention.operators.get(op)
        if operator is None:
            return []
        try:
            return [self.attention.read(op) or operator]
        except Declined as declined:
            return [Other(operator.ops, str(declined))]

    def _note_sum(self, op: ir.Operation) -> None:
        """Remember an operation that is a sum, element by element."""
        if op.name != "linalg.generic" or op in self.fills:
            return
        try:
            generic = GenericOp.from_op(op.opview).without_unit_dims()
            if generic.reductions or len(generic.outputs) != 1:
                return
            terms = read_terms(read_body(generic, op.context))
        except PassError:
            return
        if terms is not None:
            self.sums[op] = generic, terms

    def _read(self, op: ir.Operation) -> list[ResidentOperator | Other]:
        try:
            if op.name == "memref.copy":
                raise Declined(f"'{op.name}' only moves data")
            if op.name != "linalg.generic":
                raise Declined(f"'{op.name}' is a kernel of its own")
            if op in self.sums:
                return [self._sum_or_lanes(op)]
            generic = GenericOp.from_op(op.opview).without_unit_dims()
            contraction = self._contraction(op, generic)
            if contraction is not None:
                return self._contracted(op, contraction)
            lanes = read_lanes(self, op, generic)
            return [lanes if lanes is not None else self._fold(op, generic)]
        except Declined as declined:
            reason = self.attention.reasons.get(op, str(declined))
            return [Other(self.with_fill(op), reason)]
        except PassError as error:
            return [Other(self.with_fill(op), error.message)]

    # --- contractions ----------------------------------------------------------------------------

    def _contraction(self, op: ir.Operation, generic: GenericOp) -> Contraction | None:
        for access in generic.inputs:
            if constant_of(op.operands[access.argument]) is not None:
                found = Contraction.match(generic, self.target, access.argument)
                if found is not None:
                    return found
        if Contraction.match(generic, self.target) is not None:
            raise Declined("neither operand of the contraction is a constant")
        return None

    def _contracted(
        self, op: ir.Operation, contraction: Contraction
    ) -> list[ResidentOperator | Other]:
        product, output = self._product(op, contraction)
        (row,) = contraction.rows
        partition = output.dim_of(row)
        if partition is None:
            raise Declined("the output is not accessed plainly")
        waiting = _Waiting(product, output, self.with_fill(op), partition)
        if self._joins_a_sum(op, waiting):
            self.waiting[output.array] = waiting
            return []
        if self._is_taken_elsewhere(waiting):
            raise Declined("its result goes straight into an operation that no group runs")
        self.partitions[output.array] = partition
        return [Sum(waiting.ops, output, partition, (product,), (), ())]

    def _is_taken_elsewhere(self, waiting: _Waiting) -> bool:
        """Whether an elementwise operation that no group runs alone reads a result: outside of
        groups it takes that from psum."""
        readers = [op for op in users_of(waiting.output.array) if op not in waiting.ops]
        if len(readers) != 1 or readers[0].name != "linalg.generic" or readers[0] in self.sums:
            return False
        if any("reduction" in str(kind) for kind in readers[0].opview.iterator_types):
            return False
        return not computes_floats(readers[0])

    def _product(self, op: ir.Operation, contraction: Contraction) -> tuple[Product, Window]:
        if op not in self.initials or self.initials[op][1].value != 0:
            raise Declined("the contraction adds to what its output holds")
        if len(contraction.rows) != 1 or contraction.batch or contraction.channel < 0:
            raise Declined("the contraction has batches, or several or no dimensions of channels")
        moving = self.window(op, contraction.moving)
        output = self.window(op, contraction.output)
        extents = contraction.generic.extents
        dims, channel_dim = plain_dims(output, extents), moving.dim_of(contraction.channel)
        if dims is None or channel_dim is None:
            raise Declined("an operand is not accessed plainly")
        if moving.shape[channel_dim] != extents[contraction.channel]:
            raise Declined("an operand is a part of the channels of an array")
        self.demand(moving.array, channel_dim)
        stationary = contraction.stationary
        name = constant_of(op.operands[stationary.argument])
        assert name is not None
        product = Product(
            op,
            extents,
            name,
            tuple(linear.single if linear.dims else None for linear in stationary.index),
            moving,
            contraction.channel,
            contraction.rows[0],
            contraction.taps,
            {d: dims[d] for d in contraction.columns},
        )
        few = product.channels * FEW_CHANNELS <= partitions_of(self.target)
        if few and packing_of(product, self.target) is not None:
            product = replace(product, packed=True)
        return product, output

    def _joins_a_sum(self, op: ir.Operation, waiting: _Waiting) -> bool:
        """Whether the result of a contraction is read by one sum alone, until which the input of
        the contraction stays as it is."""
        array = waiting.output.array
        readers = [user for user in users_of(array) if user not in waiting.ops]
        if len(readers) != 1 or readers[0] not in self.sums or defining_op(array) is None:
            return False
        reader = readers[0]
        first, last = self.place[op], self.place[reader]
        generic, terms = self.sums[reader]
        accesses = [a for a in generic.inputs if a.argument in terms.operands]
        mine = [a for a in accesses if root_of(reader.operands[a.argument]) == array]
        if first > last or len(mine) != 1:
            return False
        read, output = self.window(reader, mine[0]), self.window(reader, generic.outputs[0])
        aligned = matching_dims(read, output) is not None
        moving = waiting.product.moving.array
        changed = any(
            user in self.place and first < self.place[user] < last and _writes(user, moving)
            for user in users_of(moving)
        )
        return aligned and not changed

    # --- sums ------------------------------------------------------------------------------------

    def _sum_or_lanes(self, op: ir.Operation) -> ResidentOperator:
        """Return a sum as the array computes it, or where that cannot, as the lane engines do."""
        generic, terms = self.sums[op]
        placing = read_placing(self, op, generic, terms)
        if placing is not None:
            return placing
        try:
            return self._sum(op, generic, terms)
        except Declined:
            if any(self._waiting_part(op, n) is not None for n in terms.operands):
                raise
            found = read_lanes(self, op, generic)
            assert isinstance(found, Lanes)
            return found

    def _sum(self, op: ir.Operation, generic: GenericOp, terms: Terms) -> Sum:
        output = self.window(op, generic.outputs[0])
        loops = plain_dims(output, generic.extents)
        if loops is None:
            raise Declined("the output is not accessed plainly")
        accesses = {a.argument: a for a in generic.inputs}
        parts = [
            _in_output(waiting, self.window(op, accesses[n]), output)
            for n in terms.operands
            if (waiting := self._waiting_part(op, n)) is not None
        ]
        rest = [accesses[n] for n in terms.operands if self._waiting_part(op, n) is None]
        constants = [a for a in rest if constant_of(op.operands[a.argument]) is not None]
        columns = [a for a in constants if len(a.dims) == 1]
        added = [a for a in rest if a not in columns]
        if any(may_be_infinite(op.operands[a.argument]) for a in added):
            raise Declined("an operand of the sum has infinite elements, of which zeros make NaN")
        addends = [self.window(op, a) for a in added]
        if any(matching_dims(addend, output) is None for addend in addends):
            raise Declined("an operand of the sum is not accessed as the output is")
        if not (parts or addends):
            raise Declined("nothing is summed")
        loops_of_columns = {tuple(sorted(a.dims)) for a in columns}
        partition = self._partition([p.partition for p in parts], addends, output, loops_of_columns)
        if any(p.partition != partition for p in parts):
            raise Declined("contractions with different dimensions of channels are added")
        if any(loops.get(d[0]) != partition for d in loops_of_columns):
            raise Declined("a constant of the sum is not one value for every channel")
        found = Sum(
            (*(o for p in parts for o in p.ops), op),
            output,
            partition,
            tuple(p.product for p in parts),
            tuple(addends),
            tuple(name for a in columns if (name := constant_of(op.operands[a.argument]))),
            terms.function,
            terms.scale,
            terms.bias,
        )
        for addend in addends:
            if not found.walks_as_stored(addend):
                raise Declined("an operand of the sum has its dimensions in another order")
            dim = found.dim_of_addend(addend, partition)
            assert dim is not None, "a dimension of more than one element"
            self.demand(addend.array, dim)
        self.partitions[output.array] = partition
        return found

    def _waiting_part(self, op: ir.Operation, argument: int) -> _Waiting | None:
        return self.waiting.get(root_of(op.operands[argument]))

    def _partition(
        self,
        known: Sequence[int],
        addends: Sequence[Window],
        output: Window,
        columns: set[tuple[int, ...]],
    ) -> int:
        """Return the dimension of a sum's output that lies across the partitions."""
        loops = {x.single: d for d, x in enumerate(output.index)}
        found = [*known]
        for addend in addends:
            matching = matching_dims(addend, output) or {}
            dim = self.partitions.get(addend.array)
            if dim is not None and dim in matching:
                found.append(matching[dim])
        found += [loops[d[0]] for d in columns]
        if output.array in self.hints:
            found.append(self.hints[output.array])
        if not found:
            raise Declined("nothing tells which dimension lies across the partitions")
        return found[0]

    # --- folds -----------------------------------------------------------------------------------

    def _fold(self, op: ir.Operation, generic: GenericOp) -> Fold:
        if len(generic.outputs) != 1 or op not in self.initials or not generic.reductions:
            raise Declined("no contraction, sum or pooling")
        kind = _fold_kind(generic, op.context)
        read = [a for a in generic.inputs if generic.is_read(a)]
        if kind is None or len(read) != 1:
            raise Declined("no contraction, sum or pooling")
        source, output = self.window(op, read[0]), self.window(op, generic.outputs[0])
        loops = plain_dims(output, generic.extents)
        across = self.partitions.get(source.array)
        if loops is None or across is None:
            raise Declined("nothing tells which dimension lies across the partitions")
        loop = source.index[across].single
        if loop not in loops:
            raise Declined("the pooling goes across the partitions")
        if source.shape[across] != generic.extents[loop]:
            raise Declined("an operand is a part of the channels of an array")
        self.partitions[output.array] = loops[loop]
        return Fold(
            self.with_fill(op),
            output,
            loops[loop],
            source,
            across,
            generic.extents,
            tuple(sorted(generic.reductions)),
            kind,
            float(self.initials[op][1].value),
        )


def _in_output(waiting: _Waiting, window: Window, output: Window) -> _Waiting:
    """Return a contraction whose result is read as `window` in the dimensions of the output."""
    dims = matching_dims(window, output)
    assert dims is not None, "checked when it was found to wait"
    if waiting.partition not in dims:
        raise Declined("the output is not accessed plainly")
    product = waiting.product
    columns = {d: dims[dim] for d, dim in product.columns.items() if dim in dims}
    return replace(
        waiting, product=replace(product, columns=columns), partition=dims[waiting.partition]
    )


def _writes(op: ir.Operation, array: ir.Value) -> bool:
    if op.name != "linalg.generic":
        return True
    outputs = [window_of(value, ()) for value in op.opview.outputs]
    return any(window is None or window.array == array for window in outputs)


def _fold_kind(generic: GenericOp, context: ir.Context) -> str | None:
    """Return `max` or `add` where the body folds its only input into the output with that."""
    body = read_body(generic, context)
    node = body.results[0]
    while node.name in ("arith.truncf", "arith.extf"):
        node = node.operands[0]
    kind = _FOLDS.get(node.name)
    leaves: list[str] = []
    for operand in node.operands:
        while operand.name in ("arith.truncf", "arith.extf"):
            operand = operand.operands[0]
        leaves.append(operand.kind)
    return kind if sorted(leaves) == ["input", "output"] else None
