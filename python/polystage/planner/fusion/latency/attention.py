"""What the engines do for a tile of attention: matmul, softmax so far, matmul."""

from collections.abc import Iterator, Sequence
from math import prod

from polystage.dtypes import cost_dtype
from polystage.machine import cost
from polystage.planner.fusion.attention.operator import Attention
from polystage.planner.fusion.latency.pieces import Iterations
from polystage.planner.fusion.latency.work import SUMS, ChunkWork, Layouts, Operand, Work, passes_of

FOLD, WEIGHT, SHRINK, DIVIDE = (1,), (2, 1), (2,), (2,)
"""Tensor operands of the operations of each scalar function (`passes/lower/flat`)."""
DIVIDE_OR_ZERO = (1, 2, 2)


class AttentionWork(ChunkWork):
    """What the engines do for attention: every chunk is a tile of queries and keys."""

    operator: Attention

    def contribute(self, box: Iterations, layouts: Layouts, is_first: bool) -> Iterator[Work]:
        """Yield the scores of a tile, what becomes of them, and what they add to the result."""
        operator, result = self.operator, SUMS if SUMS in layouts else self.output
        q, k = operator.queries, operator.keys
        weights: Operand = "weights" if "weights" in layouts else "scores"
        yield self._product(box, layouts, operator.depth, (0, q), (1, k), "scores")
        masks = tuple(range(3, len(operator.reads)))
        passes: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
        if operator.pointwise:
            own = tuple(p for s in operator.pointwise for p in passes_of(s)) or (1,)
            passes.append((own, (q, k)))
        if operator.has_maximum:
            passes.append((FOLD, (q, k)))
            if is_first:
                passes.append(((0,), (q,)))
            else:
                passes.append((WEIGHT + SHRINK * operator.has_sum, (q,)))
                passes.append((SHRINK, (q, operator.values)))
            passes.append((WEIGHT, (q, k)))
        if operator.has_sum:
            passes.append((FOLD, (q, k)))
            if is_first:
                passes.append(((0,), (q,)))
        if passes:
            yield self._rows(box, passes, ("scores", *masks), ("scores", weights, result))
        second = (2, operator.values)
        yield self._product(box, layouts, k, (weights, q), second, result)

    def finish(self, box: Iterations, layouts: Layouts) -> Iterator[Work]:
        """Yield the division by the sums of the weights."""
        operator = self.operator
        result = SUMS if SUMS in layouts else self.output
        if result == self.output and not operator.has_sum:
            return
        divide = DIVIDE_OR_ZERO if operator.masked_rows_are_zero else DIVIDE
        passes = divide if operator.has_sum else (1,)
        dims = (operator.queries, operator.values)
        yield self._rows(box, [(passes, dims)], (result,), (self.output,))

    def _rows(
        self,
        box: Iterations,
        functions: Sequence[tuple[tuple[int, ...], tuple[int, ...]]],
        reads: tuple[Operand, ...],
        writes: tuple[Operand, ...],
    ) -> Work:
        """Return functions on the lanes, each with the dims that it runs over."""
        busy, last, operations, moved = 0.0, cost.Cost(0.0, 0.0), 0, 0
        for passes, dims in functions:
            elements = prod(box.sizes[d] for d in dims)
            last = cost.lanes(self.target, "vector", elements, passes=passes, stride_bytes=4)
            busy += last.busy_ns
            operations += elements * len(passes)
            moved += 2 * 4 * elements
        latency = busy - last.busy_ns + last.latency_ns
        return Work("vector", busy, latency, reads, writes, 0, operations, moved)

    def _product(
        self,
        box: Iterations,
        layouts: Layouts,
        summed: int,
        first: tuple[Operand, int],
        second: tuple[Operand, int],
        sums: Operand,
    ) -> Work:
        """Return the matmul that is over sooner, with either operand in the array."""
        operator = self.operator
        dtype = cost_dtype(self.program.arrays[operator.reads[0].array].dtype)
        k = box.sizes[summed]
        times: list[tuple[cost.Cost, int]] = []
        for (_, column), (streamed, row) in ((first, second), (second, first)):
            m, n = box.sizes[column], box.sizes[row]
            stride = abs(self._step(streamed, row, layouts)) if n > 1 else 1
            stride *= self.program.arrays[operator.reads[0].array].element_bytes
            time = cost.matmul(self.target, k, m, n, dtype, moving_stride_bytes=stride)
            once, along, written = cost.operand_passes(self.target, k, m, n)
            moved = 2 * k * (m * once + n * along) + m * n * 8 * written
            times.append((time, moved))
        time, moved = min(times, key=lambda found: found[0].busy_ns)
        macs = k * box.sizes[first[1]] * box.sizes[second[1]]
        reads = (first[0], second[0])
        return Work("tensor", time.busy_ns, time.latency_ns, reads, (sums,), macs, 0, moved)

    def _step(self, operand: Operand, dim: int, layouts: Layouts) -> int:
        """Return how far apart neighbours along a dim are, in elements."""
        if isinstance(operand, int):
            return self._steps(operand, layouts).get(dim, 0)
        return layouts[operand].strides[0]
