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
from polystage.machine.components import (
    DTYPES,
    ENGINES,
    PSUM_ELEMENT_BYTES,
    AccessPattern,
    Device,
    Dma,
    Dram,
    GpsimdEngine,
    LaneEngine,
    Psum,
    Sbuf,
    ScalarEngine,
    TensorEngine,
)
from polystage.machine.figures import Area, Energy
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
OVERRIDE_FILE = "--set"

SCRATCHPAD_BYTES = "scratchpad_bytes"
"""What a flat target calls `sbuf.bytes_per_partition` where single values are set."""


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

    device: Device
    """The chip that the core is one of."""

    energy: Energy
    """Energy of every event."""

    area: Area
    """Area of every part."""

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

    @property
    def is_flat(self) -> bool:
        """Whether the scratchpad is flat: one memory for operands and accumulators."""
        return self.sbuf.partitions == 1

    def is_assumed(self, key: str) -> bool:
        """Return whether the value of `key` is an assumption, by itself or with its table."""
        return any(key == known or key.startswith(known + ".") for known in self.assumptions)

    def override(self, values: Mapping[str, Any], file: str = OVERRIDE_FILE) -> "Target":
        """Return the target with some values changed, checked like a file.

        `scratchpad_bytes` is the size of a flat scratchpad:

        >>> Target.load("flat").override({"scratchpad_bytes": 147456}).sbuf.bytes
        147456
        """
        tree = self.to_tree()
        for key, value in values.items():
            info = self._field_to_set(key, file)
            *tables, name = info.key.split(".")
            table = tree
            for part in tables:
                table = table[part]
            table[name] = parse_text(info, value, file) if isinstance(value, str) else value
        return Target.from_tree(tree, file)

    def _field_to_set(self, key: str, file: str) -> FieldInfo:
        if key != SCRATCHPAD_BYTES:
            return find_field(key, file)
        if not self.is_flat:
            raise TargetError(
                f"{file}: '{key}' is the size of a flat scratchpad, but that of '{self.name}' has "
                f"{self.sbuf.partitions} partitions",
                help="set sbuf.bytes_per_partition, or choose the target 'flat'",
            )
        return find_field("sbuf.bytes_per_partition", file)


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


def _flat_scratchpad_accumulates(target: Target) -> tuple[str, str] | None:
    if target.is_flat == (target.psum.banks == 0):
        return None
    if target.is_flat:
        return (
            f"'psum.banks' is {target.psum.banks}, but must be 0: 'sbuf.partitions' is 1",
            "the accumulators lie in a flat scratchpad",
        )
    return (
        f"'psum.banks' is 0, but must be at least 1: 'sbuf.partitions' is {target.sbuf.partitions}",
        "only a flat scratchpad, which has 1 partition, holds the accumulators itself",
    )


def _contraction_fits_partitions(target: Target) -> tuple[str, str] | None:
    if target.is_flat or target.tensor.rows <= target.sbuf.partitions:
        return None
    return (
        f"'tensor.rows' is {target.tensor.rows}, but must be at most 'sbuf.partitions', "
        f"which is {target.sbuf.partitions}",
        "the contraction lies across the partitions; a flat scratchpad has 1 partition",
    )


def _columns_fit_partitions(target: Target) -> tuple[str, str] | None:
    if target.is_flat or target.tensor.columns <= target.psum.partitions:
        return None
    return (
        f"'tensor.columns' is {target.tensor.columns}, but must be at most 'psum.partitions', "
        f"which is {target.psum.partitions}",
        "the array's columns write one psum partition each",
    )


def _result_fits_bank(target: Target) -> tuple[str, str] | None:
    limit = target.psum.bank_bytes // PSUM_ELEMENT_BYTES
    if target.is_flat or target.tensor.moving_columns <= limit:
        return None
    return (
        f"'tensor.moving_columns' is {target.tensor.moving_columns}, but must be at most {limit}: "
        f"'psum.bank_bytes' is {target.psum.bank_bytes}",
        "the result of one matmul, 4 bytes per element, lies in one psum bank",
    )


def _groups_fit_banks(target: Target) -> tuple[str, str] | None:
    if target.is_flat or target.psum.open_groups <= target.psum.banks:
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


def _share_of_dram_fits_device(target: Target) -> tuple[str, str] | None:
    if target.dram.bytes_per_ns <= target.device.dram_bytes_per_ns:
        return None
    return (
        f"'dram.bytes_per_ns' is {target.dram.bytes_per_ns:g}, but must be at most "
        f"'device.dram_bytes_per_ns', which is {target.device.dram_bytes_per_ns:g}",
        "one core cannot use more of the DRAM than there is; raise both",
    )


def _results_fit_rows(target: Target) -> tuple[str, str] | None:
    array = target.tensor
    held_stationary = array.dataflow == "weight_stationary"
    if target.is_flat or held_stationary or array.moving_columns <= array.rows:
        return None
    return (
        f"'tensor.moving_columns' is {array.moving_columns}, but must be at most 'tensor.rows', "
        f"which is {array.rows}",
        "an output-stationary array holds one moving column in each of its rows",
    )


def _two_operands_meet(target: Target) -> tuple[str, str] | None:
    for engine in ("vector", "gpsimd"):
        unit: LaneEngine = getattr(target, engine)
        if unit.max_tensor_inputs < 2:
            return (
                f"'{engine}.max_tensor_inputs' is {unit.max_tensor_inputs}, but must be at least 2",
                "the engine adds and multiplies two tensors",
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
    _flat_scratchpad_accumulates,
    _contraction_fits_partitions,
    _columns_fit_partitions,
    _result_fits_bank,
    _groups_fit_banks,
    _granule_divides_partitions,
    _default_dtype_is_supported,
    _exclusive_engines_exist,
    _share_of_dram_fits_device,
    _results_fit_rows,
    _two_operands_meet,
    _assumptions_exist,
)
"""Every check that looks at more than one value; each returns message and help, or None."""
