"""The order between queues: exact, complete, and none too many."""

import itertools
import random
from collections import defaultdict
from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from polystage.linear import Linear
from polystage.synchronisation import order_kernel, semaphores
from polystage.synchronisation.accesses import Buffer, Variables, View, Walk, access_of
from polystage.synchronisation.distance import least_distance
from polystage.synchronisation.kernel import Body, Instruction, Loop

QUEUES = 4
EXAMPLES = settings(max_examples=200, deadline=None)
seeds = st.integers(0, 2**32 - 1)


# --- a kernel, unrolled ---


@dataclass
class Executed:
    """One execution of an instruction: what it touches, as sets of (place, byte)."""

    instruction: Instruction
    reads: set
    writes: set
    before: frozenset = frozenset()

    def conflicts(self, other: "Executed") -> bool:
        touched = other.reads | other.writes
        return bool(self.writes & touched or self.reads & other.writes)


def value_of(form: Linear, variables: Variables, values: dict) -> int:
    """Return a linear form in one iteration; quotients are found by trying."""

    def variable(v: int) -> int:
        if v in values:
            return values[v]
        low, high = variables.ranges[v]
        return next(
            x
            for x in range(low, high + 1)
            if all(value_of(r, variables, {**values, v: x}) >= 0 for r in variables.relations[v])
        )

    return form.constant + sum(c * variable(v) for v, c in form.terms)


def bytes_of(access, values) -> set:
    """Return (memory or argument, partition, byte) of all that is touched in one iteration."""
    buffer, variables = access.buffer, access.variables
    life = value_of(variables.count(buffer.loops), variables, values)
    at = buffer.addresses[life % len(buffer.addresses)]
    on_chip = buffer.memory != "dram"
    starts = [value_of(start, variables, values) for start, _ in access.box]
    ranges = [range(s, s + n) for s, (_, n) in zip(starts, access.box, strict=True)]
    touched = set()
    for element in itertools.product(*ranges):
        steps = [i * s for i, s in zip(element, buffer.strides, strict=True)]
        offset = at + sum(steps[on_chip:]) * buffer.item_bytes
        touched.add((buffer.memory if on_chip else buffer, element[0] * on_chip, offset))
    return touched


@dataclass
class Machine:
    """Executes a kernel in program order, with the semaphores that were found for it."""

    ordered: list
    signals: dict = field(default_factory=lambda: defaultdict(list))
    waits: dict = field(default_factory=lambda: defaultdict(list))
    tokens: list = field(default_factory=list)
    clocks: list = field(default_factory=lambda: [frozenset() for _ in range(QUEUES)])
    executed: list = field(default_factory=list)

    def __post_init__(self):
        for body in self.ordered:
            for semaphore in semaphores(body.anchors, body.edges, body.trips):
                number = len(self.tokens)
                self.tokens.append([frozenset()] * semaphore.initial)
                for anchor in semaphore.signals:
                    self.signals[anchor].append((semaphore.source_queue, number))
                for anchor in semaphore.waits:
                    self.waits[anchor].append((semaphore.target_queue, number))

    def run(self, body: Body, values: dict) -> None:
        for child in body.children:
            for queue, number in self.waits[child.op]:
                assert self.tokens[number], "program order must never wait"
                self.clocks[queue] |= self.tokens[number].pop(0)
            if isinstance(child, Instruction):
                self.execute(child, values)
            else:
                for i in range(child.body.trips):
                    self.run(child.body, {**values, child.body.loops[-1]: i})
            for queue, number in self.signals[child.op]:
                own = {i for i, e in enumerate(self.executed) if e.instruction.queue == queue}
                self.tokens[number].append(self.clocks[queue] | own)

    def execute(self, child: Instruction, values: dict) -> None:
        touched = {writes: set() for writes in (False, True)}
        for access in child.accesses:
            touched[access.writes] |= bytes_of(access, values)
        before = self.clocks[child.queue]
        self.executed.append(Executed(child, touched[False], touched[True], before))

    def unordered(self) -> list:
        """Return the conflicting pairs of different queues that nothing orders."""
        return [
            (i, j)
            for (i, a), (j, b) in itertools.combinations(enumerate(self.executed), 2)
            if a.instruction.queue != b.instruction.queue and a.conflicts(b) and i not in b.before
        ]


# --- random kernels ---


@dataclass
class Builder:
    """Builds random kernels of nested loops, with rotating buffers and windows that move."""

    random: random.Random
    variables: Variables = field(default_factory=Variables)
    names: itertools.count = field(default_factory=itertools.count)
    budget: int = 60

    def body(self, loops: tuple, trips: int, buffers: list, depth: int) -> Body:
        body = Body(loops, trips)
        if loops and self.random.random() < 0.7:
            buffers = [*buffers, self.alloc(loops)]
        for _ in range(self.random.randint(1, 4)):
            if depth < 3 and self.random.random() < 0.4:
                inner = self.loop(loops, buffers, depth)
                if inner.body.children:
                    body.children.append(inner)
            else:
                body.children.append(self.instruction(loops, buffers))
        return body

    def loop(self, loops: tuple, buffers: list, depth: int) -> Loop:
        trips = self.random.randint(1, 4)
        iteration = self.variables.new((0, trips - 1)).terms[0][0]
        inner = (*loops, iteration)
        return Loop(next(self.names), self.body(inner, trips, buffers, depth + 1))

    def alloc(self, loops: tuple) -> Buffer:
        places = self.random.randint(1, 3)
        start = self.random.choice([0, 16, 40])
        addresses = tuple(start + 24 * p for p in range(places))
        return Buffer("sbuf", (1, 4, 3), (12, 3, 1), 2, addresses, loops)

    def instruction(self, loops: tuple, buffers: list) -> Instruction:
        accesses = [self.access(loops, buffers) for _ in range(self.random.randint(1, 2))]
        return Instruction(next(self.names), self.random.randrange(QUEUES), tuple(accesses))

    def access(self, loops: tuple, buffers: list):
        buffer = self.random.choice(buffers)
        shape = tuple(self.random.randint(1, n) for n in buffer.shape)
        offset = Linear()
        for d, (extent, stride) in enumerate(zip(buffer.shape, buffer.strides, strict=True)):
            is_partition = d == 0 and buffer.memory != "dram"  # which starts at a constant
            moving = () if is_partition else loops
            offset = offset + self.start(moving, extent - shape[d]) * stride
        view = View(buffer, offset, shape, buffer.strides)
        walk = Walk(shape, buffer.strides)
        return access_of(view, walk, self.random.random() < 0.5, self.variables)

    def start(self, loops: tuple, room: int) -> Linear:
        """Return a start in [0, room], linear in some of the loops, or a quotient of one."""
        start = Linear()
        for loop in loops:
            last = self.variables.ranges[loop][1]
            if last and room // last and self.random.random() < 0.5:
                step = self.random.randint(1, room // last)
                room -= step * last
                iteration = Linear.variable(loop)
                if self.random.random() < 0.2:
                    iteration = self.variables.quotient(iteration, 2)
                start = start + iteration * step
        return start + self.random.randint(0, room)


def random_kernel(seed: int) -> Body:
    builder = Builder(random.Random(seed))
    buffers = [
        Buffer("dram", (6, 4), (4, 1), 2, argument=0),
        Buffer("sbuf", (2, 5), (5, 1), 2, (8,)),
    ]
    return builder.body((), 1, buffers, 0)


class TestKernels:
    @EXAMPLES
    @given(seeds)
    def test_every_conflict_is_ordered(self, seed):
        body = random_kernel(seed)
        for reduce in (True, False):
            ordered, _ = order_kernel(body, QUEUES, reduce=reduce)
            machine = Machine(ordered)
            machine.run(body, {})
            assert machine.unordered() == []

    @EXAMPLES
    @given(seeds)
    def test_reduction_keeps_the_order_of_all(self, seed):
        body = random_kernel(seed)
        orders = []
        for reduce in (True, False):
            machine = Machine(order_kernel(body, QUEUES, reduce=reduce)[0])
            machine.run(body, {})
            orders.append([e.before for e in machine.executed])
        assert orders[0] == orders[1]

    def test_hardly_a_kept_order_follows_from_the_others(self):
        """Removing one loses the order of some execution; orders from one execution of a loop to
        the next may follow from those around the loop, and what is known of parts of a loop is not
        used."""
        kept = redundant = 0
        for seed in range(300):
            body = random_kernel(seed)
            ordered, _ = order_kernel(body, QUEUES)
            clocks = _clocks(body, ordered)
            for i, found in enumerate(ordered):
                for edge in found.edges:
                    if _trips(body, found.anchors) > edge.distance:
                        others = tuple(e for e in found.edges if e != edge)
                        fewer = [*ordered[:i], replace(found, edges=others), *ordered[i + 1 :]]
                        redundant += _clocks(body, fewer) == clocks
                        kept += 1
        assert kept > 1000
        assert redundant <= kept // 500


def _trips(body: Body, anchors: tuple) -> int:
    """Return how many trips the loop makes whose body has these children."""
    if tuple(c.op for c in body.children) == anchors:
        return body.trips
    inner = [c.body for c in body.children if isinstance(c, Loop)]
    return max((_trips(b, anchors) for b in inner), default=0)


def _clocks(body: Body, ordered: list) -> list:
    machine = Machine(ordered)
    machine.run(body, {})
    return [e.before for e in machine.executed]


class TestDistances:
    @EXAMPLES
    @given(seeds)
    def test_are_those_of_all_pairs_of_executions(self, seed):
        builder = Builder(random.Random(seed))
        trips = [builder.random.randint(1, 4) for _ in range(3)]
        loops = tuple(builder.variables.new((0, n - 1)).terms[0][0] for n in trips)
        common = loops[: builder.random.randint(1, 3)]
        buffers = [builder.alloc(loops[: builder.random.randint(1, len(common))]) for _ in range(2)]
        source, target = (builder.access(loops, buffers) for _ in range(2))
        least = builder.random.randint(0, 1)
        found = least_distance(source, target, common, least)
        distances = set()
        if source.writes or target.writes:
            executions = [
                dict(zip(loops, i, strict=True)) for i in itertools.product(*map(range, trips))
            ]
            for a, b in itertools.product(executions, repeat=2):
                n = builder.variables.count(common)
                distance = value_of(n, builder.variables, b) - value_of(n, builder.variables, a)
                if distance >= least and _meet(source, target, a, b):
                    distances.add(distance)
        assert found == min(distances, default=None)


def _meet(source, target, a: dict, b: dict) -> bool:
    """Say whether two executions touch the same: bytes from the first to the last, or boxes."""
    if source.buffer is target.buffer:
        return bool(bytes_of(source, a) & bytes_of(target, b))
    ends = []
    for access, values in ((source, a), (target, b)):
        life = value_of(access.variables.count(access.buffer.loops), access.variables, values)
        at = access.buffer.addresses[life % len(access.buffer.addresses)]
        low = at + value_of(access.low, access.variables, values)
        ends.append((low, low + access.length))
    return ends[0][0] < ends[1][1] and ends[1][0] < ends[0][1]
