"""The sizes of a machine that can be swept, and what else must grow with each.

One size changes, the others stay: the capacity of the scratchpad does when the array grows, and so
does the DRAM bandwidth of the device when it has more cores.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from polystage.errors import PolystageError
from polystage.machine import Target

Value = tuple[int, int] | float
"""Rows and columns of the array; bytes of the scratchpad; bytes/ns of DRAM; cores."""

Overrides = dict[str, Any]
"""Values of a target by key."""

_BYTES = {"": 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_GROWTH = {
    "array": (0.25, 0.5, 1.0, 2.0, 4.0),
    "sbuf": (0.0625, 0.125, 0.25, 0.5, 1.0, 2.0),
    "dram": (0.125, 0.25, 0.5, 1.0, 2.0, 4.0),
}
"""Default values, as factors of what the target has."""

_CORES = (1, 2, 4, 8)


@dataclass(frozen=True)
class Axis:
    """A size of the machine: how it is written, what it changes, what it is by default."""

    name: str
    title: str
    parse: Callable[[str], Value]
    text: Callable[[Value], str]
    number: Callable[[Value], float]
    """Place of a value on a logarithmic scale."""
    overrides: Callable[[Target, Value], Overrides]
    defaults: Callable[[Target], Sequence[Value]]
    recompiles: bool
    """Whether another value needs another program; else only times change."""


def parse_axis(text: str, target: Target) -> tuple[Axis, tuple[Value, ...]]:
    """Return the axis and the values of `NAME` or `NAME:VALUE,VALUE,..`.

    >>> axis, values = parse_axis("sbuf:6MiB,12MiB", Target.load("neuroncore_v2"))
    >>> axis.name, values
    ('sbuf', (6291456.0, 12582912.0))

    Raises: PolystageError.
    """
    name, colon, listed = text.partition(":")
    if name not in AXES:
        raise PolystageError(
            f"--over: there is no size '{name}' to sweep", help=f"sizes are {', '.join(AXES)}"
        )
    axis = AXES[name]
    if not colon:
        return axis, tuple(axis.defaults(target))
    values = tuple(axis.parse(value.strip()) for value in listed.split(","))
    if len(set(values)) < len(values):
        raise PolystageError(f"--over: '{text}' has a value twice")
    return axis, values


def _parse_array(text: str) -> Value:
    found = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if not found or 0 in (int(n) for n in found.groups() if n):
        raise _no_value("array", text, "rows, or rows and columns such as 128x64")
    rows = int(found[1])
    return rows, int(found[2] or rows)


def _parse_bytes(text: str) -> Value:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(\w*)", text)
    if not found or found[2] not in _BYTES or not float(found[1]):
        raise _no_value("sbuf", text, "bytes such as 6MiB or 98304")
    return float(found[1]) * _BYTES[found[2]]


def _parse_bandwidth(text: str) -> Value:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:GB/s)?", text)
    if not found or not float(found[1]):
        raise _no_value("dram", text, "GB/s such as 205")
    return float(found[1])


def _parse_cores(text: str) -> Value:
    if not text.isdigit() or not int(text):
        raise _no_value("cores", text, "a number such as 4")
    return int(text)


def _no_value(axis: str, text: str, wanted: str) -> PolystageError:
    return PolystageError(f"--over: '{text}' is no value of '{axis}'", help=f"write {wanted}")


def _array_text(value: Value) -> str:
    assert isinstance(value, tuple)
    return f"{value[0]}x{value[1]}"


def _array_number(value: Value) -> float:
    assert isinstance(value, tuple)
    return (value[0] * value[1]) ** 0.5


def _number(value: Value) -> float:
    assert not isinstance(value, tuple)
    return value


def bytes_text(value: Value) -> str:
    """Return bytes in the largest unit of which there is at least one.

    >>> bytes_text(25165824.0)
    '24 MiB'
    """
    size = _number(value)
    for unit, factor in reversed(_BYTES.items()):
        if unit and size >= factor:
            return f"{size / factor:.4g} {unit}"
    return f"{size:.4g} B"


def _array(target: Target, value: Value) -> Overrides:
    """Change the array; partitions, each with its lanes and port, follow where it is larger.

    The scratchpad keeps its capacity, psum that of a partition.
    """
    assert isinstance(value, tuple)
    rows, columns = value
    changed: Overrides = {"tensor.rows": rows, "tensor.columns": columns}
    if 1 < target.sbuf.partitions < rows:
        changed["sbuf.partitions"] = rows
        changed["sbuf.bytes_per_partition"] = target.sbuf.bytes // rows
        changed |= _widened(target, rows / target.sbuf.partitions)
    if 1 < target.psum.partitions < columns:
        changed["psum.partitions"] = columns
        wider = target.psum.interface_elements_per_cycle * columns / target.psum.partitions
        changed["psum.interface_elements_per_cycle"] = round(wider)
    return changed


def _widened(target: Target, growth: float) -> Overrides:
    """Return the lanes and ports of `growth` times as many partitions."""
    engines = {f"{e}.lanes": getattr(target, e).lanes for e in ("vector", "scalar", "gpsimd")}
    ports = {"sbuf.interface_elements_per_cycle": target.sbuf.interface_elements_per_cycle}
    return {key: round(value * growth) for key, value in (engines | ports).items()}


def _sbuf(target: Target, value: Value) -> Overrides:
    return {"sbuf.bytes_per_partition": int(_number(value)) // target.sbuf.partitions}


def _dram(target: Target, value: Value) -> Overrides:
    """Change the bandwidth of a core, and that of the device in proportion."""
    share = target.device.dram_bytes_per_ns / target.dram.bytes_per_ns
    bandwidth = float(_number(value))
    return {"dram.bytes_per_ns": bandwidth, "device.dram_bytes_per_ns": bandwidth * share}


def _cores(target: Target, value: Value) -> Overrides:
    return {"device.cores": int(_number(value))}


def _grown_array(target: Target) -> Sequence[Value]:
    array = target.tensor
    sizes = ((round(array.rows * g), round(array.columns * g)) for g in _GROWTH["array"])
    return tuple(size for size in sizes if min(size) > 0)


def _grown(name: str, base: Callable[[Target], float]) -> Callable[[Target], Sequence[Value]]:
    return lambda target: tuple(base(target) * growth for growth in _GROWTH[name])


_LISTED = (
    Axis(
        "array",
        "array (rows x columns)",
        _parse_array,
        _array_text,
        _array_number,
        _array,
        _grown_array,
        recompiles=True,
    ),
    Axis(
        "sbuf",
        "scratchpad",
        _parse_bytes,
        bytes_text,
        _number,
        _sbuf,
        _grown("sbuf", lambda target: target.sbuf.bytes),
        recompiles=True,
    ),
    Axis(
        "dram",
        "DRAM bandwidth of a core (GB/s)",
        _parse_bandwidth,
        lambda value: f"{_number(value):.4g}",
        _number,
        _dram,
        _grown("dram", lambda target: target.dram.bytes_per_ns),
        recompiles=False,
    ),
    Axis(
        "cores",
        "cores of the device",
        _parse_cores,
        lambda value: f"{_number(value):.0f}",
        _number,
        _cores,
        lambda target: _CORES,
        recompiles=False,
    ),
)
AXES: Mapping[str, Axis] = {axis.name: axis for axis in _LISTED}
"""By name, in the order in which they are applied to a target."""
