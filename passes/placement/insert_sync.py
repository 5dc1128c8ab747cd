"""The pass `npu-insert-sync`: queues for transfers, and semaphores between queues."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from polystage.dialects.npu.queues import SEMAPHORES, queue_names
from polystage.dialects.npu.target import required_target
from polystage.errors import PassError
from polystage.forms import walk
from polystage.mlir import func, ir
from polystage.passes.registry import Pass, register_pass
from polystage.synchronisation import (
    INSTRUCTIONS,
    Calls,
    Extraction,
    Kernel,
    Ordered,
    Semaphore,
    View,
    aliases,
    assign_queues,
    extract_calls,
    main_body,
    order_kernel,
    order_program,
    semaphores,
)

ENTRY = "main"


@register_pass
@dataclass
class InsertSyncPass(Pass):
    """Let the queues of a core run at the same time: transfers get queues, and semaphores keep the
    order between queues that the meaning needs.

    Two instructions of different queues are ordered where they touch the same bytes and one writes:
    in a loop, the later one waits for the execution of the earlier one that is as many iterations
    ago as exact dependence analysis allows. A call of a kernel is ordered as a whole with the calls
    around it, the last ones of one inference with the first ones of the next. Orders that follow
    from others are left out. A transfer that names a queue already keeps it.
    """

    name = "npu-insert-sync"
    input_form = "placed"
    output_form = "synchronised"

    reduce: bool = True
    """Whether orders that follow from others are left out; `false` keeps all, for comparison."""

    def run(self, module: ir.Module) -> None:
        """Synchronise all kernels, then the calls of @main."""
        target = required_target(module)
        if SEMAPHORES in module.operation.attributes:
            raise PassError(
                f"the module has {SEMAPHORES}, so it is synchronised already",
                help="run npu-insert-sync once, on a placed program",
            )
        names = queue_names(target)
        functions = {op.name.value: op for op in _functions(module)}
        with module.context, ir.Location.unknown():
            ordered = self._order(functions, {name: i for i, name in enumerate(names)})
            self._insert(module, ordered, names)

    def _order(self, functions: dict[str, func.FuncOp], queues: dict[str, int]) -> list[Ordered]:
        """Return the edges of all bodies, in the order of the program text."""
        main = Extraction(queues, functions, self.remark)
        calls = extract_calls(main, functions[ENTRY]) if ENTRY in functions else Calls(None, 1)
        views: dict[str, list[tuple[View, ...]]] = defaultdict(list)
        for call in calls.flat():
            views[call.callee].append(call.views)
        found: list[Ordered] = []
        kernels: dict[str, Kernel] = {}
        for name, function in functions.items():
            if "npu.kernel" in function.attributes:
                kernels[name], inside = self._kernel(function, functions, queues, views[name])
                found += inside
        body = main_body(calls, kernels, main)
        return found + order_program(body, len(queues), reduce=self.reduce)

    def _kernel(
        self,
        function: func.FuncOp,
        functions: dict[str, func.FuncOp],
        queues: dict[str, int],
        views: Sequence[Sequence[View]],
    ) -> tuple[Kernel, list[Ordered]]:
        """Return a kernel as its callers see it, and the edges in it."""
        transfers = [op for op in walk(function.operation) if op.name == "npu.dma"]
        dma_queues = sum(name.startswith("dma") for name in queues)
        self.count("transfers in queues", assign_queues(transfers, dma_queues))
        shared = aliases(len(function.entry_block.arguments), views)
        body = Extraction(queues, functions, self.remark).kernel(function, shared.same)
        ordered, child = order_kernel(
            body, len(queues), together=shared.together, reduce=self.reduce
        )
        return Kernel.of(child, body), ordered

    def _insert(
        self, module: ir.Module, ordered: Sequence[Ordered], names: tuple[str, ...]
    ) -> None:
        """Write the edges into the module as signals and waits."""
        initial: list[int] = []
        operations = 0
        for body in ordered:
            for semaphore in semaphores(body.anchors, body.edges, body.trips):
                operations += len(semaphore.signals) + len(semaphore.waits)
                _insert(semaphore, len(initial), names)
                initial.append(semaphore.initial)
        self.count("orders between queues", sum(len(body.edges) for body in ordered))
        self.count("semaphores", len(initial))
        self.count("signals and waits", operations)
        module.operation.attributes[SEMAPHORES] = ir.DenseI64ArrayAttr.get(initial)


def _functions(module: ir.Module) -> list[func.FuncOp]:
    return [op for op in module.body.operations if isinstance(op, func.FuncOp)]


def _insert(semaphore: Semaphore[ir.Operation], number: int, names: tuple[str, ...]) -> None:
    for anchor in semaphore.signals:
        signal = _create("npu.signal", names[semaphore.source_queue], number, anchor)
        signal.move_after(anchor)
    for anchor in semaphore.waits:
        _create("npu.wait", names[semaphore.target_queue], number, anchor)


def _layer(anchor: ir.Operation) -> dict[str, ir.Attribute]:
    """Return the layer that an instruction names, or the first instruction of a loop."""
    instructions = (o for o in chain([anchor], walk(anchor)) if o.name in INSTRUCTIONS)
    first = next(instructions, None)
    if first is None or "layer" not in first.attributes:
        return {}  # what stands between calls belongs to the call before
    return {"layer": first.attributes["layer"]}


def _create(name: str, queue: str, number: int, before: ir.Operation) -> ir.Operation:
    i64 = ir.IntegerType.get_signless(64)
    attributes = {
        "queue": ir.StringAttr.get(queue),
        "semaphore": ir.IntegerAttr.get(i64, number),
        **_layer(before),
    }
    return ir.Operation.create(name, attributes=attributes, ip=ir.InsertionPoint(before))
