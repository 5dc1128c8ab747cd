"""Peaks of the simulated machine beside the documented ones: tensor engine, DMA, lane engines.

Every figure is measured on npu programs that the simulator executes (timing only), as the
difference between a long and a short run, so that start-up does not count. Exit code 1 if a figure
is off by more than 2 %.

    python benchmarks/machine_peaks.py
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from polystage.dialects import npu
from polystage.dialects.npu.target import target_attribute
from polystage.machine import Target
from polystage.mlir import ir
from polystage.simulator import simulate

TARGET = Target.load("neuroncore_v2")
TOLERANCE = 0.02
DMA_SHARES = {64: (0, 0.5), 256: (0, 0.5), 512: (0.4, 0.9), 2048: (0.85, 1), 4096: (0.98, 1.02)}
"""Where the share of the peak must lie, from this many bytes per partition on: bound by overhead
below 256, approaching the peak from 2 KiB, saturated from 4 KiB."""
SHORT, LONG = 32, 544
"""Loop iterations of the two runs."""


@dataclass(frozen=True)
class Figure:
    """One line of the table; the ratio of ours to the documented value must lie between two."""

    what: str
    ours: float
    documented: float
    unit: str
    least: float = 1 - TOLERANCE
    most: float = 1 + TOLERANCE

    @property
    def ratio(self) -> float:
        """Return ours over documented."""
        return self.ours / self.documented

    @property
    def passed(self) -> bool:
        """Return whether the ratio is where it must be."""
        return self.least <= self.ratio <= self.most

    def cells(self) -> list[str]:
        """Return the line as texts."""
        bounds = f"{self.least:g} to {self.most:g}"
        verdict = "ok" if self.passed else "OFF"
        values = [f"{self.ours:.2f}", f"{self.documented:.2f}"]
        return [self.what, *values, self.unit, f"{self.ratio:.3f}", bounds, verdict]


# --- programs -----------------------------------------------------------------------------------


def chip(shape: str, space: str = "sbuf") -> str:
    """Return the type of an on-chip buffer.

    >>> chip("128x512xbf16")
    'memref<128x512xbf16, #npu.space<"sbuf">>'
    """
    return f'memref<{shape}, #npu.space<"{space}">>'


def alloc(name: str, buffer_type: str, address: int) -> str:
    """Return an allocation at a byte address of every partition."""
    return f'%{name} = "npu.alloc"() {{address = {address} : i64}} : () -> {buffer_type}'


def memset(name: str, buffer_type: str, element: str) -> str:
    """Return the operation that fills a buffer with ones."""
    attributes = f'{{value = 1.0 : {element}, engine = #npu.engine<"vector">}}'
    return f'"npu.memset"(%{name}) {attributes} : ({buffer_type}) -> ()'


def segments(operands: int) -> str:
    """Return which of the optional operands of npu.elementwise are there: the first ones."""
    present = [1] * operands + [0] * (npu.ops.BoxOp.MAX_OPERANDS - operands)
    return f"array<i32: {', '.join(map(str, present))}>"


def program(setup: list[str], loop: list[str], iterations: int, source: str = "") -> str:
    """Return a module whose kernel does `setup` once and `loop` in every iteration.

    `source` is the type of the kernel's argument in DRAM, if it has one.
    """
    argument = f"%x: {source}" if source else ""
    call = "(%x)" if source else "()"
    lines = [
        "func.func private @maximum(%a: f32, %out: f32) -> f32 {",
        "  %zero = arith.constant 0.0 : f32",
        "  %r = arith.maximumf %a, %zero : f32",
        "  return %r : f32",
        "}",
        "func.func private @add(%a: f32, %b: f32, %out: f32) -> f32 {",
        "  %r = arith.addf %a, %b : f32",
        "  return %r : f32",
        "}",
        f"func.func private @kernel({argument}) attributes {{npu.kernel}} {{",
        "  %c0 = arith.constant 0 : index",
        "  %c1 = arith.constant 1 : index",
        f"  %end = arith.constant {iterations} : index",
        "  %false = arith.constant false",
        *(f"  {line}" for line in setup),
        "  scf.for %i = %c0 to %end step %c1 {",
        *(f"    {line}" for line in loop),
        "  }",
        "  return",
        "}",
        f"func.func @main({argument}) {{",
        f'  call @kernel{call} {{layer = "kernel"}} : ({source}) -> ()',
        "  return",
        "}",
    ]
    return "\n".join(lines) + "\n"


def matmuls(iterations: int, n: int = 512, dtype: str = "bf16") -> str:
    """Return a stream of 8 matmuls 128 x 128 x n per iteration, stationary ones taking turns."""
    stationary, moving = chip(f"128x128x{dtype}"), chip(f"128x{n}x{dtype}")
    result = chip(f"128x{n}xf32", "psum")
    setup = [
        alloc("s0", stationary, 0),
        alloc("s1", stationary, 1024),
        alloc("m", moving, 2048),
        memset("s0", stationary, dtype),
        memset("s1", stationary, dtype),
        memset("m", moving, dtype),
        *(alloc(f"p{i}", result, 2048 * i) for i in range(8)),
    ]
    types = f"({stationary}, {moving}, {result}, i1) -> ()"
    loop = [f'"npu.matmul"(%s{i % 2}, %m, %p{i}, %false) : {types}' for i in range(8)]
    return program(setup, loop, iterations)


def loads(iterations: int, partition_bytes: int, buffer_count: int) -> str:
    """Return a stream of loads to all 128 partitions, to several buffers in turn."""
    source = f"memref<128x{partition_bytes}xi8>"
    buffer = chip(f"128x{partition_bytes}xi8")
    buffers = range(buffer_count)
    setup = [alloc(f"b{i}", buffer, i * partition_bytes) for i in buffers]
    types = f"({source}, {buffer}) -> ()"
    loop = [f'"npu.dma"(%x, %b{i}) {{cause = "input"}} : {types}' for i in buffers]
    return program(setup, loop, iterations, source)


def elementwise(iterations: int, n: int, inputs: int, stride: int = 1) -> str:
    """Return a stream of 2 vector operations per iteration over `n` elements of 128 partitions."""
    source, result = chip(f"128x{n * stride}xf32"), chip(f"128x{n}xf32")
    size = 4 * n * stride
    setup = [line for i in range(inputs) for line in (alloc(f"a{i}", source, i * size),)]
    setup += [memset(f"a{i}", source, "f32") for i in range(inputs)]
    setup += [alloc(f"r{i}", result, inputs * size + i * 4 * n) for i in range(2)]
    reads = f"affine_map<(d0, d1) -> (d0, {'d1' if stride == 1 else f'd1 * {stride}'})>"
    maps = ", ".join([reads] * inputs + ["affine_map<(d0, d1) -> (d0, d1)>"])
    attributes = (
        f"{{function = @{'maximum' if inputs == 1 else 'add'}, "
        f'engine = #npu.engine<"vector">, sizes = array<i64: 128, {n}>, indexing_maps = [{maps}], '
        f"operandSegmentSizes = {segments(inputs + 1)}}}"
    )
    names = ", ".join(f"%a{i}" for i in range(inputs))
    types = f"({', '.join([source] * inputs + [result])}) -> ()"
    loop = [f'"npu.elementwise"({names}, %r{i}) {attributes} : {types}' for i in range(2)]
    return program(setup, loop, iterations)


# --- measurements -------------------------------------------------------------------------------


def iteration_ns(build: Callable[[int], str]) -> float:
    """Return the time of one more iteration of a program."""
    return (run_ns(build(LONG)) - run_ns(build(SHORT))) / (LONG - SHORT)


def run_ns(text: str) -> float:
    """Return the simulated time of a program."""
    with ir.Context() as context, ir.Location.unknown():
        npu.load(context)
        module = ir.Module.parse(text)
        module.operation.attributes["npu.target"] = target_attribute(TARGET)
        return simulate(module, timing_only=True).totals.latency_ns


def tensor_figures() -> list[Figure]:
    """Return throughput of long streams of matmuls, start-up included for the first."""
    flops = 2 * 128 * 128 * 8
    whole = flops * 512 * LONG / run_ns(matmuls(LONG)) / 1000
    figures = [Figure("matmul 128x128x512 bf16, whole run", whole, 91.75, "TFLOP/s")]
    for n, dtype, documented in ((512, "bf16", 91.75), (512, "f32", 91.75 / 4)):
        ours = flops * n / iteration_ns(lambda i, n=n, d=dtype: matmuls(i, n, d)) / 1000
        figures.append(Figure(f"matmul 128x128x{n} {dtype}", ours, documented, "TFLOP/s"))
    for n in (64, 16):
        cycles = iteration_ns(lambda i, n=n: matmuls(i, n)) / 8 * TARGET.tensor.clock_ghz
        figures.append(Figure(f"matmul 128x128x{n} bf16, issue interval", cycles, 64, "cycles"))
    return figures


def dma_figures() -> list[Figure]:
    """Return the bandwidth of streams of loads, and of one alone, by bytes per partition."""
    stream: list[Figure] = []
    single: list[Figure] = []
    for size in (2**exponent for exponent in range(6, 17)):
        moved, buffers = 128 * size, min(16, TARGET.sbuf.bytes_per_partition // size)
        rate = buffers * moved / iteration_ns(lambda i, s=size, b=buffers: loads(i, s, b))
        bounds = DMA_SHARES[max(least for least in DMA_SHARES if least <= size)]
        stream.append(Figure(f"DMA stream, {size} B per partition", rate, 410, "GB/s", *bounds))
        rate = moved / run_ns(loads(1, size, 1))
        single.append(Figure(f"DMA alone, {size} B per partition", rate, 410, "GB/s", 0, 1))
    return stream + single


def vector_figures() -> list[Figure]:
    """Return cycles of elementwise operations with one input and with two."""
    figures: list[Figure] = []
    clock = TARGET.vector.clock_ghz
    for n in (128, 512, 2048, 4096):
        for inputs in (1, 2):
            cycles = iteration_ns(lambda i, n=n, k=inputs: elementwise(i, n, k)) / 2 * clock
            what = f"vector, {inputs} input{'s' if inputs > 1 else ''} of N = {n}"
            figures.append(Figure(what, cycles, inputs * n, "cycles"))
    strided = iteration_ns(lambda i: elementwise(i, 2048, 1, stride=8)) / 2
    figures.append(
        Figure(
            "vector, stride 32 B: interface rate", 128 * 2048 / strided, 128 * 0.7, "elements/ns"
        )
    )
    return figures


def contention_figures() -> list[Figure]:
    """Return the time of two engines at once, beside the sum of their times or the longer one."""
    figures: list[Figure] = []
    for other, rate, space, n, rule in (
        ("gpsimd", 0.7, "sbuf", 2048, "in turn"),
        ("scalar", 1.4, "sbuf", 2048, "at once"),
        ("scalar", 1.4, "psum", 512, "in turn"),
    ):
        times = (n / TARGET.vector.clock_ghz, n / rate)
        documented = sum(times) if rule == "in turn" else max(times)
        ours = iteration_ns(lambda i, o=other, s=space, n=n: two_engines(i, n, o, s)) / 2
        figures.append(Figure(f"vector and {other} on {space}: {rule}", ours, documented, "ns"))
    return figures


def two_engines(iterations: int, n: int, other: str, space: str) -> str:
    """Return a stream of two vector operations and two of another engine per iteration."""
    buffer = chip(f"128x{n}xf32", space)
    names = ("a", "b", "r0", "r1", "s0", "s1")
    setup = [alloc(name, buffer, i * 4 * n) for i, name in enumerate(names)]
    setup += [memset(name, buffer, "f32") for name in ("a", "b")]
    loop: list[str] = []
    for i in range(2):
        loop.append(unary("vector", "a", f"r{i}", n, buffer))
        loop.append(unary(other, "b", f"s{i}", n, buffer))
    return program(setup, loop, iterations)


def unary(engine: str, source: str, result: str, n: int, buffer: str) -> str:
    """Return an operation with one input over `n` elements of 128 partitions."""
    types = f"({buffer}, {buffer}) -> ()"
    if engine == "scalar":
        function = (
            '{function = "exp", scale = 1.0 : f32, bias = 0.0 : f32, '
            "operandSegmentSizes = array<i32: 1, 1, 0, 0, 0>}"
        )
        return f'"npu.activate"(%{source}, %{result}) {function} : {types}'
    same = "affine_map<(d0, d1) -> (d0, d1)>"
    attributes = (
        f'{{function = @maximum, engine = #npu.engine<"{engine}">, sizes = array<i64: 128, {n}>, '
        f"indexing_maps = [{same}, {same}], operandSegmentSizes = {segments(2)}}}"
    )
    return f'"npu.elementwise"(%{source}, %{result}) {attributes} : {types}'


def main() -> int:
    """Print the table and return the exit code."""
    figures = tensor_figures() + dma_figures() + vector_figures() + contention_figures()
    table = Table(title=f"Peaks of {TARGET.name}, simulated and documented")
    for heading in ("what", "ours", "documented", "unit", "ratio", "allowed", ""):
        table.add_column(heading, justify="left" if heading in ("what", "unit") else "right")
    for figure in figures:
        table.add_row(*figure.cells())
    console = Console(width=None if sys.stdout.isatty() else 110)
    console.print(table)
    console.print("410 GB/s is a core's half of the device's 820 GB/s.")
    return 0 if all(figure.passed for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
