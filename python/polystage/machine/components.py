"""The parts of a machine, each with its numbers: unit and range in the field, meaning below it."""

from dataclasses import dataclass

from polystage.machine.schema import describe, quantity

ENGINES = ("tensor", "vector", "scalar", "gpsimd", "dma")
DATAFLOWS = ("weight_stationary", "output_stationary")
PSUM_ELEMENT_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Sbuf:
    """The scratchpad that all engines read and write."""

    partitions: int = quantity("partitions", minimum=1)
    """Partitions; dimension 0 of an on-chip memref lies across them. 1 is a flat scratchpad, which
    holds the accumulators, too."""

    bytes_per_partition: int = quantity("bytes", minimum=1)
    """Capacity of one partition."""

    partition_start_granule: int = quantity("partitions", minimum=1)
    """Size of a quadrant: an access of `n` partitions starts at a multiple of the smallest
    granule * 2^i that is at least `n`."""

    interface_clock_ghz: float = quantity("GHz", above=0)
    """Clock of one engine's read or write interface."""

    interface_elements_per_cycle: int = quantity("elements/cycle", minimum=1)
    """Elements, across all partitions, that one interface moves per cycle of its clock."""

    exclusive_engines: tuple[str, ...] = quantity("engines")
    """Engines that cannot use sbuf at the same time."""

    @property
    def bytes(self) -> int:
        """Capacity of all partitions."""
        return self.partitions * self.bytes_per_partition

    def legal_starts(self, partitions: int) -> range:
        """Return where an access of `partitions` partitions may start.

        >>> from polystage.machine import Target
        >>> list(Target.load("neuroncore_v2").sbuf.legal_starts(33))
        [0, 64]
        """
        block = self.partition_start_granule
        while block < partitions:
            block *= 2
        return range(0, self.partitions - partitions + 1, block)


@dataclass(frozen=True, slots=True, kw_only=True)
class Psum:
    """The scratchpad that the tensor engine accumulates into."""

    partitions: int = quantity("partitions", minimum=1)
    """Partitions; the stationary operand's free dimension lies across them."""

    banks: int = quantity("banks", minimum=0)
    """Banks of one partition; the result of one matmul lies in one bank. 0, beside a flat
    scratchpad, says that there is no psum, and the rest of its table nothing."""

    bank_bytes: int = quantity("bytes", minimum=PSUM_ELEMENT_BYTES)
    """Capacity of one bank of one partition."""

    open_groups: int = quantity("groups", minimum=1)
    """Accumulations that can be unfinished at the same time."""

    interface_clock_ghz: float = quantity("GHz", above=0)
    """Clock of one engine's read or write interface."""

    interface_elements_per_cycle: int = quantity("elements/cycle", minimum=1)
    """Elements, across all partitions, that one interface moves per cycle of its clock."""

    exclusive_engines: tuple[str, ...] = quantity("engines")
    """Engines that cannot use psum at the same time."""

    @property
    def bytes_per_partition(self) -> int:
        """Capacity of one partition."""
        return self.banks * self.bank_bytes

    @property
    def bytes(self) -> int:
        """Capacity of all partitions."""
        return self.partitions * self.bytes_per_partition


@dataclass(frozen=True, slots=True, kw_only=True)
class CyclesPerRow:
    """Cycles of one step of the array, by operand type.

    A step takes in one free index of the moving operand, or in an output-stationary array one
    contraction index of both operands. 0 says that the tensor engine does not take the type.
    """

    f32: float = quantity("cycles", minimum=0)
    """32-bit float operands, accumulated as f32."""

    bf16: float = quantity("cycles", minimum=0)
    """bfloat16 operands, accumulated as f32."""

    f16: float = quantity("cycles", minimum=0)
    """16-bit float operands, accumulated as f32."""

    f8: float = quantity("cycles", minimum=0)
    """8-bit float operands, accumulated as f32."""

    i8: float = quantity("cycles", minimum=0)
    """8-bit integer operands, accumulated as i32."""


DTYPES = tuple(info.key for info in describe(CyclesPerRow))


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorEngine:
    """The systolic array: sums[m, n] (+)= sum over k of stationary[k, m] * moving[k, n].

    The sums lie in psum, beside a flat scratchpad in that. There a matmul may be larger than the
    array, and then takes several passes.
    """

    dataflow: str = quantity("", choices=DATAFLOWS)
    """What stays in the array: the stationary operand, [k, m] in its rows and columns, while n
    streams; or the result, [n, m] in its rows and columns, while k streams."""

    rows: int = quantity("rows", minimum=1)
    """Rows of the array, and largest contraction size K of one matmul, or of one pass where sbuf is
    flat; K lies on the sbuf partitions."""

    columns: int = quantity("columns", minimum=1)
    """Columns of the array, and largest free size M of the stationary operand, or of one pass where
    sbuf is flat; M lies on the psum partitions."""

    moving_columns: int = quantity("elements", minimum=1)
    """Largest free size N of the moving operand; one in a flat sbuf may have any."""

    clock_ghz: float = quantity("GHz", above=0)
    """Clock of the array."""

    min_issue_cycles: int = quantity("cycles", minimum=1)
    """Least cycles from one matmul to the next, whatever N is."""

    startup_cycles: int = quantity("cycles", minimum=0)
    """Fixed start-up of an access to sbuf or psum; delays the result, not the next matmul."""

    weight_load_speedup: float = quantity("ratio", above=0)
    """How much faster a stationary operand loads than a moving one of its size streams."""

    background_load: bool = quantity("")
    """Whether the next stationary operand loads while the current matmul runs."""

    load_whole_array: bool = quantity("")
    """Whether a stationary operand always takes the time of `rows` steps to load, however small it
    is; otherwise that of its own free size M."""

    pipelined: bool = quantity("")
    """Whether a matmul enters the array while the one before it still leaves; otherwise the array
    runs empty wherever it changes what it holds."""

    cycles_per_row: CyclesPerRow
    """Cycles per moving row by operand type."""

    def supports(self, dtype: str) -> bool:
        """Return whether the array multiplies operands of `dtype` ("f32", "bf16", "i8", ...)."""
        return dtype in DTYPES and getattr(self.cycles_per_row, dtype) > 0

    def macs_per_ns(self, dtype: str) -> float:
        """Return the peak multiply-accumulates per nanosecond.

        2 * macs_per_ns / 1000 is the peak in TFLOP/s:

        >>> from polystage.machine import Target
        >>> 2 * Target.load("neuroncore_v2").tensor.macs_per_ns("bf16") / 1000
        91.7504
        """
        return self.rows * self.columns * self.clock_ghz / getattr(self.cycles_per_row, dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneEngine:
    """An engine of parallel lanes, one per partition, that stream the free dimension; beside a flat
    scratchpad one per neighbouring element."""

    lanes: int = quantity("lanes", minimum=1)
    """Partitions worked on at once, or elements where sbuf is flat; more take several rounds."""

    clock_ghz: float = quantity("GHz", above=0)
    """Clock of the lanes."""

    elements_per_cycle: float = quantity("elements/cycle", above=0)
    """Elements that one lane takes in per cycle."""

    startup_cycles: int = quantity("cycles", minimum=0)
    """Fixed start-up of an access to sbuf or psum."""

    issue_cycles: int = quantity("cycles", minimum=0)
    """Further fixed cycles of an instruction that is short, or waits for the one before it."""

    short_cycles: int = quantity("cycles", minimum=0)
    """An instruction that streams at least this long hides its fixed cycles."""

    max_tensor_inputs: int = quantity("operands", minimum=1)
    """Tensor operands that one instruction reads."""

    fused_operations: int = quantity("operations", minimum=1, maximum=2)
    """Arithmetic operations of one instruction. The second of two takes the result of the first,
    which combines one tensor with a constant or with one element per partition."""

    full_rate_pairs: bool = quantity("")
    """Whether two tensors stream at the rate of one where one of them lies in psum and the other in
    sbuf, and where all are contiguous bf16 and an addition, subtraction or multiplication has
    them."""

    reaches_psum: bool = quantity("")
    """Whether the engine has an interface to psum."""

    @property
    def operations_per_ns(self) -> float:
        """Operations on single elements with all lanes at work."""
        return self.lanes * self.elements_per_cycle * self.clock_ghz * self.fused_operations


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalarEngine(LaneEngine):
    """The lane engine of `function(scale * x + bias)`."""

    accumulator_read_cycles: int = quantity("cycles", minimum=0)
    """Extra cycles to also deliver the sum along the free dimension."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpsimdEngine(LaneEngine):
    """General processors: iota, gather, odd shapes."""

    processors: int = quantity("processors", minimum=1)
    """Processors that share the lanes and compute gather addresses."""

    gather_index_cycles: float = quantity("cycles", minimum=0)
    """Cycles of one processor to turn one index into a DMA descriptor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessPattern:
    """What one instruction can address in sbuf or psum, the same for every partition."""

    max_free_dims: int = quantity("dimensions", minimum=1)
    """Strided free dimensions of one operand, after adjacent ones are merged."""

    max_size: int = quantity("elements", minimum=1)
    """Largest extent of one free dimension."""

    max_stride: int = quantity("elements", minimum=1)
    """Largest stride of one free dimension, either sign."""

    stride_penalty_bytes: int = quantity("bytes", minimum=1)
    """An innermost stride beyond this halves the rate of the interface."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dma:
    """The DMA engines and the queues that feed them."""

    engines: int = quantity("engines", minimum=1)
    """Engines that share the descriptors of every transfer."""

    queues: int = quantity("queues", minimum=1)
    """In-order queues that a program may name; different queues run at the same time."""

    engine_bytes_per_ns: float = quantity("bytes/ns", above=0)
    """Peak rate of one engine."""

    startup_ns: float = quantity("ns", minimum=0)
    """From the trigger of a transfer to its first byte, and the semaphore at its end, together."""

    descriptor_overhead_ns: float = quantity("ns", minimum=0)
    """Time of an engine per descriptor, that is per contiguous run, besides its bytes."""

    max_descriptor_bytes: int = quantity("bytes", minimum=1)
    """Longest contiguous run of one descriptor; longer ones are cut."""

    max_dims: int = quantity("dimensions", minimum=1)
    """Strided dimensions of one transfer, after adjacent ones are merged."""

    @property
    def bytes_per_ns(self) -> float:
        """Peak rate of all engines together."""
        return self.engines * self.engine_bytes_per_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class Dram:
    """The memory outside the core, this core's share of it."""

    bytes: int = quantity("bytes", minimum=1)
    """Capacity."""

    bytes_per_ns: float = quantity("bytes/ns", above=0)
    """Bandwidth, reads and writes together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """The chip that the core is one of."""

    cores: int = quantity("cores", minimum=1)
    """Cores like this one."""

    dram_bytes_per_ns: float = quantity("bytes/ns", above=0)
    """Bandwidth of the device's DRAM, reads and writes of all cores together."""
