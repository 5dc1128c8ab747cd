"""Random views, targets and simple operations, of which the steps of random programs consist."""

from collections.abc import Callable, Sequence
from math import prod
from random import Random

from copy_bodies import Operand, Scalar, generic
from copy_programs import (
    Loop,
    Memref,
    NoMeaning,
    Offset,
    Op,
    Program,
    State,
    alloc,
    array,
    can_collapse,
    collapse,
    expand,
    subview,
    transpose,
)

LARGEST = 240
"""Elements of an array."""


class Builder:
    """A program that grows by random choices; the steps are in `random_copy_programs`."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.program = Program(random.choice(["i32", "i32", "f32"]))
        self.state = State()
        self.block = self.program.body
        self.arrays: list[Memref] = []
        self.views: list[Memref] = []
        self.frozen: set[str] = set()
        self.loops: list[Loop] = []
        self.names = 0

    # -- names and choices -----------------------------------------------------------------

    def name(self) -> str:
        self.names += 1
        return f"%v{self.names}"

    def happens(self, probability: float) -> bool:
        return self.random.random() < probability

    def recent(self, arrays: Sequence[Memref]) -> Memref:
        """Choose an array, one of the last three in half of all cases."""
        if not arrays:
            raise NoMeaning("no array")
        return self.random.choice(arrays[-3:] if self.happens(0.5) else arrays)

    def shape(self, rank: int | None = None) -> tuple[int, ...]:
        rank = self.random.choice([1, 2, 2, 3, 3, 4]) if rank is None else rank
        while True:
            shape = tuple(self.random.choice([1, 2, 2, 3, 4, 4, 6, 8]) for _ in range(rank))
            if prod(shape) <= LARGEST // 2:
                return shape

    # -- emission --------------------------------------------------------------------------

    def emit(self, op: Op | Loop) -> None:
        """Append an operation and execute it, for the first iteration of the loops around."""
        self.block.append(op)
        op.run(self.state)

    def view(self, made: tuple[Op, Memref]) -> Memref:
        op, result = made
        self.emit(op)
        self.views.append(result)
        return result

    def new_array(self, shape: Sequence[int]) -> Memref:
        """Allocate where the program stands, or at its start."""
        if prod(shape) > LARGEST:
            raise NoMeaning("too large")
        made = array(self.name(), shape, self.program.element)
        op = alloc(made)
        if self.happens(0.4):
            self.program.body.insert(0, op)
            op.run(self.state)
        else:
            self.emit(op)
        self.arrays.append(made)
        return made

    # -- views -----------------------------------------------------------------------------

    def some_dim(self, view: Memref) -> int:
        if not view.shape:
            raise NoMeaning("a scalar has no dimensions")
        return self.random.randrange(len(view.shape))

    def some_view(self, root: Memref | None = None) -> Memref:
        """Return a view of an array through a few random view operations."""
        if root is None and self.views and self.happens(0.15):
            return self.random.choice(self.views)
        view = root or self.recent(self.arrays)
        if not view.shape:
            return view
        if self.loops and self.happens(0.6):
            view = self.slice_by_loop(view)
        for _ in range(self.random.choice([0, 0, 0, 1, 1, 2, 3])):
            steps = [self.window, self.expanded, self.collapsed, self.permuted]
            view = self.random.choice(steps)(view)
        return view

    def slice_by_loop(self, source: Memref) -> Memref:
        loop = self.random.choice(self.loops)
        fitting = [d for d, n in enumerate(source.shape) if n >= loop.count]
        if not fitting:
            return source
        dim = self.random.choice(fitting)
        extent = source.shape[dim]
        scale = self.random.choice([1, extent // loop.count])
        size = self.random.choice([1, scale])
        room = extent - scale * (loop.count - 1) - size
        start = self.random.randint(0, room)
        offsets: list[Offset] = [0] * len(source.shape)
        offsets[dim] = (loop.iv, scale, loop.step, start - scale * loop.low // loop.step)
        if loop.low and scale * loop.low % loop.step:
            return source
        sizes = [size if d == dim else n for d, n in enumerate(source.shape)]
        drop = size == 1 and len(sizes) > 1 and self.happens(0.5)
        kept = [d for d in range(len(sizes)) if not (drop and d == dim)]
        return self.view(subview(self.name(), source, offsets, sizes, [1] * len(sizes), kept))

    def window(self, source: Memref, shape: Sequence[int] | None = None) -> Memref:
        """Slice out a random window, of `shape` if that is given."""
        if not source.shape:
            return source
        offsets, sizes, steps = [], [], []
        for dim, extent in enumerate(source.shape):
            size = shape[dim] if shape else extent
            if not shape and self.happens(0.5):
                size = self.random.randint(1, extent)
            widest = max(1, (extent - 1) // max(1, size - 1))
            step = self.random.randint(1, widest) if self.happens(0.3) else 1
            sizes.append(size)
            steps.append(step)
            offsets.append(self.random.randint(0, extent - (size - 1) * step - 1))
        ones = [d for d, n in enumerate(sizes) if n == 1]
        drop = not shape and len(ones) < len(sizes) and self.happens(0.5)
        kept = [d for d in range(len(sizes)) if not (drop and d in ones)]
        return self.view(subview(self.name(), source, offsets, sizes, steps, kept))

    def expanded(self, source: Memref) -> Memref:
        splits = [
            (d, (k, n // k)) for d, n in enumerate(source.shape) for k in range(2, n) if n % k == 0
        ]
        if not splits or len(source.shape) > 4:
            return source
        dim, factors = self.random.choice(splits)
        return self.view(expand(self.name(), source, dim, factors))

    def collapsed(self, source: Memref) -> Memref:
        dims = [d for d in range(len(source.shape) - 1) if can_collapse(source, d)]
        if not dims:
            return source
        return self.view(collapse(self.name(), source, self.random.choice(dims)))

    def permuted(self, source: Memref, order: Sequence[int] | None = None) -> Memref:
        order = order or self.random.sample(range(len(source.shape)), len(source.shape))
        if list(order) == sorted(order):
            return source
        return self.view(transpose(self.name(), source, order))

    def target(self, shape: Sequence[int]) -> Memref:
        """Return something of `shape` to write to: new, or part of what is there."""
        rank, choice = len(shape), self.random.random()
        if choice < 0.4:
            return self.new_array(shape)
        if choice < 0.5:
            more = [n + self.random.choice([0, 0, 1, 2]) for n in shape]
            return self.window(self.new_array(more), shape)
        if choice < 0.6:
            order = self.random.sample(range(rank), rank)
            back = [order.index(d) for d in range(rank)]
            return self.permuted(self.new_array([shape[d] for d in order]), back)
        if choice < 0.7 and rank > 1:
            dim = self.random.randrange(rank - 1)
            flat = [*shape[:dim], shape[dim] * shape[dim + 1], *shape[dim + 2 :]]
            return self.view(expand(self.name(), self.new_array(flat), dim, shape[dim : dim + 2]))
        writable = [a for a in self.arrays if a.name not in self.frozen]
        if self.loops and writable and self.happens(0.6):
            sliced = self.slice_by_loop(self.recent(writable))
            writable = [sliced]
        fitting = [
            a
            for a in writable
            if len(a.shape) == rank and all(n >= m for n, m in zip(a.shape, shape, strict=True))
        ]
        if not fitting:
            return self.new_array(shape)
        chosen = self.recent(fitting)
        return chosen if chosen.shape == tuple(shape) else self.window(chosen, shape)

    def operand(self, memref: Memref, *index: str) -> Operand:
        """Return an operand, by default indexed by one loop per dimension."""
        return Operand(memref, index or tuple(f"d{d}" for d in range(len(memref.shape))))

    def attempt(self, step: Callable[[], None]) -> bool:
        """Add a step, or leave everything as it was."""
        saved, block, body = self.state.saved(), list(self.block), list(self.program.body)
        arrays, views, ivs = list(self.arrays), list(self.views), dict(self.state.ivs)
        current, loops, weights = self.block, self.loops, list(self.program.weights)
        try:
            step()
        except NoMeaning:
            self.block, self.loops, self.program.weights = current, loops, weights
            self.program.body[:] = body
            self.block[:] = block
            self.arrays, self.views, self.state.ivs = arrays, views, ivs
            self.state.restore(saved)
            return False
        return True

    # -- operations that other steps consist of ----------------------------------------------

    def scalar(self, operand: Scalar, rank: int) -> Scalar:
        """Return a function of an operand, at times of the place as well."""
        if rank and self.happens(0.15):
            return ("add", operand, ("index", self.random.randrange(rank)))
        kind = self.random.choice(["add", "max", "min", "sub"])
        return (kind, operand, ("constant", self.random.randint(-3, 3)))

    def unary_op(self, source: Memref, target: Memref) -> Op:
        result = self.scalar(0, len(target.shape))
        return generic(target.shape, [self.operand(source)], [self.operand(target)], [result])

    def fill_op(self, target: Memref) -> Op:
        value = ("constant", self.random.randint(-2, 2))
        return generic(target.shape, [], [self.operand(target)], [value])

    def computed(self, shape: Sequence[int]) -> Memref:
        """Return a new array with values that depend on the place."""
        target = self.new_array(shape)
        values: Scalar = ("constant", self.random.randint(-2, 2))
        for dim in range(len(shape)):
            values = ("add", values, ("mul", ("index", dim), ("constant", dim + 2)))
        self.emit(generic(target.shape, [], [self.operand(target)], [values]))
        return target
