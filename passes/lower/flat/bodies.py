"""Scalar functions of whole operators: the body of the anchor, or all bodies of the epilogue as
one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from polystage.dialects.npu.views import defining_op
from polystage.errors import PassError
from polystage.mlir import arith, func, ir
from polystage.passes.lower.flat.indices import index_of
from polystage.planner.fusion.operators import Operator
from polystage.polyhedral import Statement

_LOADS = ("memref.load", "affine.load")
CASTS = ("arith.ext", "arith.trunc", "linalg.yield")
"""What a body does beside computing."""


@dataclass(frozen=True)
class Source:
    """Where a value of a body comes from: an operand of an operation, or a load (`operand` is
    None)."""

    op: ir.Operation
    operand: int | None = None


@dataclass(frozen=True)
class Coordinate:
    """The value of a dimension of the operator."""

    dim: int


Leaf = Source | Coordinate


def result_source(operator: Operator) -> Source:
    """Return what stands for the anchor's result in the function of its epilogue."""
    return Source(operator.statements[0].op)


@dataclass
class ScalarFunction:
    """A private function of the module: its name, and what its arguments are."""

    name: str
    arguments: tuple[Leaf, ...]


@dataclass
class ScalarFunctions:
    """Makes the functions of a module, equal ones once."""

    module: ir.Module
    _names: dict[str, str] = field(default_factory=dict)

    def from_text(self, name: str, text: str) -> str:
        """Return the name of the function that MLIR `text`, with `@f` for its name, describes."""
        if text not in self._names:
            parsed = ir.Module.parse(text, self.module.context)
            function = parsed.body.operations[0].operation.clone(ip=False)
            self.module.body.append(function)
            self._names[text] = self._name(function, name)
        return self._names[text]

    def anchor(
        self, statement: Statement, constants: Mapping[Source, ir.Attribute], wide: ir.Type | None
    ) -> ScalarFunction:
        """Return what one iteration of an operation makes of its operands and outputs.

        `constants` stand for operands. Where sums run in the type `wide`, the only output has that
        type, and nothing is rounded to its own.
        """
        return self._make(lambda writer: writer.anchor(statement, wide), constants)

    def value(self, statement: Statement, value: ir.Value) -> ScalarFunction:
        """Return what computes an index value of a body, as i64; its output is `Source(op)`."""
        return self._make(lambda writer: writer.index(statement, value), {})

    def epilogue(
        self, operator: Operator, type_: ir.Type, constants: Mapping[Source, ir.Attribute]
    ) -> ScalarFunction:
        """Return what the epilogue makes, one body after the other, of the anchor's result.

        That value, of `type_`, is what `result_source` names; the output comes last.
        """
        return self._make(lambda writer: writer.epilogue(operator, type_), constants)

    def _make(
        self,
        write: Callable[[_Writer], list[ir.Value]],
        constants: Mapping[Source, ir.Attribute],
    ) -> ScalarFunction:
        with self.module.context, ir.Location.unknown():
            function = func.FuncOp("f", ([], []), visibility="private", ip=False)
            block = ir.Block.create_at_start(function.regions[0], [])
            writer = _Writer(block, constants)
            results = write(writer)
            with ir.InsertionPoint(block):
                func.ReturnOp(results)
            types = [a.type for a in block.arguments], [r.type for r in results]
            function.attributes["function_type"] = ir.TypeAttr.get(ir.FunctionType.get(*types))
        text = str(function)
        if text not in self._names:
            self.module.body.append(function)
            self._names[text] = self._name(function.operation, _describe(block))
        return ScalarFunction(self._names[text], tuple(writer.leaves))

    def _name(self, function: ir.Operation, base: str) -> str:
        """Give a function a name that no other has, and return it."""
        taken = ir.SymbolTable(self.module.operation)
        number, name = 2, base
        while name in taken:
            name, number = f"{base}_{number}", number + 1
        function.attributes["sym_name"] = ir.StringAttr.get(name, self.module.context)
        return name


def _describe(block: ir.Block) -> str:
    """Return the operations of a block in words: `mul_add_max`."""
    words: list[str] = []
    for op in block.operations:
        name = op.operation.name
        if name.startswith(CASTS) or name in ("arith.constant", "func.return"):
            continue
        word = name.partition(".")[2].removesuffix("f").removesuffix("i")
        if not words or words[-1] != word:
            words.append(word)
    return "_".join(words[:4]) or "copy"


def _dims_of_anchor(
    statement: Statement, before: Statement, known: dict[int, int] | None
) -> dict[int, int]:
    """Return which dim of the anchor each dim of a statement is that reads what `before` writes.

    Where both index an axis of the array by a dim alone, these are the same.
    """
    written = before.writes[0]
    found: dict[int, int] = {}
    for read in statement.reads:
        if read.array != written.array or read.exprs is None or written.exprs is None:
            continue
        for own, theirs in zip(read.exprs, written.exprs, strict=True):
            dims = [index_of(e).linear for e in (own, theirs)]
            if all(d.constant == 0 and len(d.terms) == 1 for d in dims):
                mine, other = (d.terms[0][0] for d in dims)
                if known is None or other in known:
                    found[mine] = other if known is None else known[other]
    return found


class _Writer:
    """Copies the operations of bodies into one block, which gets an argument per leaf."""

    def __init__(self, block: ir.Block, constants: Mapping[Source, ir.Attribute]) -> None:
        self.block = block
        self.constants = constants
        self.leaves: dict[Leaf, ir.Value] = {}
        self.values: dict[ir.Value, ir.Value] = {}
        self.sources: dict[ir.Value, tuple[Source, ir.Value]] = {}
        self.dims: dict[int, int] | None = None
        """The dims of the anchor by those of the present operation; None where that is the anchor.
        """

    def anchor(self, statement: Statement, wide: ir.Type | None) -> list[ir.Value]:
        op = statement.op
        if op.name != "linalg.generic":
            value = self.leaf(Source(op, 0), ir.MemRefType(op.operands[0].type).element_type)
            self.output(Source(op, 1), value.type)
            return [value]
        body = op.regions[0].blocks[0]
        results = list(list(body.operations)[-1].operands)
        self.bind(op, body)
        first = len(body.arguments) - len(results)
        if wide is not None:
            results = [self.unrounded(Source(op, first), body.arguments[first], results[0], wide)]
        found = [self.value(r) for r in results]
        for number, result in enumerate(found, first):
            self.output(Source(op, number), result.type)
        return found

    def index(self, statement: Statement, value: ir.Value) -> list[ir.Value]:
        self.bind(statement.op, statement.op.regions[0].blocks[0])
        found = self.value(value)
        i64 = ir.IntegerType.get_signless(64, value.type.context)
        with ir.InsertionPoint(self.block):
            held = arith.IndexCastOp(i64, found).result
        self.output(Source(statement.op), i64)
        return [held]

    def unrounded(
        self, source: Source, argument: ir.Value, result: ir.Value, wide: ir.Type
    ) -> ir.Value:
        """Return what is rounded at the end; the output is read in the type `wide`.

        truncf(addf(extf(out), x))  ->  addf(out, x)
        """
        rounding = defining_op(result)
        uses = [use.owner.operation for use in argument.uses]
        widened = all(op.name == "arith.extf" and op.results[0].type == wide for op in uses)
        if rounding is None or rounding.name != "arith.truncf" or not widened:
            return result
        for op in uses:
            self.values[op.results[0]] = self.leaf(source, wide)
        return rounding.operands[0]

    def output(self, source: Source, type_: ir.Type) -> None:
        """Make the argument of an output the last one."""
        present = self.leaves.pop(source, None)
        last = self.block.add_argument(type_, ir.Location.unknown())
        if present is not None:
            number = list(self.block.arguments).index(present)
            present.replace_all_uses_with(last)
            self.block.erase_argument(number)
        self.leaves[source] = last

    def epilogue(self, operator: Operator, type_: ir.Type) -> list[ir.Value]:
        value = self.leaf(result_source(operator), type_)
        before = operator.statements[0]
        for statement in operator.epilogue:
            self.dims = _dims_of_anchor(statement, before, self.dims)
            value = self.step(statement, before.writes[0].array, value)
            before = statement
        output = before.op.operands[len(before.op.operands) - 1]
        last = Source(before.op, len(before.op.operands) - 1)
        self.output(last, ir.MemRefType(output.type).element_type)
        return [value]

    def step(self, statement: Statement, array: str, value: ir.Value) -> ir.Value:
        """Copy one operation that reads `value` where it reads `array`."""
        op = statement.op
        if op.name != "linalg.generic":
            return value
        body = op.regions[0].blocks[0]
        self.bind(op, body)
        for read in statement.reads:
            if read.array == array and read.op is not None:
                number = read.operand
                replaced = read.op.results[0] if number is None else body.arguments[number]
                self.values[replaced] = value
        return self.value(list(body.operations)[-1].operands[0])

    def bind(self, op: ir.Operation, body: ir.Block) -> None:
        """Note what the arguments of a body are; scalar operands are values from outside."""
        self.sources = {
            argument: (Source(op, number), operand)
            for number, (argument, operand) in enumerate(
                zip(body.arguments, op.operands, strict=True)
            )
        }

    def value(self, value: ir.Value) -> ir.Value:
        """Return the copy of a value of a body, or of one that it takes from outside."""
        if value not in self.values:
            self.values[value] = self.copy(value)
        return self.values[value]

    def copy(self, value: ir.Value) -> ir.Value:
        if value in self.sources:
            source, operand = self.sources[value]
            if isinstance(operand.type, ir.MemRefType):
                return self.leaf(source, value.type)
            return self.value(operand)
        op = defining_op(value)
        if op is None:
            raise PassError("a body uses a value from outside that nothing computes")
        if op.name in _LOADS:
            return self.leaf(Source(op), value.type)
        if op.name == "linalg.index":
            dim = ir.IntegerAttr(op.attributes["dim"]).value
            return self.coordinate(dim)
        operands = [self.value(v) for v in op.operands]
        with ir.InsertionPoint(self.block):
            copied = op.clone().operation
        for number, operand in enumerate(operands):
            copied.operands[number] = operand
        return copied.results[list(op.results).index(value)]

    def coordinate(self, dim: int) -> ir.Value:
        if self.dims is not None and dim not in self.dims:
            raise PassError(
                f"a body asks for its dimension {dim}, which what it follows does not have",
                help="npu-fuse-operators keeps such an operation apart; edit its group",
            )
        dim = dim if self.dims is None else self.dims[dim]
        with self.block.owner.context:
            held = self.leaf(Coordinate(dim), ir.IntegerType.get_signless(64))
            with ir.InsertionPoint(self.block):
                return arith.IndexCastOp(ir.IndexType.get(), held).result

    def leaf(self, leaf: Leaf, type_: ir.Type) -> ir.Value:
        """Return the argument for a leaf, or the constant that it is here."""
        if isinstance(leaf, Source) and leaf in self.constants:
            with ir.InsertionPoint(self.block):
                return arith.ConstantOp(type_, self.constants[leaf]).result
        if leaf not in self.leaves:
            self.leaves[leaf] = self.block.add_argument(type_, ir.Location.unknown())
        return self.leaves[leaf]
