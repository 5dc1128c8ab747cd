"""Takes the results of a contraction out of psum and stores them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from polystage.mlir import ir
from polystage.passes.lower.initial import Initial
from polystage.passes.lower.kernel_builder import KernelBuilder
from polystage.passes.lower.offset import Offset
from polystage.passes.lower.tensor_engine.contraction import Contraction
from polystage.passes.lower.tensor_engine.epilogue_tiles import EpilogueTiles, Riders
from polystage.passes.lower.tensor_engine.operand_window import Box


@dataclass(frozen=True)
class OutputTile:
    """The buffer of an output tile, and those of what its epilogue reads."""

    buffer: ir.Value
    riders: Riders


class OutputTiles:
    """Output buffers [rows, *columns] of one row tile, filled from psum tiles of the same shape."""

    def __init__(
        self,
        builder: KernelBuilder,
        contraction: Contraction,
        row: int,
        values: Sequence[ir.Value],
        causes: Sequence[str],
        initial: Initial | None,
        epilogue: EpilogueTiles | None,
    ) -> None:
        self.builder = builder
        self.contraction = contraction
        self.row = row
        self.value = values[contraction.output.argument]
        self.cause = causes[contraction.output.argument]
        self.initial = initial
        self.epilogue = epilogue
        with builder.module.context:
            is_integer = contraction.dtype == "i8"
            self.accumulator = ir.IntegerType.get_signless(32) if is_integer else ir.F32Type.get()

    def _shape(self, box: Box) -> list[int]:
        rows = box[self.row].size if self.row >= 0 else 1
        return [rows, *(box[d].size for d in self.contraction.columns)]

    def psum(self, box: Box) -> ir.Value:
        """Reserve the accumulator of one tile."""
        return self.builder.alloc(self._shape(box), self.accumulator, "psum")

    def open(self, box: Box) -> OutputTile:
        """Reserve an output buffer; load what the output holds where it counts, and what the
        epilogue reads."""
        element = self.contraction.output.element_type
        buffer = self.builder.alloc(self._shape(box), element)
        if self.epilogue is not None:
            return OutputTile(buffer, self.epilogue.load(box))
        if self.initial is None:
            self.builder.dma(self._window(box), buffer, self.cause)
        elif self.initial.value != 0:
            self.builder.memset(buffer, self.initial.value)
        return OutputTile(buffer, {})

    def evict(self, psum: ir.Value, output: OutputTile, columns: Box) -> None:
        """Move a finished tile through the epilogue, if there is one, to its place in the output
        buffer, converting it to the output's type."""
        shape = list(ir.MemRefType(psum.type).shape)
        starts: list[Offset | int] = [columns[d].start for d in self.contraction.columns]
        place = self.builder.subview(output.buffer, [0, *starts], shape)
        if self.epilogue is not None:
            self.epilogue.add(psum, output.riders, columns)
            self.epilogue.write(psum, place, output.riders, columns)
            return
        adds = self.initial is None or self.initial.value != 0
        if not adds and isinstance(self.accumulator, ir.F32Type):
            self.builder.activate(psum, place)
            return
        identity = ir.AffineMap.get_identity(len(shape), self.builder.module.context)
        function = self._function("add" if adds else "copy")
        self.builder.compute("elementwise", [psum], [place], function, shape, [identity] * 2)

    def _function(self, kind: str) -> str:
        """Return the scalar function that combines an accumulator with the output's previous
        value."""
        type_ = self.accumulator
        name = f"{kind}_{type_}"
        suffix = "f" if isinstance(type_, ir.F32Type) else "i"
        result = "%x" if kind == "copy" else "%s"
        add = "" if kind == "copy" else f"%s = arith.add{suffix} %x, %out : {type_}\n"
        signature = f"@{name}(%x: {type_}, %out: {type_}) -> {type_}"
        text = f"func.func private {signature} {{\n {add} return {result} : {type_}\n}}"
        return self.builder.scalar_function(name, text)

    def store(self, output: OutputTile, box: Box) -> None:
        """Store an output buffer."""
        self.builder.dma(output.buffer, self._window(box), self.cause)

    def _window(self, box: Box) -> ir.Value:
        """Return the output's window in DRAM as [rows, *columns]."""
        access = self.contraction.output
        order = ([self.row] if self.row >= 0 else []) + list(self.contraction.columns)
        place = {x.dims[0]: i for i, x in enumerate(access.index) if x.dims}
        starts = [box[x.dims[0]].start if x.dims else Offset(x.constant) for x in access.index]
        sizes = [box[x.dims[0]].size if x.dims and x.dims[0] in order else 1 for x in access.index]
        kept = sorted(place[d] for d in order) or [0]
        drop = [i for i in range(len(sizes)) if i not in kept]
        view = self.builder.subview(self.value, starts, sizes, drop=drop)
        if order:
            view = self.builder.transpose(view, [kept.index(place[d]) for d in order])
        if self.row < 0 and order:
            shape = list(ir.MemRefType(view.type).shape)
            view = self.builder.expand(view, [[1, shape[0]], *([n] for n in shape[1:])])
        return view
