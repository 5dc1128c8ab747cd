"""A whole program as the planner sees it: operators in order, and the arrays between them."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

from polystage.mlir import ir
from polystage.planner.fusion.boxes import OperatorMaps, operator_maps
from polystage.planner.fusion.clusters import operators_of
from polystage.planner.fusion.operators import Operator
from polystage.polyhedral import Array, Role, TensorProgram

T = TypeVar("T")


@dataclass(frozen=True)
class Program:
    """The operators of a function in program order, and the arrays between them."""

    arrays: Mapping[str, Array]
    """By name; without those that exist only inside of operators."""
    operators: tuple[Operator, ...]
    main: ir.Operation = field(repr=False, compare=False)
    """The func.func."""
    module: Any = field(default=None, repr=False, compare=False)
    """Keeps alive what the operators point to."""

    @classmethod
    def from_module(cls, module: ir.Module, function: str | None = None) -> "Program":
        """Read a function of a module in `buffers` form.

        What cannot be modelled becomes an opaque operator, with the reason.

        Raises: PolystageError where there is no such function, or an array has a dynamic shape.
        """
        tensors = TensorProgram.from_module(module, function)
        with module.context:
            operators = operators_of(tensors)
        used = {name for operator in operators for name in operator.arrays}
        arrays = {name: array for name, array in tensors.arrays.items() if name in used}
        return cls(arrays, operators, _function(module, tensors.name), module)

    def remembered(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what `make` gave the first time it was asked for `key`: facts that follow from the
        program alone, and which many candidates need."""
        if key not in self._facts:
            self._facts[key] = make()
        return self._facts[key]

    @cached_property
    def _facts(self) -> dict[Hashable, Any]:
        return {}

    def maps(self, operator: Operator) -> OperatorMaps:
        """Return what the accesses of an operator touch in boxes of its iterations."""
        return self.remembered(operator.name, lambda: operator_maps(operator, self.arrays))

    @cached_property
    def _writers(self) -> Mapping[str, tuple[int, ...]]:
        return _by_array([[access.array for access in o.writes] for o in self.operators])

    @cached_property
    def _readers(self) -> Mapping[str, tuple[int, ...]]:
        return _by_array([[access.array for access in o.reads] for o in self.operators])

    def writers(self, array: str) -> tuple[int, ...]:
        """Return the operators that write `array`, in program order."""
        return self._writers.get(array, ())

    def readers(self, array: str) -> tuple[int, ...]:
        """Return the operators that read `array`, in program order."""
        return self._readers.get(array, ())

    def is_used_after(self, array: str, operator: int) -> bool:
        """Tell whether an operator after `operator`, or the caller, wants what `array` holds."""
        if self.arrays[array].role is Role.OUTPUT:
            return True
        readers = self.readers(array)
        return bool(readers) and readers[-1] > operator


def _function(module: ir.Module, name: str) -> ir.Operation:
    functions = (op for op in module.body.operations if op.operation.name == "func.func")
    return next(op.operation for op in functions if op.name.value == name)


def _by_array(names: list[list[str]]) -> dict[str, tuple[int, ...]]:
    found: defaultdict[str, list[int]] = defaultdict(list)
    for index, touched in enumerate(names):
        for name in dict.fromkeys(touched):
            found[name].append(index)
    return {name: tuple(indices) for name, indices in found.items()}
