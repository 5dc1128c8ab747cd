"""Instructions as the simulator executes them: dependences, time, then the numbers.

A template is made once for an operation and called once per execution with the frame.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from polystage.errors import SimulationError
from polystage.machine.cost import Cost, held
from polystage.simulator.access import Access, ChipAccess, DramAccess, Frame
from polystage.simulator.engines import DmaQueue, Engine, Machine, Port
from polystage.simulator.hazards import Region
from polystage.simulator.index import Evaluate
from polystage.simulator.memory import Array, ChipBuffer, DramBuffer

Numerics = Callable[[list[Array], list[Array]], None]


class Place:
    """Where an instruction stands, for messages: its name, kernel and location, and its layer."""

    __slots__ = ("kernel", "location", "name", "now")

    def __init__(self, name: str, kernel: str, location: object, now: Layer) -> None:
        self.name = name
        self.kernel = kernel
        self.location = location
        self.now = now

    def __str__(self) -> str:
        layer = f" of layer '{self.now.name}'" if self.now.name else ""
        return f"{self.name} in @{self.kernel}{layer}"


class Layer:
    """The name of the layer that runs now."""

    __slots__ = ("name",)

    def __init__(self) -> None:
        self.name = ""


def describe(buffer: ChipBuffer | DramBuffer, region: Region) -> str:
    """Say what a region is, with its address."""
    if isinstance(buffer, DramBuffer):
        return f"bytes [{region.low}, {region.high}) of {buffer.kind} '{buffer.name}' in DRAM"
    memory = buffer.memory.name
    rows = f"partitions [{region.low_partition}, {region.high_partition})"
    return f"bytes [{region.low}, {region.high}) of {rows} in {memory} ({buffer.place})"


def check_written(buffer: ChipBuffer | DramBuffer, region: Region, place: Place) -> None:
    """Refuse to read what was not written.

    Raises: SimulationError with operation, layer, address and the operation at fault.
    """
    if buffer.is_written(region.window):
        return
    taken_by = getattr(buffer, "taken_by", None)
    if taken_by is not None:
        raise SimulationError(
            f"{place} reads {describe(buffer, region)}, but {taken_by} has written over it",
            help="give buffers that live at the same time different addresses; "
            "npu-allocate-scratchpad does",
            op=place,
        )
    if getattr(buffer, "freed", False):
        raise SimulationError(
            f"{place} reads {describe(buffer, region)} after its deallocation", op=place
        )
    raise SimulationError(
        f"{place} reads {describe(buffer, region)}, of which not everything has been written",
        help="write the whole window first: load it, or set it with npu.memset",
        op=place,
    )


def note_written(buffer: ChipBuffer | DramBuffer, region: Region, place: Place) -> None:
    """Remember that a region was written, and what it was written over."""
    if isinstance(buffer, DramBuffer):
        buffer.written(region.window)
        return
    if not buffer.full:
        buffer.written(region.window, region.full)
    for rival in buffer.clashes:
        if region.low < rival.address + rival.row_bytes and rival.address < region.high:
            partitions = (region.low_partition, region.high_partition)
            rival.lose(region.low, region.high, partitions, f"{place} for {buffer.place}")


class Instruction:
    """An instruction of one compute engine on on-chip operands."""

    by_array = False

    def __init__(
        self,
        machine: Machine,
        engine: Engine,
        cost: Cost,
        reads: Sequence[ChipAccess],
        writes: Sequence[ChipAccess],
        place: Place,
        numerics: Numerics | None,
    ) -> None:
        self.machine = machine
        self.engine = engine
        self.busy_ns = cost.busy_ns
        self.latency_ns = cost.latency_ns
        self.reads = tuple(reads)
        self.writes = tuple(writes)
        self.place = place
        self.numerics = numerics
        memories = {a.buffer.memory.name for a in (*reads, *writes)}
        self.ports: tuple[Port, ...] = machine.ports_of(engine.name, memories)

    def __call__(self, frame: Frame) -> None:
        """Execute the instruction once."""
        values = frame.values
        reads = [(a.buffer, a.region(values)) for a in self.reads]
        writes = [(a.buffer, a.region(values)) for a in self.writes]
        self.schedule(reads, writes, self.busy_ns, self.latency_ns)
        if self.numerics is not None:
            self.compute(reads, writes, self.numerics)

    def schedule(
        self,
        reads: list[tuple[ChipBuffer, Region]],
        writes: list[tuple[ChipBuffer, Region]],
        busy_ns: float,
        latency_ns: float,
    ) -> float:
        """Find the first time at which the instruction may run, occupy it, and return its end."""
        engine, by_array = self.engine, self.by_array
        start = engine.free_ns
        for buffer, region in reads:
            start = buffer.may_read(region, start)
        for buffer, region in writes:
            start = buffer.may_write(region, start, by_array)
        for port in self.ports:
            start = port.first_gap(engine, start, busy_ns)
        for port in self.ports:
            port.use(engine, start, busy_ns)
        engine.free_ns = issued = start + busy_ns
        engine.busy_ns += busy_ns
        end = start + latency_ns
        for buffer, region in reads:
            buffer.has_read(region, issued)
        for buffer, region in writes:
            buffer.has_written(region, end, by_array)
        if end > self.machine.end_ns:
            self.machine.end_ns = end
        return end

    def compute(
        self,
        reads: list[tuple[ChipBuffer, Region]],
        writes: list[tuple[ChipBuffer, Region]],
        numerics: Numerics,
    ) -> None:
        """Check that what is read was written, and compute."""
        for buffer, region in reads:
            if not buffer.full:
                check_written(buffer, region, self.place)
        numerics([r.view for _, r in reads], [r.view for _, r in writes])  # type: ignore[misc]
        for buffer, region in writes:
            if buffer.clashes or not buffer.full:
                note_written(buffer, region, self.place)


class Matmul(Instruction):
    """A matmul: costs less where the array holds already what it keeps; may accumulate."""

    by_array = True

    def __init__(
        self,
        machine: Machine,
        costs: tuple[Cost, Cost],
        reads: Sequence[ChipAccess],
        psum: ChipAccess,
        accumulate: Evaluate,
        place: Place,
        numerics: Callable[[list[Array], Array, bool], None] | None,
    ) -> None:
        super().__init__(machine, machine.engines["tensor"], costs[0], reads, [psum], place, None)
        self.costs = costs
        self.psum = psum
        self.accumulate = accumulate
        self.multiply = numerics
        self.holds_result = held(machine.target) == "result"

    def __call__(self, frame: Frame) -> None:
        """Execute the instruction once."""
        values = frame.values
        accumulate = bool(self.accumulate(values))
        stationary = (self.reads[0].buffer, self.reads[0].region(values))
        reads = [stationary, (self.reads[1].buffer, self.reads[1].region(values))]
        target = (self.psum.buffer, self.psum.region(values))
        kept: object = (stationary[1], stationary[0].version)
        if self.holds_result:
            result = target[1]
            rows = (result.low_partition, result.high_partition)
            kept = (result.low, result.high, rows)
        found = kept == self.machine.held and (accumulate or not self.holds_result)
        cost = self.costs[0 if found else 1]
        self.machine.held = kept
        self.schedule(reads, [target], cost.busy_ns, cost.latency_ns)
        if self.multiply is None:
            return
        checked = [*reads, target] if accumulate else reads
        for buffer, region in checked:
            if not buffer.full:
                check_written(buffer, region, self.place)
        self.multiply([r.view for _, r in reads], target[1].view, accumulate)  # type: ignore[misc, arg-type]
        if target[0].clashes or not target[0].full:
            note_written(*target, self.place)


class TensorInstruction(Instruction):
    """Another instruction of the tensor engine: it takes the place of the stationary operand."""

    by_array = True

    def __call__(self, frame: Frame) -> None:
        """Execute the instruction once."""
        self.machine.held = None
        super().__call__(frame)


class Dma:
    """A transfer between two windows."""

    def __init__(
        self,
        machine: Machine,
        queue: DmaQueue,
        cost: Cost,
        source: Access,
        destination: Access,
        place: Place,
        numerics: bool,
    ) -> None:
        self.machine = machine
        self.queue = queue
        self.busy_ns = cost.busy_ns
        self.startup_ns = machine.target.dma.startup_ns
        self.alone_ns = cost.latency_ns - self.startup_ns
        self.source = source
        self.destination = destination
        self.place = place
        self.numerics = numerics

    def __call__(self, frame: Frame) -> None:
        """Execute the instruction once."""
        source, read = self.source.locate(frame)
        destination, written = self.destination.locate(frame)
        queue = self.queue
        trigger = source.may_read(read, queue.trigger_ns)
        trigger = destination.may_write(written, trigger)
        end = transfer(self.machine, queue, trigger, self.busy_ns, self.alone_ns)
        source.has_read(read, end)
        destination.has_written(written, end)
        if self.numerics:
            if not source.full:
                check_written(source, read, self.place)
            if written.view is None:
                raise SimulationError(
                    f"{self.place} writes {describe(destination, written)} after its deallocation",
                    op=self.place,
                )
            written.view[...] = read.view
            note_written(destination, written, self.place)


def transfer(
    machine: Machine, queue: DmaQueue, trigger: float, busy_ns: float, alone_ns: float
) -> float:
    """Move data after the trigger's latency, behind the transfer before it, and return the end."""
    queue.trigger_ns = trigger
    start = max(trigger + machine.target.dma.startup_ns, queue.free_ns)
    queue.free_ns = end = machine.pool.reserve(start, busy_ns, alone_ns)
    if end > machine.end_ns:
        machine.end_ns = end
    return end


class Gather:
    """A look-up: gpsimd forms the addresses, the DMA engines fetch the rows."""

    def __init__(
        self,
        machine: Machine,
        queue: DmaQueue,
        costs: tuple[Cost, Cost],
        table: DramAccess,
        indices: Sequence[ChipAccess],
        destination: ChipAccess,
        place: Place,
        numerics: bool,
    ) -> None:
        self.machine = machine
        self.engine = machine.engines["gpsimd"]
        self.queue = queue
        self.forming, self.moving = costs
        self.table = table
        self.indices = tuple(indices)
        self.destination = destination
        self.place = place
        self.numerics = numerics
        self.ports = machine.ports_of("gpsimd", {"sbuf"})

    def __call__(self, frame: Frame) -> None:
        """Execute the instruction once."""
        table, rows = self.table.locate(frame)
        target, written = self.destination.locate(frame)
        indices = [a.locate(frame) for a in self.indices]
        self.schedule(table, rows, target, written, indices)
        if self.numerics:
            for buffer, region in (*indices, (table, rows)):
                if not buffer.full:
                    check_written(buffer, region, self.place)
            self.look_up(rows.view, written.view, [r.view for _, r in indices])  # type: ignore[arg-type, misc]
            note_written(target, written, self.place)

    def schedule(
        self,
        table: DramBuffer,
        rows: Region,
        target: ChipBuffer,
        written: Region,
        indices: list[tuple[ChipBuffer, Region]],
    ) -> None:
        """Occupy gpsimd, then the DMA engines."""
        engine, busy = self.engine, self.forming.busy_ns
        start = max(engine.free_ns, table.may_read(rows, 0.0))
        start = target.may_write(written, start)
        for buffer, region in indices:
            start = buffer.may_read(region, start)
        for port in self.ports:
            start = port.first_gap(engine, start, busy)
            port.use(engine, start, busy)
        engine.free_ns = formed = start + busy
        engine.busy_ns += busy
        for buffer, region in indices:
            buffer.has_read(region, formed)
        moving = self.moving
        alone = moving.latency_ns - self.machine.target.dma.startup_ns
        trigger = max(formed, self.queue.trigger_ns)
        end = transfer(self.machine, self.queue, trigger, moving.busy_ns, alone)
        table.has_read(rows, end)
        target.has_written(written, end)

    def look_up(self, table: Array, out: Array, indices: list[Array]) -> None:
        """Check every index and fetch.

        Raises: SimulationError for an index outside the table.
        """
        for d, index in enumerate(indices):
            least, greatest = int(index.min()), int(index.max())
            if least < 0 or greatest >= table.shape[d]:
                wrong = least if least < 0 else greatest
                raise SimulationError(
                    f"{self.place} looks up index {wrong} in dimension {d} of a table of "
                    f"extent {table.shape[d]}",
                    help="indices must lie in the table; negative ones do not count from its end",
                    op=self.place,
                )
        out[...] = table[tuple(indices)]
