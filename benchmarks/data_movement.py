"""Load/store pairs and copied bytes of every model: as imported, by upstream MLIR, by ours.

Every form of a model starts from the same linalg on tensors:

* `imported`: bufferized at once, every copy explicit;
* `upstream`: upstream's fusion and clean-up on tensors first, then the same bufferization;
* `upstream affine`: that, then loops, affine-loop-fusion and affine-scalrep, for at most 2 minutes;
* `eliminated`: `imported`, then poly-eliminate-copies;
* `default`: what the default pipeline makes, i.e. the same after upstream's fusion.

Pairs are counted by reading the program back, not taken from the pass, which must agree: statements
that only copy, on arrays of any kind. `copied` is what they store; `on chip` and `off chip` is what
the simulator counts as moved without arithmetic (reads and writes of DRAM each; a fill is a
write), on neuroncore_v2 in f32 with the rest of the default pipeline, but for bank mapping; `-`
where a form does not run there. Upstream's fusion also puts arithmetic and transposes into
contractions, which keeps some off the tensor engine: its time and its bytes on chip are what that
costs here, not what the machines cost that it is meant for.

What other compilers leave, measured by running them, stands in a table of its own. Exit code 1
where a model keeps more than 2 % of its pairs (1 % of the WaveNet), where a small case keeps one,
where the pass miscounts, or where `--check` finds a bit of an output changed.

    python benchmarks/data_movement.py [--model NAME].. [--static] [--check]
"""

import multiprocessing
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection

import models
import numpy as np
from chain import ELIMINATE_COPIES, clone, lowering, run_passes
from rich.console import Console
from rich.table import Table
from tables import megabytes, model_parser, new_table, selected

import polystage as ps
from polystage.evaluator.module_evaluator import evaluate
from polystage.frontends import ImportedModel
from polystage.mlir import ir
from polystage.passes.tensors.normalize import BUFFERIZE, FUSE_ELEMENTWISE, PREPARE
from polystage.polyhedral import Kind, Role, Statement, TensorProgram
from polystage.reference import jit_run
from polystage.report.inputs import random_inputs

UPSTREAM_FUSION = (
    "linalg-fuse-elementwise-ops,canonicalize,cse,"
    # A fill per user again, without which bufferization copies those that cse has merged.
    "separate-fills,eliminate-empty-tensors"
)
UPSTREAM_AFFINE = (
    "func.func(convert-linalg-to-affine-loops),canonicalize,cse,"
    "func.func(affine-loop-fusion,affine-scalrep),canonicalize,cse"
)
FORMS: Mapping[str, tuple[str, ...]] = {
    "imported": (PREPARE, BUFFERIZE),
    "upstream": (PREPARE, UPSTREAM_FUSION, BUFFERIZE),
    "eliminated": (PREPARE, BUFFERIZE, ELIMINATE_COPIES),
    "default": (PREPARE, FUSE_ELEMENTWISE, BUFFERIZE, ELIMINATE_COPIES),
    "upstream affine": (PREPARE, UPSTREAM_FUSION, BUFFERIZE, UPSTREAM_AFFINE),
}
"""The passes that lead to each form; the one that may take forever comes last."""

RUNNING = ("imported", "upstream", "eliminated", "default")
"""The forms that the simulator runs."""

AFFINE_SECONDS = 120
SURVIVORS = "survivors: "
"""How the statistics that count survivors by reason begin."""

COUNTED = (
    "pairs found",
    "pairs removed",
    "copied bytes before",
    "copied bytes after",
    "bytes of arrays before",
    "bytes of arrays after",
)
"""Statistics of the pass that are counted here, too."""

NUMBERS = (
    "pairs",
    "gone",
    "%",
    "fills",
    "arrays\nMB",
    "copied\nMB",
    "on chip\nMB",
    "off chip\nMB",
    "simulated\nus",
)
WIDTH = 150

OTHERS: Mapping[str, tuple[str, str, str, str]] = {
    "light/squeezenet": ("8 copies, 8 fills", "8 concat, 2 reshape", "24", ""),
    "light/shufflenet": (
        "20 copies, 21 fills (9.2 MB)",
        "16 fused transposing kernels, 3 concat",
        "64",
        "",
    ),
    "light/resnet50": (
        "1 copy, 18 fills (12.7 MB)",
        "1 reshape",
        "59",
        "Vela: 4 copies, 0.2-0.5 % of cycles",
    ),
    "light/densenet121": (
        "54 copies (34.9 MB), 60 fills (23.6 MB)",
        "58 concat kernels",
        "286",
        "Vela: 62 copies, 7-24 % of cycles",
    ),
    "light/inception_v1": ("11 copies, 32 fills", "", "74", ""),
    "parallel_wavenet": ("", "", "", "the paper, of its own WaveNet: 1 of 124 pairs"),
    "small/shufflenet_v2_unit": (
        "",
        "",
        "",
        "Vela, of all ShuffleNetV2 x1.0: 81 transposes, 51.5 % of cycles, 26 copies",
    ),
    "small/vit_attention": (
        "0",
        "5 of 10 kernels",
        "0",
        "Vela: 24 transposes, 75.0 % of cycles",
    ),
}
"""What IREE, TVM, upstream MLIR (memref.copy after fusion) and Vela or the paper leave of a model.

Runs of those tools on the same graphs (light models with their stored weights); Vela 5.2 in int8
for Ethos-U; the paper is arXiv 2002.12798.
"""


@dataclass(frozen=True)
class Movement:
    """What a form of a model moves; bytes of the simulator are None where it does not run."""

    pairs: int
    fills: int
    intermediate_bytes: int
    copied_bytes: int
    onchip_bytes: int | None = None
    offchip_bytes: int | None = None
    latency_us: float | None = None


@dataclass
class Measured:
    """All that was measured of a model."""

    name: str
    forms: dict[str, Movement] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    """Why there is no figure: by form, `simulation of FORM`, or `pass` where it miscounts."""
    pairs_left: list[str] = field(default_factory=list)
    reasons: dict[str, int] = field(default_factory=dict)
    equality: str = ""

    def removed(self, form: str) -> int:
        """Return how many of the imported pairs are gone in a form."""
        return self.forms["imported"].pairs - self.forms[form].pairs

    def share(self, form: str) -> float:
        """Return the same as a share of the imported pairs."""
        found = self.forms["imported"].pairs
        return self.removed(form) / found if found else 1.0

    @property
    def passed(self) -> bool:
        """Return whether our forms keep few enough pairs, and nothing else is wrong."""
        ours = ("eliminated", "default")
        return (
            all(form in self.forms for form in ("imported", *ours))
            and all(self.share(form) >= least_share(self.name) for form in ours)
            and "pass" not in self.failures
            and self.equality != "DIFFERENT"
        )


def least_share(name: str) -> float:
    """Return the share of its pairs that must go for a model to pass."""
    if name.startswith("small/"):
        return 1.0
    return 0.99 if name == "parallel_wavenet" else 0.98


# --- measuring ---


def measure(name: str, simulated: bool, checked: bool, results: Connection) -> None:
    """Send the figures of a model each time that there are more of them."""
    model = models.load(name)
    figures = Measured(name)
    modules: dict[str, ir.Module] = {}
    for form, passes in FORMS.items():
        modules[form] = clone(model.module)
        try:
            records = run_passes(modules[form], ",".join(passes))
        except ps.PolystageError as error:
            figures.failures[form] = error.message.splitlines()[0]
            results.send(figures)
            continue
        program = TensorProgram.from_module(modules[form])
        figures.forms[form] = count(program)
        if form == "eliminated":
            note_survivors(figures, program, records[-1].statistics)
            if checked:
                figures.equality = compare(model, modules["imported"], modules[form])
        if simulated and form in RUNNING:
            simulate(figures, form, modules[form])
        results.send(figures)


def count(program: TensorProgram) -> Movement:
    """Count what stands in the program."""
    copies = copies_of(program)
    touched = {access.array for s in program.statements for access in s.accesses}
    arrays = [a for a in program.arrays_of(Role.INTERMEDIATE) if a.name in touched]
    stored = [
        s.domain.count_val().to_python() * program.arrays[s.writes[0].array].element_bytes
        for s in copies
    ]
    return Movement(
        pairs=len(copies),
        fills=sum(s.kind == Kind.FILL for s in program.statements),
        intermediate_bytes=sum(a.size_bytes for a in arrays),
        copied_bytes=sum(stored),
    )


def copies_of(program: TensorProgram) -> list[Statement]:
    return [s for s in program.statements if s.kind == Kind.COPY]


def note_survivors(
    figures: Measured, program: TensorProgram, statistics: Mapping[str, int]
) -> None:
    """Note the pairs that stay, the pass's reasons, and where the pass counts otherwise."""
    for statement in copies_of(program):
        source, target = statement.reads[0].array, statement.writes[0].array
        figures.pairs_left.append(f"{statement.name}: {source} -> {target}")
    for name, value in statistics.items():
        if name.startswith(SURVIVORS):
            figures.reasons[name.removeprefix(SURVIVORS)] = value
    before, after = figures.forms["imported"], figures.forms["eliminated"]
    said = [statistics.get(name, 0) for name in COUNTED]
    seen = [before.pairs, before.pairs - after.pairs, before.copied_bytes, after.copied_bytes]
    seen += [before.intermediate_bytes, after.intermediate_bytes]
    for name, value, expected in zip(COUNTED, said, seen, strict=True):
        if value != expected:
            figures.failures["pass"] = f"it says {value:,} {name}, but it is {expected:,}"


def simulate(figures: Measured, form: str, module: ir.Module) -> None:
    """Add what the simulator says, where the form can be lowered."""
    program = clone(module)
    try:
        run_passes(program, ",".join(lowering(map_banks=False)))
        totals = ps.simulate(program, timing_only=True).totals
    except ps.PolystageError as error:
        figures.failures[f"simulation of {form}"] = error.message.splitlines()[0]
        return
    figures.forms[form] = replace(
        figures.forms[form],
        onchip_bytes=totals.onchip_copy_bytes,
        offchip_bytes=totals.offchip_copy_bytes,
        latency_us=totals.latency_us,
    )


def compare(model: ImportedModel, before: ir.Module, after: ir.Module) -> str:
    """Return `equal` where both compute the same bits, and by what.

    numpy's sums depend on how the arrays lie in memory, so a difference is settled by upstream's
    JIT, which adds in the order of the loops.
    """
    inputs = random_inputs(model.inputs, seed=0)
    if same_bits(*(list(evaluate(module, inputs).values()) for module in (before, after))):
        return "equal"
    return "equal" if same_bits(*(jit_run(m, inputs) for m in (before, after))) else "DIFFERENT"


def same_bits(before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> bool:
    return all(a.tobytes() == b.tobytes() for a, b in zip(before, after, strict=True))


def measure_apart(name: str, simulated: bool, checked: bool) -> Measured:
    """Measure a model in a process of its own, which is stopped if the last form takes too long."""
    spawn = multiprocessing.get_context("spawn")
    receiver, sender = spawn.Pipe(duplex=False)
    process = spawn.Process(target=measure, args=(name, simulated, checked, sender))
    process.start()
    sender.close()
    figures = Measured(name)
    *_, last = FORMS
    try:
        for form in FORMS:
            if not receiver.poll(AFFINE_SECONDS if form == last else None):
                figures.failures[last] = f"stopped after {AFFINE_SECONDS} s"
                process.kill()
                break
            figures = receiver.recv()
    except EOFError:
        process.join()
        figures.failures["process"] = f"it ended early, with exit code {process.exitcode}"
    process.join()
    return figures


# --- printing ---


def movement_table(rows: Sequence[Measured]) -> Table:
    """Return a line for each form of each model."""
    table = new_table("data movement", ("model", "form"), NUMBERS)
    for row in rows:
        for form, movement in row.forms.items():
            first = form == next(iter(row.forms))
            table.add_row(row.name if first else "", form, *cells(row, form, movement))
        table.add_section()
    return table


def cells(row: Measured, form: str, movement: Movement) -> list[str]:
    is_start = form == "imported"
    return [
        str(movement.pairs),
        "" if is_start else str(row.removed(form)),
        "" if is_start else f"{100 * row.share(form):.1f}",
        str(movement.fills),
        megabytes(movement.intermediate_bytes),
        megabytes(movement.copied_bytes),
        megabytes(movement.onchip_bytes),
        megabytes(movement.offchip_bytes),
        "-" if movement.latency_us is None else f"{movement.latency_us:.1f}",
    ]


def others_table(rows: Sequence[Measured]) -> Table | None:
    """Return what other compilers leave of the models that they were run on, beside ours."""
    known = [row for row in rows if row.name in OTHERS and "default" in row.forms]
    if not known:
        return None
    texts = ("model", "IREE 3.13 -O3", "TVM 0.27", "upstream\ncopies", "others")
    table = new_table("left behind by other compilers", texts, ("ours\npairs", "ours\nMB"))
    for column in table.columns:
        column.no_wrap = False
    for row in known:
        ours = row.forms["default"]
        table.add_row(row.name, *OTHERS[row.name], str(ours.pairs), megabytes(ours.copied_bytes))
    return table


def remarks(row: Measured) -> list[str]:
    """Return the survivors and all that went wrong, as sentences."""
    lines = [f"stays: {pair}" for pair in row.pairs_left]
    lines += [f"reason: {reason} ({n})" for reason, n in row.reasons.items()]
    lines += [f"no figure: {what}: {why}" for what, why in row.failures.items()]
    lines += [f"outputs before and after: {row.equality} to the bit"] * bool(row.equality)
    if not row.passed:
        lines.append(f"MISSED: at least {100 * least_share(row.name):.0f} % of pairs must go")
    return lines


def main() -> int:
    parser = model_parser("Load/store pairs and copied bytes of models.")
    parser.add_argument("--static", action="store_true", help="do not simulate")
    parser.add_argument("--check", action="store_true", help="compare outputs bit by bit")
    options = parser.parse_args()
    rows: list[Measured] = []
    console = Console(width=WIDTH)
    for name in selected(options.model):
        rows.append(measure_apart(name, not options.static, options.check))
        console.print(movement_table(rows[-1:]))
        for line in remarks(rows[-1]):
            console.print(f"{name}: {line}", highlight=False, markup=False, soft_wrap=True)
    console.print(movement_table(rows))
    others = others_table(rows)
    if others:
        console.print(others)
    return 0 if all(row.passed for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
