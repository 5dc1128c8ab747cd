"""What every event costs in energy and every part takes in area: the figures of a target file."""

from dataclasses import dataclass

from polystage.machine.schema import quantity


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

    register_byte_pj: float = quantity("pJ/byte", minimum=0)
    """Read or write of one byte of the registers in the array."""

    sbuf_byte_pj: float = quantity("pJ/byte", minimum=0)
    """Read or write of one byte of sbuf."""

    psum_byte_pj: float = quantity("pJ/byte", minimum=0)
    """Read or write of one byte of psum."""

    dram_byte_pj: float = quantity("pJ/byte", minimum=0)
    """Read or write of one byte of dram."""

    static_w: float = quantity("W", minimum=0)
    """Power that is drawn whether anything happens or not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MacArea:
    """Area of one multiplier and its adder, by operand type."""

    f32: float = quantity("um2", minimum=0)
    """f32 multiplier, f32 adder."""

    bf16: float = quantity("um2", minimum=0)
    """bf16 multiplier, f32 adder."""

    f16: float = quantity("um2", minimum=0)
    """f16 multiplier, f32 adder."""

    f8: float = quantity("um2", minimum=0)
    """f8 multiplier, f32 adder."""

    i8: float = quantity("um2", minimum=0)
    """8-bit multiplier, 32-bit adder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Area:
    """What every part takes, for `area.estimate`: figures to compare designs with."""

    mac_um2: MacArea
    """Area of one multiplier and its adder by operand type."""

    register_byte_um2: float = quantity("um2/byte", minimum=0)
    """One byte of the registers in the array."""

    sbuf_byte_um2: float = quantity("um2/byte", minimum=0)
    """One byte of sbuf, with its share of decoders and sense amplifiers."""

    psum_byte_um2: float = quantity("um2/byte", minimum=0)
    """One byte of psum, likewise."""

    vector_lane_um2: float = quantity("um2", minimum=0)
    """One lane of the vector engine."""

    scalar_lane_um2: float = quantity("um2", minimum=0)
    """One lane of the scalar engine."""

    gpsimd_lane_um2: float = quantity("um2", minimum=0)
    """One lane of the gpsimd engine."""

    dma_engine_um2: float = quantity("um2", minimum=0)
    """One DMA engine."""

    dram_interface_um2: float = quantity("um2 ns/byte", minimum=0)
    """Controller and pins of the DRAM, for every byte per nanosecond of bandwidth."""
