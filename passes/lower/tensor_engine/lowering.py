"""Lowers a contraction to the tensor engine: loads, matmuls that accumulate in psum, stores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from polystage.mlir import ir
from polystage.passes.lower.initial import Initial
from polystage.passes.lower.kernel_builder import Cut, KernelBuilder
from polystage.passes.lower.offset import Offset, Tile
from polystage.passes.lower.tensor_engine.contraction import Contraction
from polystage.passes.lower.tensor_engine.depthwise import Diagonal, DiagonalLoader
from polystage.passes.lower.tensor_engine.epilogue import Epilogue, row_of
from polystage.passes.lower.tensor_engine.epilogue_tiles import EpilogueTiles
from polystage.passes.lower.tensor_engine.operand_window import (
    Box,
    OperandLoader,
    Resident,
    Segment,
)
from polystage.passes.lower.tensor_engine.output_tile import OutputTile, OutputTiles
from polystage.passes.lower.tensor_engine.plan import ContractionPlanner


def lower_contraction(
    builder: KernelBuilder,
    contraction: Contraction,
    values: Sequence[Any],
    causes: Sequence[str],
    initial: Initial | None,
    epilogue: Epilogue | None = None,
) -> None:
    """Write a contraction into a kernel.

    out[batch, m, n] += sum_k stationary[batch, k, m] * moving[batch, k, n]
        ->  for blocks of m and n: load stationary and moving
                for tiles of m and n: for channels, taps: npu.matmul into one psum tile
                    copy psum to the output buffer
                store the output buffer

    `values[i]` and `causes[i]` belong to operand i; `initial` is what the output holds beforehand,
    None where it has to be loaded and added. With an `epilogue`, which needs initial zeros, that is
    what the output buffer gets.

    Raises:
        PassError: not even one tile fits the scratchpad (found by npu-allocate-scratchpad).
    """
    TensorEngineLowering(builder, contraction, values, causes, initial, epilogue).emit()
    builder.function.attributes["npu.contraction"] = _described(contraction)


def _described(contraction: Contraction) -> ir.DictAttr:
    """Return the extents of the whole contraction, which reports compare the tiles with."""
    type_ = ir.IntegerType.get_signless(64)
    extents = {
        "batch": contraction.extent(contraction.batch),
        "m": contraction.extent(contraction.rows),
        "n": contraction.extent(contraction.columns),
        "k": contraction.channels * contraction.extent(contraction.taps),
    }
    return ir.DictAttr.get({name: ir.IntegerAttr.get(type_, n) for name, n in extents.items()})


Stationary = Sequence[Resident | Diagonal]
"""The block of the stationary operand, a buffer for every segment of the channels."""


@dataclass(frozen=True)
class _Contribution:
    """What one matmul adds to an accumulator: a channel tile of a segment at a loose tap.

    `left` is the chunk of the stationary operand, where that comes in chunks; `not_first` is false
    for the first contribution.
    """

    number: int
    left: Resident | None
    place_in_chunk: Offset
    place: Offset
    taps: Box
    not_first: ir.Value


class TensorEngineLowering:
    """The loop nest of one contraction.

    Shapes: stationary blocks [channel, channel tile, taps.., rows], moving blocks [channel, channel
    tile, window..], psum tiles and output buffers [rows, columns..].
    """

    def __init__(
        self,
        builder: KernelBuilder,
        contraction: Contraction,
        values: Sequence[Any],
        causes: Sequence[str],
        initial: Initial | None,
        epilogue: Epilogue | None,
    ) -> None:
        self.builder = builder
        self.contraction = contraction
        self.extents = contraction.generic.extents
        self.row = row_of(contraction)
        operands = builder, contraction, self.row, values, causes
        self.epilogue = EpilogueTiles(*operands, epilogue) if epilogue else None
        early = causes[contraction.stationary.argument] == "weight"
        beside = self.epilogue.tile_bytes if self.epilogue else None
        planner = ContractionPlanner(contraction, builder.target, builder.buffers, early, beside)
        self.plan = planner.plan()
        self.loader = OperandLoader(builder, contraction, self.plan, self.row, values, causes)
        self.outputs = OutputTiles(*operands, initial, self.epilogue)
        self.segments = self.loader.segments
        self.columns = contraction.columns
        self.diagonals: DiagonalLoader | None = None
        self.shared_stationary: Stationary | None = None
        self.shared_moving: list[Resident] | None = None
        self.outer = planner.outer

    def emit(self) -> None:
        """Write the loop nest of the whole contraction."""
        if self.contraction.is_diagonal:
            operands = self.contraction, self.loader.values, self.loader.causes
            self.diagonals = DiagonalLoader(self.builder, *operands)
        if self.epilogue is not None:
            self.epilogue.prepare(self.plan.row_tile, prod(self.plan.column_tile))
        outer = self.outer
        cuts = [self._cut(d) for d in outer]
        extents = [self.extents[d] for d in outer]
        together = self.plan.together if outer and cuts[-1] is None else 1
        steps = [1] * (len(outer) - 1) + [together] * bool(outer)
        self._load_shared()
        for tiles in self.builder.tiles_nd(extents, steps, cuts):
            for number in range(tiles[-1].size if outer else 1):
                box = dict(zip(outer, tiles, strict=True))
                if outer:
                    box[outer[-1]] = Tile(tiles[-1].start + number, 1)
                if self.plan.streamed:
                    self._emit_streamed(box)
                else:
                    self._emit_blocks(box)

    # --- loops -----------------------------------------------------------------------------------

    def _cut(self, dim: int) -> Cut | None:
        """Return what tells tiles of a dimension apart in a loop around loads."""
        loops = [*self.outer, self.row, *self.contraction.columns]
        return self.loader.cut(dim, [*loops, *(self.plan.loose if self.plan.streamed else ())])

    @property
    def _row_extent(self) -> int:
        return self.extents[self.row] if self.row >= 0 else 1

    def _row_tiles(self, extent: int, tile: int, cut: Cut | None = None) -> Iterator[Box]:
        if self.row < 0:
            yield {}
            return
        for piece in self.builder.tiles(extent, tile, cut):
            yield {self.row: piece}

    def _column_tiles(
        self, extents: Sequence[int], tiles: Sequence[int], cuts: Sequence[Cut | None] = ()
    ) -> Iterator[Box]:
        for pieces in self.builder.tiles_nd(extents, tiles, cuts):
            yield dict(zip(self.columns, pieces, strict=True))

    def _contraction_loops(
        self, load: Callable[[int, Tile], Resident] | None = None
    ) -> Iterator[_Contribution]:
        """Loop over channel tiles and loose taps, and over chunks of channel tiles if there is a
        function to `load` those of a segment."""
        taps = self.plan.loose
        extents = [self.extents[d] for d in taps]
        cuts = [self._cut(d) for d in taps] if self.plan.streamed else []
        for number, segment in enumerate(self.segments):
            channel_cut = self.loader.channel_cut(segment) if self.plan.streamed else None
            for chunk in self.builder.tiles(segment.count, self._chunk(load, segment)):
                left = load(number, chunk) if load else None
                for channel in self.builder.tiles(chunk.size, 1, channel_cut):
                    for pieces in self.builder.tiles_nd(extents, [1] * len(taps), cuts):
                        place = chunk.start + channel.start
                        position = place + number
                        for piece in pieces:
                            position += piece.start
                        box = dict(zip(taps, pieces, strict=True))
                        flag = self.builder.is_not_zero(position)
                        yield _Contribution(number, left, channel.start, place, box, flag)

    def _chunk(self, load: object, segment: Segment) -> int:
        return self.plan.channel_tiles if load else segment.count

    # --- resident operands -----------------------------------------------------------------------

    def _load_shared(self) -> None:
        """Load once, in front of the loops around everything, what is resident as a whole and does
        not depend on them."""
        if self.plan.streamed or not self.outer:
            return
        contraction, walked = self.contraction, set(self.outer)
        if self._holds_all_rows and not contraction.stationary.dims & walked:
            self.shared_stationary = self._load_stationary({}, self._whole_rows)
        if self._holds_all_columns and not contraction.moving.dims & walked:
            self.shared_moving = self._load_moving({}, self._whole_columns)

    @property
    def _holds_all_rows(self) -> bool:
        return not self.plan.channel_tiles and self.plan.row_block >= self._row_extent

    @property
    def _holds_all_columns(self) -> bool:
        return self.plan.column_block == tuple(self._whole_columns[d].size for d in self.columns)

    @property
    def _whole_rows(self) -> Box:
        return {self.row: Tile(Offset(), self._row_extent)} if self.row >= 0 else {}

    @property
    def _whole_columns(self) -> Box:
        return {d: Tile(Offset(), self.extents[d]) for d in self.columns}

    def _emit_blocks(self, box: Box) -> None:
        """Load blocks of both operands, each as far out as the order of blocks allows."""
        all_columns = tuple(self.extents[d] for d in self.columns)
        stationary, moving = self.shared_stationary, self.shared_moving
        if self.plan.channel_tiles:
            stationary = []
        elif stationary is None and self._holds_all_rows:
            stationary = self._load_stationary(box, self._whole_rows)
        if moving is None and self._holds_all_columns:
            moving = self._load_moving(box, self._whole_columns)
        row_cut = None if stationary is not None else self._cut(self.row)
        cuts = [] if moving else [self._cut(d) for d in self.columns]
        if self.plan.rows_outermost:
            for rows in self._row_tiles(self._row_extent, self.plan.row_block, row_cut):
                left = self._load_stationary(box, rows) if stationary is None else stationary
                for block in self._column_tiles(all_columns, self.plan.column_block, cuts):
                    right = moving or self._load_moving(box, block)
                    self._compute(box, rows, block, left, right)
        else:
            for block in self._column_tiles(all_columns, self.plan.column_block, cuts):
                right = moving or self._load_moving(box, block)
                for rows in self._row_tiles(self._row_extent, self.plan.row_block, row_cut):
                    left = self._load_stationary(box, rows) if stationary is None else stationary
                    self._compute(box, rows, block, left, right)

    def _load_stationary(self, box: Box, rows: Box) -> Stationary:
        if self.diagonals is not None:
            return [self.diagonals.load(box)]
        return self.loader.load_block(self.contraction.stationary, box | rows)

    def _load_moving(self, box: Box, columns: Box) -> list[Resident]:
        return self.loader.load_block(self.contraction.moving, box | columns)

    def _chunk_loader(self, box: Box) -> Callable[[int, Tile], Resident]:
        """Return what loads channel tiles of the stationary operand's block."""
        whole = {d: Tile(Offset(), self.extents[d]) for d in self.plan.loose}
        access = self.contraction.stationary
        return lambda number, chunk: self.loader.load(
            access, box | whole, self.segments[number], chunk
        )

    def _compute(
        self, box: Box, rows: Box, columns: Box, left: Stationary, right: list[Resident]
    ) -> None:
        """Compute one block: per row tile all its column tiles, and one store.

        The stores of a few row tiles come after them, so that each has a buffer of its own and
        the next tile need not wait until it is empty.
        """
        row_block = rows[self.row].size if self.row >= 0 else 1
        together = self.plan.output_tiles * self.plan.row_tile
        for group in self._row_tiles(row_block, together):
            tiles = list(_parts(group, self.plan.row_tile))
            windows = [box | columns | _shifted(rows, tile) for tile in tiles]
            outputs = [self.outputs.open(window) for window in windows]
            if self.plan.channel_tiles:
                chunks = self._chunk_loader(box | rows)
                self._compute_rows(outputs, tiles, columns, chunks, right)
            elif self.plan.interleaved:
                self._compute_rows(outputs, tiles, columns, left, right)
            else:
                for output, tile in zip(outputs, tiles, strict=True):
                    self._compute_rows([output], [tile], columns, left, right)
            for output, window in zip(outputs, windows, strict=True):
                self.outputs.store(output, window)

    def _compute_rows(
        self,
        outputs: Sequence[OutputTile],
        row_tiles: Sequence[Box],
        columns: Box,
        left: Stationary | Callable[[int, Tile], Resident],
        right: list[Resident],
    ) -> None:
        """Compute all column tiles of a few row tiles, channel by channel for all of these, into
        their output buffers. The stationary block is there, or `left` loads it chunk by chunk."""
        sizes = [columns[d].size for d in self.columns]
        for column_tile in self._column_tiles(sizes, self.plan.column_tile):
            boxes = [row_tile | column_tile for row_tile in row_tiles]
            sums = [self.outputs.psum(box) for box in boxes]
            load = left if callable(left) else None
            for part in self._contraction_loops(load):
                held = part.left if callable(left) else left[part.number]
                assert held is not None
                for psum, box in zip(sums, boxes, strict=True):
                    operands = held, right[part.number]
                    places = part.place_in_chunk, part.place
                    self._matmul(psum, operands, places, box | part.taps, part.not_first)
            for psum, output in zip(sums, outputs, strict=True):
                self.outputs.evict(psum, output, column_tile)

    # --- streamed operands -----------------------------------------------------------------------

    def _emit_streamed(self, box: Box) -> None:
        """Compute tile by tile, loading the operands of every single matmul."""
        extents = [self.extents[d] for d in self.columns]
        cuts = [self._cut(d) for d in self.columns]
        for rows in self._row_tiles(self._row_extent, self.plan.row_tile, self._cut(self.row)):
            for columns in self._column_tiles(extents, self.plan.column_tile, cuts):
                window = box | rows | columns
                output = self.outputs.open(window)
                psum = self.outputs.psum(window)
                for part in self._contraction_loops():
                    taps, at = part.taps, (self.segments[part.number], Tile(part.place, 1))
                    left = self.loader.load(self.contraction.stationary, box | rows | taps, *at)
                    right = self.loader.load(self.contraction.moving, box | columns | taps, *at)
                    local = _at_origin(rows | columns | taps)
                    first = Offset(), Offset()
                    self._matmul(psum, (left, right), first, local, part.not_first)
                self.outputs.evict(psum, output, _at_origin(columns))
                self.outputs.store(output, window)

    def _matmul(
        self,
        psum: ir.Value,
        operands: tuple[Resident | Diagonal, Resident],
        places: tuple[Offset, Offset],
        box: Box,
        accumulate: ir.Value,
    ) -> None:
        """Multiply channel tiles `places` of the stationary and the moving operand."""
        rows = [self.row] if self.row >= 0 else []
        stationary = operands[0].view(self.builder, places[0], box, rows)
        moving = operands[1].view(self.builder, places[1], box, list(self.contraction.columns))
        self.builder.matmul(stationary, moving, psum, accumulate)


def _at_origin(box: Box) -> Box:
    return {d: Tile(Offset(), tile.size) for d, tile in box.items()}


def _parts(group: Box, size: int) -> Iterator[Box]:
    """Yield the tiles of `size` rows that a group of rows consists of, the last perhaps smaller."""
    if not group:
        yield group
    for row, tile in group.items():
        for start in range(0, tile.size, size):
            yield {row: Tile(tile.start + start, min(size, tile.size - start))}


def _shifted(block: Box, local: Box) -> Box:
    """Return the tile `local` of `block` in coordinates of the whole operation."""
    return {d: Tile(block[d].start + tile.start, tile.size) for d, tile in local.items()}
