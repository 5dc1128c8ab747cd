"""What each of the two passes on the whole program is worth, alone and together, in the simulator.

Every model after normalisation, in f32 on neuroncore_v2, timing only: with neither pass, with
poly-eliminate-copies, with npu-map-banks, with both (the default pipeline). Where copies are not
eliminated, upstream's eliminate-empty-tensors takes out what it can. DRAM bytes are by
cause, reads and writes together; `on chip` is what is copied or transposed within the scratchpad.

Exit code 1 where a model does not compile.

    python benchmarks/ablation.py [--model NAME]..
"""

import sys
from collections.abc import Mapping

import models
from chain import ELIMINATE_COPIES, clone, lowering, run_passes
from rich.console import Console
from rich.table import Table
from tables import megabytes, model_parser, new_table, selected

import polystage as ps
from polystage.frontends import ImportedModel
from polystage.passes.tensors.normalize import BUFFERIZE, FUSE_ELEMENTWISE, NORMALIZE, PREPARE
from polystage.simulator.result import Cost

CONFIGURATIONS: Mapping[str, tuple[bool, bool]] = {
    "neither": (False, False),
    "eliminate copies": (True, False),
    "map banks": (False, True),
    "both": (True, True),
}
"""Whether copies are eliminated, and banks mapped."""

WITHOUT_ELIMINATION = f"{PREPARE},{FUSE_ELEMENTWISE},eliminate-empty-tensors,{BUFFERIZE}"
CAUSES = ("input", "weight", "intermediate", "output", "copy")
TEXTS = ("model", "passes")
NUMBERS = (
    "cycles",
    "us",
    "of\nneither",
    *(f"{cause}\nMB" for cause in CAUSES),
    "on chip\nMB",
    "energy\nuJ",
)
WIDTH = 150


def simulate(model: ImportedModel, eliminate: bool, map_banks: bool) -> Cost:
    """Return what the model costs when compiled with some of the passes."""
    module = clone(model.module)
    first = f"{NORMALIZE},{ELIMINATE_COPIES}" if eliminate else WITHOUT_ELIMINATION
    run_passes(module, ",".join([first, *lowering(map_banks=map_banks)]))
    return ps.simulate(module, timing_only=True).totals


def add_model(table: Table, name: str, costs: Mapping[str, Cost]) -> None:
    """Add a row for each configuration, and a line below."""
    first = next(iter(costs.values()))
    for configuration, cost in costs.items():
        table.add_row(
            name if cost is first else "",
            configuration,
            f"{cost.cycles:,}",
            f"{cost.latency_us:.1f}",
            f"{cost.latency_ns / first.latency_ns:.3f}",
            *(megabytes(dram_bytes(cost, cause)) for cause in CAUSES),
            megabytes(cost.onchip_copy_bytes),
            f"{cost.total_energy_pj / 1e6:.1f}",
        )
    table.add_section()


def dram_bytes(cost: Cost, cause: str) -> int:
    """Return the bytes read and written for a cause."""
    return cost.dram_read_by_cause.get(cause, 0) + cost.dram_write_by_cause.get(cause, 0)


def main() -> int:
    parser = model_parser("What each of the two passes is worth.")
    console, missed = Console(width=WIDTH), 0
    everything = new_table("ablation", TEXTS, NUMBERS)
    for name in selected(parser.parse_args().model):
        model, costs = models.load(name), dict[str, Cost]()
        for configuration, (eliminate, map_banks) in CONFIGURATIONS.items():
            try:
                costs[configuration] = simulate(model, eliminate, map_banks)
            except ps.PolystageError as error:
                reason = str(error).splitlines()[0]
                console.print(f"{name}, {configuration}: {reason}", highlight=False, markup=False)
                missed += 1
        if costs:
            one = new_table("", TEXTS, NUMBERS)
            for table in (one, everything):
                add_model(table, name, costs)
            console.print(one)
    console.print(everything)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
