"""Seconds of copy elimination and bank mapping, and how they grow with the size of a model.

DenseNet-121 and GPT-2 (12 layers, 64 tokens) are each held to a bound for both passes together.
Then GPT-2 with 1 to 12 layers: with time about linear in the number of layers, the last column
stays about the same. Best of three; the passes start from what normalisation leaves. Seconds are
those of the processor, which are those of the clock where nothing else runs, for both passes use
one core. Exit code 1 if a bound is missed, or if 12 layers take more than twice as long per layer
as 4 do.

    python benchmarks/compile_time.py
"""

import sys
import time
from collections.abc import Mapping

import models
import torch_models
from chain import ELIMINATE_COPIES, MAP_BANKS, clone, lowering, run_passes

import polystage as ps
from polystage.frontends import ImportedModel
from polystage.mlir import ir
from polystage.passes.tensors.normalize import BUFFERIZE, NORMALIZE, PREPARE

BOUNDS = {"light/densenet121": 3.0, "torch/gpt2": 5.0}
"""Seconds of both passes together."""

LAYERS = (1, 2, 4, 8, 12)
REPEATS = 3
LARGEST_GROWTH = 2.0
"""Largest ratio of seconds per layer at 12 layers to those at 4."""

STARTS = {"normalised": NORMALIZE, "imported": f"{PREPARE},{BUFFERIZE}"}
"""What the default pipeline does before, and without upstream's fusion: more is left to do."""


def gpt2(layers: int) -> ImportedModel:
    """Import GPT-2 of some layers."""
    module, inputs = torch_models.gpt2(small=False, layers=layers)
    return ps.load(module.eval(), inputs=[inputs], name=f"gpt2_{layers}")


def seconds(model: ImportedModel, start: str) -> Mapping[str, float]:
    """Return the best time of each of the passes."""
    normalised = clone(model.module)
    run_passes(normalised, start)
    runs = [times(normalised) for _ in range(REPEATS)]
    return {name: min(run[name] for run in runs) for name in (ELIMINATE_COPIES, MAP_BANKS)}


def times(normalised: ir.Module) -> dict[str, float]:
    module = clone(normalised)
    taken: dict[str, float] = {}
    for text in [ELIMINATE_COPIES, *lowering(map_banks=True)]:
        start = time.process_time()
        run_passes(module, text)
        taken[text] = time.process_time() - start
        if text.startswith(MAP_BANKS):
            return {ELIMINATE_COPIES: taken[ELIMINATE_COPIES], MAP_BANKS: taken[text]}
    raise ValueError(f"the default pipeline has no {MAP_BANKS}")


def print_row(name: str, start: str, taken: Mapping[str, float], last: str) -> None:
    copies, banks = taken[ELIMINATE_COPIES], taken[MAP_BANKS]
    print(f"{name:20} {start:11} {copies:9.2f} {banks:9.2f} {copies + banks:9.2f} {last}")


def main() -> int:
    header = f"{'eliminate':>9} {'map banks':>9} {'both':>9}"
    print(f"{'model':20} {'start':11} {header} bound s")
    missed = 0
    for name, bound in BOUNDS.items():
        model = models.load(name)
        for start, passes in STARTS.items():
            taken = seconds(model, passes)
            met = sum(taken.values()) < bound
            print_row(name, start, taken, f"{bound:7.1f}{'' if met else '  MISSED'}")
            missed += not met
    print(f"\n{'model':20} {'start':11} {header} ms per layer")
    for start, passes in STARTS.items():
        per_layer: dict[int, float] = {}
        for layers in LAYERS:
            taken = seconds(gpt2(layers), passes)
            per_layer[layers] = sum(taken.values()) / layers
            print_row(f"GPT-2, {layers} layers", start, taken, f"{1e3 * per_layer[layers]:12.1f}")
        growth = per_layer[12] / per_layer[4]
        met = growth < LARGEST_GROWTH
        print(f"{start}: per layer, 12 layers take {growth:.2f} times what 4 do", end="")
        print("" if met else "  MISSED")
        missed += not met
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
