"""The form of the IR at each stage boundary, checkable.

`tensors`: linalg on static tensors. `buffers`: linalg.generic on memrefs and on overlays of them.
`npu`: loops around npu operations. `placed`: the same, every on-chip buffer at an address.
`synchronised`: the same, every transfer in a queue.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from polystage.errors import FormError
from polystage.mlir import ir


@dataclass(frozen=True)
class Form:
    """What may appear: whole dialects, single operations, and further rules, each op by op.

    `checks` make rules that remember what they have seen of the module.
    """

    dialects: frozenset[str]
    operations: frozenset[str] = frozenset()
    rules: tuple[Callable[[ir.Operation], str], ...] = field(default=())
    checks: tuple[Callable[[], Callable[[ir.Operation], str]], ...] = field(default=())

    def allows(self, name: str) -> bool:
        """Return whether an operation of this name may appear."""
        return name in self.operations or name.partition(".")[0] in self.dialects


def has_static_shapes(op: ir.Operation) -> str:
    """Every tensor and memref has a static shape."""
    for result in op.results:
        if isinstance(result.type, ir.ShapedType):
            shaped = result.type
            if not shaped.has_rank or not shaped.has_static_shape:
                return f"'{op.name}' has the dynamic type {shaped}"
    return ""


def has_no_tensors(op: ir.Operation) -> str:
    """No value is a tensor any more."""
    for result in op.results:
        if isinstance(result.type, (ir.RankedTensorType, ir.UnrankedTensorType)):
            return f"'{op.name}' still makes a tensor, {result.type}"
    return ""


def has_no_overlay(op: ir.Operation) -> str:
    """No array is laid over another any more: instructions read storage."""
    return "'npu.overlay' still stands for storage" if op.name == "npu.overlay" else ""


def has_math_in_functions(op: ir.Operation) -> str:
    """Functions of numbers are part of scalar functions, which the lanes of a flat target take."""
    if not op.name.startswith("math."):
        return ""
    parent = None if op.parent is None else op.parent.operation
    if parent and parent.name == "func.func" and "npu.kernel" not in parent.attributes:
        return ""
    return f"'{op.name}' is no instruction"


def has_address(op: ir.Operation) -> str:
    """Every on-chip buffer has an address."""
    if op.name == "npu.alloc" and "address" not in op.attributes:
        return "'npu.alloc' has no address"
    return ""


def has_no_semaphore(op: ir.Operation) -> str:
    """The program still means what it says in its own order, without synchronisation."""
    return f"'{op.name}' orders queues" if op.name in ("npu.signal", "npu.wait") else ""


def has_queue(op: ir.Operation) -> str:
    """Every transfer has the queue that executes it."""
    if op.name == "npu.dma" and "queue" not in op.attributes:
        return "'npu.dma' has no queue"
    return ""


def one_queue_on_each_side() -> Callable[[ir.Operation], str]:
    """Return the rule that one queue signals a semaphore and one waits for it.

    So the k-th wait takes the k-th signal whatever the timing.
    """
    seen: dict[tuple[str, int], str] = {}

    def rule(op: ir.Operation) -> str:
        if op.name not in ("npu.signal", "npu.wait"):
            return ""
        queue = ir.StringAttr(op.attributes["queue"]).value
        semaphore = ir.IntegerAttr(op.attributes["semaphore"]).value
        other = seen.setdefault((op.name, semaphore), queue)
        if other == queue:
            return ""
        return f"'{op.name}' of semaphore {semaphore} stands in queue '{queue}' and in '{other}'"

    return rule


_VIEWS = {
    "memref.alloc",
    "memref.global",
    "memref.get_global",
    "memref.subview",
    "memref.expand_shape",
    "memref.collapse_shape",
    "memref.transpose",
    "memref.reinterpret_cast",
    "memref.cast",
}
_BUFFER_OPERATIONS = frozenset(
    _VIEWS
    | {"linalg.generic", "linalg.yield", "linalg.index", "memref.copy", "memref.load"}
    | {"memref.store", "scf.for", "scf.yield", "npu.overlay"}
)
_NPU_OPERATIONS = frozenset(_VIEWS | {"scf.for", "scf.yield"})

FORMS: dict[str, Form] = {
    "tensors": Form(
        frozenset({"builtin", "func", "linalg", "tensor", "arith", "math", "scf", "memref"})
        | frozenset({"affine", "bufferization", "complex", "cf", "ml_program", "tm_tensor"}),
        rules=(has_static_shapes,),
    ),
    "buffers": Form(
        frozenset({"builtin", "func", "arith", "math", "affine"}),
        _BUFFER_OPERATIONS,
        (has_no_tensors,),
    ),
    "npu": Form(
        frozenset({"builtin", "func", "arith", "math", "npu"}),
        _NPU_OPERATIONS,
        (has_no_overlay, has_math_in_functions),
    ),
    "placed": Form(
        frozenset({"builtin", "func", "arith", "math", "npu"}),
        _NPU_OPERATIONS,
        (has_no_overlay, has_math_in_functions, has_address, has_no_semaphore),
    ),
    "synchronised": Form(
        frozenset({"builtin", "func", "arith", "math", "npu"}),
        _NPU_OPERATIONS,
        (has_no_overlay, has_math_in_functions, has_address, has_queue),
        (one_queue_on_each_side,),
    ),
}


def check_form(module: ir.Module, form: str) -> None:
    """Hold `module` to a form; `any` holds always.

    Raises: FormError at the first operation that does not belong.
    """
    if form == "any":
        return
    rule_set = FORMS[form]
    rules = (*rule_set.rules, *(make() for make in rule_set.checks))
    for op in walk(module.operation):
        if not rule_set.allows(op.name):
            raise FormError(f"'{op.name}' must not appear in {form} form", op=op)
        for rule in rules:
            problem = rule(op)
            if problem:
                raise FormError(f"{problem}, which must not appear in {form} form", op=op)


def walk(op: ir.Operation) -> Iterator[ir.Operation]:
    """Yield every operation inside `op`, outer before inner."""
    for region in op.regions:
        for block in region:
            for child in block:
                yield child.operation
                yield from walk(child.operation)
