"""Attributes of the npu dialect: where a buffer lives, which engine executes an instruction."""

from polystage.mlir import ext, ir

SPACES = ("sbuf", "psum")
ENGINES = ("tensor", "vector", "scalar", "gpsimd")
AUXILIARY = "auxiliary"
"""Attribute of an `npu.matmul` that is no part of a contraction of the model."""

AUXILIARY_CONSTANT = "npu.auxiliary"
"""Attribute of a `memref.global` that is no part of the model: not one of its compulsory bytes."""

CAUSES = ("input", "weight", "intermediate", "output", "copy")


class NpuDialect(ext.Dialect, name="npu"):
    """Instructions and memories of an accelerator with a software-managed scratchpad."""


class SpaceAttr(NpuDialect.Attribute, name="space"):
    """An on-chip memory: `#npu.space<"sbuf">` or `#npu.space<"psum">`; a memref without one lies
    in DRAM."""

    name: ir.StringAttr


class EngineAttr(NpuDialect.Attribute, name="engine"):
    """The engine that executes an instruction: `#npu.engine<"vector">`."""

    name: ir.StringAttr


def space_attr(space: str) -> ir.Attribute:
    """Return `#npu.space<"space">` in the current context."""
    return ir.Attribute.parse(f'#npu.space<"{space}">')


def engine_attr(engine: str) -> ir.Attribute:
    """Return `#npu.engine<"engine">` in the current context."""
    return ir.Attribute.parse(f'#npu.engine<"{engine}">')


def attribute_name(attribute: ir.Attribute) -> str:
    """Return the text inside a space or engine attribute."""
    return ir.StringAttr(ir.DynamicAttr(attribute).params[0]).value
