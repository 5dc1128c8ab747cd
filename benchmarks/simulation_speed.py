"""Timed instructions per second without numerics on one core: in Python, with the compiled core.

Programs are a long stream of matmuls and models of which many inferences follow each other,
compiled for neuroncore_v2 in bf16. Every figure is end to end, from the module to its Result;
beside it stands where the time goes: decoding (module to trace), dependences, time, and result
(figures, schedule, layers). Seconds are those of the processor, of which one thread is used, so
that what else the machine does matters little. Below: ResNet-50 with numerics, in f32, on the wall.
Exit code 1 if the compiled core stays below the bound on a program, or ResNet-50 above its own.

    python benchmarks/simulation_speed.py
    python benchmarks/simulation_speed.py --model light/resnet50
"""

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest import mock

import light_models
import models
import numpy as np
import onnx
from rich.console import Console
from tables import model_parser, new_table, selected

import polystage as ps
from polystage import compiled
from polystage.mlir import ir
from polystage.simulator import program

TARGET = "neuroncore_v2"
INSTRUCTIONS = 500_000
"""At least so many, by as many inferences as that takes."""
LEAST_PER_S = 300_000
NUMERICS_S = 10.0

STREAM = "stream of matmuls"
EXTENT = 10752
"""Of the stream's product: 84 * 84 * 21 matmuls of 128 x 128 x 512, and what feeds them."""

LARGE_MODELS = ("light/resnet50", "torch/bert", "torch/gpt2")

STAGES = {"with_order": "dependences", "run_timeline": "time"}
"""Functions of the simulator that are measured by themselves, in the order of the table."""


@dataclass(frozen=True)
class Speed:
    """One run: how many instructions, seconds in all and by stage."""

    instructions: int
    order: str
    total_s: float
    stages: dict[str, float]

    @property
    def per_s(self) -> float:
        """Instructions per second."""
        return self.instructions / self.total_s


def stream() -> ir.Module:
    """Return one product of square matrices, which the compiler cuts into tiles."""
    shape = f"tensor<{EXTENT}x{EXTENT}xbf16>"
    text = f"""
      func.func @main(%a: {shape}, %b: {shape}) -> {shape} {{
        %zero = arith.constant 0.0 : bf16
        %empty = tensor.empty() : {shape}
        %init = linalg.fill ins(%zero : bf16) outs(%empty : {shape}) -> {shape}
        %c = linalg.matmul ins(%a, %b : {shape}, {shape}) outs(%init : {shape}) -> {shape}
        return %c : {shape}
      }}
    """
    with ir.Context():
        return ir.Module.parse(text)


@contextmanager
def core(which: str) -> Iterator[None]:
    with mock.patch.dict(os.environ, {compiled.CHOICE: which}):
        yield


@contextmanager
def stopwatch(seconds: Counter[str]) -> Iterator[None]:
    """Add up what the simulator's stages take."""

    def timed(stage: str, function: Callable[..., object]) -> Callable[..., object]:
        def run(*arguments: object) -> object:
            begin = time.process_time()
            result = function(*arguments)
            seconds[stage] += time.process_time() - begin
            return result

        return run

    patches = [
        *(mock.patch.object(program, f, timed(s, getattr(program, f))) for f, s in STAGES.items()),
        mock.patch.object(program._Core, "finish", timed("result", program._Core.finish)),
    ]
    for patch in patches:
        patch.start()
    yield
    for patch in patches:
        patch.stop()


def measure(module: ir.Module, inferences: int) -> Speed:
    """Return the faster of two runs."""
    best: Speed | None = None
    for _ in range(2):
        stages: Counter[str] = Counter()
        begin = time.process_time()
        with stopwatch(stages):
            result = ps.simulate(module, timing_only=True, inferences=inferences)
        total = time.process_time() - begin
        stages["decoding"] = total - sum(stages.values())
        if best is None or total < best.total_s:
            best = Speed(result.timeline.count, result.order, total, dict(stages))
    assert best is not None
    return best


def program_of(name: str) -> ir.Module:
    module = stream() if name == STREAM else models.load(name).module
    return ps.compile(module, target=TARGET, dtype="bf16")


def rows(name: str) -> Iterator[tuple[list[str], Speed]]:
    module = program_of(name)
    once = ps.simulate(module, timing_only=True).timeline.count
    inferences = -(-INSTRUCTIONS // once)
    for which in ("python", "compiled"):
        with core(which):
            speed = measure(module, inferences)
        seconds = [speed.stages[s] for s in ("decoding", "dependences", "time", "result")]
        figures = [f"{s:.2f}" for s in (*seconds, speed.total_s)]
        cells = [name, which, speed.order, f"{inferences}", f"{speed.instructions:,}"]
        yield [*cells, *figures, f"{speed.per_s:,.0f}"], speed


def numerics_seconds() -> float:
    """Return the time to simulate ResNet-50 with every number computed."""
    model = light_models.with_random_weights(onnx.load(light_models.light_path("resnet50")))
    module = ps.compile(ps.load(model).module, target=TARGET, dtype="f32")
    inputs = light_models.random_inputs(model, 0)
    begin = time.perf_counter()
    result = ps.simulate(module, inputs)
    seconds = time.perf_counter() - begin
    assert all(np.isfinite(output).all() for output in result.outputs.values())
    return seconds


def main() -> int:
    asked = model_parser("Measure timed instructions per second.").parse_args().model
    wanted = selected(asked) if asked else [STREAM, *LARGE_MODELS]
    numbers = ["inferences", "instructions", "decoding, s", "dependences, s", "time, s"]
    table = new_table(
        "timed instructions per second, without numerics",
        ["program", "core", "order"],
        [*numbers, "result, s", "all, s", "per second"],
    )
    missed = not compiled.BUILT
    for name in wanted:
        for cells, speed in rows(name):
            table.add_row(*cells)
            missed |= cells[1] == "compiled" and speed.per_s < LEAST_PER_S
    console = Console(width=160)
    console.print(table)
    seconds = numerics_seconds()
    console.print(f"bound with the compiled core: {LEAST_PER_S:,} per second")
    console.print(f"ResNet-50 with numerics: {seconds:.2f} s, bound {NUMERICS_S:.0f} s")
    return int(missed or seconds > NUMERICS_S)


if __name__ == "__main__":
    sys.exit(main())
