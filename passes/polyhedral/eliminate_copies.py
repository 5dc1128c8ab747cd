"""The pass `poly-eliminate-copies`."""

from dataclasses import dataclass
from typing import ClassVar

from polystage.dialects import npu
from polystage.mlir import ir
from polystage.passes.polyhedral.access_rewriting import plan_rewrite
from polystage.passes.polyhedral.copy_elimination.elimination import Outcome, eliminate
from polystage.passes.polyhedral.copy_elimination.emission import emit
from polystage.passes.polyhedral.copy_elimination.working_program import (
    Node,
    WorkingProgram,
)
from polystage.passes.registry import Form, Pass, register_pass
from polystage.polyhedral import TensorProgram


@register_pass
@dataclass
class EliminateCopiesPass(Pass):
    """Remove operations that only copy, by composing accesses.

    A load/store pair `T1[w(i)] = T0[r(i)]` goes in one of two ways. *Forward*: whoever reads
    `T1[x]` reads `T0[r(w^-1(x))]`; of an array that several pairs and fills put together, it reads
    each part where that comes from (`npu.overlay`). *Backward*: `T0` becomes a window of `T1`, so
    that its producer writes `T1[w(r^-1(y))]` in the first place, as outputs, concatenations and
    updates in place need it. This repeats until nothing changes; chains collapse by composition.

    The last writer of every element read is found over the whole program. A pair stays where
    removing it could change a value, or where an access would come out that no linalg operation
    on strided memrefs can express; a remark gives the reason. Arrays that nobody reads any more
    disappear, and so do operations of which nobody reads what they write. Arguments of a function
    are taken to be different memory.

    Copies compute nothing and loops keep the order of their sums, so that results stay the same
    bit by bit.

    Source: "Optimizing Memory-Access Patterns for Deep Learning Accelerators", arXiv 2002.12798
    (data-movement elimination).
    """

    name: ClassVar[str] = "poly-eliminate-copies"
    input_form: ClassVar[Form] = "buffers"
    output_form: ClassVar[Form] = "buffers"

    def run(self, module: ir.Module) -> None:
        """Decide on the abstract program, then change the IR."""
        npu.load(module.context)
        with module.context, ir.Location.unknown():
            program = WorkingProgram(TensorProgram.from_module(module))
            self.count("bytes of arrays before", program.intermediate_bytes())
            outcome = eliminate(program, plan_rewrite)
            self._report_removals(program, outcome)
            self._report_survivors(program, outcome)
            self.count("bytes of arrays after", program.intermediate_bytes())
            emit(program, outcome)

    def _report_removals(self, program: WorkingProgram, outcome: Outcome) -> None:
        for removal in outcome.removals:
            text = f"'{removal.node.name}' removed {removal.way}: {removal.detail}"
            self.remark(removal.node.statement.op, text)
            self.count("pairs removed")
            self.count(f"pairs removed {removal.way}")
            self._count_pair(program, removal.node)
        if outcome.dead:
            self.count("other operations removed", len(outcome.dead))

    def _report_survivors(self, program: WorkingProgram, outcome: Outcome) -> None:
        self.count("copied bytes after", sum(map(program.copied_bytes, outcome.survivors)))
        for node, error in outcome.survivors.items():
            detail = f" ({error.detail})" if error.detail else ""
            self.remark(node.statement.op, f"'{node.name}' stays: {error.reason}{detail}")
            self.count(f"survivors: {error.reason}")
            self._count_pair(program, node)

    def _count_pair(self, program: WorkingProgram, node: Node) -> None:
        self.count("pairs found")
        self.count("copied bytes before", program.copied_bytes(node))
