"""The identity matrix on chip: what the array adds or spreads other operands with."""

from __future__ import annotations

from polystage.mlir import ir
from polystage.passes.lower.kernel_builder import KernelBuilder
from polystage.passes.lower.offset import Offset


def write_identity(builder: KernelBuilder, size: int, type_: ir.Type) -> ir.Value:
    """Return a new buffer [size, size] with ones on the diagonal, which gpsimd writes."""
    with builder.module.context:
        i32 = ir.IntegerType.get_signless(32)
        maps = [ir.AffineMap.get_identity(2)] * 3
    name = f"is_on_diagonal_{type_}"
    text = (
        f"func.func private @{name}(%i: i32, %j: i32, %out: {type_}) -> {type_} {{\n"
        f"%is = arith.cmpi eq, %i, %j : i32\n"
        f"%one = arith.uitofp %is : i1 to {type_}\n"
        f"return %one : {type_}\n}}"
    )
    coordinates = [builder.alloc([size, size], i32) for _ in range(2)]
    for dim, buffer in enumerate(coordinates):
        builder.iota(buffer, Offset(), dim)
    result = builder.alloc([size, size], type_)
    function = builder.scalar_function(name, text)
    builder.compute("elementwise", coordinates, [result], function, [size] * 2, maps, "gpsimd")
    return result
