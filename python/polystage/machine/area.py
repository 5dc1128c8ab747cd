"""An estimate of the area of a core, to compare designs with: every rule and the only place of one.

The figures are those of the target file, for one process; presets take published ones for 45 nm,
as those of energy are. Wires between the parts, instruction fetch and the host interface are left
out. So a ratio of two estimates means something, an estimate by itself little.
"""

from dataclasses import dataclass

from polystage.machine.components import DTYPES
from polystage.machine.energy import ACCUMULATOR_BYTES, OPERAND_BYTES
from polystage.machine.target import Target


@dataclass(frozen=True, slots=True)
class AreaEstimate:
    """The area of one core by part, in mm2; `dram_interface` is the core's share of it."""

    array: float
    sbuf: float
    psum: float
    vector: float
    scalar: float
    gpsimd: float
    dma: float
    dram_interface: float

    @property
    def parts_mm2(self) -> dict[str, float]:
        """Return the area of every part."""
        return {name: getattr(self, name) for name in self.__slots__}

    @property
    def total_mm2(self) -> float:
        """Return the area of all parts."""
        return sum(self.parts_mm2.values())


def cell_um2(target: Target) -> float:
    """Return the area of one cell of the array: its multipliers and adders, and its registers.

    Types share what they can: one that takes c cycles per step needs 1/c of a multiplier and adder
    of its own kind, and the type that needs most sets the area. Registers hold both operands of the
    widest type and a partial sum.
    """
    supported = [dtype for dtype in DTYPES if target.tensor.supports(dtype)]
    macs = max(
        getattr(target.area.mac_um2, dtype) / getattr(target.tensor.cycles_per_row, dtype)
        for dtype in supported
    )
    widest = max(
        OPERAND_BYTES[dtype] / max(1.0, getattr(target.tensor.cycles_per_row, dtype))
        for dtype in supported
    )
    return macs + (2 * widest + ACCUMULATOR_BYTES) * target.area.register_byte_um2


def estimate(target: Target) -> AreaEstimate:
    """Return the area of one core and its share of the DRAM interface.

    >>> round(estimate(Target.load("tiny", {"sbuf.bytes_per_partition": 2**20})).sbuf, 1)
    49.5
    """
    area, array = target.area, target.tensor
    return AreaEstimate(
        array=array.rows * array.columns * cell_um2(target) / 1e6,
        sbuf=target.sbuf.bytes * area.sbuf_byte_um2 / 1e6,
        psum=target.psum.bytes * area.psum_byte_um2 / 1e6,
        vector=target.vector.lanes * area.vector_lane_um2 / 1e6,
        scalar=target.scalar.lanes * area.scalar_lane_um2 / 1e6,
        gpsimd=target.gpsimd.lanes * area.gpsimd_lane_um2 / 1e6,
        dma=target.dma.engines * area.dma_engine_um2 / 1e6,
        dram_interface=target.dram.bytes_per_ns * area.dram_interface_um2 / 1e6,
    )
