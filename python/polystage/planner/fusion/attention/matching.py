"""Finds attention among the statements of a program.

Two contractions, and between them nothing but what one pass over the keys can do: elementwise work
on the scores, and a softmax in any of its forms (with or without a maximum, divided before or after
the second contraction), or none at all. Nothing else may see what is in between.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod

from polystage.mlir import ir
from polystage.planner.fusion.attention.operator import Attention, scratch_of
from polystage.planner.fusion.attention.score_space import ScoreSpace
from polystage.planner.fusion.operators import OperatorKind
from polystage.planner.fusion.patterns import (
    NoMatchError,
    argument_number,
    argument_of,
    constant_of,
    extents_of,
    fill_value,
    folds,
    is_plain,
    made_by,
    only,
    operand_of,
    operation_count,
    require,
    written,
    yielded,
)
from polystage.polyhedral import Access, Kind, Role, Statement, TensorProgram
from polystage.polyhedral.operations import with_nested
from polystage.polyhedral.scalar import CASTS, multiplied_arguments, strip_casts

_LOWEST = -3.0e38
"""A maximum that starts at or below this starts at the lowest number of its type, or at -inf."""


def find_attention(program: TensorProgram) -> tuple[Attention, ...]:
    """Return what of `program` is attention, in program order; no statement is in two of them."""
    index = _Index(program)
    found: list[Attention] = []
    with program.module.context:
        for statement in program.statements:
            if statement.kind is Kind.CONTRACTION:
                try:
                    found.append(_Match(index, statement).attention())
                except NoMatchError:
                    continue
    return tuple(found)


_Condition = Callable[[float], bool]
_EQUAL = 1
"""`oeq` of arith.cmpf."""


class _Index:
    """Who reads and writes what."""

    def __init__(self, program: TensorProgram) -> None:
        self.arrays = program.arrays
        self.statements = program.statements
        self.place = {id(s): number for number, s in enumerate(program.statements)}
        self._readers: dict[str, list[Statement]] = {}
        self._writers: dict[str, list[Statement]] = {}
        for statement in program.statements:
            for array in dict.fromkeys(a.array for a in statement.reads):
                self._readers.setdefault(array, []).append(statement)
            for array in dict.fromkeys(a.array for a in statement.writes):
                self._writers.setdefault(array, []).append(statement)

    def writers(self, array: str) -> list[Statement]:
        """Return the statements that write an array, in program order."""
        return self._writers.get(array, [])

    def readers(self, array: str) -> list[Statement]:
        """Return the statements that read an array and do not write it, too."""
        writers = [id(s) for s in self.writers(array)]
        return [s for s in self._readers.get(array, []) if id(s) not in writers]

    def touching(self, array: str) -> list[Statement]:
        """Return the statements that read or write an array."""
        return [*self._writers.get(array, []), *self._readers.get(array, [])]


@dataclass
class _Match:
    """The attention whose scores one contraction makes, part by part.

    Raises: NoMatchError, from every method, where there is none.
    """

    index: _Index
    scores: Statement
    members: list[Statement] = field(default_factory=list[Statement])
    pointwise: list[Statement] = field(default_factory=list[Statement])
    reads: list[Access] = field(default_factory=list[Access])
    has_maximum: bool = False
    has_sum: bool = False
    masked_rows_are_zero: bool = False

    def __post_init__(self) -> None:
        require(self.scores.depth == 0)
        self.space = ScoreSpace.of(self.scores, self._readers(self.scores))

    def attention(self) -> Attention:
        """Return the operator."""
        first, second = self._operands(self.scores)
        self._accumulate(self.scores, lambda value: value == 0)
        weights = self._pointwise(self.scores)
        weights, row_sum = self._softmax(weights)
        mix = only([s for s in self._readers(weights) if s is not row_sum])
        result = self._mix(weights, mix)
        if not self.has_sum:
            require(self.pointwise and not self._is_feed_forward((first, second, result)))
        last = mix if row_sum is None else self._divide_result(mix, row_sum)
        self._check_nobody_looks_in(last)
        return self._operator(first, second, result, mix, last)

    # --- parts ------------------------------------------------------------------------------------

    def _pointwise(self, statement: Statement) -> Statement:
        """Follow elementwise statements from `statement` on; return the last one."""
        while True:
            readers = self._readers(statement)
            if len(readers) != 1 or readers[0].kind not in (Kind.ELEMENTWISE, Kind.COPY):
                return statement
            require(_computes_in_f32(readers[0]))  # as the scores are kept
            self._read_scores(readers[0], statement)
            others = self._other_reads(readers[0], statement)
            self.reads += [self.space.translated(readers[0], a) for a in others]
            self.pointwise.append(readers[0])
            statement = readers[0]
            self.members.append(statement)

    def _softmax(self, scores: Statement) -> tuple[Statement, Statement | None]:
        """Return what is multiplied by V, and the row sums if the result is yet to be divided."""
        readers = self._readers(scores)
        if [s.kind for s in readers] == [Kind.CONTRACTION]:
            return scores, None
        weights, flags = scores, None
        if any(folds(s, "maximumf", "maxnumf") for s in readers):
            weights, flags = self._exponential(scores, readers)
            readers = self._readers(weights)
        require(len(readers) == 2)
        total = only([s for s in readers if folds(s, "addf")])
        other = only([s for s in readers if s is not total])
        self._fold(total, weights, lambda value: value == 0)
        self.has_sum = True
        if other.kind is Kind.CONTRACTION:
            require(flags is None)
            return weights, total
        self._divide(other, weights, total, flags)
        return other, None

    def _exponential(
        self, scores: Statement, readers: list[Statement]
    ) -> tuple[Statement, Statement | None]:
        """Take `exp(score - maximum)`, and the flags of rows that are masked as a whole."""
        maximum = only([s for s in readers if folds(s, "maximumf", "maxnumf")])
        self._fold(maximum, scores, lambda value: value <= _LOWEST)
        self.has_maximum = True
        shifted = only(self._readers(maximum))
        require(shifted in readers)
        flags = None
        if len(readers) == 3:
            (compared,) = (s for s in readers if s not in (maximum, shifted))
            flags = self._flags(compared, scores)
        else:
            require(len(readers) == 2)
        value = yielded(shifted)
        exponential = operand_of(value, "math.exp")
        score, row = self._pair(shifted, exponential or value, "arith.subf")
        require((score, row) == (self._read(shifted, scores), self._read(shifted, maximum)))
        require(len(shifted.reads) == 2)
        self.members.append(shifted)
        self._read_scores(shifted, scores)
        self._read_row(shifted, maximum)
        if exponential is not None:
            return shifted, flags
        weights = only(self._readers(shifted))
        value = operand_of(yielded(weights), "math.exp")
        require(
            value is not None and argument_number(weights, value) == self._read(weights, shifted)
        )
        require(len(weights.reads) == 1)
        self.members.append(weights)
        self._read_scores(weights, shifted)
        return weights, flags

    def _flags(self, compared: Statement, scores: Statement) -> Statement:
        """Take `all(score == -inf)` of every row."""
        comparison = made_by(yielded(compared), "arith.cmpf")
        require(ir.IntegerAttr(comparison.attributes["predicate"]).value == _EQUAL)
        left, right = (strip_casts(value) for value in comparison.operands)
        require(constant_of(right) == float("-inf"))
        require(argument_number(compared, left) == self._read(compared, scores))
        require(len(compared.reads) == 1)
        self._read_scores(compared, scores)
        self.members.append(compared)
        flags = only(self._readers(compared))
        require(folds(flags, "andi"))
        self._fold(flags, compared, lambda value: bool(value))
        return flags

    def _divide(
        self, statement: Statement, weights: Statement, total: Statement, flags: Statement | None
    ) -> None:
        """Take `weight / sum`, and zero where the row is masked as a whole."""
        value = yielded(statement)
        rows = [total]
        if flags is not None:
            condition, zero, value = made_by(value, "arith.select").operands
            require(argument_number(statement, condition) == self._read(statement, flags))
            require(constant_of(strip_casts(zero)) == 0)
            rows.append(flags)
            self.masked_rows_are_zero = True
        weight, row = self._pair(statement, value, "arith.divf")
        require((weight, row) == (self._read(statement, weights), self._read(statement, total)))
        require(len(statement.reads) == 1 + len(rows))
        self._read_scores(statement, weights)
        for producer in rows:
            self._read_row(statement, producer)
        self.members.append(statement)

    def _mix(self, weights: Statement, mix: Statement) -> Access:
        """Take the second contraction; return its read of V."""
        require(mix.kind is Kind.CONTRACTION)
        operands = self._operands(mix)
        own = only([a for a in operands if a.array == written(weights)])
        other = only([a for a in operands if a is not own])
        self.space.enter_mix(mix, own)
        self._accumulate(mix, lambda value: value == 0)
        return other

    def _divide_result(self, mix: Statement, total: Statement) -> Statement:
        """Take the division by the row sums after the second contraction."""
        last = only(self._readers(mix))
        require(last.kind is Kind.ELEMENTWISE and len(last.reads) == 2)
        result, row = self._pair(last, yielded(last), "arith.divf")
        require((result, row) == (self._read(last, mix), self._read(last, total)))
        self._take_each(last, mix, self.space.enter_result)
        self._read_row(last, total)
        self.members.append(last)
        return last

    def _is_feed_forward(self, operands: tuple[Access, ...]) -> bool:
        """Tell whether weights of the model are multiplied: two layers, whose tiles are better
        chosen one by one than those of attention."""
        return any(self.index.arrays[a.array].role is Role.WEIGHT for a in operands)

    # --- legality ---------------------------------------------------------------------------------

    def _accumulate(self, statement: Statement, starts: _Condition) -> None:
        """Take a statement that accumulates, and the fill that its result starts from."""
        array = written(statement)
        writers = self.index.writers(array)
        require(len(writers) == 2 and writers[1] is statement)
        fill = writers[0]
        require(fill.kind is Kind.FILL)
        value = constant_of(yielded(fill))
        require(value is not None and starts(value))
        require(prod(extents_of(fill)) == self.index.arrays[array].elements)
        self.members += [fill, statement]

    def _fold(self, statement: Statement, of: Statement, starts: _Condition) -> None:
        """Take a reduction of every row of what `of` makes."""
        own = [a for a in statement.reads if a.array == written(of)]
        require(len(own) == 1 and len(statement.reads) == 2 and is_plain(own[0]))
        self.space.enter_row(statement, own[0])
        self._accumulate(statement, starts)

    def _read_scores(self, statement: Statement, producer: Statement) -> None:
        """Take a statement that computes, score by score, from what `producer` makes."""
        self._take_each(statement, producer, self.space.enter_pointwise)

    def _take_each(
        self, statement: Statement, producer: Statement, enter: Callable[[Statement, Access], None]
    ) -> None:
        """Take a statement that computes, element by element, from what `producer` makes."""
        own = [a for a in statement.reads if a.array == written(producer)]
        require(len(own) == 1 and len(statement.writes) == 1 and is_plain(own[0]))
        require(statement.kind in (Kind.ELEMENTWISE, Kind.COPY) and statement.depth == 0)
        require(self.index.writers(written(statement)) == [statement])
        require(statement.op.name == "linalg.generic")
        enter(statement, own[0])

    def _read_row(self, statement: Statement, producer: Statement) -> None:
        """Check that every score meets the value of its own row."""
        own = [a for a in statement.reads if a.array == written(producer)]
        require(len(own) == 1 and is_plain(own[0]))
        self.space.check_same_element(statement, own[0])

    def _check_nobody_looks_in(self, last: Statement) -> None:
        """Check that nothing else touches what is in between, nor changes in time what is read."""
        members = {id(s) for s in self.members}
        output = written(last)
        for array in {written(s) for s in self.members} - {output}:
            require(self.index.arrays[array].role is Role.INTERMEDIATE)
            require(all(id(s) in members for s in self.index.touching(array)))
        place = self.index.place
        start, stop = place[id(self.scores)], place[id(last)]
        inputs = {a.array for s in self.members for a in s.reads}
        for statement in self.index.statements[start:stop]:
            if id(statement) not in members:
                require(inputs.isdisjoint(a.array for a in statement.writes))
        for statement in self.index.touching(output):
            require(id(statement) in members or place[id(statement)] > stop)

    # --- reading statements -----------------------------------------------------------------------

    def _readers(self, statement: Statement) -> list[Statement]:
        return self.index.readers(written(statement))

    def _operands(self, statement: Statement) -> list[Access]:
        """Return the two reads that a contraction multiplies."""
        require(statement.op.name == "linalg.generic" and statement.depth == 0)
        carry = statement.writes[0].operand
        body = statement.op.regions[0].blocks[0]
        factors = multiplied_arguments(body, carry) if carry is not None else None
        require(factors is not None and len(statement.reads) == 3)
        found = [a for a in statement.reads if a.operand != carry]
        require(len(found) == 2 and {a.operand for a in found} == set(factors or ()))
        require(all(is_plain(a) for a in found))
        return found

    @staticmethod
    def _other_reads(statement: Statement, producer: Statement) -> list[Access]:
        """Return the reads of arrays that `producer` does not make: masks."""
        others = [a for a in statement.reads if a.array != written(producer)]
        require(all(is_plain(a) and a.operand is not None for a in others))
        require(all(op.name != "linalg.index" for op in with_nested(statement.op)))
        return others

    def _read(self, statement: Statement, producer: Statement) -> int:
        """Return the number of the body argument that holds what `producer` makes."""
        return argument_of(only([a for a in statement.reads if a.array == written(producer)]))

    @staticmethod
    def _pair(statement: Statement, value: ir.Value, name: str) -> tuple[int, int]:
        """Return the body arguments that an operation combines."""
        left, right = (argument_number(statement, v) for v in made_by(value, name).operands)
        return left, right

    # --- result -----------------------------------------------------------------------------------

    def _operator(
        self, first: Access, second: Access, result: Access, mix: Statement, last: Statement
    ) -> Attention:
        space = self.space
        query, key = first, second
        if space.keys in space.dims_of(self.scores, first):
            query, key = second, first
        order = space.order(
            space.dims_of(self.scores, query),
            space.dims_of(self.scores, key),
            space.dims_of(mix, result),
        )
        accesses = [
            space.translated(self.scores, query),
            space.translated(self.scores, key),
            space.translated(mix, result),
            *self.reads,
        ]
        write = space.translated(last, last.writes[0])
        name = f"{self.scores.name}_attention"
        reads = tuple(space.reordered(access, order, name) for access in accesses)
        extents = tuple(space.extents[dim] for dim in order)
        heads = len(order) - 4
        rest = sorted(self.members, key=lambda s: self.index.place[id(s)])
        array = self.index.arrays[write.array]
        weight_bytes = self.index.arrays[result.array].element_bytes
        scores = prod(extents[: heads + 2])
        operations = sum(operation_count(s) for s in self.pointwise) + 4 * self.has_sum
        return Attention(
            name=name,
            kind=OperatorKind.ATTENTION,
            statements=(self.scores, *(s for s in rest if s is not self.scores)),
            extents=extents,
            iterators=(*["parallel"] * (heads + 1), "reduction", "reduction", "parallel"),
            reads=reads,
            writes=(space.reordered(write, order, name),),
            initial=fill_value(self.index.writers(written(mix))[0]),
            macs=scores * (extents[-2] + extents[-1]),
            lane_operations=scores * operations,
            accumulator=None if array.element_bytes == 4 else 4,
            scratch=scratch_of(heads, weight_bytes, self.has_maximum, self.has_sum),
            dims=(*(f"h{n}" for n in range(heads)), "q", "k", "d", "v"),
            pointwise=tuple(self.pointwise),
            has_maximum=self.has_maximum,
            has_sum=self.has_sum,
            masked_rows_are_zero=self.masked_rows_are_zero,
        )


def _computes_in_f32(statement: Statement) -> bool:
    """Whether no arithmetic of a body is in a narrower float; operands and result may be."""
    body = statement.op.regions[0].blocks[0].operations
    values = [v for op in body for v in op.results if op.operation.name not in CASTS]
    return all(v.type.width >= 32 for v in values if isinstance(v.type, ir.FloatType))
