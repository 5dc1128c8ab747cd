"""Attention at growing lengths on a flat scratchpad: DRAM bytes planned, simulated, and at least.

A softmax over all keys in one pass: Q and the result cross the DRAM interface once, K and V once
per tile of queries, scores never. `bound` is what any schedule moves that computes each score once
(polystage.planner.fusion.attention.bound); `error` is against numpy in f64, for every 16th query,
over the largest magnitude. The anchor's rows (elementwise work instead of the softmax, f32 with
twice its bytes) stand beside twice its figures. docs/attention.md has the tables.

    python benchmarks/attention.py [--length N ..] [--dtype TYPE ..] [--no-numbers]
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper
from rich.console import Console
from rich.table import Table
from tables import new_table

import polystage as ps
from polystage.mlir import ir
from polystage.pipeline import default_pipeline, run_pipeline
from polystage.planner.fusion.attention.bound import attention_words
from polystage.planner.fusion.attention.operator import Attention
from polystage.planner.fusion.plan_attributes import read_plan
from polystage.planner.fusion.program import Program

HEADS, DEPTH = 12, 64
CAPACITY = 1 << 20
EVERY = 16
"""Of these queries one is compared."""
ANCHOR_LENGTH = 1024
ANCHOR = {16 << 10: 4.5, 64 << 10: 1.5, 1 << 20: 0.5, 8 << 20: 0.5}
"""Bytes of scratchpad to the MiB that the best public mapper moves, in values of 16 bits."""


@dataclass(frozen=True)
class Case:
    """Attention of `heads` over `length` queries and keys."""

    heads: int
    length: int
    dtype: str
    capacity: int
    is_softmax: bool = True

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of Q, K, V and the result."""
        return self.heads, self.length, DEPTH

    @property
    def element_bytes(self) -> int:
        """Of the arithmetic, and of all arrays in DRAM."""
        return {"f32": 4, "bf16": 2}[self.dtype]

    @property
    def compulsory(self) -> int:
        """Every input and the result once, in bytes."""
        return 4 * int(np.prod(self.shape)) * self.element_bytes

    @property
    def bound(self) -> int:
        """The least bytes of any schedule."""
        words = self.capacity // self.element_bytes
        args = (self.heads, self.length, self.length, DEPTH, DEPTH, words)
        return attention_words(*args) * self.element_bytes

    def model(self) -> onnx.ModelProto:
        """Return Q Kt / 8, softmax (or a relu), times V."""
        last = helper.make_node("Softmax", ["scaled"], ["weights"], axis=-1)
        if not self.is_softmax:
            last = helper.make_node("Relu", ["scaled"], ["weights"])
        nodes = [
            helper.make_node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
            helper.make_node("MatMul", ["q", "kt"], ["scores"]),
            helper.make_node("Mul", ["scores", "scale"], ["scaled"]),
            last,
            helper.make_node("MatMul", ["weights", "v"], ["out"]),
        ]
        values = {n: helper.make_tensor_value_info(n, TensorProto.FLOAT, self.shape) for n in "qkv"}
        out = helper.make_tensor_value_info("out", TensorProto.FLOAT, self.shape)
        scale = helper.make_tensor("scale", TensorProto.FLOAT, [], [DEPTH**-0.5])
        graph = helper.make_graph(nodes, "attention", list(values.values()), [out], [scale])
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])

    def inputs(self) -> dict[str, np.ndarray]:
        """Return random inputs, as the arithmetic sees them."""
        random = np.random.default_rng(0)
        found = {n: random.standard_normal(self.shape).astype("f4") for n in "qkv"}
        if self.dtype == "bf16":
            found = {n: x.astype(ml_dtypes.bfloat16).astype("f4") for n, x in found.items()}
        return found

    def expected(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """Return the result for every 16th query in f64, head by head."""
        heads = zip(*(inputs[name].astype("f8") for name in "qkv"), strict=True)
        return np.stack([self._head(*head) for head in heads])

    def _head(self, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
        scores = q[::EVERY] @ k.T * DEPTH**-0.5
        if not self.is_softmax:
            return np.maximum(scores, 0) @ v
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        return weights / weights.sum(-1, keepdims=True) @ v


@dataclass(frozen=True)
class Outcome:
    """What was planned, and what happened."""

    planned: int
    moved: int
    tiles: str
    latency_ns: float
    error: float | None


def tiles_of(program: Program) -> str:
    """Return the extents of a chunk of the only operator, and of a step around it."""
    (operator,) = program.operators
    (group,) = read_plan(program).groups
    assert isinstance(operator, Attention)
    texts: list[str] = []
    for title, loops in (("steps", group.loops), ("", group.nests[0].chunks)):
        named = " ".join(f"{operator.dims[loop.dim]} {loop.tile}" for loop in loops)
        if named:
            texts.append(f"{title} {named}".strip())
    return ", ".join(texts) or "whole"


def run(case: Case, with_numbers: bool) -> Outcome:
    """Compile and simulate a case."""
    settings = [f"scratchpad_bytes={case.capacity}"]
    module = ps.load(case.model()).module
    tiles: list[str] = []

    def note_tiles(element: str, program: ir.Module) -> None:
        if element.startswith("npu-fuse-operators"):
            tiles.append(tiles_of(Program.from_module(program)))

    with module.context:
        program = module.operation.clone()
    text = default_pipeline("flat", case.dtype, settings)
    records = run_pipeline(program, text, after_pass=note_tiles)
    planned = sum(record.statistics.get("planned bytes", 0) for record in records)
    inputs = case.inputs() if with_numbers else None
    result = ps.simulate(program, inputs, timing_only=not with_numbers)
    totals = result.totals
    error = None
    if inputs is not None:
        (output,) = result.outputs.values()
        expected = case.expected(inputs)
        difference = np.abs(output[:, ::EVERY].astype("f8") - expected)
        error = float(difference.max() / np.abs(expected).max())
    moved = totals.dram_read_bytes + totals.dram_write_bytes
    return Outcome(planned, moved, tiles[0], totals.latency_ns, error)


def lengths_table(cases: Sequence[Case], with_numbers: bool) -> Table:
    """Return the table of growing lengths."""
    table = new_table(
        f"{HEADS} heads, d {DEPTH}, {CAPACITY >> 20} MiB, MiB",
        ("length", "type", "tiles"),
        ("compulsory", "bound", "planned", "simulated", "/compulsory", "/bound", "ms", "error"),
    )
    for case in cases:
        found = run(case, with_numbers)
        table.add_row(
            str(case.length),
            case.dtype,
            found.tiles,
            *(f"{n / 2**20:.1f}" for n in (case.compulsory, case.bound)),
            *(f"{n / 2**20:.4f}" for n in (found.planned, found.moved)),
            f"{found.moved / case.compulsory:.2f}",
            f"{found.moved / case.bound:.2f}",
            f"{found.latency_ns / 1e6:.1f}",
            "-" if found.error is None else f"{found.error:.1e}",
        )
    return table


def anchor_table(with_numbers: bool) -> Table:
    """Return one head of 1024 in f32, beside the anchor's figures."""
    table = new_table(
        f"one head of {ANCHOR_LENGTH}, d {DEPTH}, f32, MiB",
        ("scratchpad", "between", "tiles"),
        ("twice the anchor's", "planned", "simulated", "error"),
    )
    for capacity, moved in ANCHOR.items():
        for is_softmax in (False, True):
            case = Case(1, ANCHOR_LENGTH, "f32", 2 * capacity, is_softmax)
            found = run(case, with_numbers)
            table.add_row(
                f"2 x {capacity >> 10} KiB",
                "softmax" if is_softmax else "relu",
                found.tiles,
                f"{2 * moved:.1f}",
                *(f"{n / 2**20:.4f}" for n in (found.planned, found.moved)),
                "-" if found.error is None else f"{found.error:.1e}",
            )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--length", type=int, action="append", help="default 512, 4096, 16384")
    parser.add_argument("--dtype", action="append", help="default f32, bf16")
    parser.add_argument("--no-numbers", action="store_true", help="bytes and times only")
    options = parser.parse_args()
    console = Console(width=160)
    with_numbers = not options.no_numbers
    console.print(anchor_table(with_numbers))
    lengths, types = options.length or (512, 4096, 16384), options.dtype or ("f32", "bf16")
    cases = [Case(HEADS, length, dtype, CAPACITY) for length in lengths for dtype in types]
    console.print(lengths_table(cases, with_numbers))


if __name__ == "__main__":
    main()
