"""Normalisation keeps the meaning of random programs and reaches buffers form."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from polystage.evaluator.module_evaluator import evaluate
from polystage.forms import check_form, walk
from polystage.mlir import ir
from polystage.passes.tensors.generic import is_contraction
from polystage.passes.tensors.normalize import NORMALIZE_PIPELINE
from polystage.pipeline import run_pipeline


class Program:
    """A function on a matrix, written operation by operation."""

    def __init__(self, rows: int, columns: int) -> None:
        self.shape = (rows, columns)
        self.input = f"tensor<{rows}x{columns}xf32>"
        self.value = "%x"
        self.lines = ["%zero = arith.constant 0.0 : f32", "%half = arith.constant 0.5 : f32"]
        self.count = 0
        self.random = np.random.default_rng(rows * 31 + columns)

    @property
    def type(self) -> str:
        return "tensor<{}x{}xf32>".format(*self.shape)

    def name(self, stem: str) -> str:
        self.count += 1
        return f"%{stem}{self.count}"

    def add(self, text: str) -> str:
        name = self.name("v")
        self.lines.append(f"{name} = {text}")
        return name

    def empty(self, type_: str | None = None) -> str:
        return self.add(f"tensor.empty() : {type_ or self.type}")

    def constant(self, *shape: int) -> tuple[str, str]:
        values = np.round(self.random.uniform(0.5, 1.5, shape), 3).tolist()
        type_ = f"tensor<{'x'.join(map(str, shape))}xf32>"
        return self.add(f"arith.constant dense<{values}> : {type_}"), type_

    def elementwise(
        self, operation: str, map_: str = "", other: tuple[str, str] = ("", "")
    ) -> None:
        identity = "affine_map<(d0, d1) -> (d0, d1)>"
        maps = ", ".join(
            [identity, f"affine_map<(d0, d1) -> ({map_})>", identity][:: 1 if map_ else 2]
        )
        ins, types = [self.value, other[0]], [self.type, other[1]]
        if not map_:
            ins, types = ins[:1], types[:1]
        arguments = ", ".join(f"%a{i}: f32" for i in range(len(ins) + 1))
        self.value = self.add(
            f"linalg.generic {{indexing_maps = [{maps}], iterator_types = "
            f'["parallel", "parallel"]}} ins({", ".join(ins)} : {", ".join(types)}) '
            f"outs({self.empty()} : {self.type}) {{\n^bb0({arguments}):\n"
            f"%r = {operation} : f32\nlinalg.yield %r : f32\n}} -> {self.type}"
        )

    def matmul(self, columns: int, bias: bool) -> None:
        weights, weights_type = self.constant(self.shape[1], columns)
        operand, type_ = self.value, self.type
        self.shape = (self.shape[0], columns)
        empty = self.empty()
        if bias:
            row, row_type = self.constant(columns)
            init = self.add(
                f"linalg.broadcast ins({row} : {row_type}) outs({empty} : {self.type}) "
                "dimensions = [0]"
            )
        else:
            init = self.add(
                f"linalg.fill ins(%zero : f32) outs({empty} : {self.type}) -> {self.type}"
            )
        self.value = self.add(
            f"linalg.matmul ins({operand}, {weights} : {type_}, {weights_type}) "
            f"outs({init} : {self.type}) -> {self.type}"
        )

    def transpose(self) -> None:
        operand, type_ = self.value, self.type
        self.shape = self.shape[::-1]
        self.value = self.add(
            f"linalg.transpose ins({operand} : {type_}) outs({self.empty()} : {self.type}) "
            "permutation = [1, 0]"
        )

    def pad(self) -> None:
        operand, type_ = self.value, self.type
        self.shape = (self.shape[0] + 1, self.shape[1] + 3)
        self.value = self.add(
            f"tensor.pad {operand} low[0, 1] high[1, 2] {{\n^bb0(%i: index, %j: index):\n"
            f"tensor.yield %half : f32\n}} : {type_} to {self.type}"
        )

    def double(self) -> None:
        operand, type_ = self.value, self.type
        self.shape = (self.shape[0], 2 * self.shape[1])
        self.value = self.add(
            f"tensor.concat dim(1) {operand}, {operand} : ({type_}, {type_}) -> {self.type}"
        )

    def add_itself_reversed(self) -> None:
        """Use the value twice, once behind a transpose there and back."""
        kept = self.value
        self.transpose()
        self.elementwise("arith.negf %a0")
        self.transpose()
        self.elementwise("arith.addf %a0, %a1", "d0, d1", (kept, self.type))

    def arithmetic_on_tensors(self) -> None:
        operand = self.value
        self.value = self.add(f"arith.addf {operand}, {operand} : {self.type}")

    def text(self) -> str:
        body = "\n".join(self.lines)
        return (
            f"func.func @main(%x: {self.input}) -> {self.type} {{\n{body}\n"
            f"return {self.value} : {self.type}\n}}"
        )


STEPS = {
    "scale columns": lambda p: p.elementwise("arith.mulf %a0, %a1", "d1", p.constant(p.shape[1])),
    "shift columns": lambda p: p.elementwise("arith.subf %a0, %a1", "d1", p.constant(p.shape[1])),
    "divide columns": lambda p: p.elementwise("arith.divf %a0, %a1", "d1", p.constant(p.shape[1])),
    "scale rows": lambda p: p.elementwise("arith.mulf %a1, %a0", "d0", p.constant(p.shape[0])),
    "reflect": lambda p: p.elementwise("arith.subf %a1, %a0", "d1", p.constant(p.shape[1])),
    "halve": lambda p: p.elementwise("arith.mulf %a0, %half"),
    "relu": lambda p: p.elementwise("arith.maximumf %a0, %zero"),
    "tanh": lambda p: p.elementwise("math.tanh %a0"),
    "matmul": lambda p: p.matmul(3, False),
    "matmul with bias": lambda p: p.matmul(4, True),
    "transpose": Program.transpose,
    "pad": Program.pad,
    "double": Program.double,
    "arithmetic on tensors": Program.arithmetic_on_tensors,
    "add itself": Program.add_itself_reversed,
}


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.lists(st.sampled_from(sorted(STEPS)), max_size=9))
def test_random_programs(rows: int, columns: int, steps: list[str]) -> None:
    program = Program(rows, columns)
    for step in steps:
        STEPS[step](program)
    x = np.random.default_rng(0).normal(size=(rows, columns)).astype(np.float32)
    with ir.Context(), ir.Location.unknown():
        module = ir.Module.parse(program.text())
        (expected,) = evaluate(module, [x]).values()
        run_pipeline(module, NORMALIZE_PIPELINE)
        check_form(module, "buffers")
        (found,) = evaluate(module, [x]).values()
        contractions = sum(is_contraction(op) for op in walk(module.operation))
    np.testing.assert_allclose(
        found, expected, rtol=1e-4, atol=1e-4 * max(1, np.abs(expected).max())
    )
    assert contractions == sum(step.startswith("matmul") for step in steps)
