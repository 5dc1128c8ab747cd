"""StableHLO programs, as text or portable artifact."""

from polystage.errors import FrontendError
from polystage.forms import walk
from polystage.mlir import ir

TO_LINALG = (
    "builtin.module(inline,symbol-dce,stablehlo-convert-to-signless,"
    "stablehlo-legalize-to-linalg,canonicalize,cse)"
)
_ARTIFACT = b"ML\xefR\x0dStableHLO_v"


def register(context: ir.Context) -> None:
    """Make `context` know StableHLO and the dialects of torch-mlir, and register their passes."""
    from torch_mlir._mlir_libs import _stablehlo  # pyright: ignore[reportAttributeAccessIssue]
    from torch_mlir.dialects import torch as torch_dialect

    torch_dialect.register_dialect(context)
    with context:
        _stablehlo.register_dialect(context)


def is_stablehlo(module: ir.Module) -> bool:
    """Return whether a module holds operations of StableHLO or CHLO."""
    return any(op.name.startswith(("stablehlo.", "chlo.")) for op in walk(module.operation))


def is_portable_artifact(content: bytes) -> bool:
    """Return whether these are the bytes of a StableHLO portable artifact."""
    return content.startswith(_ARTIFACT)


def read_portable_artifact(content: bytes, context: ir.Context, name: str) -> ir.Module:
    """Return the module in a portable artifact.

    Raises: FrontendError for a damaged one, or one that is newer than this StableHLO.
    """
    from torch_mlir._mlir_libs import _stablehlo  # pyright: ignore[reportAttributeAccessIssue]

    silence = context.attach_diagnostic_handler(lambda _: True)
    try:
        module = _stablehlo.deserialize_portable_artifact(context, content)
    except (ValueError, ir.MLIRError) as error:
        version = content[len(_ARTIFACT) - 1 :].split(b"\0", 1)[0].decode(errors="replace")
        first = (str(error).strip().splitlines() or ["unknown reason"])[0]
        raise FrontendError(
            f"{name}: the StableHLO artifact of version {version} cannot be read: {first}",
            help=f"this StableHLO is version {_stablehlo.get_current_version()}",
        ) from None
    finally:
        silence.detach()
    return module
