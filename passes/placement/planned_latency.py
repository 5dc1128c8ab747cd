"""How long a program on a partitioned target is planned to take: its kernels, one after the other.

What a flat target's plan says before anything is lowered, is known here once the instructions of
kernels have an order: `npu-schedule-instructions` notes on each kernel when the scheduler expects
its last instruction to end. Kernels overlap where one has begun to load while the one before ends,
which the sum does not see, but the scheduler's time of the whole program.
"""

from __future__ import annotations

from polystage.mlir import func, ir
from polystage.planner.fusion.plan_attributes import write_planned_costs

EXPECTED = "npu.expected_ns"
"""On a kernel: nanoseconds from its first instruction to the end of its last, by itself."""


def write_planned_latency(module: ir.Module, whole_ns: float | None = None) -> int | None:
    """Note on `main` how many nanoseconds all kernels that it calls take, and return them:
    `whole_ns`, or the sum.

    None, and no note, where nothing says so of a kernel, or `main` does more than call kernels.
    """
    functions = {op.name.value: op for op in module.body.operations if isinstance(op, func.FuncOp)}
    main = functions["main"]
    total = 0.0
    for view in main.entry_block.operations:
        op = view.operation
        if op.name == "memref.copy":
            return None
        if op.name == "func.call":
            kernel = functions[ir.FlatSymbolRefAttr(op.attributes["callee"]).value]
            if EXPECTED not in kernel.attributes:
                return None
            total += ir.FloatAttr(kernel.attributes[EXPECTED]).value
    planned_ns = round(total if whole_ns is None else whole_ns)
    write_planned_costs(main, {"nanoseconds": planned_ns})
    return planned_ns
