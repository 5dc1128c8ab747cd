"""Translation validation: execute a module before and after each pass, on random inputs."""

from collections.abc import Sequence

import numpy as np

from polystage.dtypes import numpy_dtype
from polystage.errors import PassError, PolystageError
from polystage.evaluator.module_evaluator import evaluate
from polystage.forms import walk
from polystage.mlir import func, ir
from polystage.reference import jit_run
from polystage.report.check import compare
from polystage.report.inputs import random_inputs
from polystage.simulator import simulate

TOLERANCE = 1e-3
"""Largest relative difference that a pass may make by changing the order of f32 sums."""

CHANGES_ARITHMETIC = "npu-set-float-type"


class SemanticsCheck:
    """Holds every pass to the results that the module had before it."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.expected: list[np.ndarray] | None = None

    def before_pass(self, name: str, module: ir.Module) -> None:
        """Execute the module once, before the first pass."""
        if self.expected is None:
            self.expected = self.execute(module)

    def after_pass(self, name: str, module: ir.Module) -> None:
        """Compare the results after a pass with those before.

        Raises: PassError where they differ.
        """
        actual = self.execute(module)
        if actual is None or self.expected is None or name.startswith(CHANGES_ARITHMETIC):
            self.expected = actual or self.expected
            return
        check = compare(_numbered(actual), _numbered(self.expected), "the module before", TOLERANCE)
        if not check.passed:
            raise PassError(
                f"{name}: changed what the module computes: relative error "
                f"{check.max_rel_error:.2e}, allowed {TOLERANCE:.0e}"
            )

    def execute(self, module: ir.Module) -> list[np.ndarray] | None:
        """Return the results, or nothing where the module is between two executable forms."""
        inputs = self._inputs(module)
        names = {op.name for op in walk(module.operation)}
        if any(name.startswith("npu.") and name != "npu.overlay" for name in names):
            allocated = all(
                "address" in op.attributes
                for op in walk(module.operation)
                if op.name == "npu.alloc"
            )
            return list(simulate(module, inputs).outputs.values()) if allocated else None
        values = list(inputs.values())
        try:
            return list(evaluate(module, values).values())
        except PolystageError:
            return jit_run(module, values)

    def _inputs(self, module: ir.Module) -> dict[str, np.ndarray]:
        return random_inputs(_arguments(module), self.seed)


class _Argument:
    def __init__(self, name: str, type_: ir.Type) -> None:
        shaped = ir.ShapedType(type_)
        self.name = name
        self.shape: tuple[int, ...] = tuple(shaped.shape)
        self.dtype: np.dtype = numpy_dtype(shaped.element_type)


def _arguments(module: ir.Module) -> Sequence[_Argument]:
    functions = [op for op in module.body if isinstance(op, func.FuncOp)]
    main = next((f for f in functions if f.name.value == "main"), functions[0])
    found: list[_Argument] = []
    for index, type_ in enumerate(main.type.inputs):
        name = f"arg{index}"
        if "arg_attrs" in main.attributes:
            attributes = ir.DictAttr(ir.ArrayAttr(main.attributes["arg_attrs"])[index])
            if "npu.name" in attributes:
                name = ir.StringAttr(attributes["npu.name"]).value
        found.append(_Argument(name, type_))
    return found


def _numbered(arrays: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    return {str(index): array for index, array in enumerate(arrays)}
