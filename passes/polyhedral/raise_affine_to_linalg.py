"""The pass `raise-affine-to-linalg`."""

from dataclasses import dataclass
from itertools import groupby
from typing import Any, ClassVar

from polystage.dialects.npu.views import defining_op
from polystage.errors import PassError
from polystage.forms import walk
from polystage.mlir import ir, memref, passmanager
from polystage.passes.polyhedral.box_emission import emit, stored_value, top_level
from polystage.passes.registry import Form, Pass, register_pass
from polystage.polyhedral import Kind, Statement, TensorProgram
from polystage.polyhedral.distribution import Leaf, Node, distribute
from polystage.polyhedral.rectangles import UnrollLimitError, rectangular_steps
from polystage.polyhedral.scalar import accumulates

_STORES = frozenset({"affine.store", "memref.store"})


@register_pass
@dataclass
class RaiseAffineToLinalgPass(Pass):
    """Turn affine loop nests into linalg operations on memrefs.

    Nests are distributed over their statements wherever exact dependences allow it, so that
    imperfect nests split. A statement whose loops carry nothing, or only its own accumulation,
    becomes one `linalg.generic` on windows of its arrays. A loop that carries a dependence stays,
    as `scf.for` with constant bounds. Where extents depend on the index of a loop, as in a
    triangle, that loop is unrolled.

    Sums and products of floating-point numbers may be taken in another order.
    """

    name: ClassVar[str] = "raise-affine-to-linalg"
    input_form: ClassVar[Form] = "any"
    output_form: ClassVar[Form] = "buffers"

    unroll_limit: int = 256
    """The largest number of operations into which one statement may be unrolled."""

    def run(self, module: ir.Module) -> None:
        """Raise all loop nests of the model."""
        if not any(_may_be_of_a_nest(op) for op in walk(module.operation)):
            return  # a model without loops of its own needs no polyhedral model
        with module.context, ir.Location.unknown():
            pipeline = "builtin.module(func.func(linalg-generalize-named-ops))"
            passmanager.PassManager.parse(pipeline).run(module.operation)
            program = TensorProgram.from_module(module)
            statements = [s for s in program.statements if _is_of_a_nest(s)]
            _check_whole_nests(program, statements)
            if not statements:
                return
            arrays = _array_values(program, statements[0])
            nests = {t: list(group) for t, group in groupby(statements, lambda s: top_level(s.op))}
            for top, nest in nests.items():
                self._raise_nest(program, nest, top, arrays)
            for top in reversed(nests):
                _erase(top)
            passmanager.PassManager.parse("builtin.module(canonicalize,cse)").run(module.operation)

    def _raise_nest(
        self,
        program: TensorProgram,
        nest: list[Statement],
        top: ir.Operation,
        arrays: dict[str, ir.Value],
    ) -> None:
        for statement in nest:
            _check(statement)
        commuting = frozenset(s.name for s in nest if _accumulates(s))
        nodes = distribute(nest, program.dependences(), commuting)
        self._remark_loops(nodes)
        try:
            steps = rectangular_steps(nodes, self.unroll_limit)
        except UnrollLimitError as error:
            raise PassError(
                f"statement '{error.statement.name}' would be unrolled into more than "
                f"{self.unroll_limit} operations",
                help=f"allow more with {self.name}{{unroll-limit=N}}, or use a smaller data set",
                op=error.statement.op,
            ) from None
        with ir.InsertionPoint(top), top.location:
            emit(steps, arrays)
        self.count("nests raised")
        self.count("statements raised", len(nest))

    def _remark_loops(self, nodes: tuple[Node, ...]) -> None:
        for node in nodes:
            if isinstance(node, Leaf):
                continue
            name = node.statements[0].dims[node.level]
            why = node.because
            self.remark(
                node.statements[0].op,
                f"loop {name} stays: it carries a {why.kind} dependence of '{why.target}' on "
                f"'{why.source}' through {why.array}",
            )
            self.count("loops kept")
            self._remark_loops(node.body)


def _is_of_a_nest(statement: Statement) -> bool:
    """Tell whether a statement must be raised; linalg operations and copies stay as they are."""
    op = statement.op
    if op.name.startswith("linalg.") or op.name == "memref.copy":
        return False
    return op.name.startswith(("affine.", "scf.")) or op.name in _STORES | {"memref.load"}


def _may_be_of_a_nest(op: ir.Operation) -> bool:
    """Return whether `op` is a loop, or an access to an element outside of a linalg body."""
    if op.name in _STORES | {"memref.load"}:
        return not op.parent.operation.name.startswith("linalg.")
    return op.name.startswith(("affine.", "scf."))


def _check_whole_nests(program: TensorProgram, raised: list[Statement]) -> None:
    """Raise PassError for an operation on whole arrays inside of a nest that would be raised."""
    tops = {top_level(statement.op) for statement in raised}
    names = {statement.name for statement in raised}
    for statement in program.statements:
        top = top_level(statement.op)
        if statement.name not in names and (top in tops or top.name == "affine.for"):
            raise PassError(
                f"'{statement.op.name}' stands inside of an affine loop nest",
                help="lower it to loops first, or write the loops around it as scf.for",
                op=statement.op,
            )


def _check(statement: Statement) -> None:
    """Raise PassError for a statement that cannot be raised."""
    if statement.kind == Kind.OPAQUE:
        raise PassError(
            f"this loop nest is not affine: {statement.reason}",
            help="use constant or affine bounds and indices, and no values carried by loops",
            op=statement.op,
        )
    if not statement.writes[0].is_exact:
        raise PassError(
            f"the place of a write is not affine: {statement.reason}",
            help="write to places that are sums of loop indices",
            op=statement.op,
        )


def _accumulates(statement: Statement) -> bool:
    """Tell whether a statement folds values into an element, in whatever order."""
    write = statement.writes[0]
    carried = [
        access.op.results[0]
        for access in statement.reads
        if access.op is not None and (access.array, access.exprs) == (write.array, write.exprs)
    ]
    others = any(
        access.array == write.array and access.exprs != write.exprs for access in statement.reads
    )
    return len(carried) == 1 and not others and accumulates(stored_value(statement), carried[0])


def _array_values(program: TensorProgram, first: Statement) -> dict[str, ir.Value]:
    """Return the memrefs of all arrays; values that are kept over a write get new ones."""
    block: Any = top_level(first.op).block
    values: dict[str, ir.Value] = {}
    for array in program.arrays.values():
        if array.value is not None:
            op = defining_op(array.value)
            if op is not None and top_level(op) != op:  # made inside of a nest: make it once
                op.move_before(top_level(op))
            values[array.name] = array.value
            continue
        type_ = ir.MemRefType.get(array.shape, ir.Type.parse(array.dtype))
        with ir.InsertionPoint.at_block_begin(block):
            values[array.name] = memref.AllocOp(type_, [], []).result
    return values


def _erase(op: ir.Operation) -> None:
    """Erase an operation whose results, if it has any, are not used any more."""
    if all(next(iter(result.uses), None) is None for result in op.results):
        op.erase()
