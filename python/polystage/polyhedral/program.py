"""A whole model, or any function on memrefs, as statements and arrays."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from polystage.errors import PolystageError
from polystage.mlir import ir
from polystage.polyhedral.analysis import compute_dependences
from polystage.polyhedral.dependences import Dependences
from polystage.polyhedral.extraction import extract
from polystage.polyhedral.model import Array, Role, Statement


@dataclass(frozen=True)
class TensorProgram:
    """The statements of one function in program order, and the arrays that they touch."""

    name: str
    arrays: dict[str, Array]
    statements: tuple[Statement, ...]
    module: Any = field(repr=False, compare=False)
    """Keeps the operations alive to which statements and arrays point."""

    @classmethod
    def from_module(cls, module: ir.Module, function: str | None = None) -> "TensorProgram":
        """Read a function of `module`: `function`, or `main`, or the only public one.

        Raises: PolystageError where there is no such function, or an array has a dynamic shape.
        """
        found = _find_function(module, function)
        with module.context:
            result = extract(found)
        return cls(result.name, result.arrays, result.statements, module)

    @cached_property
    def _by_name(self) -> dict[str, Statement]:
        return {statement.name: statement for statement in self.statements}

    def statement(self, name: str) -> Statement:
        """Return the statement called `name`."""
        return self._by_name[name]

    def readers(self, array: str) -> list[Statement]:
        """Return the statements that read `array`, in program order."""
        return [s for s in self.statements if any(a.array == array for a in s.reads)]

    def writers(self, array: str) -> list[Statement]:
        """Return the statements that write `array`, in program order."""
        return [s for s in self.statements if any(a.array == array for a in s.writes)]

    def arrays_of(self, role: Role) -> list[Array]:
        """Return the arrays with `role`, in order of appearance."""
        return [array for array in self.arrays.values() if array.role == role]

    def dependences(self) -> Dependences:
        """Return the exact dependences between the instances of all statements."""
        return self._dependences

    @cached_property
    def _dependences(self) -> Dependences:
        return compute_dependences(self.arrays, self.statements)


def _find_function(module: Any, name: str | None) -> Any:
    functions = [
        op
        for op in module.operation.regions[0].blocks[0].operations
        if op.operation.name == "func.func" and len(op.regions[0].blocks)
    ]
    public = [f for f in functions if _visibility(f) != "private"]
    wanted = [f for f in functions if f.name.value == (name or "main")]
    if wanted:
        return wanted[0]
    if name is None and len(public) == 1:
        return public[0]
    known = ", ".join(f"@{f.name.value}" for f in functions) or "none"
    raise PolystageError(
        f"the module has no function @{name or 'main'}, but: {known}",
        help="name the function that is the model @main, or leave only one function public",
    )


def _visibility(function: Any) -> str:
    if "sym_visibility" not in function.attributes:
        return "public"
    return ir.StringAttr(function.attributes["sym_visibility"]).value
