"""What accesses touch, program-wide: windows at offsets of buffers, and regions of bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from polystage.simulator.decode import Program
from polystage.simulator.expand import KernelTrace
from polystage.simulator.trace import NO_BOX, Bool, Int32, Int64, Regions


@dataclass(frozen=True)
class Operand:
    """A DRAM buffer as a call sees it: the number of the buffer, where the operand starts in it
    (elements) and how many bytes it has."""

    buffer: int
    base: int
    bytes: int


class Tables:
    """Regions and views of the whole program: equal regions have one number."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._rank = max((len(w.layout.dims) for w in program.windows), default=0)
        self._known: dict[bytes, int] = {}
        self._views: list[tuple[Int32, Int32, Int64, Bool]] = []
        self._view_count = 0
        self._chip: dict[int, tuple[Int32, Int32]] = {}
        self._calls: dict[tuple[object, ...], tuple[Int32, Int32]] = {}
        self._keys: dict[tuple[int, ...], int] = {}

    def rows(self, kernel: KernelTrace, operands: Sequence[Operand]) -> tuple[Int32, Int32]:
        """Return number of view and of region of every row of a kernel's views."""
        binding = (id(kernel), *((o.buffer, o.base) for o in operands))
        found = self._calls.get(binding)
        if found is None:
            found = self._calls[binding] = self._make(kernel, operands)
        return found

    def _make(self, kernel: KernelTrace, operands: Sequence[Operand]) -> tuple[Int32, Int32]:
        views, count = kernel.views, len(kernel.views.window)
        view, region = self._chip.get(id(kernel), (None, None))
        if view is None or region is None:
            view, region = np.zeros(count, np.int32), np.zeros(count, np.int32)
            self._fill(kernel, np.flatnonzero(~views.in_dram), (), view, region)
            self._chip[id(kernel)] = view, region
        if len(kernel.dram_views):
            view, region = view.copy(), region.copy()
            self._fill(kernel, kernel.dram_views, operands, view, region)
        return view, region

    def _fill(
        self,
        kernel: KernelTrace,
        rows: Int64,
        operands: Sequence[Operand],
        view: Int32,
        region: Int32,
    ) -> None:
        """Number the views in some rows, and what they touch."""
        views = kernel.views
        buffer, offset = views.buffer[rows], views.offset[rows]
        low, high = views.low[rows], views.high[rows]
        key = np.zeros(len(rows), np.int32)
        if operands:
            slot = buffer
            base = np.array([o.base for o in operands], np.int64)[slot]
            shift = base * views.itemsize[rows]
            buffer = np.array([o.buffer for o in operands], np.int32)[slot]
            offset, low, high = offset + base, low + shift, high + shift
            key = self._layouts(kernel, rows, operands)
        view[rows] = self._view_count + np.arange(len(rows))
        self._view_count += len(rows)
        self._views.append((views.window[rows], buffer, offset, views.full[rows]))
        key = np.where(views.has_box[rows], key, NO_BOX)
        box = np.tile(np.array([0, 1], np.int32), (len(rows), self._rank))
        box[:, : views.box.shape[1]] = np.where(views.has_box[rows, None], views.box[rows], 0)
        columns = [views.memory[rows], buffer, low, high]
        columns += [views.partition_low[rows], views.partition_high[rows], key]
        region[rows] = self._interned(np.column_stack([*columns, box]).astype(np.int64))

    def _layouts(self, kernel: KernelTrace, rows: Int64, operands: Sequence[Operand]) -> Int32:
        """Return a number per row: boxes compare where base and strides of the operand agree."""
        windows = self.program.windows
        found: dict[int, int] = {}
        for window in np.unique(kernel.views.window[rows]).tolist():
            root = cast(Any, windows[window].root)
            layout = (operands[root.slot].base, *root.strides)
            found[window] = self._keys.setdefault(layout, len(self._keys))
        return np.array([found[w] for w in kernel.views.window[rows].tolist()], np.int32)

    def _interned(self, rows: Int64) -> list[int]:
        """Return numbers of rows, which their bytes stand for."""
        known = self._known
        texts = np.ascontiguousarray(rows).view(f"V{rows.shape[1] * rows.itemsize}")
        return [known.setdefault(text, len(known)) for text in texts.reshape(-1).tolist()]

    def regions(self) -> Regions:
        """Return the table of regions."""
        columns = 7 + 2 * self._rank
        table = np.frombuffer(b"".join(self._known), np.int64).reshape(-1, columns)
        narrow = table.astype(np.int32)
        return Regions(
            table[:, 0].astype(np.uint8),
            narrow[:, 1],
            table[:, 2],
            table[:, 3],
            narrow[:, 4],
            narrow[:, 5],
            narrow[:, 6],
            np.ascontiguousarray(narrow[:, 7:]),
        )

    def views(self) -> tuple[Int32, Int32, Int64, Bool]:
        """Return window, buffer, offset and whether it is the whole buffer, of every view."""
        dtypes = (np.int32, np.int32, np.int64, np.bool_)
        return tuple(  # type: ignore[return-value]
            np.concatenate([np.zeros(0, d), *(v[i] for v in self._views)]).astype(d)
            for i, d in enumerate(dtypes)
        )
