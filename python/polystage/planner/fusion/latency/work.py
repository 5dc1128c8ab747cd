"""What the engines do for a chunk of an operator, and for how long: the instructions that the
lowering writes, without writing them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

from polystage.dialects.npu.views import defining_op
from polystage.dtypes import cost_dtype
from polystage.evaluator.scalar_body import compile_body
from polystage.machine import Target, cost
from polystage.machine.access import innermost_stride, merge_dims
from polystage.mlir import ir
from polystage.planner.fusion.array_products import factors_of, suits_array
from polystage.planner.fusion.latency.pieces import Iterations, Layout, Part, refine, shown
from polystage.planner.fusion.matmul_roles import Dim, merged, roles_of
from polystage.planner.fusion.operators import Operator, OperatorKind
from polystage.planner.fusion.program import Program
from polystage.polyhedral import Statement
from polystage.polyhedral.scalar import strip_casts

Operand = int | str
"""An access of the operator by its number, those of writes behind those of reads, or one of `SUMS`
and the scratch buffers of attention by name."""

SUMS = "sums"
"""What accumulates beside the output."""

Layouts = Mapping[Operand, Layout]

_FREE = ("arith.constant", "linalg.index", "linalg.yield", "memref.load", "affine.load")
_CASTS = ("arith.ext", "arith.trunc", "arith.index_cast")


@dataclass(frozen=True)
class Work:
    """Instructions of one engine in a row: how long they keep it, and what they touch."""

    queue: str
    busy_ns: float
    latency_ns: float
    reads: tuple[Operand, ...]
    writes: tuple[Operand, ...]
    macs: int = 0
    operations: int = 0
    """On single elements, of a lane engine."""
    sbuf_bytes: int = 0


def passes_of(statement: Statement, folds: bool = False) -> tuple[int, ...]:
    """Return the tensor operands of each operation of a statement on the lanes, none where it only
    converts; with `folds`, results stay in the engine."""
    if statement.op.name != "linalg.generic":
        return ()
    block = statement.op.regions[0].blocks[0]
    if all(op.operation.name.startswith((*_FREE, *_CASTS)) for op in block.operations):
        return ()
    if not folds:
        return compile_body(block).passes
    carry = block.arguments[len(block.arguments) - 1]
    counts: list[int] = []
    for op in block.operations:
        if not op.operation.name.startswith((*_FREE, *_CASTS)):
            read = {strip_casts(value) for value in op.operands} - {carry}
            counts.append(sum(not _is_constant(value) for value in read))
    return tuple(counts)


def _is_constant(value: ir.Value) -> bool:
    op = defining_op(value)
    return op is not None and op.name == "arith.constant"


class ChunkWork:
    """What the engines do for one operator, chunk by chunk."""

    def __init__(self, program: Program, operator: Operator, target: Target) -> None:
        self.program = program
        self.operator = operator
        self.target = target
        reads = enumerate(operator.reads)
        self.parts = [Part.of(number, read) for number, read in reads]
        self.writes = [
            Part.of(len(operator.reads) + number, write)
            for number, write in enumerate(operator.writes)
        ]
        self.accesses = (*self.parts, *self.writes)
        """By their numbers as operands."""
        self.output: Operand = len(operator.reads)

    @cached_property
    def operands(self) -> list[tuple[Part, ...]]:
        """What each operand reads: parts, of which the first that applies shows."""
        found: dict[tuple[object, int | None], list[Part]] = {}
        for part, read in zip(self.parts, self.operator.reads, strict=True):
            found.setdefault((read.op, read.operand), []).append(part)
        return [tuple(parts) for parts in found.values()]

    @cached_property
    def early(self) -> list[tuple[Part, ...]]:
        """The operands of the anchor."""
        return [o for o in self.operands if not self._is_late(o)]

    @cached_property
    def late(self) -> list[tuple[Part, ...]]:
        """The operands that only the epilogue reads."""
        return [o for o in self.operands if self._is_late(o)]

    def _is_late(self, operand: tuple[Part, ...]) -> bool:
        return self.operator.is_epilogue(self.operator.reads[operand[0].access])

    @cached_property
    def anchor_passes(self) -> tuple[int, ...]:
        """The operations of the anchor, where the lanes execute it."""
        operator = self.operator
        return passes_of(operator.statements[0], folds=bool(operator.reductions)) or (1,)

    @cached_property
    def epilogue_passes(self) -> tuple[int, ...]:
        """The operations of the epilogue, one body after the other."""
        return tuple(p for s in self.operator.epilogue for p in passes_of(s)) or (1,)

    @cached_property
    def factors(self) -> tuple[tuple[Part, ...], tuple[Part, ...]] | None:
        """The operands of a contraction that the array makes."""
        found = None
        if self.operator.kind is OperatorKind.CONTRACTION:
            found = factors_of(self.operator)
        if found is None:
            return None
        by_place = {self.operator.reads[o[0].access].operand: o for o in self.early}
        a, b = (by_place[i] for i in found)
        depends = [self._dims_of(a), self._dims_of(b)]
        return (a, b) if suits_array(self.operator, depends, self.target) else None

    def _dims_of(self, operand: tuple[Part, ...]) -> set[int]:
        return {
            dim
            for part in operand
            for form in (*part.axes, *(bound[0] for bound in part.bounds))
            for dim, _ in form.terms
        }

    # --- a chunk ----------------------------------------------------------------------------------

    def contribute(self, box: Iterations, layouts: Layouts, is_first: bool) -> Iterator[Work]:
        """Yield what adds a chunk to its sums, or sets them; or makes it, where nothing is summed.

        `is_first` says that nothing of the result has been computed before.
        """
        if self.factors is not None:
            yield from self._multiply(box, layouts, is_first)
            return
        operator = self.operator
        if is_first and operator.initial is not None:
            yield self._memset(box, layouts)
        skips = bool(operator.reductions) and operator.initial is not None
        results = [(SUMS, None)] if SUMS in layouts else [(p.access, p) for p in self.writes]
        yield from self._lanes(box, layouts, self.early, results, self.anchor_passes, skips)

    def finish(self, box: Iterations, layouts: Layouts) -> Iterator[Work]:
        """Yield what makes the output of a chunk from its sums."""
        operator = self.operator
        if SUMS not in layouts and not operator.epilogue:
            return
        flat = self.flat(box)
        results = [(self.writes[0].access, self.writes[0])]
        sums = SUMS if SUMS in layouts else self.output
        yield from self._lanes(
            flat, layouts, self.late, results, self.epilogue_passes, False, also=sums
        )

    def flat(self, box: Iterations) -> Iterations:
        """Return a box with one iteration of every reduction dim."""
        sizes = (1 if d in self.operator.reductions else n for d, n in enumerate(box.sizes))
        return Iterations(box.starts, tuple(sizes))

    def _result(self, layouts: Layouts) -> tuple[Operand, Callable[[Iterations], None]]:
        """Return where an operator accumulates, and a check of its addresses."""
        if SUMS in layouts:
            return SUMS, lambda box: self._check_sums(layouts[SUMS], box)
        write = self.writes[0]
        return self.output, lambda box: layouts[self.output].check(write.axes, box)

    def _check_sums(self, layout: Layout, box: Iterations) -> None:
        for dim, extent in zip(self.operator.parallels, layout.extents, strict=True):
            if extent is not None:
                low, high = box.starts[dim], box.starts[dim] + box.sizes[dim] - 1
                if low // extent != high // extent:
                    raise box.cut(dim, (low // extent + 1) * extent - low)

    def _steps(self, operand: Operand, layouts: Layouts) -> dict[int, int]:
        if operand == SUMS:
            return dict(zip(self.operator.parallels, layouts[SUMS].strides, strict=True))
        return layouts[operand].steps(self.accesses[int(operand)].axes)

    def _bytes(self, operand: Operand) -> int:
        if operand == SUMS:
            return self.operator.accumulator or 4
        accesses = (*self.operator.reads, *self.operator.writes)
        return self.program.arrays[accesses[int(operand)].array].element_bytes

    # --- the lanes --------------------------------------------------------------------------------

    def _memset(self, box: Iterations, layouts: Layouts) -> Work:
        """Set sums to what accumulation starts from."""
        result, check = self._result(layouts)
        pieces = [piece for piece, _ in refine(self.flat(box), check)]
        steps = self._steps(result, layouts)
        return self._lane_work(pieces, [(result, steps)], (0,), (), (result,))

    def _lanes(
        self,
        box: Iterations,
        layouts: Layouts,
        operands: Iterable[tuple[Part, ...]],
        results: Sequence[tuple[Operand, Part | None]],
        passes: tuple[int, ...],
        skips: bool,
        also: Operand | None = None,
    ) -> Iterator[Work]:
        """Yield one function over a box; with `skips`, not where an operand shows its constant."""
        operands = list(operands)

        def read(piece: Iterations) -> tuple[int, ...] | None:
            found: list[int] = []
            for operand in operands:
                part = shown(operand, piece)
                if part is not None:
                    layouts[part.access].check(part.axes, piece)
                    found.append(part.access)
            if also == SUMS:
                self._check_sums(layouts[SUMS], piece)
            for operand, part in results:
                if part is None:
                    self._check_sums(layouts[operand], piece)
                else:
                    layouts[operand].check(part.axes, piece)
            return None if skips and len(found) < len(operands) else tuple(found)

        by_reads: dict[tuple[int, ...], list[Iterations]] = {}
        for piece, reads in refine(box, read):
            if reads is not None:
                by_reads.setdefault(reads, []).append(piece)
        written = [operand for operand, _ in results]
        for reads, pieces in by_reads.items():
            touched: list[Operand] = [*reads, *([also] if also is not None else []), *written]
            steps = [(o, self._steps(o, layouts)) for o in dict.fromkeys(touched)]
            from_chip = (*reads, *((also,) if also is not None else ()))
            yield self._lane_work(pieces, steps, passes, from_chip, tuple(written))

    def _lane_work(
        self,
        pieces: Sequence[Iterations],
        steps: Sequence[tuple[Operand, Mapping[int, int]]],
        passes: tuple[int, ...],
        reads: tuple[Operand, ...],
        writes: tuple[Operand, ...],
    ) -> Work:
        busy, last, operations, moved = 0.0, cost.Cost(0.0, 0.0), 0, 0
        for number, piece in enumerate(pieces):
            if number and self._add_up(pieces[number - 1], piece):
                busy += last.latency_ns - last.busy_ns
            elements = prod(piece.sizes)
            inner = max((d for d, n in enumerate(piece.sizes) if n > 1), default=None)
            stride = 1 if inner is None else 0
            if inner is not None:
                stride = max(abs(s.get(inner, 0)) * self._bytes(o) for o, s in steps)
            last = cost.lanes(self.target, "vector", elements, passes=passes, stride_bytes=stride)
            busy += last.busy_ns
            operations += elements * len(passes)
            for operand, step in steps:
                own = prod(n for d, n in enumerate(piece.sizes) if step.get(d, 0))
                moved += own * self._bytes(operand)
        latency = busy - last.busy_ns + last.latency_ns
        return Work("vector", busy, latency, reads, writes, 0, operations, moved)

    def _add_up(self, first: Iterations, second: Iterations) -> bool:
        """Tell whether pieces of a chunk add to the same results: one waits for the other."""
        return all(
            first.starts[d] < second.starts[d] + second.sizes[d]
            and second.starts[d] < first.starts[d] + first.sizes[d]
            for d in self.operator.parallels
        )

    # --- the array --------------------------------------------------------------------------------

    def _multiply(self, box: Iterations, layouts: Layouts, is_first: bool) -> Iterator[Work]:
        """Yield the matmuls of a chunk, first what sets sums that no pieces overwrite."""
        assert self.factors is not None
        result, check = self._result(layouts)

        def read(piece: Iterations) -> tuple[int, int] | None:
            found: list[int] = []
            for operand in self.factors or ():
                part = shown(operand, piece)
                if part is None:
                    return None
                layouts[part.access].check(part.axes, piece)
                found.append(part.access)
            check(piece)
            return found[0], found[1]

        products = [(p, reads) for p, reads in refine(box, read) if reads is not None]
        if is_first and not self._opens(box, [piece for piece, _ in products]):
            yield self._memset(box, layouts)
        steps = {
            o: self._steps(o, layouts) for o in {*(r for _, rs in products for r in rs), result}
        }
        busy, last, macs, moved = 0.0, cost.Cost(0.0, 0.0), 0, 0
        for piece, reads in products:
            last, count, volume, bytes_ = self._matmuls(piece, reads, result, steps)
            busy += last.busy_ns * count
            macs += volume
            moved += bytes_
        latency = busy - last.busy_ns + last.latency_ns
        read_from = tuple(dict.fromkeys(r for _, reads in products for r in reads))
        if products:
            yield Work("tensor", busy, latency, read_from, (result,), macs, 0, moved)

    def _opens(self, box: Iterations, pieces: Sequence[Iterations]) -> bool:
        """Tell whether some pieces reach every sum of a chunk exactly once together."""
        operator = self.operator
        every = prod(box.sizes[d] for d in operator.parallels)
        reached: dict[tuple[tuple[int, int], ...], int] = {}
        for piece in pieces:
            taps = tuple((piece.starts[d], piece.sizes[d]) for d in operator.reductions)
            sums = prod(piece.sizes[d] for d in operator.parallels)
            reached[taps] = reached.get(taps, 0) + sums
        return every in reached.values()

    def _matmuls(
        self,
        piece: Iterations,
        reads: tuple[int, int],
        result: Operand,
        steps: Mapping[Operand, Mapping[int, int]],
    ) -> tuple[cost.Cost, int, int, int]:
        """Return the time of one matmul of a piece, how many there are, products, and bytes."""
        touched = (*reads, result)
        dims = merged(
            [
                Dim(n, tuple(steps[o].get(d, 0) for o in touched))
                for d, n in enumerate(piece.sizes)
                if n > 1
            ]
        )
        roles = min(roles_of(dims), key=lambda r: r.cost(self.target))
        k, m = roles.contracted.size, roles.column.size
        n = prod(d.size for d in roles.moving)
        moving = 1 - roles.stationary
        stride = innermost_stride(
            [d.size for d in roles.moving], [d.steps[moving] for d in roles.moving]
        )
        size = self._bytes(reads[moving])
        dtype = cost_dtype(self.program.arrays[self.operator.reads[reads[moving]].array].dtype)
        time = cost.matmul(
            self.target, k, m, n, dtype, changed=True, moving_stride_bytes=stride * size
        )
        count = prod(d.size for d in roles.repeated)
        once, along, written = cost.operand_passes(self.target, k, m, n)
        moved = k * m * size * once + k * n * size * along + m * n * 4 * (2 * written)
        return time, count, k * m * n * count, moved * count


def contiguous_bytes(sizes: Sequence[int], strides: Sequence[int], element_bytes: int) -> int:
    """Return the bytes of a box that follow each other in memory."""
    dims = merge_dims(sizes, strides)
    if not dims:
        return element_bytes
    size, stride = dims[-1]
    return (size if stride == 1 else 1) * element_bytes
