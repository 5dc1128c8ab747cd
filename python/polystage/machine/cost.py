"""The time of one instruction: every timing rule of the machine, and the only place that has one.

All are functions of a `Target` and plain numbers, in nanoseconds. Planner and simulator call the
same ones: what is planned is what is simulated. Where a comment names no other source, the rule is
that of the NeuronCore-v2 architecture guide (aws-neuron-sdk,
nki/guides/architecture/trainium_inferentia2_arch.rst).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from polystage.machine.components import LaneEngine
from polystage.machine.target import Target

LaneEngineName = Literal["vector", "scalar", "gpsimd"]
Held = Literal["stationary", "result"]


@dataclass(frozen=True, slots=True)
class Cost:
    """How long one instruction keeps its engine, and how long until its result is there.

    A pipelined engine takes the next instruction after `busy_ns`; one that depends on the result
    can start `latency_ns` after this one has. For a DMA, `busy_ns` is the time for which it needs
    all DMA engines together: transfers of different queues overlap, but the sum of their `busy_ns`
    is a lower bound of their time.
    """

    busy_ns: float
    latency_ns: float


@dataclass(frozen=True, slots=True)
class GatherCost:
    """A gather keeps two engines: gpsimd forms the descriptors, the DMA engines carry them out."""

    gpsimd: Cost
    dma: Cost


# --- tensor engine ------------------------------------------------------------------------------


def held(target: Target) -> Held:
    """Return what the array keeps from one matmul to the next.

    With "stationary", a matmul finds what it needs where the tensor instruction before it had the
    same stationary operand; with "result", where it accumulates into the result of that one.
    """
    return "stationary" if target.tensor.dataflow == "weight_stationary" else "result"


def load_stationary_cycles(target: Target, m: int, dtype: str) -> float:
    """Return the array cycles to load a stationary operand of free size `m`.

    max(m, min_issue) * cycles_per_row / weight_load_speedup; 32 for m = 128 in bf16 on
    neuroncore_v2. An array that always loads as a whole takes `rows` steps instead of max(..); one
    that is output-stationary loads nothing.
    """
    array = target.tensor
    if held(target) == "result":
        return 0.0
    steps = array.rows if array.load_whole_array else max(m, array.min_issue_cycles)
    return steps * _row_cycles(target, dtype) / array.weight_load_speedup


def stream_cycles(target: Target, steps: int, dtype: str, stride_bytes: int = 0) -> float:
    """Return the array cycles from one matmul to the next on the same held operand.

    max(steps, min_issue) * cycles_per_row, twice that where the moving operand's innermost stride
    is beyond the penalty. `steps` is the free size n of the moving operand, in an output-stationary
    array the contraction size k.
    """
    cycles = max(steps, target.tensor.min_issue_cycles) * _row_cycles(target, dtype)
    return cycles * _stride_factor(target, stride_bytes)


def drain_cycles(target: Target) -> int:
    """Return the cycles from the last element that enters the array to the last that leaves it.

    rows + columns - 2, whatever part of the array is used. Source: SCALE-Sim's closed forms.
    """
    return target.tensor.rows + target.tensor.columns - 2


def matmul(
    target: Target,
    k: int,
    m: int,
    n: int,
    dtype: str,
    changed: bool = True,
    moving_stride_bytes: int = 0,
) -> Cost:
    """Return the time of psum[m, n] += stationary[k, m] * moving[k, n].

    `changed` says that the array does not hold already what this matmul keeps in it (`held`).

    In a pipelined array a changed stationary operand is loaded behind the matmul before, which the
    rule takes to be of this one's size: the engine is busy for the longer of the two. The result is
    there when the last column has left the array, `drain_cycles` after its issue interval, plus the
    start-up of an access. Where the array is not pipelined, load (unless it is in the background),
    stream and drain follow each other, and the engine is busy until the result is there; matmuls
    that find what they need in the array prolong the stream.

    Rows and columns that are not used idle: `m`, and in a weight-stationary array `k`, cost
    nothing.

    What is larger than the array takes several passes over it, one for each part of what it holds
    (`array_passes`); each finds the part before it in the array, and so has to change it. Only
    operands in a flat scratchpad are as large.
    """
    parts = _held_parts(target, k, m, n)
    changed = changed or sum(parts.values()) > 1
    times = {part: _one_pass(target, *part, dtype, changed, moving_stride_bytes) for part in parts}
    busy = sum(times[part].busy_ns * count for part, count in parts.items())
    last = times[next(reversed(parts))]
    return Cost(busy, busy - last.busy_ns + last.latency_ns)


def array_passes(target: Target, k: int, m: int, n: int) -> int:
    """Return how many parts of array size a matmul's held operand has.

    ceil(k / rows) * ceil(m / columns), in an output-stationary array ceil(n / rows) instead:

    >>> array_passes(Target.load("flat"), 33, 64, 1000)
    4
    """
    across = k if held(target) == "stationary" else n
    return -(-across // target.tensor.rows) * -(-m // target.tensor.columns)


def operand_passes(target: Target, k: int, m: int, n: int) -> tuple[int, int, int]:
    """Return how often a matmul reads every element of its stationary and of its moving operand,
    and how often it writes its sums.

    What the array holds goes in and out once, a streamed operand once for every part beside it.
    Sums are read back before they are written again:

    >>> operand_passes(Target.load("flat"), 96, 64, 1000)
    (1, 2, 3)
    """
    array = target.tensor
    along = -(-m // array.columns)
    if held(target) == "stationary":
        return 1, along, -(-k // array.rows)
    return -(-n // array.rows), along, 1


def _held_parts(target: Target, k: int, m: int, n: int) -> dict[tuple[int, int, int], int]:
    """Return how many passes there are of every size (k, m, n), in their order."""
    array, stationary = target.tensor, held(target) == "stationary"
    return {
        (across, columns, n) if stationary else (k, columns, across): often * together
        for across, often in _pieces(k if stationary else n, array.rows)
        for columns, together in _pieces(m, array.columns)
    }


def _pieces(extent: int, limit: int) -> list[tuple[int, int]]:
    """Return (size, how often) of the pieces that an extent is cut into, the smaller one last."""
    whole, rest = divmod(extent, limit)
    return [piece for piece in ((limit, whole), (rest, 1)) if piece[0] and piece[1]]


def _one_pass(
    target: Target, k: int, m: int, n: int, dtype: str, changed: bool, moving_stride_bytes: int
) -> Cost:
    array = target.tensor
    load = load_stationary_cycles(target, m, dtype) if changed else 0.0
    steps = n if held(target) == "stationary" else k
    stream = stream_cycles(target, steps, dtype, moving_stride_bytes)
    drain = drain_cycles(target) + array.startup_cycles
    if not array.pipelined:
        stream += drain if changed else 0
        drain = 0
    busy = max(load, stream) if array.background_load else load + stream
    latency = (busy if not array.pipelined else load + stream) + drain
    return Cost(busy / array.clock_ghz, latency / array.clock_ghz)


def transpose(target: Target, rows: int, columns: int, dtype: str) -> Cost:
    """Return the time to transpose sbuf[rows, columns] into psum[columns, rows].

    A matmul with the identity: the operand to transpose is stationary, the identity of `rows`
    columns moves.
    """
    return matmul(target, rows, columns, rows, matmul_dtype(target, dtype))


def matmul_dtype(target: Target, dtype: str) -> str:
    """Return the type at whose rate `dtype` streams: f32 where the array cannot multiply it."""
    if target.tensor.supports(dtype):
        return dtype
    return "f32" if target.tensor.supports("f32") else target.default_dtype


def _row_cycles(target: Target, dtype: str) -> float:
    return getattr(target.tensor.cycles_per_row, dtype)


def _stride_factor(target: Target, stride_bytes: int) -> int:
    return 2 if abs(stride_bytes) > target.access_pattern.stride_penalty_bytes else 1


# --- lane engines: vector, scalar, gpsimd -------------------------------------------------------


def lanes(
    target: Target,
    engine: LaneEngineName,
    elements: int,
    *,
    partitions: int = 1,
    passes: Sequence[int] = (1,),
    stride_bytes: int = 0,
    uses_psum: bool = False,
) -> Cost:
    """Return the time of an elementwise instruction or a reduction over `elements` per partition.

    `passes` has one number per arithmetic operation of the body: its tensor operands. A pass over N
    elements takes N cycles for up to one tensor operand, 2 N for two; an operation with more than
    the engine's `max_tensor_inputs` takes several passes (`split_pass`). The memory interface
    limits too: one element per partition and cycle of its own clock, half of that where
    `stride_bytes`, the largest innermost stride of any operand, is beyond the penalty.

    The fixed cycles of an instruction are hidden behind the one before, except where it is short or
    depends on it, as every pass does on the pass before.

    Beside a flat scratchpad the lanes take neighbouring elements: N is ceil(elements / lanes).

    Units: `elements` counts all free dimensions together; for a reduction, those of the input.
    """
    unit: LaneEngine = getattr(target, engine)
    step_ns = max(
        1 / (unit.elements_per_cycle * unit.clock_ghz),
        _interface_ns(target, unit, stride_bytes, uses_psum),
    )
    steps = -(-partitions // unit.lanes) * elements
    if target.is_flat:
        steps = -(-elements // unit.lanes)
    passes = [part for operands in passes for part in split_pass(operands, unit.max_tensor_inputs)]
    streams = [steps * max(operands, 1) * step_ns for operands in passes]
    fixed_ns = (unit.startup_cycles + unit.issue_cycles) / unit.clock_ghz
    hidden_ns = max(0.0, unit.short_cycles / unit.clock_ghz - min(streams))
    waits_ns = (len(passes) - 1) * fixed_ns
    busy = sum(streams) + waits_ns + min(fixed_ns, hidden_ns)
    return Cost(busy, sum(streams) + waits_ns + fixed_ns)


def split_pass(operands: int, max_tensor_inputs: int) -> list[int]:
    """Return the tensor operands of the passes that an operation with `operands` of them takes.

    Every pass but the first also reads what the one before it left: a selection from two tensors
    by a third is a copy of two operands, overwritten where the third says so.

    >>> split_pass(2, 2), split_pass(3, 2), split_pass(0, 1)
    ([2], [2, 2], [0])
    """
    found = [min(operands, max_tensor_inputs)]
    left = operands - found[0]
    while left > 0:
        taken = min(left, max_tensor_inputs - 1)
        found.append(1 + taken)
        left -= taken
    return found


def activate(
    target: Target,
    elements: int,
    *,
    partitions: int = 1,
    stride_bytes: int = 0,
    uses_psum: bool = False,
    accumulates: bool = False,
) -> Cost:
    """Return the time of `function(scale * x + bias)` in the scalar engine.

    One pass, whatever the function; scale and bias are free. `accumulates` also delivers the sum
    along the free dimension.
    """
    cost = lanes(
        target,
        "scalar",
        elements,
        partitions=partitions,
        stride_bytes=stride_bytes,
        uses_psum=uses_psum,
    )
    return with_total(target, cost) if accumulates else cost


def with_total(target: Target, cost: Cost) -> Cost:
    """Return the time of an activation that takes `cost` and also delivers the sum of its results,
    which lies in registers until it is read."""
    extra = target.scalar.accumulator_read_cycles / target.scalar.clock_ghz
    return Cost(cost.busy_ns + extra, cost.latency_ns + extra)


def memset(
    target: Target,
    engine: LaneEngineName,
    elements: int,
    *,
    partitions: int = 1,
    stride_bytes: int = 0,
    uses_psum: bool = False,
) -> Cost:
    """Return the time to write a constant: one pass without tensor operands."""
    return lanes(
        target,
        engine,
        elements,
        partitions=partitions,
        passes=(0,),
        stride_bytes=stride_bytes,
        uses_psum=uses_psum,
    )


def iota(target: Target, elements: int, *, partitions: int = 1, stride_bytes: int = 0) -> Cost:
    """Return the time of gpsimd to write a ramp: one pass without tensor operands."""
    return memset(target, "gpsimd", elements, partitions=partitions, stride_bytes=stride_bytes)


def _interface_ns(target: Target, unit: LaneEngine, stride_bytes: int, uses_psum: bool) -> float:
    """Return the time of the memory interface per element of every partition, or of every lane
    where sbuf is flat."""
    memories = (target.sbuf, target.psum) if uses_psum else (target.sbuf,)
    step_ns = max(
        (unit.lanes if target.is_flat else memory.partitions)
        / (memory.interface_elements_per_cycle * memory.interface_clock_ghz)
        for memory in memories
    )
    return step_ns * _stride_factor(target, stride_bytes)


# --- DMA ----------------------------------------------------------------------------------------


def dma_descriptors(
    target: Target, total_bytes: int, source_run_bytes: int, destination_run_bytes: int
) -> tuple[int, int]:
    """Return the descriptors of a transfer, and the bytes of each (the last may have fewer).

    A descriptor moves bytes that follow each other on both sides.

    >>> dma_descriptors(Target.load("neuroncore_v2"), 128 * 2048, 128 * 2048, 2048)
    (128, 2048)
    """
    run = min(source_run_bytes, destination_run_bytes, target.dma.max_descriptor_bytes, total_bytes)
    return -(-total_bytes // max(run, 1)), run


def dma(
    target: Target,
    total_bytes: int,
    source_run_bytes: int,
    destination_run_bytes: int,
    *,
    dram_sides: int = 1,
) -> Cost:
    """Return the time of a transfer of `total_bytes`.

    Every descriptor takes an engine descriptor_overhead_ns + bytes / engine_bytes_per_ns; the
    engines share the descriptors; DRAM carries at most dram.bytes_per_ns for each side
    (`dram_sides`: 0, 1 or 2) that lies there. Alone, a transfer cannot use more engines than it has
    descriptors.

    Units: a run is the bytes that follow each other on one side; on chip, within one partition.
    Source: the 2 KiB and 4 KiB thresholds of nki-dma-bandwidth-guide.rst follow from these rules.
    """
    count, run = dma_descriptors(target, total_bytes, source_run_bytes, destination_run_bytes)
    descriptor_ns = target.dma.descriptor_overhead_ns + run / target.dma.engine_bytes_per_ns
    dram_ns = dram_sides * total_bytes / target.dram.bytes_per_ns
    busy = max(count * descriptor_ns / target.dma.engines, dram_ns)
    alone = max(-(-count // target.dma.engines) * descriptor_ns, dram_ns)
    return Cost(busy, target.dma.startup_ns + alone)


def gather(
    target: Target, indices: int, slice_bytes: int, slice_run_bytes: int, *, dram_sides: int = 1
) -> GatherCost:
    """Return the time to fetch `indices` slices of `slice_bytes`.

    The gpsimd processors share the indices, gather_index_cycles each; the DMA then moves every
    slice in its contiguous runs.
    """
    unit = target.gpsimd
    rounds = -(-indices // unit.processors)
    forming_ns = rounds * unit.gather_index_cycles / unit.clock_ghz
    fixed_ns = (unit.startup_cycles + unit.issue_cycles) / unit.clock_ghz
    transfer = dma(
        target, indices * slice_bytes, slice_run_bytes, slice_run_bytes, dram_sides=dram_sides
    )
    return GatherCost(Cost(forming_ns + fixed_ns, forming_ns + fixed_ns), transfer)


# --- bounds -------------------------------------------------------------------------------------


def compute_bound_ns(target: Target, macs: float, dtype: str) -> float:
    """Return the time of `macs` multiply-accumulates with the whole array at work all the time."""
    return macs / target.tensor.macs_per_ns(matmul_dtype(target, dtype))


def dram_bound_ns(target: Target, dram_bytes: float) -> float:
    """Return the time of `dram_bytes` at the peak of DRAM, or of all DMA engines if that is longer.

    A transfer within DRAM crosses its interface twice, so engines may move half of the bytes.
    """
    return max(dram_bytes / target.dram.bytes_per_ns, dram_bytes / 2 / target.dma.bytes_per_ns)
