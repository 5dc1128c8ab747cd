"""From what an importer made to the module that the compiler takes."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from polystage.dtypes import numpy_dtype
from polystage.errors import FrontendError, PolystageError, location_text
from polystage.forms import walk
from polystage.frontends.diagnostics import run_upstream
from polystage.frontends.model import TensorSpec
from polystage.mlir import func, ir

CLEAN_UP = "builtin.module(inline,symbol-dce,canonicalize,cse)"


def finish_module(
    module: ir.Module, source: str, input_names: Sequence[str], output_names: Sequence[str]
) -> None:
    """Leave one function, `@main`, whose arguments and results carry their names.

    Raises: FrontendError where a value of the module has no static shape.
    """
    run_upstream(module, CLEAN_UP, source)
    function = entry_function(module, source)
    rename_to_main(function)
    drop_foreign_attributes(module)
    name_arguments(function, input_names, output_names)
    check_static(module, source)
    check_supported(module, source)


def entry_function(module: ir.Module, source: str) -> func.FuncOp:
    """Return `@main`, or the only function that has a body.

    Raises: FrontendError where there is none or no telling which.
    """
    functions = [op for op in module.body if isinstance(op, func.FuncOp) and op.regions[0].blocks]
    named_main = [f for f in functions if f.name.value == "main"]
    public = [f for f in functions if "sym_visibility" not in f.attributes]
    candidates = named_main or (public if len(public) == 1 else functions)
    if len(candidates) == 1:
        return candidates[0]
    found = ", ".join(f"@{f.name.value}" for f in functions) or "none"
    raise FrontendError(
        f"{source}: expected one function with a body, found {found}",
        help="call the function to compile @main",
    )


def name_arguments(
    function: func.FuncOp, input_names: Sequence[str], output_names: Sequence[str]
) -> None:
    """Set `npu.name` on the arguments and results of a function; nothing else stays on them."""
    with function.context:
        attributes = [
            ir.ArrayAttr.get(
                [ir.DictAttr.get({"npu.name": ir.StringAttr.get(name)}) for name in names]
            )
            for names in (input_names, output_names)
        ]
    function.attributes["arg_attrs"], function.attributes["res_attrs"] = attributes


def mark_unsigned(function: func.FuncOp, outputs: Sequence[TensorSpec]) -> None:
    """Set `npu.unsigned` on the named results that are unsigned integers; MLIR's have no sign."""
    entries: list[ir.Attribute] = []
    for entry, spec in zip(function.attributes["res_attrs"], outputs, strict=True):
        attributes = {named.name: named.attr for named in entry}
        if spec.dtype.kind == "u":
            attributes["npu.unsigned"] = ir.UnitAttr.get(function.context)
        entries.append(ir.DictAttr.get(attributes, function.context))
    function.attributes["res_attrs"] = ir.ArrayAttr.get(entries, function.context)


def argument_names(
    function: func.FuncOp, kind: Literal["arg_attrs", "res_attrs"], default: str
) -> list[str]:
    """Return the `npu.name` of each argument or result.

    Where there is none, an argument has the name in its location, else `<default>0`, `<default>1`..
    """
    types = function.type.inputs if kind == "arg_attrs" else function.type.results
    given = list(function.attributes[kind]) if kind in function.attributes else []
    names = [f"{default}{i}" if len(types) > 1 else default for i in range(len(types))]
    if kind == "arg_attrs":
        names = [
            _name_in_location(a) or n for a, n in zip(_arguments(function), names, strict=True)
        ]
    for i, attributes in enumerate(given):
        if "npu.name" in attributes:
            names[i] = attributes["npu.name"].value
    return names


def _arguments(function: func.FuncOp) -> list[ir.BlockArgument]:
    return list(function.regions[0].blocks[0].arguments)


def _name_in_location(argument: ir.BlockArgument) -> str:
    match = re.fullmatch(r'loc\("([^"]+)"\)', str(argument.location))
    return match[1] if match else ""


def tensor_specs(types: Sequence[ir.Type], names: Sequence[str], source: str) -> list[TensorSpec]:
    """Return the names, shapes and dtypes of the arguments or results of a function."""
    specs: list[TensorSpec] = []
    for type_, name in zip(types, names, strict=True):
        if not isinstance(type_, ir.ShapedType):
            raise FrontendError(f"{source}: '{name}' is {type_}, but only tensors can be passed")
        if not type_.has_rank or not type_.has_static_shape:
            raise FrontendError(
                f"{source}: '{name}' is a {type_}, but every shape must be known when the model is "
                "compiled",
                help="give it a static shape where the model is made",
            )
        try:
            dtype = numpy_dtype(type_)
        except PolystageError as error:
            raise FrontendError(f"{source}: '{name}': {error.message}", help=error.help) from None
        specs.append(TensorSpec(name, tuple(type_.shape), dtype))
    return specs


_UNSUPPORTED = {
    "tm_tensor.topk": "picks the largest elements",
    "tm_tensor.sort": "sorts",
    "tm_tensor.scatter": "writes to places that depend on values",
    "ml_program.global_load": "draws random numbers or keeps state",
    "ml_program.global_store": "draws random numbers or keeps state",
}
"""What an operation does that the accelerator has no instruction for."""


def check_supported(module: ir.Module, source: str) -> None:
    """Hold the module to what can be compiled.

    Raises: FrontendError at the first operation that cannot be.
    """
    for op in walk(module.operation):
        if op.name in _UNSUPPORTED:
            raise FrontendError(
                f"{source}: at '{location_text(op.location)}': the operator "
                f"{_UNSUPPORTED[op.name]}, which cannot be compiled",
                help="leave it to the host: cut the model before it",
            )


def check_static(module: ir.Module, source: str) -> None:
    """Hold the module to static shapes.

    Raises: FrontendError at the first value without one.
    """
    for op in walk(module.operation):
        for result in op.results:
            shaped = result.type
            if isinstance(shaped, ir.ShapedType) and not (
                shaped.has_rank and shaped.has_static_shape
            ):
                raise FrontendError(
                    f"{source}: '{op.name}' makes a {shaped}, but every shape must be known "
                    "when the model is compiled",
                    help="bind the dynamic dimensions of the inputs (--bind name=value); a shape "
                    "that depends on input values cannot be compiled",
                    op=op,
                )


def model_name(path: Path | str) -> str:
    """Return the name of a model from its file, fit for a symbol.

    >>> model_name("models/light resnet50.onnx")
    'light_resnet50'
    """
    return re.sub(r"\W", "_", Path(path).stem) or "model"


def rename_to_main(function: func.FuncOp) -> None:
    """Make the function the public `@main`; nothing calls it."""
    with function.context:
        ir.SymbolTable.set_symbol_name(function, "main")
    if "sym_visibility" in function.attributes:
        del function.attributes["sym_visibility"]


def drop_foreign_attributes(module: ir.Module) -> None:
    """Remove what importers noted on the module and its functions for themselves."""
    for op in (module.operation, *(o.operation for o in module.body)):
        for name in [a if isinstance(a, str) else a.name for a in op.attributes]:
            if "." in name and not name.startswith("npu."):
                del op.attributes[name]
