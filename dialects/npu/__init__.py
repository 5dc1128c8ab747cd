"""The npu dialect: attributes, operations, legality rules, and its IRDL form for the stock opt
tool."""

from polystage.dialects.npu import ops
from polystage.dialects.npu.attributes import (
    AUXILIARY,
    AUXILIARY_CONSTANT,
    CAUSES,
    ENGINES,
    SPACES,
    EngineAttr,
    NpuDialect,
    SpaceAttr,
    attribute_name,
    engine_attr,
    space_attr,
)
from polystage.dialects.npu.views import space_of, strides_of
from polystage.mlir import ir

__all__ = [
    "AUXILIARY",
    "AUXILIARY_CONSTANT",
    "CAUSES",
    "ENGINES",
    "SPACES",
    "EngineAttr",
    "NpuDialect",
    "SpaceAttr",
    "attribute_name",
    "engine_attr",
    "irdl_text",
    "load",
    "ops",
    "space_attr",
    "space_of",
    "strides_of",
]


def load(context: ir.Context) -> None:
    """Make `context` know the npu dialect; a second call does nothing."""
    with context, ir.Location.unknown():
        if not context.is_dialect_loaded(NpuDialect.DIALECT_NAMESPACE):
            NpuDialect.load()


def irdl_text() -> str:
    """Return the dialect as an IRDL module, for `torch-mlir-opt --irdl-file=`."""
    with ir.Context(), ir.Location.unknown():
        return str(NpuDialect._emit_module())
