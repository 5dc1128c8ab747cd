"""Random programs of copies and computations, for what may and may not be copied away.

A program grows step by step; a step without a meaning (see `copy_programs`) is taken back. Most
steps read what was written last, so that copies come in chains, and most kinds of step may write
into part of an array that others read as well.
"""

from collections.abc import Sequence
from math import prod
from random import Random

import numpy as np
from copy_bodies import Operand, affine_nest, generic
from copy_program_builder import Builder
from copy_programs import (
    Loop,
    Memref,
    NoMeaning,
    Op,
    Program,
    array,
    copy,
    flattened,
    subview,
)

LARGEST = 240
"""Elements of an array."""


class RandomProgram(Builder):
    """The steps, and how many of them there are."""

    # -- copies ----------------------------------------------------------------------------

    def plain_copy(self) -> None:
        source = self.some_view()
        self.emit(copy(source, self.target(source.shape)))

    def permuting_copy(self) -> None:
        source = self.some_view()
        order = self.random.sample(range(len(source.shape)), len(source.shape))
        target = self.target([source.shape[d] for d in order])
        index = [f"d{order.index(d)}" for d in range(len(order))]
        self.copy_by_map(source, index, target)

    def repeating_copy(self) -> None:
        """Broadcast along a new dimension, or repeat or tile a dimension, or step through it."""
        source = self.some_view()
        dim, times = self.some_dim(source), self.random.choice([2, 3])
        extent = source.shape[dim]
        index = [f"d{d}" for d in range(len(source.shape))]
        shape = list(source.shape)
        choice = self.random.randrange(4)
        if choice == 0:
            shape.insert(dim, times)
            index = [f"d{d + (d >= dim)}" for d in range(len(source.shape))]
        elif choice == 3:
            start = self.random.randrange(extent)
            shape[dim] = self.random.randint(1, max(1, (extent - start) // 2))
            index[dim] = f"d{dim} * {2 if start + 2 * shape[dim] - 2 < extent else 1} + {start}"
        else:
            shape[dim] *= times
            index[dim] = f"d{dim} floordiv {times}" if choice == 1 else f"d{dim} mod {extent}"
        self.copy_by_map(source, index, self.target(shape))

    def copy_by_map(self, source: Memref, index: Sequence[str], target: Memref) -> None:
        source_operand = self.operand(source, *index)
        self.emit(generic(target.shape, [source_operand], [self.operand(target)], [0]))

    def split(self) -> None:
        """Copy a dimension's parts to arrays of their own."""
        source = self.some_view()
        dim = self.some_dim(source)
        sizes = self.parts(source.shape[dim])
        start = 0
        for size in sizes:
            offsets = [start if d == dim else 0 for d in range(len(source.shape))]
            shape = [size if d == dim else n for d, n in enumerate(source.shape)]
            every = range(len(shape))
            part = self.view(subview(self.name(), source, offsets, shape, [1] * len(shape), every))
            self.emit(copy(part, self.new_array(shape)))
            start += size

    def parts(self, extent: int) -> list[int]:
        first = self.random.randint(1, extent)
        return [first, extent - first] if first < extent else [extent]

    def concat(self) -> None:
        """Copy two or three arrays, some of them just computed, into windows of a new one."""
        first = self.some_view()
        dim = self.some_dim(first)
        sources = [first]
        for _ in range(self.random.choice([1, 1, 2])):
            shape = [
                self.random.choice([n, 2]) if d == dim else n for d, n in enumerate(first.shape)
            ]
            same = [a for a in self.arrays if a.shape == tuple(shape)]
            sources.append(self.random.choice([*same, self.computed(shape)]))
        if self.happens(0.5):
            fresh = self.new_array(first.shape)
            self.emit(self.unary_op(first, fresh))
            sources[0] = fresh
        total = [
            sum(s.shape[dim] for s in sources) if d == dim else n for d, n in enumerate(first.shape)
        ]
        result, start = self.new_array(total), 0
        for source in sources:
            offsets = [start if d == dim else 0 for d in range(len(total))]
            every = range(len(total))
            ones = [1] * len(total)
            part = self.view(subview(self.name(), result, offsets, source.shape, ones, every))
            self.emit(copy(source, part))
            start += source.shape[dim]

    def pad(self) -> None:
        """Fill a larger array and copy into its interior."""
        source = self.some_view()
        borders = [self.random.choice([0, 0, 1, 2]) for _ in source.shape]
        shape = [
            n + b + self.random.choice([0, b]) for n, b in zip(source.shape, borders, strict=True)
        ]
        result = self.new_array(shape)
        self.emit(self.fill_op(result))
        ones, every = [1] * len(shape), range(len(shape))
        part = self.view(subview(self.name(), result, borders, source.shape, ones, every))
        if self.happens(0.8):
            self.emit(copy(source, part))
        else:
            self.emit(self.unary_op(source, part))

    def reordered(self) -> None:
        """Expand, permute by a copy, collapse: channel shuffles, space to depth, heads."""
        source = self.some_view()
        for _ in range(self.random.choice([1, 2])):
            source = self.expanded(source)
        order = self.random.sample(range(len(source.shape)), len(source.shape))
        result = self.new_array([source.shape[d] for d in order])
        self.copy_by_map(source, [f"d{order.index(d)}" for d in range(len(order))], result)
        for _ in range(self.random.choice([1, 2])):
            result = self.collapsed(result)
        if self.happens(0.7):
            self.emit(self.unary_op(result, self.target(result.shape)))

    # -- computations ----------------------------------------------------------------------

    def unary(self) -> None:
        source = self.some_view()
        self.emit(self.unary_op(source, self.target(source.shape)))

    def binary(self) -> None:
        """Combine two arrays, one of them at times permuted, broadcast or shifted."""
        left = self.some_view()
        shape = left.shape
        plain = [a for a in (*self.arrays, *self.views) if a.shape == shape]
        right, index = self.random.choice(plain), [f"d{d}" for d in range(len(shape))]
        if self.happens(0.3):
            right = self.some_view()
            index = [self.random.choice(self.loops_of_extent(n, shape)) for n in right.shape]
        kind = self.random.choice(["add", "sub", "max", "mul"])
        ins = [self.operand(left), self.operand(right, *index)]
        target = self.target(shape)
        outs, results = [self.operand(target)], [(kind, 0, 1)]
        if self.happens(0.2):
            outs.append(self.operand(self.target(shape)))
            results.append(self.random.choice([0, 1, ("max", 0, 1)]))
        self.emit(generic(shape, ins, outs, results))

    def loops_of_extent(self, extent: int, shape: Sequence[int]) -> list[str]:
        found = [f"d{d}" for d, n in enumerate(shape) if n == extent]
        found += [f"d{d} + {extent - n}" for d, n in enumerate(shape) if n < extent]
        return [*found, str(self.random.randrange(extent))]

    def in_place(self) -> None:
        """Change part of an array where it stands."""
        writable = [a for a in self.arrays if a.name not in self.frozen]
        part = self.some_view(self.recent(writable))
        here = self.operand(part)
        result = self.scalar(0, len(part.shape))
        if self.happens(0.5):
            self.emit(generic(part.shape, [here], [here], [result]))
            return
        others = [a for a in (*self.arrays, *self.views) if a.shape == part.shape]
        other = self.operand(self.random.choice(others))
        self.emit(generic(part.shape, [other], [here], [("add", 0, 1)]))

    def overwrite(self) -> None:
        """Write part of an array anew."""
        writable = [a for a in self.arrays if a.name not in self.frozen]
        part = self.some_view(self.recent(writable))
        same = [a for a in (*self.arrays, *self.views) if a.shape == part.shape]
        if self.happens(0.4) and same:
            self.emit(copy(self.random.choice(same), part))
        else:
            self.emit(self.fill_op(part))

    def reduce(self) -> None:
        source = self.some_view()
        rank = len(source.shape)
        kept = sorted(self.random.sample(range(rank), self.random.randrange(max(1, rank))))
        target = self.accumulator([source.shape[d] for d in kept])
        outs = [Operand(target, tuple(f"d{d}" for d in kept))]
        fold = self.random.choice(["add", "max"])
        self.emit(generic(source.shape, [self.operand(source)], outs, [0], fold))

    def accumulator(self, shape: Sequence[int]) -> Memref:
        """Return an array with initial values: constants, copies, or what is there."""
        target = self.target(shape)
        if self.happens(0.6) or not self.state.memory[target.name].written.all():
            same = [a for a in self.arrays if a.shape == target.shape and a is not target]
            written = [a for a in same if self.state.memory[a.name].written.all()]
            if written and self.happens(0.4):
                self.emit(copy(self.random.choice(written), target))
            else:
                self.emit(self.fill_op(target))
        return target

    def contract(self) -> None:
        """Multiply matrices, over the last dimension of the left and a dimension of the right."""
        left, right = self.some_view(), self.some_view()
        rank = len(left.shape)
        if not rank:
            raise NoMeaning("a scalar has no dimensions")
        matching = [d for d, n in enumerate(right.shape) if n == left.shape[-1]]
        if not matching or rank + len(right.shape) > 6:
            raise NoMeaning("shapes do not match")
        dim = self.random.choice(matching)
        free = [d for d in range(len(right.shape)) if d != dim]
        index = [
            f"d{rank - 1}" if d == dim else f"d{rank + free.index(d)}"
            for d in range(len(right.shape))
        ]
        shape = [*left.shape, *(right.shape[d] for d in free)]
        kept = [d for d in range(len(shape)) if d != rank - 1]
        if not kept or prod(shape) > 1500:
            raise NoMeaning("too large")
        target = self.accumulator([shape[d] for d in kept])
        outs = [self.operand(target, *(f"d{d}" for d in kept))]
        ins = [self.operand(left), self.operand(right, *index)]
        self.emit(generic(shape, ins, outs, [("mul", 0, 1)], "add"))

    def windowed(self) -> None:
        """Slide a window over the last dimension, with weights or as a pooling."""
        source = self.some_view()
        if not source.shape:
            raise NoMeaning("a scalar has no dimensions")
        rank, extent = len(source.shape), source.shape[-1]
        taps = self.random.randint(1, min(3, extent))
        stride, dilation = self.random.choice([1, 1, 2]), self.random.choice([1, 1, 2])
        count = (extent - (taps - 1) * dilation - 1) // stride + 1
        if count < 1:
            raise NoMeaning("window too large")
        shape = [*source.shape[:-1], count]
        index = [*(f"d{d}" for d in range(rank - 1))]
        index.append(f"d{rank - 1} * {stride} + d{rank} * {dilation}")
        target = self.accumulator(shape)
        weights = [a for a in self.arrays if a.shape == (taps,)]
        weight = self.random.choice(weights) if weights else self.computed((taps,))
        ins = [self.operand(source, *index), self.operand(weight, f"d{rank}")]
        outs = [self.operand(target)]
        pools = self.happens(0.4)
        term = 0 if pools else ("mul", 0, 1)
        self.emit(generic([*shape, taps], ins, outs, [term], "max" if pools else "add"))

    def gather(self) -> None:
        """Load where the values of another array say."""
        if self.program.element != "i32":
            raise NoMeaning("floats are no indices")
        table, places = self.recent(self.arrays), self.some_view()
        scalars = [("add", 0, ("constant", n)) for n in range(len(table.shape))]
        result = ("load", table, *scalars)
        target = self.target(places.shape)
        self.emit(generic(places.shape, [self.operand(places)], [self.operand(target)], [result]))

    def take(self) -> None:
        """Load the rows that a constant lists: every second one, or all of them in some order."""
        table = self.some_view()
        if self.program.element != "i32" or not table.shape:
            raise NoMeaning("floats are no indices")
        extent = table.shape[0]
        start, step = self.random.randrange(extent), self.random.choice([-1, 0, 1, 1, 2])
        rows = list(range(start, extent if step >= 0 else -1, step or extent))
        if self.happens(0.3):
            rows = self.random.sample(range(extent), extent)
        listed = array(self.name(), [len(rows)], "i32")
        self.program.given[listed.name] = np.array(rows, np.int32)
        self.program.weights.append(listed)
        self.state.allocate(listed, self.program.initial(listed))
        target = self.target([len(rows), *table.shape[1:]])
        ins, outs = [self.operand(listed, "d0")], [self.operand(target)]
        self.emit(generic(target.shape, ins, outs, [("row", table, 0)]))

    # -- loops -----------------------------------------------------------------------------

    def nest(self) -> None:
        """Copy or compute in affine loops, flattened or split at times."""
        source = self.some_view()
        shape, rank = source.shape, len(source.shape)
        if prod(shape) > 64 or not shape:
            raise NoMeaning("slow")
        choice = self.random.randrange(3)
        if choice == 0:
            order = self.random.sample(range(rank), rank)
            target = self.target([shape[d] for d in order])
            load, store = self.operand(source), self.operand(target, *(f"d{d}" for d in order))
            extents: Sequence[int] = shape
        elif choice == 1:
            extents = [prod(shape)]
            target, (load, store) = self.target(extents), (self.flat(source), None)
            store = self.operand(target)
        else:
            extents = shape
            target = self.target([prod(shape)])
            place = " + ".join(f"d{d} * {prod(shape[d + 1 :])}" for d in range(rank))
            load, store = self.operand(source), self.operand(target, place)
        result = 0 if self.happens(0.6) else self.scalar(0, 0)
        steps = [self.random.choice([1, 1, 1, 2]) for _ in extents]
        self.emit(affine_nest(extents, [load], store, result, steps))

    def flat(self, source: Memref) -> Operand:
        index = []
        for dim, extent in enumerate(source.shape):
            inner = prod(source.shape[dim + 1 :])
            outer = f"d0 floordiv {inner}" if inner > 1 else "d0"
            index.append(f"({outer}) mod {extent}" if dim else outer)
        return self.operand(source, *index)

    def loop(self) -> None:
        """Run a few steps several times, on slices that depend on the loop."""
        if len(self.loops) > 1:
            raise NoMeaning("loops nest deep enough")
        count = self.random.choice([1, 2, 2, 3, 4])
        low, step = self.random.choice([(0, 1), (0, 1), (1, 1), (0, 2), (3, 2)])
        loop = Loop(f"%iv{self.name()[2:]}", low, step, count)
        outer, arrays, views = self.block, list(self.arrays), list(self.views)
        self.block, self.loops = loop.body, [*self.loops, loop]
        self.state.ivs[loop.iv] = low
        for _ in range(self.random.choice([1, 2, 3, 4])):
            self.attempt(getattr(self, self.random.choice(SIMPLE_STEPS)))
        self.block, self.loops = outer, self.loops[:-1]
        if not loop.body:
            raise NoMeaning("empty")
        outside = {op.result for op in self.program.body if isinstance(op, Op)}
        self.arrays = arrays + [a for a in self.arrays if a not in arrays and a.name in outside]
        self.views = views
        loop.run_from(1, self.state)
        self.block.append(loop)

    # -- the whole -------------------------------------------------------------------------

    def interface(self) -> None:
        """Draw arguments and weights."""
        for number in range(self.random.choice([1, 2, 2, 3]) + self.random.choice([0, 1, 1])):
            memref = array(self.name(), self.shape(), self.program.element)
            is_weight = number and self.happens(0.3)
            (self.program.weights if is_weight else self.program.arguments).append(memref)
            if is_weight or self.happens(0.5):
                self.frozen.add(memref.name)
            self.arrays.append(memref)
        self.state = self.program.start()

    def finish(self) -> None:
        """Read what nothing has read yet, mostly, and return what then still is not read."""
        for memref in self.unread():
            if self.happens(0.6):
                self.attempt(lambda memref=memref: self.consume(memref))
        made = {*self.program.arguments, *self.program.weights}
        unread = self.unread()
        for memref in [a for a in self.arrays if a not in made]:
            if memref in unread or self.happens(0.15):
                reshape = self.random.choice([self.expanded, self.collapsed])
                result = reshape(memref) if self.happens(0.2) else memref
                self.program.results.append(result)

    def unread(self) -> list[Memref]:
        """Return the arrays of which the last operation on them, or on a view, is a write."""
        return [a for a in self.arrays if a.name in self.last_written()]

    def last_written(self) -> set[str]:
        found: set[str] = set()
        for op in flattened(self.program.body):
            found -= {self.state.memory[n].root for n in op.reads if n in self.state.memory}
            found |= {self.state.memory[n].root for n in op.writes if n in self.state.memory}
        return found

    def consume(self, memref: Memref) -> None:
        """Compute something from all of an array."""
        view = self.some_view(memref) if self.happens(0.3) else memref
        target = self.new_array(view.shape) if self.happens(0.7) else self.target(view.shape)
        self.emit(self.unary_op(view, target))


SIMPLE_STEPS = [
    *["plain_copy"] * 5,
    *["permuting_copy"] * 3,
    *["repeating_copy"] * 2,
    *["unary"] * 4,
    *["binary"] * 3,
    *["in_place"] * 2,
    *["overwrite"] * 2,
    *["reduce", "reduce", "contract", "windowed", "windowed"],
]
STEPS = [
    *SIMPLE_STEPS,
    *["split", "concat", "concat", "pad", "pad", "reordered", "reordered"],
    *["gather", "take", "take", "nest", "nest", "loop", "loop"],
]
PROFILES = [STEPS, STEPS, [*STEPS, *["loop"] * 20]]


def random_program(seed: int) -> Program:
    """Return the program of a seed."""
    return program_from(Random(seed))


def program_from(random: Random) -> Program:
    builder = RandomProgram(random)
    with np.errstate(over="ignore"):
        builder.interface()
        steps = random.choice(PROFILES)
        for _ in range(random.randint(2, 9)):
            builder.attempt(getattr(builder, random.choice(steps)))
        builder.finish()
    return builder.program
