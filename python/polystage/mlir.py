"""The one place that imports the MLIR Python bindings.

`torch-mlir` ships a complete build of the upstream bindings next to its importers; the plain `mlir`
package of an LLVM build does as well for everything that needs no importer. All other modules of
Polystage write `from polystage.mlir import ir, ...`.
"""

try:
    from torch_mlir import ir, passmanager, rewrite
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
    )
    from torch_mlir.execution_engine import ExecutionEngine

    HAS_IMPORTERS = True
except ImportError:  # an LLVM build without torch-mlir
    from mlir import ir, passmanager, rewrite  # type: ignore[no-redef]
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
    )
    from mlir.execution_engine import ExecutionEngine  # type: ignore[no-redef]

    HAS_IMPORTERS = False

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
]
