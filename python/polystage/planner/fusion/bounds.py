"""What no plan can be better than, counted beside every plan."""

from dataclasses import dataclass
from math import prod, sqrt

import numpy as np

from polystage.dtypes import cost_dtype
from polystage.machine import Target, cost
from polystage.planner.fusion.access_extents import OperatorExtents
from polystage.planner.fusion.boxes import hull_of, volumes, whole
from polystage.planner.fusion.operators import Operator, OperatorKind
from polystage.planner.fusion.program import Program
from polystage.polyhedral import Role


def compulsory_bytes(program: Program) -> int:
    """Return the bytes that every execution moves: arguments and constants in, results out.

    What is never read is not counted; of what is read in part (an embedding, rows that a stride
    leaves over at the end) the part counts.
    """
    total = 0
    for name, array in program.arrays.items():
        if array.is_initialized and program.readers(name):
            total += read_bytes(program, name)
        if array.role is Role.OUTPUT:
            total += array.size_bytes
    return total


def read_bytes(program: Program, name: str) -> int:
    """Return the bytes of an array that are read at least: of a table, one row per lookup."""
    array = program.arrays[name]
    readers = [program.operators[index] for index in program.readers(name)]
    if any(reader.kind is not OperatorKind.GATHER for reader in readers):
        box = hull_of(_touched(program, reader, name) for reader in readers)
        return int(volumes(box)) * array.element_bytes
    return min(array.size_bytes, max(_looked_up(program, reader, name) for reader in readers))


def _touched(program: Program, reader: Operator, name: str) -> np.ndarray:
    """Return the box of what an operator reads of an array."""
    maps = program.maps(reader).reads
    reads = zip(reader.reads, maps, strict=True)
    return hull_of(form.image(whole(reader.extents)) for read, form in reads if read.array == name)


def _looked_up(program: Program, reader: Operator, name: str) -> int:
    if all(access.is_exact for access in reader.reads if access.array == name):
        return program.arrays[name].size_bytes
    elements = program.arrays[reader.write.array].elements
    return elements * program.arrays[name].element_bytes


def contraction_bytes(program: Program, operator: Operator, capacity: int) -> int:
    """Return the least bytes that an operator alone moves through a scratchpad of `capacity`: what
    it touches of every operand, once, and of a contraction no less than its bound.

    `2 MNK / sqrt(W) + MN` words for a matmul and W words of scratchpad; where a filter of T taps
    moves over its input by s, an element of it serves T / s^2 products more, and W counts that
    often. A word is the narrowest operand, so that the bound holds for all types.

    Source: Hong and Kung, "I/O complexity: the red-blue pebble game" (1981), with the constant of
    Smith et al., "A Tight I/O Lower Bound for Matrix Multiplication" (2017); for convolutions
    Demmel and Dinh, "Communication-Optimal Convolutional Neural Nets" (2018).
    """
    arrays = [program.arrays[name] for name in operator.arrays]
    once = sum(_touched_bytes(program, operator).values())
    if operator.kind is not OperatorKind.CONTRACTION:
        return once
    word = min(array.element_bytes for array in arrays)
    written = program.arrays[operator.write.array].size_bytes
    words = capacity / word * _reuse(program, operator)
    return max(once, int(2 * operator.macs / sqrt(words)) * word + written)


def _touched_bytes(program: Program, operator: Operator) -> dict[str, int]:
    """Return the bytes of each operand that an operator reads or writes, those that a stride skips
    left out."""
    extents = OperatorExtents.of(program.arrays, operator)
    found: dict[str, int] = {}
    for use in extents.uses:
        bytes_ = prod(axis.touched(extents.extents) for axis in use.axes) * use.element_bytes
        found[use.array] = max(found.get(use.array, 0), bytes_)
    return found


def _reuse(program: Program, operator: Operator) -> float:
    """Return the products per element beyond a matmul's: the square of the multiply-accumulates
    over the sizes of both operands and the result, 1 for a matmul and T / s^2 for a filter."""
    elements = 1.0
    for name in operator.arrays[:2]:
        elements *= program.arrays[name].elements
    elements *= program.arrays[operator.write.array].elements
    return max(1.0, operator.macs**2 / elements) if elements else 1.0


@dataclass(frozen=True)
class Bounds:
    """Least bytes and times of a program."""

    compulsory_bytes: int
    alone_bytes: int
    """What operators move at least, each alone through this scratchpad."""
    memory_ns: float
    """Compulsory bytes at the peak of DRAM."""
    array_ns: float
    """The contractions at the peak of the array."""

    @property
    def latency_ns(self) -> float:
        """The least latency of any plan."""
        return max(self.memory_ns, self.array_ns)


def bounds_of(program: Program, target: Target) -> Bounds:
    """Return the bounds of a program on a target."""
    compulsory = compulsory_bytes(program)
    macs: dict[str, int] = {}
    for operator in program.operators:
        dtype = program.arrays[operator.reads[0].array].dtype if operator.reads else ""
        dtype = cost_dtype(dtype)
        macs[dtype] = macs.get(dtype, 0) + operator.macs
    compute = sum(
        cost.compute_bound_ns(target, count, cost.matmul_dtype(target, dtype))
        for dtype, count in macs.items()
        if count
    )
    alone = sum(contraction_bytes(program, o, target.sbuf.bytes) for o in program.operators)
    return Bounds(compulsory, alone, cost.dram_bound_ns(target, compulsory), compute)
