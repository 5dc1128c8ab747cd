"""The private functions of arith operations that elementwise instructions and reductions name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from polystage.mlir import arith, func, ir
from polystage.passes.lower.kernel_builder import KernelBuilder
from polystage.passes.lower.lane_engines.scalar_graph import Node, cone, topological

_INTEGER_ARITHMETIC = frozenset(
    f"arith.{name}"
    for name in (
        *("addi", "subi", "muli", "divsi", "divui", "remsi", "remui", "floordivsi", "ceildivsi"),
        *("ceildivui", "maxsi", "minsi", "maxui", "minui", "andi", "ori", "xori", "shli", "shrsi"),
        *("shrui", "cmpi"),
    )
)


def engine_of(nodes: Sequence[Node]) -> str:
    """Return the engine for a cone: gpsimd for integer arithmetic of 32 bits or more, else
    vector."""
    for node in nodes:
        if node.name in _INTEGER_ARITHMETIC:
            type_ = node.operands[0].type
            if isinstance(type_, ir.IntegerType) and type_.width >= 32:
                return "gpsimd"
    return "vector"


def body_function(
    builder: KernelBuilder, arguments: Sequence[Node], results: Sequence[Node]
) -> str:
    """Return the name of the module's private function that computes `results` from `arguments`.

    Equal functions are made once per module; the name tells the operations: `@relu`, `@mul_add`.
    """
    base = _function_name(results, arguments)
    symbols = ir.SymbolTable(builder.module.operation)
    with ir.InsertionPoint(builder.function), ir.Location.unknown(builder.module.context):
        function = _make_function(base, arguments, results)
    for name in _candidate_names(base):
        if name not in symbols:
            function.attributes["sym_name"] = ir.StringAttr.get(name, builder.module.context)
            return name
        if _signature(symbols[name]) == _signature(function):
            function.erase()
            return name
    raise AssertionError("names are endless")


def _signature(function: ir.OpView) -> list[str]:
    """Return a text for every operation of a function, with values numbered."""
    numbers: dict[ir.Value, int] = {}
    lines = [str(function.attributes["function_type"])]
    if not isinstance(function, func.FuncOp) or function.is_external:
        return lines
    for argument in function.entry_block.arguments:
        numbers[argument] = len(numbers)
    for op in function.entry_block.operations:
        attributes = sorted(f"{key}={op.attributes[key]}" for key in op.attributes)
        operands = [numbers.get(v) for v in op.operands]
        lines.append(
            f"{op.operation.name}{operands}{attributes}{[str(r.type) for r in op.results]}"
        )
        for result in op.results:
            numbers[result] = len(numbers)
    return lines


def _candidate_names(base: str) -> Iterator[str]:
    yield base
    number = 2
    while True:
        yield f"{base}_{number}"
        number += 1


def _make_function(name: str, arguments: Sequence[Node], results: Sequence[Node]) -> func.FuncOp:
    types = [a.type for a in arguments], [r.type for r in results]
    function = func.FuncOp(name, types, visibility="private")
    block = function.add_entry_block()
    values = dict(zip(arguments, block.arguments, strict=True))
    order = topological(results, lambda n: () if n in values else n.operands)
    with ir.InsertionPoint(block):
        for node in order:
            if node.kind == "constant":
                values[node] = arith.ConstantOp(node.type, node.attributes[0][1]).result
            elif node not in values:
                assert node.kind == "arith", node.kind
                operands = [values[o] for o in node.operands]
                attributes = dict(node.attributes)
                op = ir.Operation.create(node.name, [node.type], operands, attributes)
                values[node] = op.results[0]
        func.ReturnOp([values[r] for r in results])
    return function


def _function_name(results: Sequence[Node], arguments: Sequence[Node]) -> str:
    nodes = cone(results, arguments)[1]
    if not nodes:
        return "copy"
    if _is_relu(nodes, results):
        return "relu"
    words: list[str] = []
    for node in nodes:
        word = _word(node)
        if word and (not words or words[-1] != word):
            words.append(word)
    return "_".join(words[:4]) or "cast"


def _word(node: Node) -> str:
    name = node.name.removeprefix("arith.")
    if name.startswith(("ext", "trunc")):
        return ""
    if name in ("sitofp", "uitofp", "fptosi", "fptoui", "bitcast"):
        return name
    short = {"maximumf": "max", "minimumf": "min", "maxnumf": "maxnum", "minnumf": "minnum"}
    if name in short:
        return short[name]
    return name.removesuffix("f").removesuffix("i")


def _is_relu(nodes: Sequence[Node], results: Sequence[Node]) -> bool:
    last = nodes[-1]
    is_maximum = last.name in ("arith.maximumf", "arith.maxnumf")
    alone = len(results) == len(nodes) == 1
    return alone and is_maximum and any(o.constant == 0 for o in last.operands)
