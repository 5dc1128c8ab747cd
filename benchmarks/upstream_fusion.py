"""What a model moves over DRAM after upstream MLIR's own fusion, kindly counted.

Two forms, both from the same linalg on tensors:

* `linalg`: linalg-fuse-elementwise-ops and eliminate-empty-tensors, bufferized;
* `affine`: that as loops, then affine-loop-fusion and affine-scalrep, for at most 2 minutes.

Upstream has no scratchpad to plan for, so it gets all the benefit of doubt: every operation (or
outermost loop nest) reads each element of an array from DRAM once and writes each once, as if its
scratchpad were unlimited; arrays that only one nest touches cost nothing. Any real execution
operator by operator moves at least this. `compulsory` is every input and weight that is read, and
every output, once. Values of 2 bytes where the model has floats.

    python benchmarks/upstream_fusion.py [--model NAME]..
"""

import multiprocessing
import sys
from collections import defaultdict
from collections.abc import Mapping
from math import prod
from multiprocessing.connection import Connection

import models
from chain import clone, run_passes
from data_movement import AFFINE_SECONDS, UPSTREAM_AFFINE, UPSTREAM_FUSION
from rich.console import Console
from tables import megabytes, model_parser, new_table, selected

from polystage.mlir import ir
from polystage.passes.tensors.normalize import BUFFERIZE, PREPARE
from polystage.polyhedral import Array, Role, Statement, TensorProgram

FLOAT_BYTES = 2
LINALG = ",".join((PREPARE, UPSTREAM_FUSION, BUFFERIZE))


def element_bytes(array: Array) -> int:
    return FLOAT_BYTES if array.dtype.startswith(("f", "bf")) else array.element_bytes


def touched(statement: Statement, *, written: bool) -> dict[str, int]:
    """Return the most elements of each array that a statement reads, or writes: of a table, no more
    than it looks up."""
    found: dict[str, int] = {}
    for access in statement.writes if written else statement.reads:
        hull = access.map.range().coalesce() if access.is_exact else statement.domain
        extents = [
            hull.dim_max_val(d).to_python() - hull.dim_min_val(d).to_python() + 1
            for d in range(hull.n_dim())
        ]
        found[access.array] = max(found.get(access.array, 0), prod(extents))
    return found


def fused_bytes(program: TensorProgram) -> int:
    """Return the bytes over DRAM if every outermost nest reads and writes each element once."""
    nests: dict[int, list[Statement]] = defaultdict(list)
    for statement in program.statements:
        nests[statement.position[0]].append(statement)
    users: dict[str, set[int]] = defaultdict(set)
    for number, statements in nests.items():
        for statement in statements:
            for access in statement.accesses:
                users[access.array].add(number)
    total = 0
    for statements in nests.values():
        for written in (False, True):
            elements: dict[str, int] = {}
            made = {a.array for s in statements for a in s.writes}
            for statement in statements:
                for name, count in touched(statement, written=written).items():
                    elements[name] = max(elements.get(name, 0), count)
            for name, count in elements.items():
                array = program.arrays[name]
                local = array.role is Role.INTERMEDIATE and len(users[name]) == 1
                if not local and (written or name not in made):
                    total += min(count, array.elements) * element_bytes(array)
    return total


def compulsory_bytes(program: TensorProgram) -> int:
    """Return the bytes of what the program reads of its inputs and weights, and of its outputs."""
    return sum(
        min(
            max(
                (touched(s, written=False).get(a.name, 0) for s in program.readers(a.name)),
                default=0,
            ),
            a.elements,
        )
        * element_bytes(a)
        if a.role in (Role.INPUT, Role.WEIGHT)
        else a.elements * element_bytes(a) * (a.role is Role.OUTPUT)
        for a in program.arrays.values()
    )


def measure(name: str, sender: Connection) -> None:
    """Send the compulsory bytes, those of `linalg`, and those of `affine`, one by one."""
    module: ir.Module = clone(models.load(name).module)
    run_passes(module, LINALG)
    program = TensorProgram.from_module(module)
    sender.send(compulsory_bytes(program))
    sender.send(fused_bytes(program))
    run_passes(module, UPSTREAM_AFFINE)
    sender.send(fused_bytes(TensorProgram.from_module(module)))


def measure_apart(name: str) -> Mapping[str, int]:
    """Measure in a process of its own, which is stopped if the last form takes too long."""
    spawn = multiprocessing.get_context("spawn")
    receiver, sender = spawn.Pipe(duplex=False)
    process = spawn.Process(target=measure, args=(name, sender))
    process.start()
    sender.close()
    figures: dict[str, int] = {}
    try:
        for form in ("compulsory", "linalg", "affine"):
            if not receiver.poll(AFFINE_SECONDS if form == "affine" else None):
                process.kill()
                break
            figures[form] = receiver.recv()
    except EOFError:
        pass
    process.join()
    return figures


def main() -> int:
    options = model_parser("DRAM bytes after upstream MLIR's own fusion.").parse_args()
    numbers = ("compulsory MB", "linalg MB", "of compulsory", "affine MB", "of compulsory")
    table = new_table("DRAM traffic after upstream's fusion, at least", ("model",), numbers)
    for name in selected(options.model):
        figures = measure_apart(name)
        cells = [megabytes(figures.get("compulsory"))]
        for form in ("linalg", "affine"):
            ratio = figures[form] / figures["compulsory"] if form in figures else None
            cells += [megabytes(figures.get(form)), "-" if ratio is None else f"{ratio:.2f}"]
        table.add_row(name, *cells)
    Console(width=120).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
