"""How ResNet-50 and BERT-base scale with the array, the scratchpad, DRAM bandwidth and cores.

One size of neuroncore_v2 changes at a time, in bf16, batch 1; docs/scalability.md explains the
curves. Prints a table for each model and, on request, draws the curves of the documentation. Each
core runs several inferences one after another. Exit code 1 where a rate is above one of its bounds,
or more of a size makes a model more than SLOWER times slower.

    python benchmarks/scalability.py [--model NAME] [--draw FOLDER] [--inferences N]
"""

import argparse
import sys
from itertools import pairwise
from pathlib import Path

import models
from rich.console import Console

from polystage.explore import AXES, Options, Outcome, parse_axis, sweep
from polystage.explore.charts import picture
from polystage.explore.points import one_by_one
from polystage.explore.table import LEGEND, failures, sweep_table

MODELS = {"resnet50": "light/resnet50", "bert": "torch/bert"}
TARGET = "neuroncore_v2"
SLOWER = 1.1
"""More of a size may cost this much: tilings are chosen with rules, not searched for, and a larger
array spreads the same bytes over more partitions, in shorter runs."""

WIDTH = 160


def run(name: str, inferences: int) -> list[Outcome]:
    options = Options(models.load(MODELS[name]), target=TARGET, inferences=inferences)
    base = options.base()
    return sweep(options, list(one_by_one([parse_axis(axis, base) for axis in AXES])))


def misses(outcomes: list[Outcome]) -> list[str]:
    """Return what no machine could do, and where more is slower."""
    found: list[str] = []
    for outcome in outcomes:
        if figures := outcome.figures:
            bound = min(figures.compute_bound_per_s, figures.dram_bound_per_s)
            if figures.inferences_per_s > bound * (1 + 1e-9):
                found.append(f"{outcome.point.text()}: above its bound")
    for before, after in pairwise(outcomes):
        if before.point.axis == after.point.axis and before.figures and after.figures:
            ratio = before.figures.inferences_per_s / after.figures.inferences_per_s
            if ratio > SLOWER:
                found.append(f"{after.point.text()}: {ratio:.2f} times slower than with less")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Scalability of ResNet-50 and BERT-base.")
    parser.add_argument("--model", action="append", choices=list(MODELS), help="only this one")
    parser.add_argument("--draw", type=Path, help="folder for scalability-MODEL.svg")
    parser.add_argument("--inferences", type=int, default=2, help="on each core")
    options = parser.parse_args()
    console, missed = Console(width=WIDTH), 0
    for name in options.model or MODELS:
        outcomes = run(name, options.inferences)
        title = f"{name} on {TARGET}, bf16, batch 1"
        console.print(sweep_table(title, outcomes))
        for line in (*failures(outcomes), *misses(outcomes)):
            console.print(line, highlight=False)
        missed += bool(misses(outcomes))
        if options.draw:
            own = {"array": 128.0, "sbuf": 24 * 2.0**20, "dram": 410.0, "cores": 2.0}
            drawing = picture(title, outcomes, own)
            (options.draw / f"scalability-{name}.svg").write_text(drawing, encoding="utf-8")
    console.print(LEGEND)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
