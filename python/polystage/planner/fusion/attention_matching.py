"""Finds attention among the statements of a program.

Two contractions, and between them nothing but what one pass over the keys can do: elementwise work
on the scores, and a softmax in any of its forms (with or without a maximum, divided before or after
the second contraction), or none at all. Nothing else may see what is in between.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import TypeVar

from polystage.dialects.npu.views import defining_op
from polystage.mlir import ir
from polystage.planner.fusion.attention import Attention, scratch_of
from polystage.planner.fusion.operators import OperatorKind
from polystage.planner.fusion.score_space import DifferentSpaceError, ScoreSpace, extents_of
from polystage.polyhedral import Access, Kind, Role, Statement, TensorProgram
from polystage.polyhedral.operations import with_nested
from polystage.polyhedral.scalar import multiplied_arguments, strip_casts

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
                except (_NoAttention, DifferentSpaceError):
                    continue
    return tuple(found)


_Condition = Callable[[float], bool]
_EQUAL = 1
"""`oeq` of arith.cmpf."""
T = TypeVar("T")


class _NoAttention(Exception):
    """These statements are something else."""


def _require(condition: object) -> None:
    if not condition:
        raise _NoAttention


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

    Raises: _NoAttention, from every method, where there is none.
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
        _require(self.scores.depth == 0)
        self.space = ScoreSpace.of(self.scores, self._readers(self.scores))

    def attention(self) -> Attention:
        """Return the operator."""
        first, second = self._operands(self.scores)
        self._accumulate(self.scores, lambda value: value == 0)
        weights = self._pointwise(self.scores)
        weights, row_sum = self._softmax(weights)
        mix = _only([s for s in self._readers(weights) if s is not row_sum])
        result = self._mix(weights, mix)
        if not self.has_sum:
            _require(self.pointwise and not self._is_feed_forward((first, second, result)))
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
        if any(_folds(s, "maximumf", "maxnumf") for s in readers):
            weights, flags = self._exponential(scores, readers)
            readers = self._readers(weights)
        _require(len(readers) == 2)
        total = _only([s for s in readers if _folds(s, "addf")])
        other = _only([s for s in readers if s is not total])
        self._fold(total, weights, lambda value: value == 0)
        self.has_sum = True
        if other.kind is Kind.CONTRACTION:
            _require(flags is None)
            return weights, total
        self._divide(other, weights, total, flags)
        return other, None

    def _exponential(
        self, scores: Statement, readers: list[Statement]
    ) -> tuple[Statement, Statement | None]:
        """Take `exp(score - maximum)`, and the flags of rows that are masked as a whole."""
        maximum = _only([s for s in readers if _folds(s, "maximumf", "maxnumf")])
        self._fold(maximum, scores, lambda value: value <= _LOWEST)
        self.has_maximum = True
        shifted = _only(self._readers(maximum))
        _require(shifted in readers)
        flags = None
        if len(readers) == 3:
            (compared,) = (s for s in readers if s not in (maximum, shifted))
            flags = self._flags(compared, scores)
        else:
            _require(len(readers) == 2)
        value = _yielded(shifted)
        exponential = _takes(value, "math.exp")
        score, row = self._pair(shifted, exponential or value, "arith.subf")
        _require((score, row) == (self._read(shifted, scores), self._read(shifted, maximum)))
        _require(len(shifted.reads) == 2)
        self.members.append(shifted)
        self._read_scores(shifted, scores)
        self._read_row(shifted, maximum)
        if exponential is not None:
            return shifted, flags
        weights = _only(self._readers(shifted))
        value = _takes(_yielded(weights), "math.exp")
        _require(value is not None and _number(weights, value) == self._read(weights, shifted))
        _require(len(weights.reads) == 1)
        self.members.append(weights)
        self._read_scores(weights, shifted)
        return weights, flags

    def _flags(self, compared: Statement, scores: Statement) -> Statement:
        """Take `all(score == -inf)` of every row."""
        comparison = defining_op(_yielded(compared))
        _require(comparison is not None and comparison.name == "arith.cmpf")
        assert comparison is not None
        _require(ir.IntegerAttr(comparison.attributes["predicate"]).value == _EQUAL)
        left, right = (strip_casts(value) for value in comparison.operands)
        _require(_constant(right) == float("-inf"))
        _require(_number(compared, left) == self._read(compared, scores))
        _require(len(compared.reads) == 1)
        self._read_scores(compared, scores)
        self.members.append(compared)
        flags = _only(self._readers(compared))
        _require(_folds(flags, "andi"))
        self._fold(flags, compared, lambda value: bool(value))
        return flags

    def _divide(
        self, statement: Statement, weights: Statement, total: Statement, flags: Statement | None
    ) -> None:
        """Take `weight / sum`, and zero where the row is masked as a whole."""
        value = _yielded(statement)
        rows = [total]
        if flags is not None:
            select = defining_op(value)
            _require(select is not None and select.name == "arith.select")
            assert select is not None
            condition, zero, value = select.operands
            _require(_number(statement, condition) == self._read(statement, flags))
            _require(_constant(strip_casts(zero)) == 0)
            rows.append(flags)
            self.masked_rows_are_zero = True
        weight, row = self._pair(statement, value, "arith.divf")
        _require((weight, row) == (self._read(statement, weights), self._read(statement, total)))
        _require(len(statement.reads) == 1 + len(rows))
        self._read_scores(statement, weights)
        for producer in rows:
            self._read_row(statement, producer)
        self.members.append(statement)

    def _mix(self, weights: Statement, mix: Statement) -> Access:
        """Take the second contraction; return its read of V."""
        _require(mix.kind is Kind.CONTRACTION)
        operands = self._operands(mix)
        own = _only([a for a in operands if a.array == _written(weights)])
        other = _only([a for a in operands if a is not own])
        self.space.enter_mix(mix, own)
        self._accumulate(mix, lambda value: value == 0)
        return other

    def _divide_result(self, mix: Statement, total: Statement) -> Statement:
        """Take the division by the row sums after the second contraction."""
        last = _only(self._readers(mix))
        _require(last.kind is Kind.ELEMENTWISE and len(last.reads) == 2)
        result, row = self._pair(last, _yielded(last), "arith.divf")
        _require((result, row) == (self._read(last, mix), self._read(last, total)))
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
        array = _written(statement)
        writers = self.index.writers(array)
        _require(len(writers) == 2 and writers[1] is statement)
        fill = writers[0]
        _require(fill.kind is Kind.FILL)
        value = _constant(_yielded(fill))
        _require(value is not None and starts(value))
        _require(prod(extents_of(fill)) == self.index.arrays[array].elements)
        self.members += [fill, statement]

    def _fold(self, statement: Statement, of: Statement, starts: _Condition) -> None:
        """Take a reduction of every row of what `of` makes."""
        own = [a for a in statement.reads if a.array == _written(of)]
        _require(len(own) == 1 and len(statement.reads) == 2 and _is_plain(own[0]))
        self.space.enter_row(statement, own[0])
        self._accumulate(statement, starts)

    def _read_scores(self, statement: Statement, producer: Statement) -> None:
        """Take a statement that computes, score by score, from what `producer` makes."""
        self._take_each(statement, producer, self.space.enter_pointwise)

    def _take_each(
        self, statement: Statement, producer: Statement, enter: Callable[[Statement, Access], None]
    ) -> None:
        """Take a statement that computes, element by element, from what `producer` makes."""
        own = [a for a in statement.reads if a.array == _written(producer)]
        _require(len(own) == 1 and len(statement.writes) == 1 and _is_plain(own[0]))
        _require(statement.kind in (Kind.ELEMENTWISE, Kind.COPY) and statement.depth == 0)
        _require(self.index.writers(_written(statement)) == [statement])
        _require(statement.op.name == "linalg.generic")
        enter(statement, own[0])

    def _read_row(self, statement: Statement, producer: Statement) -> None:
        """Check that every score meets the value of its own row."""
        own = [a for a in statement.reads if a.array == _written(producer)]
        _require(len(own) == 1 and _is_plain(own[0]))
        self.space.check_same_element(statement, own[0])

    def _check_nobody_looks_in(self, last: Statement) -> None:
        """Check that nothing else touches what is in between, nor changes in time what is read."""
        members = {id(s) for s in self.members}
        output = _written(last)
        for array in {_written(s) for s in self.members} - {output}:
            _require(self.index.arrays[array].role is Role.INTERMEDIATE)
            _require(all(id(s) in members for s in self.index.touching(array)))
        place = self.index.place
        start, stop = place[id(self.scores)], place[id(last)]
        inputs = {a.array for s in self.members for a in s.reads}
        for statement in self.index.statements[start:stop]:
            if id(statement) not in members:
                _require(inputs.isdisjoint(a.array for a in statement.writes))
        for statement in self.index.touching(output):
            _require(id(statement) in members or place[id(statement)] > stop)

    # --- reading statements -----------------------------------------------------------------------

    def _readers(self, statement: Statement) -> list[Statement]:
        return self.index.readers(_written(statement))

    def _operands(self, statement: Statement) -> list[Access]:
        """Return the two reads that a contraction multiplies."""
        _require(statement.op.name == "linalg.generic" and statement.depth == 0)
        carry = statement.writes[0].operand
        body = statement.op.regions[0].blocks[0]
        factors = multiplied_arguments(body, carry) if carry is not None else None
        _require(factors is not None and len(statement.reads) == 3)
        found = [a for a in statement.reads if a.operand != carry]
        _require(len(found) == 2 and {a.operand for a in found} == set(factors or ()))
        _require(all(_is_plain(a) for a in found))
        return found

    @staticmethod
    def _other_reads(statement: Statement, producer: Statement) -> list[Access]:
        """Return the reads of arrays that `producer` does not make: masks."""
        others = [a for a in statement.reads if a.array != _written(producer)]
        _require(all(_is_plain(a) and a.operand is not None for a in others))
        _require(all(op.name != "linalg.index" for op in with_nested(statement.op)))
        return others

    def _read(self, statement: Statement, producer: Statement) -> int:
        """Return the number of the body argument that holds what `producer` makes."""
        return _argument(_only([a for a in statement.reads if a.array == _written(producer)]))

    @staticmethod
    def _pair(statement: Statement, value: ir.Value, name: str) -> tuple[int, int]:
        """Return the body arguments that an operation combines."""
        op = defining_op(strip_casts(value))
        _require(op is not None and op.name == name)
        assert op is not None
        left, right = (_number(statement, strip_casts(v)) for v in op.operands)
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
        operations = sum(_operations(s) for s in self.pointwise) + 4 * self.has_sum
        return Attention(
            name=name,
            kind=OperatorKind.ATTENTION,
            statements=(self.scores, *(s for s in rest if s is not self.scores)),
            extents=extents,
            iterators=(*["parallel"] * (heads + 1), "reduction", "reduction", "parallel"),
            reads=reads,
            writes=(space.reordered(write, order, name),),
            initial=_fill_attribute(self.index.writers(_written(mix))[0]),
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


# --- details of statements ------------------------------------------------------------------------


def _only(found: list[T]) -> T:
    _require(len(found) == 1)
    return found[0]


def _written(statement: Statement) -> str:
    _require(len(statement.writes) == 1)
    return statement.writes[0].array


def _is_plain(access: Access) -> bool:
    """Tell whether all instances make the access, and where."""
    return access.exprs is not None and not access.where


def _argument(access: Access) -> int:
    """Return the number of the body argument that an access feeds."""
    _require(access.operand is not None)
    assert access.operand is not None
    return access.operand


def _yielded(statement: Statement) -> ir.Value:
    """Return the value that a body gives, before any cast."""
    _require(statement.op.name == "linalg.generic")
    return strip_casts(list(statement.op.regions[0].blocks[0].operations)[-1].operands[0])


def _number(statement: Statement, value: ir.Value) -> int | None:
    """Return which body argument a value is, up to casts."""
    arguments = statement.op.regions[0].blocks[0].arguments
    stripped = strip_casts(value)
    return next((number for number, argument in enumerate(arguments) if argument == stripped), None)


def _takes(value: ir.Value, name: str) -> ir.Value | None:
    """Return the operand of an operation called `name` that makes `value`."""
    op = defining_op(value)
    return strip_casts(op.operands[0]) if op is not None and op.name == name else None


def _folds(statement: Statement, *names: str) -> bool:
    """Tell whether a reduction folds its operand as it is with one of the arith operations."""
    if statement.kind is not Kind.REDUCTION or statement.op.name != "linalg.generic":
        return False
    op = defining_op(_yielded(statement))
    if op is None or op.name.removeprefix("arith.") not in names:
        return False
    numbers = {_number(statement, value) for value in op.operands}
    return None not in numbers and numbers == {a.operand for a in statement.accesses}


def _constant(value: ir.Value) -> float | None:
    op = defining_op(value)
    if op is None or op.name != "arith.constant":
        return None
    attribute = op.attributes["value"]
    if isinstance(attribute, ir.BoolAttr | ir.FloatAttr | ir.IntegerAttr):
        return attribute.value
    return None


def _fill_attribute(fill: Statement) -> ir.Attribute:
    """Return the value that a fill writes."""
    op = defining_op(_yielded(fill))
    _require(op is not None and op.name == "arith.constant")
    assert op is not None
    return op.attributes["value"]


def _operations(statement: Statement) -> int:
    """Return how many scalar operations a body has, those that only convert left out."""
    body = list(statement.op.regions[0].blocks[0].operations)[:-1]
    return sum(strip_casts(op.results[0]) == op.results[0] for op in body)
