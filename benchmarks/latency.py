"""Latency on a partitioned target over its roofline, with every operator on its own beside it.

`alone` is `npu-fuse-operators{max-group=1}`: every operator a kernel, its operands in DRAM before
and after. `fused` is the default pipeline. The bound is the larger of the compulsory bytes at the
bandwidth of DRAM and the matmuls in whole steps of the array (the fewer of both programs'); `limit`
is the engine that is busiest in the fused program, and the share of its time.

    python benchmarks/latency.py [--model NAME].. [--target NAME] [--dtype TYPE]
"""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import models
from rich.console import Console
from tables import megabytes, new_table

import polystage as ps
from polystage.frontends import ImportedModel
from polystage.machine import Target
from polystage.machine.bounds import bounds_of
from polystage.mlir import ir
from polystage.pipeline import default_pipeline, run_pipeline
from polystage.simulator import Result, simulate

NUMBERS = (
    "bound\nus",
    "fused\nus",
    "over\nbound",
    "alone\nus",
    "gain",
    "bound MB",
    "fused MB",
    "alone MB",
)


def bert_of_128_tokens() -> ImportedModel:
    """Import BERT-base for a sequence of 128 tokens."""
    import torch  # PyTorch is optional, and slow to import
    import torch_models

    module, tokens = torch_models.build("bert")
    tokens = torch.cat([tokens, tokens.flip(-1)], dim=-1)
    return ps.load(module, inputs=[tokens], name="bert_128")


MODELS: Mapping[str, Callable[[], ImportedModel]] = {
    "resnet50": lambda: models.load("torch/resnet50"),
    "resnet50_batch16": lambda: models.load("torch/resnet50", 16),
    "bert_128": bert_of_128_tokens,
    "vit_base": lambda: models.load("torch/vit_base"),
    "mobilenetv2": lambda: models.load("torch/mobilenetv2"),
    "gpt2": lambda: models.load("torch/gpt2"),
}

FUSION = "npu-fuse-operators{objective=latency}"
"""What the two programs differ in."""


@dataclass(frozen=True)
class Row:
    """Both programs of one model, timed."""

    alone: Result
    fused: Result
    target: Target

    @property
    def bound_us(self) -> float:
        """The least time: compulsory bytes, or the matmuls of either program in whole steps."""
        bounds = [bounds_of(self.target, run.totals) for run in (self.alone, self.fused)]
        array_ns = min(bound.array_ns for bound in bounds)
        return max(bounds[0].compulsory_ns, array_ns) / 1000.0

    @property
    def limit(self) -> str:
        """The busiest engine, and the share of the time for which it is."""
        totals = self.fused.totals
        engine, busy_ns = max(totals.busy_ns.items(), key=lambda item: item[1])
        return f"{engine} {busy_ns / totals.latency_ns:.0%}"

    def cells(self) -> list[str]:
        """Return the figures as the table shows them."""
        alone, fused = self.alone.totals, self.fused.totals
        return [
            f"{self.bound_us:.1f}",
            f"{fused.latency_us:.1f}",
            f"{fused.latency_us / self.bound_us:.2f}",
            f"{alone.latency_us:.1f}",
            f"{alone.latency_us / fused.latency_us:.2f} x",
            megabytes(fused.compulsory_bytes),
            megabytes(fused.dram_read_bytes + fused.dram_write_bytes),
            megabytes(alone.dram_read_bytes + alone.dram_write_bytes),
        ]


def measure(model: ImportedModel, target: str, dtype: str) -> Row:
    """Compile a model in both ways, from the same module, and time the programs."""
    text = default_pipeline(target, dtype, objective="latency")
    before, _, after = text.partition(FUSION)
    with model.module.context, ir.Location.unknown():
        prepared = model.module.operation.clone()
    run_pipeline(prepared, before.rstrip(",") + ")")
    results: list[Result] = []
    for options in ("max-group=1", ""):
        with prepared.context, ir.Location.unknown():
            program = prepared.operation.clone()
        run_pipeline(program, f"builtin.module(npu-fuse-operators{{{options}}}{after}")
        results.append(simulate(program, timing_only=True))
    return Row(results[0], results[1], Target.load(target))


def main() -> None:
    """Print a row per model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", action="append", choices=MODELS, help="only this one")
    parser.add_argument("--target", default="neuroncore_v2", help="a partitioned target")
    parser.add_argument("--dtype", default="bf16", help="the arithmetic")
    options = parser.parse_args()
    table = new_table(f"Latency on {options.target}, {options.dtype}", ["model"], NUMBERS)
    table.add_column("limit", no_wrap=True)
    for name in options.model or MODELS:
        row = measure(MODELS[name](), options.target, options.dtype)
        table.add_row(name, *row.cells(), row.limit)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
