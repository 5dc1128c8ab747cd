"""Planning: which loops split, which views and overlays the operands become."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from polystage.mlir import ir
from polystage.passes.polyhedral.access_rewriting.accesses import (
    Part,
    read_piece,
    read_reading,
)
from polystage.passes.polyhedral.access_rewriting.errors import CannotRewriteError
from polystage.passes.polyhedral.access_rewriting.generic_emission import (
    NewOperand,
    TensorRewrite,
)
from polystage.passes.polyhedral.access_rewriting.index_forms import ZERO, IndexForm, add, variable
from polystage.passes.polyhedral.access_rewriting.loop_nest_accesses import plan_store
from polystage.passes.polyhedral.access_rewriting.operands import (
    OperandAccess,
    TensorOperation,
    read_operation,
)
from polystage.passes.polyhedral.access_rewriting.overlays import virtual_array
from polystage.passes.polyhedral.access_rewriting.windows import (
    Surroundings,
    Window,
    plain_variable,
    strided_window,
    window,
)
from polystage.polyhedral import Statement
from polystage.polyhedral.model import Array, Kind
from polystage.polyhedral.readings import Piece, Reading

_STORES = frozenset({"affine.store", "memref.store"})
_GATHERED = -1
"""The key for what the body of a copy loads, at indices known at compile time."""


class Rewrite(Protocol):
    """A planned rewrite of one operation."""

    def emit(self, values: Mapping[str, ir.Value]) -> ir.Operation:
        """Replace the statement's operation; `values` are the memrefs of whole arrays."""
        ...


def plan_rewrite(
    statement: Statement,
    reads: Mapping[int, Reading],
    writes: Mapping[int, Piece],
    arrays: Mapping[str, Array],
) -> Rewrite:
    """Return how to give the operands of `statement.op` the accesses `reads` and `writes`.

    Operands are counted as in the operation; those that are not named keep their access. The
    loads of a store in a loop nest are -1, -2, .. in the order of `statement.reads`; what a
    linalg.generic of kind `copy` loads in its body is -1 too.

    Raises: CannotRewriteError with the reason where no linear accesses on views do that.
    """
    if statement.op.name in _STORES:
        return plan_store(statement, reads, writes, arrays)
    return _Plan(statement, reads, writes, arrays).make()


@dataclass(frozen=True)
class _Slot:
    """An operand to be: for which old one, and what it accesses."""

    number: int
    """The old operand whose element it provides."""
    source: list[Part] | OperandAccess
    is_output: bool


class _Plan:
    """One rewrite in the making."""

    def __init__(
        self,
        statement: Statement,
        reads: Mapping[int, Reading],
        writes: Mapping[int, Piece],
        arrays: Mapping[str, Array],
    ) -> None:
        self.statement = statement
        self.reads = reads
        self.writes = writes
        self.arrays = arrays
        self.operation: TensorOperation = read_operation(statement)
        self.loops = self.operation.loops
        self.constants: dict[int, ir.Attribute] = {}

    def make(self) -> TensorRewrite:
        """Plan everything."""
        slots = [self._split_for(slot) for slot in self._slots()]
        ranges = self.loops.ranges
        around = Surroundings(ranges, self.loops.depth, self._to_loop_index)
        planned = [(slot, self._operand(slot, around)) for slot in slots]
        slots = [slot for slot, operand in planned if operand is not None]
        operands = [operand for _, operand in planned if operand is not None]
        missing = self._settle_missing(slots, operands, around)
        return TensorRewrite(
            self.operation, tuple(operands), self.constants, missing, self._copied()
        )

    def _copied(self) -> int | None:
        """Return the operand that is yielded as it is, where the new body is to be that alone."""
        if _GATHERED in self.reads:
            return _GATHERED
        return 0 if self.operation.is_copy else None

    # --- what is asked for --------------------------------------------------------------------

    def _slots(self) -> list[_Slot]:
        operation = self.operation
        slots: list[_Slot] = []
        outputs: list[_Slot] = []
        if _GATHERED in self.reads:
            if self.statement.kind != Kind.COPY or operation.is_copy:
                raise CannotRewriteError("a load in the body of an operation stays as it is")
            self._add_input(slots, _GATHERED, None)
        for number, operand in enumerate(operation.operands):
            if number < operation.inputs and _GATHERED in self.reads:
                continue  # the new body has no use for it
            if number < operation.inputs:
                self._add_input(slots, number, operand)
                continue
            if number in self.writes:
                outputs.append(_Slot(number, [self._written(self.writes[number])], True))
            else:
                outputs.append(_Slot(number, operand, True))
            if self._copied() is None and self._reads_elsewhere(number):
                if operation.has_reduction:
                    raise CannotRewriteError("accumulates into what it copied")
                self._add_input(slots, number, operand)
        return [*slots, *outputs]

    def _add_input(self, slots: list[_Slot], number: int, operand: OperandAccess | None) -> None:
        if number not in self.reads:
            assert operand is not None
            slots.append(_Slot(number, operand, False))
            return
        parts = read_reading(self.reads[number], self.arrays, self.loops.ranges)
        if parts[0].array is None and not parts[0].limits and parts[0].fill is not None:
            self.constants[number] = parts[0].fill
        else:
            slots.append(_Slot(number, parts, False))

    def _written(self, piece: Piece) -> Part:
        part = read_piece(piece, self.arrays, self.loops.ranges)
        if part is None or part.array is None or part.limits:
            raise CannotRewriteError("writes only where a condition holds")
        return part

    def _reads_elsewhere(self, number: int) -> bool:
        """Whether the value that an output replaces is to come from somewhere else."""
        if not self.operation.uses_argument(number):
            return False
        if number not in self.reads:
            return number in self.writes
        read = read_reading(self.reads[number], self.arrays, self.loops.ranges)[0]
        target = self._written(self.writes.get(number) or self._present_write(number))
        return bool(read.limits) or (read.array, read.index) != (target.array, target.index)

    def _present_write(self, number: int) -> Piece:
        for access in self.statement.writes:
            if access.operand == number and access.exprs is not None:
                return Piece(access.array, access.exprs)
        raise CannotRewriteError("writes to a place that is not known")

    # --- loops --------------------------------------------------------------------------------

    def _split_for(self, slot: _Slot) -> _Slot:
        """Split loops for a slot; its forms may have to be resolved again after other splits."""
        if isinstance(slot.source, list):
            return replace(slot, source=[part.over(self.loops) for part in slot.source])
        for form in slot.source.index or ():
            self.loops.split_for(form)
        return slot

    def _to_loop_index(self, form: IndexForm) -> IndexForm:
        """Write an offset over the indices of the loops around instead of their iterations."""
        for level in range(self.loops.depth - 1, -1, -1):
            step, lower = self.operation.to_loop_index.get(level, (1, ZERO))
            factor = dict(form.coefficients).get(level, 0)
            if not factor or (step == 1 and lower == ZERO):
                continue
            if factor % step:
                raise CannotRewriteError(
                    f"an offset counts the iterations of a loop of step {step}"
                )
            form = add(form, variable(level), factor // step - factor)
            form = add(form, lower, -(factor // step))
        return form

    # --- operands -----------------------------------------------------------------------------

    def _operand(self, slot: _Slot, around: Surroundings) -> NewOperand | None:
        """Return the operand for a slot; None where it turns out to be constant."""
        if isinstance(slot.source, OperandAccess):
            return self._kept(slot, slot.source, around)
        parts = [part.resolved(self.loops) for part in slot.source]
        part = parts[0]
        if part.limits or part.array is None:
            virtual = virtual_array(parts, around, self._parallel())
            if not virtual.layers:
                if virtual.fill is None:
                    raise CannotRewriteError("nothing is read")
                self.constants[slot.number] = virtual.fill
                return None
            if not virtual.layers[0].covers_all:
                return NewOperand(
                    slot.number, slot.is_output, virtual.shape, virtual.index, virtual=virtual
                )
            part = virtual.layers[0].part
        return self._placed(slot, part, around)

    def _parallel(self) -> set[int]:
        """Return the variables of parallel loops."""
        loops = enumerate(self.operation.iterators)
        parallel = [loop for loop, iterator in loops if iterator == "parallel"]
        return {digit.variable for loop in parallel for digit in self.loops.digits(loop)}

    def _placed(self, slot: _Slot, part: Part, around: Surroundings) -> NewOperand:
        """Return the operand for one array."""
        found = window(part.shape, part.index, around)
        steps = (*part.steps, *found.steps)
        if slot.is_output and not found.is_plain:
            found = self._strided(part, around)
            steps = found.steps
        return NewOperand(slot.number, slot.is_output, found.shape, found.index, part.array, steps)

    def _strided(self, part: Part, around: Surroundings, also: Sequence[int] = ()) -> Window:
        """Return a window with a dimension for each loop that moves it, and for those of `also`."""
        if not part.is_row_major:
            raise CannotRewriteError("the access is no window of an array with a layout")
        found = strided_window(part.shape, part.index, around)
        order = [number for number in found.plain if number is not None]
        more = [number for number in also if number not in order]
        return strided_window(part.shape, part.index, around, [*order, *more]) if more else found

    def _kept(self, slot: _Slot, operand: OperandAccess, around: Surroundings) -> NewOperand:
        """Return an operand that stays, except that dimensions of split loops are expanded."""
        if operand.index is None:
            return NewOperand(slot.number, slot.is_output, (), (), kept=operand.value)
        index = tuple(map(self.loops.resolve, operand.index))
        shape = tuple(operand.shape)
        if index == operand.index or operand.is_overlay:
            return NewOperand(slot.number, slot.is_output, shape, index, kept=operand.value)
        found = window(shape, index, around)
        return NewOperand(
            slot.number,
            slot.is_output,
            found.shape,
            found.index,
            steps=found.steps,
            kept=operand.value,
        )

    # --- loops that no operand has as a dimension ---------------------------------------------

    def _settle_missing(
        self, slots: Sequence[_Slot], operands: list[NewOperand], around: Surroundings
    ) -> frozenset[int]:
        """Make every loop a dimension of an operand; return those of extent 1 that are dropped."""
        missing = set(self.loops.own) - _plain(operands)
        dropped: set[int] = set()
        for number in sorted(missing, key=lambda n: (self.loops.extent(n) == 1, n)):
            if number in _plain(operands):
                continue
            if self.loops.extent(number) == 1:  # last: a wider operand loses its dims of extent 1
                if not _give_to_unit_dim(operands, number):
                    dropped.add(number)
                continue
            place = self._operand_to_widen(slots, operands, number)
            source = slots[place].source
            assert isinstance(source, list)
            also = [*sorted(_plain([operands[place]])), number]
            found = self._strided(source[0].resolved(self.loops), around, also)
            operands[place] = replace(
                operands[place], shape=found.shape, index=found.index, steps=found.steps
            )
        if dropped:
            operands[:] = [self._without(o, dropped, around) for o in operands]
        return frozenset(dropped)

    def _without(self, operand: NewOperand, dropped: set[int], around: Surroundings) -> NewOperand:
        """Return an operand without loops of extent 1.

        A dimension that is indexed by one loop alone then has to be as long as that.
        """
        left = operand.without(dropped)
        plain = map(plain_variable, left.index)
        sizes = [
            e if v is None else self.loops.extent(v) for e, v in zip(left.shape, plain, strict=True)
        ]
        if sizes == list(left.shape):
            return left
        if left.virtual is not None:
            raise CannotRewriteError("a window on several arrays is longer than the loop over it")
        found = window(left.shape, left.index, around)
        steps = (*left.steps, *found.steps)
        return replace(left, shape=found.shape, index=found.index, steps=steps)

    def _operand_to_widen(
        self, slots: Sequence[_Slot], operands: Sequence[NewOperand], number: int
    ) -> int:
        """Return the input that can have a loop as a dimension of its own, of stride 0 if need be.

        Raises: CannotRewriteError where there is none.
        """
        inputs = [
            place
            for place, (slot, operand) in enumerate(zip(slots, operands, strict=True))
            if isinstance(slot.source, list) and not operand.virtual and not operand.is_output
        ]
        moving = [place for place in inputs if operands[place].moves_with(number)]
        if not inputs:
            name = self.loops.names[number]
            raise CannotRewriteError(f"no operand has loop {name} as a dimension any more")
        return [*moving, *inputs][0]


def _plain(operands: Sequence[NewOperand]) -> set[int]:
    """Return the variables that are a dimension of an operand."""
    plain = (plain_variable(form) for operand in operands for form in operand.index)
    return {number for number in plain if number is not None}


def _give_to_unit_dim(operands: list[NewOperand], number: int) -> bool:
    """Index a dimension of extent 1 with a loop of extent 1 instead of 0."""
    for place in range(len(operands) - 1, -1, -1):
        operand = operands[place]
        for dim, (extent, form) in enumerate(zip(operand.shape, operand.index, strict=True)):
            if extent == 1 and form == ZERO:
                index = (*operand.index[:dim], variable(number), *operand.index[dim + 1 :])
                operands[place] = replace(operand, index=index)
                return True
    return False
