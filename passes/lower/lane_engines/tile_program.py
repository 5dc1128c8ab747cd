"""What happens to one tile of an operation: which buffers it takes, which instructions fill them.

A program is made once per nest, before tile sizes are known; `tiling` asks it what a tile costs,
`tile_writer` writes it into the loops. Loop 0 of the nest is the partition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import prod

from polystage.dtypes import byte_width
from polystage.mlir import ir
from polystage.passes.lower.generic_op import Linear
from polystage.passes.lower.lane_engines.loop_nest import LoopNest
from polystage.passes.lower.lane_engines.operand import Operand


def tile_extent(linear: Linear, tiles: Sequence[int]) -> int:
    """Return how many values an expression spans over a tile: `2 * h + kh` over 4 x 3 spans 9."""
    return 1 + sum(abs(c) * (t - 1) for c, t in zip(linear.coefficients, tiles, strict=True))


def tile_base(linear: Linear, tiles: Sequence[int]) -> int:
    """Return how far below its value at the tile's origin an expression reaches (0 or negative)."""
    return sum(min(0, c * (t - 1)) for c, t in zip(linear.coefficients, tiles, strict=True))


@dataclass(frozen=True, eq=False)
class Slot:
    """An on-chip buffer of a tile: free dimension i holds the values of `index[i]` over the
    tile."""

    type: ir.Type
    index: tuple[Linear, ...]

    @property
    def dims(self) -> set[int]:
        """The loops that a dimension depends on, the partition aside."""
        return {d for linear in self.index for d in linear.dims}

    def free_shape(self, tiles: Sequence[int]) -> list[int]:
        """Return the extents behind the partition."""
        return [tile_extent(linear, tiles) for linear in self.index]

    def bytes(self, tiles: Sequence[int]) -> int:
        """Return the bytes in each partition."""
        return prod(self.free_shape(tiles)) * byte_width(self.type)


@dataclass(frozen=True)
class Step:
    """One or a few instructions per tile; `dims` are the loops that must be open around it."""

    @property
    def reads(self) -> tuple[Slot, ...]:
        """The buffers read."""
        return ()

    @property
    def writes(self) -> tuple[Slot, ...]:
        """The buffers written."""
        return ()

    @property
    def dims(self) -> set[int]:
        """The loops that the step depends on."""
        return {d for slot in (*self.reads, *self.writes) for d in slot.dims}

    def renamed(self, old: Slot, new: Slot) -> Step:
        """Return the step on another buffer."""

        def swap(value: object) -> object:
            if isinstance(value, tuple):
                return tuple(new if v is old else v for v in value)
            return new if value is old else value

        return replace(self, **{k: swap(v) for k, v in vars(self).items()})


@dataclass(frozen=True)
class Load(Step):
    """Bring the tile of an operand on chip, through the array where `staged` names the dimension
    to load by."""

    operand: Operand
    slot: Slot
    staged: int | None = None

    @property
    def writes(self) -> tuple[Slot, ...]:
        """The buffer."""
        return (self.slot,)


@dataclass(frozen=True)
class Store(Step):
    """Take the tile of an output to DRAM."""

    slot: Slot
    operand: Operand
    staged: int | None = None

    @property
    def reads(self) -> tuple[Slot, ...]:
        """The buffer."""
        return (self.slot,)

    @property
    def dims(self) -> set[int]:
        """All loops of the output."""
        return self.operand.dims - {0} | self.slot.dims


@dataclass(frozen=True)
class Fill(Step):
    """Set a buffer to a constant."""

    slot: Slot
    value: float | int

    @property
    def writes(self) -> tuple[Slot, ...]:
        """The buffer."""
        return (self.slot,)


@dataclass(frozen=True)
class Iota(Step):
    """Write the values of a loop."""

    slot: Slot
    loop: int

    @property
    def writes(self) -> tuple[Slot, ...]:
        """The buffer."""
        return (self.slot,)


@dataclass(frozen=True)
class Activate(Step):
    """target = function(scale * source + bias + shift), element by element; `shift` has one element
    per partition."""

    source: Slot
    target: Slot
    function: str
    scale: float = 1.0
    bias: float = 0.0
    shift: Slot | None = None

    @property
    def reads(self) -> tuple[Slot, ...]:
        """The source, and the shift if there is one."""
        return (self.source,) if self.shift is None else (self.source, self.shift)

    @property
    def writes(self) -> tuple[Slot, ...]:
        """The target."""
        return (self.target,)


@dataclass(frozen=True)
class Compute(Step):
    """`npu.elementwise` or `npu.reduce` (`kind`) over the loops `box`; `passes` are the tensor
    operands of every arithmetic operation."""

    kind: str
    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]
    function: str
    engine: str
    box: tuple[int, ...]
    passes: tuple[int, ...]

    @property
    def reads(self) -> tuple[Slot, ...]:
        """The inputs; outputs are read too where the function does."""
        return self.inputs

    @property
    def writes(self) -> tuple[Slot, ...]:
        """The outputs."""
        return self.outputs

    @property
    def dims(self) -> set[int]:
        """The box."""
        return set(self.box) | super().dims


@dataclass(frozen=True)
class Gather(Step):
    """target = table[indices.., columns of the tile]: whole rows where the last loops are
    `columns`."""

    table: ir.Value
    indices: tuple[Slot, ...]
    target: Slot
    columns: tuple[Linear, ...]

    @property
    def reads(self) -> tuple[Slot, ...]:
        """The indices."""
        return self.indices

    @property
    def writes(self) -> tuple[Slot, ...]:
        """The target."""
        return (self.target,)


@dataclass
class TileProgram:
    """`steps` in order, then `stores` where the reduction loops of the tile are closed again."""

    nest: LoopNest
    steps: list[Step] = field(default_factory=list)
    stores: list[Step] = field(default_factory=list)

    @property
    def slots(self) -> list[Slot]:
        """All buffers, each once."""
        every = (slot for step in (*self.steps, *self.stores) for slot in step.writes)
        return list(dict.fromkeys(every))


# --- fewer buffers --------------------------------------------------------------------------------


def reuse_buffers(program: TileProgram) -> None:
    """Let an instruction write over an input that nothing needs afterwards and that is laid out
    the same.

    relu(x) -> x instead of relu(x) -> y.
    """
    for i in range(len(program.steps)):
        step = program.steps[i]
        if not isinstance(step, Activate | Compute):
            continue
        if isinstance(step, Compute) and step.kind == "reduce":
            continue
        for new in step.writes:
            old = _reusable(program, i, new)
            if old is not None:
                program.steps[i:] = [s.renamed(new, old) for s in program.steps[i:]]
                program.stores = [s.renamed(new, old) for s in program.stores]


def _reusable(program: TileProgram, position: int, new: Slot) -> Slot | None:
    step = program.steps[position]
    later = [*program.steps[position + 1 :], *program.stores]
    if any(new in (*s.reads, *s.writes) for s in program.steps[:position]):
        return None
    for old in step.reads:
        same = old.type == new.type and old.index == new.index and old not in step.writes
        # a buffer of fewer loops would be filled again only when an outer loop moves on
        covers = old.dims == step.dims
        needed = any(old in (*s.reads, *s.writes) for s in later)
        if same and covers and not needed:
            return old
    return None
