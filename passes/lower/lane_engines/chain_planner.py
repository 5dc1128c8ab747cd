"""Plans the instructions of one tile of a chain of operations, reductions among them."""

from __future__ import annotations

from collections.abc import Sequence

from polystage.mlir import ir
from polystage.passes.lower.kernel_builder import KernelBuilder
from polystage.passes.lower.lane_engines.affine import peel_affine
from polystage.passes.lower.lane_engines.chain_body import ChainBody
from polystage.passes.lower.lane_engines.loop_nest import LoopNest
from polystage.passes.lower.lane_engines.scalar_functions import body_function, engine_of
from polystage.passes.lower.lane_engines.scalar_graph import Node, cone, is_cast, topological
from polystage.passes.lower.lane_engines.tile_planner import TilePlanner
from polystage.passes.lower.lane_engines.tile_program import Activate, Compute, Fill, Slot


class ChainPlanner(TilePlanner):
    """Plans a chain; `nest.inputs` has an operand for every fold, too, which says what loops its
    result depends on.

    What depends on fewer loops than the instruction that needs it is computed before, once.
    """

    def __init__(self, builder: KernelBuilder, nest: LoopNest, chain: ChainBody) -> None:
        self.folds = chain.folds
        self.folding: Node | None = None
        self.accumulating = {
            node
            for fold in chain.folds.values()
            for node in _topological(fold.value)
            if fold.node in _topological(node)
        }
        folded = [fold.value for fold in chain.folds.values()]
        super().__init__(builder, nest, chain.body, None, folded)

    def dims(self, node: Node) -> set[int]:
        """Return the loops that a value depends on, the partition aside."""
        if node.kind == "fold":
            return self.nest.inputs[node.number].dims - {0}
        return super().dims(node)

    def accumulates(self, node: Node) -> bool:
        """Whether a value depends on what the reduction that computes it has accumulated."""
        return node is self.folding or node in self.accumulating

    def slot(self, node: Node) -> Slot:
        """Return the buffer that holds a value, adding the steps that fill it at first use."""
        if node.kind == "fold" and node not in self.slots:
            self.slots[node] = self.fold(node)
        return super().slot(node)

    def cone(self, results: Sequence[Node]) -> tuple[list[Node], list[Node]]:
        """Return the leaves and arith nodes of `results`; what depends on fewer loops is a leaf."""
        dims = {d for node in results for d in self.dims(node)}
        for node in cone(results)[1]:
            computes = not all(is_cast(n) for n in cone([node])[1])
            if computes and node not in results and self.dims(node) < dims:
                self.shared.add(node)
        return super().cone(results)

    def activate(self, node: Node, target: Slot | None = None) -> Slot:
        """Apply a function of the scalar engine, which adds what depends on the partition alone."""
        affine = peel_affine(node.operands[0])
        shifted = self._shifted(affine.source)
        if shifted is None or affine.scale != 1:
            return super().activate(node, target)
        source, shift = self.slot(shifted[0]), self.slot(shifted[1])
        target = target or Slot(node.type, source.index)
        step = Activate(source, target, node.name, 1.0, affine.bias, shift)
        self.program.steps.append(step)
        return target

    def compute(self, node: Node) -> Slot:
        """Compute a value into a buffer of its own, on the scalar engine where that only shifts."""
        shifted = self._shifted(node)
        if shifted is None:
            return super().compute(node)
        source, shift = self.slot(shifted[0]), self.slot(shifted[1])
        target = Slot(node.type, source.index)
        self.program.steps.append(Activate(source, target, "identity", shift=shift))
        return target

    def _shifted(self, node: Node) -> tuple[Node, Node] | None:
        """Return (x, shift) where a value is `x + shift`, and the shift depends on the partition
        alone."""
        if node.name not in ("arith.addf", "arith.subf") or not isinstance(node.type, ir.F32Type):
            return None
        x, shift = node.operands
        if node.name == "arith.addf" and not self.dims(x):
            x, shift = shift, x
        if self.dims(shift) or not self.dims(x) or shift.constant is not None:
            return None
        if node.name == "arith.subf":
            shift = self.body.graph.arith("negf", shift)
        return x, shift

    def fold(self, node: Node) -> Slot:
        """Plan a reduction over the loops that its result does not depend on."""
        fold = self.folds[node.number]
        target = self.loop_slot(node.type, self.dims(node))
        leaves, nodes = self.cone([fold.value])
        inputs = [n for n in leaves if n is not node]
        sources = tuple(self.slot(n) for n in inputs)
        self.program.steps.append(Fill(target, fold.initial))
        name = body_function(self.builder, [*inputs, node], [fold.value])
        box = {d for slot in (*sources, target) for d in slot.dims}
        self.folding = node
        self.program.steps.append(
            Compute(
                "reduce",
                sources,
                (target,),
                name,
                engine_of(nodes),
                tuple(sorted(box)),
                self.passes(nodes),
            )
        )
        self.folding = None
        return target


def _topological(node: Node) -> list[Node]:
    return topological([node], lambda n: n.operands)
