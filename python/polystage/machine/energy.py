"""The energy of events, in picojoules: every rule and the only place that has one."""

from typing import Literal

from polystage.machine.components import DTYPES
from polystage.machine.target import Target

MemoryName = Literal["dram", "sbuf", "psum"]
EngineName = Literal["vector", "scalar", "gpsimd"]

OPERAND_BYTES = {"f32": 4, "bf16": 2, "f16": 2, "f8": 1, "i8": 1}
ACCUMULATOR_BYTES = 4


def mac_pj(target: Target, macs: float, dtype: str) -> float:
    """Return the energy of `macs` multiply-accumulates in the array; unknown types cost as f32."""
    return macs * getattr(target.energy.mac_pj, dtype if dtype in DTYPES else "f32")


def register_bytes(target: Target, dtype: str) -> int:
    """Return the bytes that one multiply-accumulate reads from and writes to the array's registers.

    It reads both operands and the partial sum, and writes the partial sum and whatever it passes
    on: the moving operand, and in an output-stationary array, where nothing else stays, the
    stationary one too. 14 for bf16 on neuroncore_v2.
    """
    passed_on = 1 if target.tensor.dataflow == "weight_stationary" else 2
    operand = OPERAND_BYTES[dtype if dtype in DTYPES else "f32"]
    return (2 + passed_on) * operand + 2 * ACCUMULATOR_BYTES


def register_pj(target: Target, macs: float, dtype: str) -> float:
    """Return the energy of the array's registers for `macs` multiply-accumulates.

    Loading a stationary operand, once for all the columns that move over it, is not counted.
    """
    return macs * register_bytes(target, dtype) * target.energy.register_byte_pj


def op_pj(target: Target, engine: EngineName, operations: float) -> float:
    """Return the energy of `operations`, each on one element, in a lane engine."""
    each = {
        "vector": target.energy.vector_op_pj,
        "scalar": target.energy.scalar_op_pj,
        "gpsimd": target.energy.gpsimd_op_pj,
    }
    return operations * each[engine]


def access_pj(target: Target, memory: MemoryName, accessed_bytes: float) -> float:
    """Return the energy of `accessed_bytes` read from or written to a memory."""
    each = {
        "dram": target.energy.dram_byte_pj,
        "sbuf": target.energy.sbuf_byte_pj,
        "psum": target.energy.psum_byte_pj,
    }
    return accessed_bytes * each[memory]


def static_pj(target: Target, time_ns: float) -> float:
    """Return the energy drawn in `time_ns` by being switched on; 1 W is 1000 pJ per ns."""
    return target.energy.static_w * 1000.0 * time_ns
