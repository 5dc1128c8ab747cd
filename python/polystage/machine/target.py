"""The accelerator as data: every number that the compiler and the simulator know about a machine.

A target is read from a TOML file and checked; nothing else in Polystage holds a hardware number.
The model is that of the publicly documented AWS NeuronCore: engines with their own instruction
streams around a partitioned scratchpad (sbuf) and an accumulating one (psum), fed by DMA engines.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polystage.errors import TargetError
from polystage.machine.schema import (
    FieldInfo,
    build,
    describe,
    flatten,
    parse_text,
    quantity,
    to_tree,
    unknown_key,
)

PRESETS = Path(__file__).parent / "presets"
ENGINES = ("tensor", "vector", "scalar", "gpsimd", "dma")
PSUM_ELEMENT_BYTES = 4
OVERRIDE_FILE = "--set"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sbuf:
    """The scratchpad that all engines read and write."""

    partitions: int = quantity("partitions", minimum=1)
    """Partitions; dimension 0 of an on-chip memref lies across them. 1 is a flat scratchpad."""

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

    banks: int = quantity("banks", minimum=1)
    """Banks of one partition; the result of one matmul lies in one bank."""

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
    """Cycles that the array takes for one moving row (one free index), by operand type.

    0 says that the tensor engine does not take the type.
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
    """The systolic array: psum[m, n] (+)= sum over k of stationary[k, m] * moving[k, n]."""

    rows: int = quantity("rows", minimum=1)
    """Largest contraction size K of one matmul; K lies on the sbuf partitions."""

    columns: int = quantity("columns", minimum=1)
    """Largest free size M of the stationary operand; M lies on the psum partitions."""

    moving_columns: int = quantity("elements", minimum=1)
    """Largest free size N of the moving operand."""

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

    cycles_per_row: CyclesPerRow
    """Cycles per moving row by operand type."""

    def supports(self, dtype: str) -> bool:
        """Return whether the array multiplies operands of `dtype` ("f32", "bf16", "i8", ...)."""
        return dtype in DTYPES and getattr(self.cycles_per_row, dtype) > 0

    def macs_per_ns(self, dtype: str) -> float:
        """Return the peak multiply-accumulates per nanosecond.

        2 * macs_per_ns / 1000 is the peak in TFLOP/s:

        >>> 2 * Target.load("neuroncore_v2").tensor.macs_per_ns("bf16") / 1000
        91.7504
        """
        return self.rows * self.columns * self.clock_ghz / getattr(self.cycles_per_row, dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneEngine:
    """An engine of parallel lanes, one per partition, that stream the free dimension."""

    lanes: int = quantity("lanes", minimum=1)
    """Partitions worked on at once; more take several rounds."""

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

    reaches_psum: bool = quantity("")
    """Whether the engine has an interface to psum."""


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
class MacEnergy:
    """Energy of one multiply-accumulate in the array, by operand type."""

    f32: float = quantity("pJ", minimum=0)
    """f32 multiply, f32 add."""

    bf16: float = quantity("pJ", minimum=0)
    """bf16 multiply, f32 add."""

    f16: float = quantity("pJ", minimum=0)
    """f16 multiply, f32 add."""

    f8: float = quantity("pJ", minimum=0)
    """f8 multiply, f32 add."""

    i8: float = quantity("pJ", minimum=0)
    """8-bit multiply, 32-bit add."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """What every event costs."""

    mac_pj: MacEnergy
    """Energy of one multiply-accumulate by operand type."""

    vector_op_pj: float = quantity("pJ", minimum=0)
    """One operation on one element in the vector engine."""

    scalar_op_pj: float = quantity("pJ", minimum=0)
    """One activation of one element in the scalar engine."""

    gpsimd_op_pj: float = quantity("pJ", minimum=0)
    """One operation on one element in the gpsimd engine."""

    sbuf_byte_pj: float = quantity("pJ/byte", minimum=0)
    """Read or write of one byte of sbuf."""

    psum_byte_pj: float = quantity("pJ/byte", minimum=0)
    """Read or write of one byte of psum."""

    dram_byte_pj: float = quantity("pJ/byte", minimum=0)
    """Read or write of one byte of dram."""

    static_w: float = quantity("W", minimum=0)
    """Power that is drawn whether anything happens or not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One accelerator core with its memories."""

    name: str = quantity("")
    """Name of the target, as reports and messages show it."""

    description: str = quantity("")
    """What it is, in one sentence."""

    default_dtype: str = quantity("")
    """Arithmetic type that a program is compiled for where none is asked for."""

    assumptions: tuple[str, ...] = quantity("keys")
    """Keys, or whole tables, whose value is assumed because none is published."""

    sbuf: Sbuf
    """The scratchpad."""

    psum: Psum
    """The accumulating scratchpad."""

    tensor: TensorEngine
    """The systolic array."""

    vector: LaneEngine
    """The engine of elementwise operations and reductions."""

    scalar: ScalarEngine
    """The engine of activations."""

    gpsimd: GpsimdEngine
    """The general processors."""

    access_pattern: AccessPattern
    """What the compute engines can address."""

    dma: Dma
    """The DMA engines."""

    dram: Dram
    """The memory outside."""

    energy: Energy
    """Energy of every event."""

    @classmethod
    def load(cls, name_or_path: str | Path, overrides: Mapping[str, Any] | None = None) -> "Target":
        """Read a preset by its name, or a TOML file by its path, and change single values.

        `overrides` maps dotted keys, or their last part where only one key ends so, to values;
        texts are read in the type of the field.

        >>> Target.load("tiny", {"sbuf.bytes_per_partition": "1024"}).sbuf.bytes_per_partition
        1024

        Raises: TargetError that names file, key, the value found and what is allowed.
        """
        path = _find(str(name_or_path))
        tree = _read(path)
        target = _checked(build(cls, tree, str(path)), str(path))
        return target.override(overrides) if overrides else target

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any], file: str) -> "Target":
        """Make a target of nested mappings; messages call their place `file`."""
        return _checked(build(cls, tree, file), file)

    @classmethod
    def presets(cls) -> tuple[str, ...]:
        """Return the names of the targets that come with Polystage, sorted."""
        return tuple(sorted(path.stem for path in PRESETS.glob("*.toml")))

    def to_tree(self) -> dict[str, Any]:
        """Return the target as nested dictionaries, the inverse of `from_tree`."""
        return to_tree(self)

    def values(self) -> dict[str, Any]:
        """Return every value by its dotted key."""
        return flatten(self.to_tree())

    def is_assumed(self, key: str) -> bool:
        """Return whether the value of `key` is an assumption, by itself or with its table."""
        return any(key == known or key.startswith(known + ".") for known in self.assumptions)

    def override(self, values: Mapping[str, Any], file: str = OVERRIDE_FILE) -> "Target":
        """Return the target with some values changed, checked like a file."""
        tree = self.to_tree()
        for key, value in values.items():
            info = find_field(key, file)
            *tables, name = info.key.split(".")
            table = tree
            for part in tables:
                table = table[part]
            table[name] = parse_text(info, value, file) if isinstance(value, str) else value
        return Target.from_tree(tree, file)


def find_field(key: str, file: str = OVERRIDE_FILE) -> FieldInfo:
    """Return the field with a dotted key, or the only one whose key ends in it.

    Raises: TargetError where there is none, or several.
    """
    fields = {info.key: info for info in describe(Target)}
    if key in fields:
        return fields[key]
    candidates = [name for name in fields if name.endswith("." + key)]
    if not candidates:
        raise unknown_key(key, list(fields), file)
    if len(candidates) > 1:
        raise TargetError(
            f"{file}: key '{key}' is ambiguous",
            help="write one of " + ", ".join(f"'{name}'" for name in candidates),
        )
    return fields[candidates[0]]


def parse_settings(settings: list[str] | tuple[str, ...]) -> dict[str, str]:
    """Split `key=value` texts, as the command line's `--set` gives them.

    Raises: TargetError where one has no `=`.
    """
    pairs: dict[str, str] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key.strip():
            raise TargetError(
                f"{OVERRIDE_FILE}: '{setting}' is not of the form key=value",
                help="write for example sbuf.bytes_per_partition=98304",
            )
        pairs[key.strip()] = value.strip()
    return pairs


def _find(name_or_path: str) -> Path:
    if name_or_path in Target.presets():
        return PRESETS / f"{name_or_path}.toml"
    path = Path(name_or_path)
    if path.suffix != ".toml" and not path.is_file():
        raise TargetError(
            f"unknown target '{name_or_path}'",
            help=f"name a preset ({', '.join(Target.presets())}) or the path of a .toml file",
        )
    return path


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        text = str(error)
        raise TargetError(
            f"{path}: not valid TOML: {text[:1].lower()}{text[1:]}",
            help="mend the file, or start from a copy of a preset",
        ) from None
    except UnicodeDecodeError:
        raise TargetError(
            f"{path}: not a text file", help="a target is a TOML file in UTF-8"
        ) from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise TargetError(
            f"{path}: cannot be read: {reason}",
            help=f"presets are {', '.join(Target.presets())}",
        ) from None


def _checked(target: Target, file: str) -> Target:
    for rule in RULES:
        if found := rule(target):
            message, remedy = found
            raise TargetError(f"{file}: {message}", help=remedy)
    return target


def _contraction_fits_partitions(target: Target) -> tuple[str, str] | None:
    if target.sbuf.partitions == 1 or target.tensor.rows <= target.sbuf.partitions:
        return None
    return (
        f"'tensor.rows' is {target.tensor.rows}, but must be at most 'sbuf.partitions', "
        f"which is {target.sbuf.partitions}",
        "the contraction lies across the partitions; a flat scratchpad has 1 partition",
    )


def _columns_fit_partitions(target: Target) -> tuple[str, str] | None:
    if target.psum.partitions == 1 or target.tensor.columns <= target.psum.partitions:
        return None
    return (
        f"'tensor.columns' is {target.tensor.columns}, but must be at most 'psum.partitions', "
        f"which is {target.psum.partitions}",
        "the array's columns write one psum partition each",
    )


def _result_fits_bank(target: Target) -> tuple[str, str] | None:
    limit = target.psum.bank_bytes // PSUM_ELEMENT_BYTES
    if target.tensor.moving_columns <= limit:
        return None
    return (
        f"'tensor.moving_columns' is {target.tensor.moving_columns}, but must be at most {limit}: "
        f"'psum.bank_bytes' is {target.psum.bank_bytes}",
        "the result of one matmul, 4 bytes per element, lies in one psum bank",
    )


def _groups_fit_banks(target: Target) -> tuple[str, str] | None:
    if target.psum.open_groups <= target.psum.banks:
        return None
    return (
        f"'psum.open_groups' is {target.psum.open_groups}, but must be at most 'psum.banks', "
        f"which is {target.psum.banks}",
        "every open accumulation occupies a bank",
    )


def _granule_divides_partitions(target: Target) -> tuple[str, str] | None:
    sbuf = target.sbuf
    if sbuf.partitions % sbuf.partition_start_granule == 0:
        return None
    return (
        f"'sbuf.partition_start_granule' is {sbuf.partition_start_granule}, but must divide "
        f"'sbuf.partitions', which is {sbuf.partitions}",
        "quadrants are of equal size",
    )


def _default_dtype_is_supported(target: Target) -> tuple[str, str] | None:
    supported = [dtype for dtype in DTYPES if target.tensor.supports(dtype)]
    if target.default_dtype in supported:
        return None
    return (
        f"'default_dtype' is \"{target.default_dtype}\", but the tensor engine takes "
        f"{', '.join(supported) or 'nothing'}",
        "choose one of these, or give it a rate in [tensor.cycles_per_row]",
    )


def _exclusive_engines_exist(target: Target) -> tuple[str, str] | None:
    for memory in ("sbuf", "psum"):
        for engine in getattr(target, memory).exclusive_engines:
            if engine not in ENGINES:
                return (
                    f"'{memory}.exclusive_engines' names \"{engine}\", but the engines are "
                    f"{', '.join(ENGINES)}",
                    "correct the name",
                )
    return None


def _assumptions_exist(target: Target) -> tuple[str, str] | None:
    keys = list(target.values())
    for known in target.assumptions:
        if known not in keys and not any(key.startswith(known + ".") for key in keys):
            return (
                f"'assumptions' names \"{known}\", which is no key of a target",
                "name a key such as 'sbuf.partitions', or a whole table such as 'energy'",
            )
    return None


RULES = (
    _contraction_fits_partitions,
    _columns_fit_partitions,
    _result_fits_bank,
    _groups_fit_banks,
    _granule_divides_partitions,
    _default_dtype_is_supported,
    _exclusive_engines_exist,
    _assumptions_exist,
)
"""Every check that looks at more than one value; each returns message and help, or None."""
