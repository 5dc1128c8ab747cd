"""MLIR text and bytecode: StableHLO, linalg on tensors, linalg on memrefs, affine loop nests."""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from polystage.errors import FrontendError, location_text
from polystage.forms import walk
from polystage.frontends import stablehlo
from polystage.frontends.diagnostics import run_upstream
from polystage.frontends.finish import (
    CLEAN_UP,
    argument_names,
    check_static,
    drop_foreign_attributes,
    entry_function,
    model_name,
    name_arguments,
    rename_to_main,
    tensor_specs,
)
from polystage.frontends.model import Arrays, ImportedModel, new_context
from polystage.mlir import HAS_IMPORTERS, func, ir
from polystage.reference import jit_run

_WRITES = {"memref.store": 1, "affine.store": 1, "memref.copy": 1}
_VIEWS = ("memref.subview", "memref.expand_shape", "memref.collapse_shape", "memref.cast")


def load_mlir(source: str | Path | bytes, name: str = "") -> ImportedModel:
    """Import a `.mlir` or `.mlirbc` file, or its contents given as bytes.

    Functions on memrefs stay as they are, except that one without results returns the arguments
    that it writes to.

    Raises: FrontendError.
    """
    name = name or ("model" if isinstance(source, bytes) else str(source))
    content = source if isinstance(source, bytes) else _read(Path(source))
    module = _parse(content, name)
    if stablehlo.is_stablehlo(module):
        run_upstream(module, stablehlo.TO_LINALG, name)
    function = entry_function(module, name)
    inputs = _names_in_text(function, argument_names(function, "arg_attrs", "arg"), content)
    on_memrefs = any(isinstance(t, ir.MemRefType) for t in function.type.inputs)
    outputs = argument_names(function, "res_attrs", "result")
    if on_memrefs and not outputs:
        outputs = [inputs[i] for i in _return_written_arguments(function, name)]
    if not on_memrefs:
        run_upstream(module, CLEAN_UP, name)
        function = entry_function(module, name)
    rename_to_main(function)
    drop_foreign_attributes(module)
    name_arguments(function, inputs, outputs)
    check_static(module, name)
    inputs_of_run = tuple(tensor_specs(function.type.inputs, inputs, name))
    return ImportedModel(
        name=model_name(name),
        module=module,
        inputs=inputs_of_run,
        outputs=tuple(tensor_specs(function.type.results, outputs, name)),
        form="buffers" if on_memrefs else "tensors",
        reference="jit",
        run_reference=_reference(module, outputs),
    )


def _reference(
    module: ir.Module, outputs: Sequence[str]
) -> Callable[[Arrays], dict[str, np.ndarray]]:
    with module.context, ir.Location.unknown():
        original = ir.Module.create()
        for op in module.body:
            original.body.append(op.operation.clone())

    def run(arrays: Arrays) -> dict[str, np.ndarray]:
        return dict(zip(outputs, jit_run(original, arrays), strict=True))

    return run


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise FrontendError(f"no such file: {path}") from None
    except OSError as error:
        raise FrontendError(f"{path}: {error.strerror}") from None


def _parse(content: bytes, name: str) -> ir.Module:
    context = new_context()
    if HAS_IMPORTERS:
        stablehlo.register(context)
    with context:
        try:
            if stablehlo.is_portable_artifact(content):
                return stablehlo.read_portable_artifact(content, context, name)
            return ir.Module.parse(content)
        except ir.MLIRError as error:
            raise _parse_error(error, name) from None
        except UnicodeDecodeError:
            raise FrontendError(f"{name}: neither MLIR text nor bytecode") from None


def _parse_error(error: ir.MLIRError, name: str) -> FrontendError:
    first = error.error_diagnostics[0]
    place = location_text(first.location)
    position = place[place.index(":") :] if ":" in place else ""
    return FrontendError(
        f"not valid MLIR: {first.message.splitlines()[0]}", location=f"{name}{position}"
    )


def _names_in_text(function: func.FuncOp, names: Sequence[str], content: bytes) -> list[str]:
    """Return the names, `%x` in the text instead of a name that was made up."""
    if content.startswith(b"ML\xefR"):
        return list(names)
    lines = content.decode(errors="replace").splitlines()
    found: list[str] = []
    for name, argument in zip(names, function.regions[0].blocks[0].arguments, strict=True):
        place = re.fullmatch(r'loc\(".*":(\d+):(\d+)\)', str(argument.location))
        text = lines[int(place[1]) - 1][int(place[2]) - 1 :] if place else ""
        written = re.match(r"%([A-Za-z_][\w.$-]*)", text)
        found.append(written[1] if written and re.fullmatch(r"arg\d*", name) else name)
    return found


def _return_written_arguments(function: func.FuncOp, name: str) -> list[int]:
    """Make the function return the arguments that it writes to, and tell their positions."""
    block = function.regions[0].blocks[0]
    written = {value for op in walk(function.operation) for value in _written(op)}
    positions = [i for i, argument in enumerate(block.arguments) if argument in written]
    if not positions:
        raise FrontendError(f"{name}: the function has no result and writes to no argument")
    values = [block.arguments[i] for i in positions]
    terminator = list(block)[-1]
    with ir.InsertionPoint(terminator), terminator.location:
        func.ReturnOp(values)
    terminator.erase()
    with function.context:
        type_ = ir.FunctionType.get(function.type.inputs, [v.type for v in values])
        function.attributes["function_type"] = ir.TypeAttr.get(type_)
    return positions


def _written(op: ir.Operation) -> Iterator[ir.Value]:
    """Yield the memrefs that an operation writes to, views traced back."""
    targets: list[ir.Value] = []
    if op.name in _WRITES:
        targets = [op.operands[_WRITES[op.name]]]
    elif op.name.startswith("linalg.") and "operandSegmentSizes" in op.attributes:
        n_inputs = next(iter(ir.DenseI32ArrayAttr(op.attributes["operandSegmentSizes"])))
        targets = list(op.operands)[n_inputs:]
    for value in targets:
        while not isinstance(value.owner, ir.Block) and value.owner.name in _VIEWS:
            value = value.owner.operands[0]
        yield value
