"""Writes an epilogue: loads its operands beside the output tile, adds on the array, then computes
from psum into the output buffer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

from polystage.allocation import aligned
from polystage.mlir import ir
from polystage.passes.lower.generic_op import Access, Linear
from polystage.passes.lower.kernel_builder import KernelBuilder
from polystage.passes.lower.lane_engines.loop_nest import LoopNest, expand_scalar
from polystage.passes.lower.lane_engines.operand import Operand
from polystage.passes.lower.lane_engines.scalar_graph import Node
from polystage.passes.lower.lane_engines.tile_planner import TilePlanner
from polystage.passes.lower.lane_engines.tile_program import Activate, Slot
from polystage.passes.lower.lane_engines.tile_writer import write_instruction
from polystage.passes.lower.mosaic import shape_of
from polystage.passes.lower.offset import Offset
from polystage.passes.lower.tensor_engine.contraction import Contraction, element_bytes
from polystage.passes.lower.tensor_engine.epilogue import Epilogue
from polystage.passes.lower.tensor_engine.identity import write_identity
from polystage.passes.lower.tensor_engine.operand_window import Box

Riders = Mapping[int, ir.Value]
"""Buffers of the operands of an epilogue for one output tile, by argument."""


class EpilogueTiles:
    """Writes the epilogue of every tile of a contraction, whose rows are dimension `row`."""

    def __init__(
        self,
        builder: KernelBuilder,
        contraction: Contraction,
        row: int,
        values: Sequence[Any],
        causes: Sequence[str],
        epilogue: Epilogue,
    ) -> None:
        self.builder = builder
        self.contraction = contraction
        self.row = row
        self.values = values
        self.causes = causes
        self.epilogue = epilogue
        self.loops = (row, *contraction.columns)
        self.planner = _EpiloguePlanner(builder, self._nest(), epilogue)
        self.planner.plan()
        self._ones: dict[ir.Type, ir.Value] = {}
        self._identities: dict[ir.Type, ir.Value] = {}

    def _nest(self) -> LoopNest:
        """Return the loops of one tile: the row across the partitions, then the columns."""
        extents = self.contraction.generic.extents
        reads = dict(self.epilogue.reads)
        reads[self.epilogue.sums.number] = self.contraction.output
        if self.epilogue.shift is not None:
            reads[_SHIFT] = self.epilogue.shift
        return LoopNest(
            tuple(extents[d] if d >= 0 else 1 for d in self.loops),
            len(self.loops),
            {i: self._operand(access) for i, access in reads.items()},
            (self._operand(self.contraction.output),),
            {},
        )

    def _operand(self, access: Access) -> Operand:
        index = [
            Linear(0, tuple(int(i == place) for i in range(len(self.loops))))
            for place, d in enumerate(self.loops)
            if d in access.dims
        ]
        return Operand(self.values[access.argument], tuple(index), "")

    def tile_bytes(self, rows: int, columns: Sequence[int]) -> int:
        """Return the bytes per partition that constants and intermediate values of a tile take."""
        tiles = [rows, *columns]
        known = {self.planner.sums, self.planner.result, *self.planner.given.values()}
        values = [slot for slot in self.planner.program.slots if slot not in known]
        total = sum(aligned(slot.bytes(tiles)) for slot in values) * self.builder.buffers
        for access in self.epilogue.addends:
            width = element_bytes(access)
            free = rows * (width + 2 * _COORDINATE_BYTES) if self._is_full(access) else 0
            total += aligned(max(free, max(rows, prod(columns)) * width))
        return total

    # --- operands --------------------------------------------------------------------------------

    def load(self, box: Box) -> Riders:
        """Bring the operands of one output tile on chip."""
        rows = box[self.row].size if self.row >= 0 else 1
        shift = self.epilogue.shift
        on_lanes = [*self.epilogue.reads.values(), *([] if shift is None else [shift])]
        found: dict[int, ir.Value] = {}
        for access in (*on_lanes, *self.epilogue.addends):
            is_vector = access in self.epilogue.addends and not self._is_full(access)
            partitions = 1 if is_vector else rows
            found[access.argument] = self._load(access, box, partitions, is_vector)
        return found

    def _is_full(self, addend: Access) -> bool:
        return set(self.loops) <= addend.dims

    def _load(self, access: Access, box: Box, partitions: int, is_vector: bool) -> ir.Value:
        """Load a window as [row, *columns], repeated over the partitions where it has no row; as a
        vector, [1, row] or [1, *columns]."""
        builder = self.builder
        walked = [d for d in self.loops if d in access.dims]
        place = {x.dims[0]: i for i, x in enumerate(access.index) if x.dims}
        starts = [box[x.dims[0]].start if x.dims else Offset(x.constant) for x in access.index]
        sizes = [box[x.dims[0]].size if x.dims and x.dims[0] in walked else 1 for x in access.index]
        kept = sorted(place[d] for d in walked) or [0]
        drop = [i for i in range(len(sizes)) if i not in kept]
        value = self.values[access.argument]
        if access.index:
            view = builder.subview(value, starts, sizes, drop=drop)
        else:
            view = expand_scalar(builder, value)
        if walked:
            view = builder.transpose(view, [kept.index(place[d]) for d in walked])
        if walked and (self.row not in walked or is_vector):
            first, *rest = shape_of(view)
            view = builder.expand(view, [[1, first], *([n] for n in rest)])
        buffer = builder.alloc([partitions, *shape_of(view)[1:]], access.element_type)
        builder.dma(view, buffer, self.causes[access.argument])
        return buffer

    # --- on the array ----------------------------------------------------------------------------

    def prepare(self, rows: int, columns: int) -> None:
        """Write the constants that the array multiplies by, for tiles of at most so many rows and
        columns."""
        for access in self.epilogue.addends:
            type_ = access.element_type
            if self._is_full(access) and type_ not in self._identities:
                self._identities[type_] = write_identity(self.builder, rows, type_)
            elif not self._is_full(access) and type_ not in self._ones:
                self._ones[type_] = self.builder.alloc([1, max(rows, columns)], type_)
                self.builder.memset(self._ones[type_], 1)

    def add(self, psum: ir.Value, riders: Riders, columns: Box) -> None:
        """Let the array add what it can to a psum tile, at `columns` of the output tile."""
        rows, *sizes = ir.MemRefType(psum.type).shape
        flag = self.builder.flag(True)
        for access in self.epilogue.addends:
            held, type_ = riders[access.argument], access.element_type
            if self._is_full(access):
                stationary = self._part(self._identities[type_], [rows, rows])
                moving = self._tile(access, held, columns)
            elif self.row in access.dims:
                stationary, moving = held, self._row_of_ones(type_, sizes)
            else:
                stationary = self._row_of_ones(type_, [rows])
                moving = self._tile(access, held, columns)
            self.builder.matmul(stationary, moving, psum, flag, auxiliary=True)

    def _row_of_ones(self, type_: ir.Type, shape: Sequence[int]) -> Any:
        part = self._part(self._ones[type_], [1, prod(shape)])
        return self.builder.expand(part, [[1], list(shape)]) if shape else part

    def _part(self, value: ir.Value, sizes: Sequence[int]) -> ir.Value:
        return self.builder.subview(value, [0] * len(sizes), sizes)

    def _tile(self, access: Access, held: ir.Value, columns: Box) -> ir.Value:
        """Return the part of an operand's buffer that belongs to a tile of columns."""
        partitions = ir.MemRefType(held.type).shape[0]
        walked = [columns[d] for d in self.contraction.columns if d in access.dims]
        starts = [Offset(), *(tile.start for tile in walked)]
        return self.builder.subview(held, starts, [partitions, *(tile.size for tile in walked)])

    # --- on the lanes ----------------------------------------------------------------------------

    def write(self, psum: ir.Value, place: ir.Value, riders: Riders, columns: Box) -> None:
        """Compute a tile of the output from a psum tile."""
        planner, tiles = self.planner, list(ir.MemRefType(psum.type).shape)
        buffers = {planner.sums: psum, planner.result: place}
        for number, slot in planner.given.items():
            access = self.epilogue.shift if number == _SHIFT else self.epilogue.reads[number]
            assert access is not None
            buffers[slot] = self._tile(access, riders[access.argument], columns)
        for step in planner.program.steps:
            for slot in step.writes:
                if slot not in buffers:
                    shape = [tiles[0], *slot.free_shape(tiles)]
                    buffers[slot] = self.builder.alloc(shape, slot.type)
            write_instruction(self.builder, step, buffers, tiles)


_COORDINATE_BYTES = 4
"""Bytes of a coordinate, two of which tell where the identity is one."""

_SHIFT = -1
"""Number of the shift among the operands of the planner."""


class _EpiloguePlanner(TilePlanner):
    """Plans the instructions of a tile; all buffers have the row, then columns in their order."""

    def __init__(self, builder: KernelBuilder, nest: LoopNest, epilogue: Epilogue) -> None:
        super().__init__(builder, nest, epilogue.body, None)
        self.epilogue = epilogue
        (output,) = nest.outputs
        self.sums = self.operand_slot(output, epilogue.sums.type)
        self.result = self.operand_slot(output, output.element_type)
        self.given: dict[int, Slot] = {}
        """Buffers of operands, by the number of the operand."""
        self.shift: Slot | None = None
        if epilogue.shift is not None:
            self.shift = self._given(_SHIFT)

    def operand_slot(self, operand: Operand, type_: ir.Type) -> Slot:
        return self.loop_slot(type_, operand.dims)

    def is_psum(self, slot: Slot) -> bool:
        """Whether a buffer is that of the sums."""
        return slot is self.sums

    def load(self, node: Node) -> Slot:
        return self.sums if node.number == self.epilogue.sums.number else self._given(node.number)

    def _given(self, number: int) -> Slot:
        if number not in self.given:
            operand = self.nest.inputs[number]
            self.given[number] = self.operand_slot(operand, operand.element_type)
        return self.given[number]

    def plan(self) -> None:
        """Plan the steps from psum to the output's tile."""
        value, sums = self.epilogue.result, self.epilogue.sums
        if value is sums and isinstance(sums.type, ir.F32Type):
            self.program.steps.append(
                Activate(self.sums, self.result, "identity", shift=self.shift)
            )
        elif value.kind == "math" and self.dims(value) == self.result.dims:
            self.activate(value, self.result)
        else:
            self.elementwise_step([self.body.results[0]], [self.result])

    def activate(self, node: Node, target: Slot | None = None) -> Slot:
        found = super().activate(node, target)
        step = self.program.steps[-1]
        if isinstance(step, Activate) and step.source is self.sums:
            self.program.steps[-1] = replace(step, shift=self.shift)
        return found
