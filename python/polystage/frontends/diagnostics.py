"""Upstream pipelines, with their diagnostics told as one clear error."""

import re
from collections.abc import Sequence
from typing import Any

from polystage.errors import FrontendError, location_text
from polystage.mlir import ir, passmanager

_OPERATOR = re.compile(r'name = "(?:torch\.)?((?:onnx|aten)\.[^"]+)"')
_ILLEGAL = re.compile(r"failed to legalize operation '([^']+)'")


def run_upstream(module: ir.Module, pipeline: str, source: str) -> None:
    """Run an upstream pipeline on `module` in place.

    Raises: FrontendError that names the operator which `source` holds and upstream cannot convert.
    """
    with module.context:
        try:
            passmanager.PassManager.parse(pipeline).run(module.operation)
        except ir.MLIRError as error:
            raise _frontend_error(error.error_diagnostics, error.message, source) from None


def _frontend_error(diagnostics: Sequence[Any], summary: str, source: str) -> FrontendError:
    unsupported = [d for d in diagnostics if _ILLEGAL.search(d.message)]
    if unsupported:  # constants are mentioned where what uses them is the problem
        named = [d for d in unsupported if "'torch.constant." not in d.message]
        return _unsupported_operator((named or unsupported)[0], diagnostics[0].message, source)
    if not diagnostics:
        return FrontendError(f"{source}: the importer failed: {_first_line(summary)}")
    first = diagnostics[0]
    return FrontendError(
        f"{source}: {_layer(first)}the importer failed: {_first_line(first.message)}",
        help="this is a limit of the torch-mlir importer",
    )


def _unsupported_operator(diagnostic: Any, first_message: str, source: str) -> FrontendError:
    text = diagnostic.message
    onnx_name = _OPERATOR.search(text)
    illegal = _ILLEGAL.search(text)
    found = onnx_name or illegal
    assert found is not None
    name = found.group(1)
    if name.startswith("torch.constant."):
        name = location_text(diagnostic.location).rpartition("/")[2] or "unknown"
    reason = ""
    if first_message != text:
        reason = f": {_first_line(first_message)}"
    types = _types(text)
    return FrontendError(
        f"{source}: {_layer(diagnostic)}operator '{name}'{types} is not supported "
        f"by the importer{reason}",
        help="replace the operator in the model, or cut the model before it",
    )


def _types(text: str) -> str:
    """Return the operand types of the printed operation, as ` on f32[2,3], si64[4]`."""
    _, found, operands = text.rpartition(" : (")
    operands = operands.partition(") ->")[0]
    tensors = re.findall(r"!torch\.vtensor<\[([^\]]*)\],\s*([\w!.]+)>", operands if found else "")
    if not tensors:
        return ""
    return " on " + ", ".join(f"{dtype}[{shape}]" for shape, dtype in tensors)


def _layer(diagnostic: Any) -> str:
    place = location_text(diagnostic.location)
    return f"at '{place}': " if place else ""


def _first_line(text: str) -> str:
    """Return the first line of a message without the operation that some messages append."""
    return re.sub(r": (%|\"|')[^ ]+.*", "", text.strip().splitlines()[0]).strip().rstrip(".")
