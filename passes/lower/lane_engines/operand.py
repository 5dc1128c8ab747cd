"""An operand of a loop nest: a view of an array in DRAM, and where the loops access it."""

from __future__ import annotations

from dataclasses import dataclass

from polystage.mlir import ir
from polystage.passes.lower.generic_op import Linear
from polystage.passes.lower.mosaic import (
    Array,
    Mosaic,
    element_type_of,
    elements_of,
    shape_of,
    strides_of,
)


@dataclass(frozen=True)
class Operand:
    """A DRAM view whose dimension i is accessed at `index[i]`, and why its bytes move."""

    value: Array
    index: tuple[Linear, ...]
    cause: str

    @property
    def shape(self) -> list[int]:
        """The extents of the view."""
        return shape_of(self.value)

    @property
    def strides(self) -> list[int]:
        """The strides of the view in elements; those of most of it, if it has pieces."""
        return strides_of(self.value)

    @property
    def element_type(self) -> ir.Type:
        """The element type."""
        return element_type_of(self.value)

    @property
    def elements(self) -> int:
        """How many elements lie in memory."""
        return elements_of(self.value)

    def is_whole(self, dim: int) -> bool:
        """Whether an array fills the dimension, not a piece of it."""
        return not isinstance(self.value, Mosaic) or self.value.covers(dim)

    @property
    def dims(self) -> set[int]:
        """The loop dimensions that the access depends on."""
        return {d for linear in self.index for d in linear.dims}

    def dim_of(self, loop: int) -> int | None:
        """Return the dimension that is exactly the loop `loop`, where nothing else depends on
        it."""
        users = [i for i, linear in enumerate(self.index) if loop in linear.dims]
        return users[0] if len(users) == 1 and self.index[users[0]].single == loop else None

    def is_innermost(self, loop: int) -> bool:
        """Whether neighbouring elements differ in `loop`."""
        return any(
            loop in linear.dims and stride == 1
            for linear, stride in zip(self.index, self.strides, strict=True)
        )

    def memory_order(self) -> list[int]:
        """Return the dimensions that depend on a loop, largest stride first."""
        moving = [i for i, linear in enumerate(self.index) if linear.dims]
        return sorted(moving, key=lambda i: -self.strides[i])
