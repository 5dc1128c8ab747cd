"""The one place that imports the MLIR Python bindings.

`torch-mlir` ships a complete build of the upstream bindings next to its importers; the plain `mlir`
package of an LLVM build does as well for everything that needs no importer. All other modules of
Polystage write `from polystage.mlir import ir, ...`.
"""

try:
    from torch_mlir import ir, passmanager, rewrite
    from torch_mlir._mlir_libs import _mlir
    from torch_mlir.dialects import (
        affine,
        arith,
        ext,
        func,
        irdl,
        linalg,
        math,
        memref,
        scf,
        tensor,
    )
    from torch_mlir.execution_engine import ExecutionEngine

    HAS_IMPORTERS = True
except ImportError:  # an LLVM build without torch-mlir
    from mlir import ir, passmanager, rewrite  # type: ignore[no-redef]
    from mlir._mlir_libs import _mlir  # type: ignore[no-redef]
    from mlir.dialects import (  # type: ignore[no-redef]
        affine,
        arith,
        ext,
        func,
        irdl,
        linalg,
        math,
        memref,
        scf,
        tensor,
    )
    from mlir.execution_engine import ExecutionEngine  # type: ignore[no-redef]

    HAS_IMPORTERS = False

# Where the bindings look for the Python side of a dialect; without this they try to import one of
# their own for every npu operation that they meet, in vain and slowly.
_mlir.globals.append_dialect_search_prefix("polystage.dialects")

__all__ = [
    "HAS_IMPORTERS",
    "ExecutionEngine",
    "affine",
    "arith",
    "ext",
    "func",
    "ir",
    "irdl",
    "linalg",
    "math",
    "memref",
    "passmanager",
    "rewrite",
    "scf",
    "tensor",
]
