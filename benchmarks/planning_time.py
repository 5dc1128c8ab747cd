"""How long planning takes: one BERT layer at several sizes of scratchpad, and ever more layers.

Equal layers are planned once, so that the time per layer falls. Times are those of one core
(process time), from the module that `npu-fuse-operators` takes to the finished plan; `read` is the
time to read the operators from it.

    python benchmarks/planning_time.py [--length N] [--layers N ..] [--kib N ..]
"""

import argparse
import sys
import time
from itertools import product

import torch_models
from rich.console import Console
from tables import new_table
from whole_models import prepare

import polystage as ps
from polystage.dialects.npu.target import required_target
from polystage.mlir import ir
from polystage.planner.fusion.plan_program import plan_program
from polystage.planner.fusion.program import Program

LAYERS = (1, 2, 6, 12, 24)
SIZES = (16, 64, 1024, 8192)
MANY_LAYERS_KIB = 1024
NUMBERS = ("layers", "KiB", "operators", "groups", "MB", "read s", "plan s")


def measure(layers: int, kib: int, length: int) -> list[str]:
    """Plan an encoder of so many layers and return a row of the table."""
    module, tokens = torch_models.bert(False, length, layers)
    model = ps.load(module.eval(), inputs=[tokens], name="bert")
    prepared = prepare(model, kib)
    with prepared.context, ir.Location.unknown():
        target = required_target(prepared)
        start = time.process_time()
        program = Program.from_module(prepared)
        read = time.process_time()
        planned = plan_program(program, target)
        done = time.process_time()
    return [
        str(layers),
        str(kib),
        str(len(program.operators)),
        str(len(planned.plan.groups)),
        f"{planned.traffic / 1e6:.2f}",
        f"{read - start:.2f}",
        f"{done - read:.2f}",
    ]


def main() -> int:
    """Measure one layer at all sizes, and all numbers of layers at one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--length", type=int, default=128, help="tokens")
    parser.add_argument("--layers", type=int, nargs="*", default=LAYERS)
    parser.add_argument("--kib", type=int, nargs="*", default=SIZES)
    asked = parser.parse_args()
    cases = [*product([1], asked.kib), *((n, MANY_LAYERS_KIB) for n in asked.layers)]
    table = new_table(f"planning BERT, {asked.length} tokens, bf16", (), NUMBERS)
    for layers, kib in dict.fromkeys(cases):
        table.add_row(*measure(layers, kib, asked.length))
    Console(width=100).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
