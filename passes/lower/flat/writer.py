"""Writes instructions of a flat target: every operand is one view with static sizes and strides."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from polystage.dialects import npu
from polystage.dialects.npu.views import DYNAMIC
from polystage.linear import Linear
from polystage.mlir import arith, ir, scf
from polystage.passes.lower.flat.pieces import Range
from polystage.passes.lower.kernel_builder import KernelBuilder


@dataclass(frozen=True)
class Storage:
    """Memory that holds elements of an array: an on-chip buffer, or an argument of the kernel."""

    value: ir.Value
    is_on_chip: bool

    @property
    def element_type(self) -> ir.Type:
        """The type of its elements."""
        return ir.MemRefType(self.value.type).element_type


@dataclass(frozen=True)
class Window:
    """Elements of a storage: `address` is that of the first, over the variables of the loops;
    the others follow along dimensions of `sizes` and `strides`."""

    storage: Storage
    address: Linear
    sizes: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class _OpenLoop:
    """A loop that is being written."""

    induction: ir.Value
    trips: int


class FlatWriter:
    """Writes the one kernel of a program.

    Instructions go into the innermost open loop and carry the name of the present layer.
    """

    def __init__(self, builder: KernelBuilder) -> None:
        self.builder = builder
        self.context: ir.Context = builder.module.context
        self.layer = ""
        self._loops: list[_OpenLoop] = []
        self._points: list[ir.InsertionPoint] = [builder.insertion_point]
        self._location = ir.Location.unknown(self.context)
        self._attributes: dict[tuple[str, Any], ir.Attribute] = {}
        self._windows: list[dict[Window, ir.Value]] = [{}]

    # --- loops ------------------------------------------------------------------------------------

    @property
    def ranges(self) -> tuple[Range, ...]:
        """The ranges of the variables of the open loops, outermost first."""
        return tuple((0, loop.trips - 1) for loop in self._loops)

    @contextmanager
    def loop(self, trips: int) -> Generator[Linear]:
        """Write a loop; yields its variable, which counts from 0."""
        index = self.builder.index
        with self._points[-1], self._location:
            op = scf.ForOp(index(0), index(trips), index(1))
            with ir.InsertionPoint(op.body):
                terminator = scf.YieldOp([])
        self._loops.append(_OpenLoop(op.induction_variable, trips))
        self._points.append(ir.InsertionPoint(terminator))
        self._windows.append({})
        yield Linear.variable(len(self._loops) - 1)
        self._windows.pop()
        self._points.pop()
        self._loops.pop()

    def index(self, form: Linear) -> ir.Value:
        """Return the index value of a form over the variables of the loops."""
        constant = self.builder.index
        total = constant(form.constant) if form.constant or not form.terms else None
        with self._points[-1], self._location:
            for variable, coefficient in form.terms:
                term = self._loops[variable].induction
                if coefficient != 1:
                    term = arith.MulIOp(term, constant(coefficient)).result
                total = term if total is None else arith.AddIOp(total, term).result
        assert total is not None
        return total

    # --- buffers and views ------------------------------------------------------------------------

    def alloc(
        self, shape: Sequence[int], element_type: ir.Type, hint: int | None = None
    ) -> Storage:
        """Reserve a buffer in the scratchpad, which lives until its last use; `hint` is where it
        lies if there is no better place."""
        with self._points[-1], self._location:
            space = npu.space_attr("sbuf")
            type_ = ir.MemRefType.get([1, *shape], element_type, memory_space=space)
            op = ir.Operation.create("npu.alloc", [type_])
        if hint is not None:
            op.attributes["hint"] = self._attribute(("i64", hint))
        return Storage(op.results[0], is_on_chip=True)

    def view(self, window: Window) -> ir.Value:
        """Return a memref of the elements of a window, behind a dimension of extent 1."""
        for known in reversed(self._windows):
            if window in known:
                return known[window]
        self._windows[-1][window] = self._reinterpret(window)
        return self._windows[-1][window]

    def _reinterpret(self, window: Window, leading: Sequence[int] = (1,)) -> ir.Value:
        source = ir.MemRefType(window.storage.value.type)
        is_static = not window.address.terms
        offset = window.address.constant if is_static else DYNAMIC
        operands = [window.storage.value]
        if not is_static:
            operands.append(self.index(window.address))
        sizes, strides = [*leading, *window.sizes], [*leading, *window.strides]
        with self._points[-1], self._location:
            layout = ir.StridedLayoutAttr.get(offset, strides)
            type_ = ir.MemRefType.get(sizes, source.element_type, layout, source.memory_space)
            attributes: dict[str, ir.Attribute] = {
                "operandSegmentSizes": ir.DenseI32ArrayAttr.get([1, int(not is_static), 0, 0]),
                "static_offsets": ir.DenseI64ArrayAttr.get([offset]),
                "static_sizes": ir.DenseI64ArrayAttr.get(sizes),
                "static_strides": ir.DenseI64ArrayAttr.get(strides),
            }
            op = ir.Operation.create("memref.reinterpret_cast", [type_], operands, attributes)
        return op.results[0]

    # --- instructions -----------------------------------------------------------------------------

    def dma(self, source: Window, destination: Window, cause: str) -> None:
        """Copy a window to another one of the same sizes."""
        self._write("npu.dma", [self.view(source), self.view(destination)], cause=self._text(cause))

    def matmul(self, stationary: Window, moving: Window, sums: Window, accumulate: bool) -> None:
        """sums[m, n..] (+)= sum over k of stationary[k, m] * moving[k, n..]."""
        views = [self.view(w) for w in (stationary, moving, sums)]
        self._write("npu.matmul", [*views, self.builder.flag(accumulate)])

    def compute(
        self,
        kind: str,
        windows: Sequence[Window],
        function: str,
        sizes: Sequence[int],
        dims: Sequence[Sequence[int]],
        engine: str = "vector",
    ) -> None:
        """Write `npu.elementwise` or `npu.reduce` over a box of `sizes`.

        Dimension i of a window follows dimension `dims[.][i]` of the box; inputs come before
        outputs.
        """
        box = ("box", tuple(sizes))
        maps = ("maps", (len(sizes), tuple(tuple(d) for d in dims)))
        missing = npu.ops.BoxOp.MAX_OPERANDS - len(windows)
        self._write(
            f"npu.{kind}",
            [self.view(w) for w in windows],
            function=self._attribute(("function", function)),
            engine=self._attribute(("engine", engine)),
            sizes=self._attribute(box),
            indexing_maps=self._attribute(maps),
            operandSegmentSizes=self._attribute(("segments", (1,) * len(windows) + (0,) * missing)),
        )

    def memset(self, window: Window, value: ir.Attribute, engine: str = "vector") -> None:
        """Give every element of a window a value of the element type."""
        engine_attribute = self._attribute(("engine", engine))
        self._write("npu.memset", [self.view(window)], value=value, engine=engine_attribute)

    def activate(self, source: Window, destination: Window) -> None:
        """Copy, with a cast, on the scalar engine."""
        self._write(
            "npu.activate",
            [self.view(source), self.view(destination)],
            function=self._text("identity"),
            scale=self._attribute(("f32", 1.0)),
            bias=self._attribute(("f32", 0.0)),
            operandSegmentSizes=self._attribute(("segments", (1, 1, 0, 0, 0))),
        )

    def iota(self, window: Window, offset: Linear, dimension: int) -> None:
        """window[i..] = offset + i_dimension, in i64."""
        operands = [self.view(window), self.index(offset)]
        self._write("npu.iota", operands, dimension=self._attribute(("i64", dimension + 1)))

    def gather(self, table: Window, destination: Window, indices: Sequence[Window]) -> None:
        """destination = table[indices[0], ..], from DRAM."""
        views = [self.view(destination), *map(self.view, indices)]
        self._write("npu.gather", [self._reinterpret(table, []), *views])

    def _write(self, name: str, operands: Sequence[ir.Value], **attributes: ir.Attribute) -> None:
        if self.layer:
            attributes["layer"] = self._text(self.layer)
        with self._points[-1], self._location:
            ir.Operation.create(name, [], operands, attributes)

    # --- attributes, each made once ---------------------------------------------------------------

    def _text(self, text: str) -> ir.Attribute:
        return self._attribute(("text", text))

    def _attribute(self, key: tuple[str, Any]) -> ir.Attribute:
        if key not in self._attributes:
            with self.context, self._location:
                self._attributes[key] = _ATTRIBUTES[key[0]](key[1])
        return self._attributes[key]


def _maps(described: tuple[int, tuple[tuple[int, ...], ...]]) -> ir.Attribute:
    """Return the maps of operands behind a partition: dimension i + 1 follows `dims[i]` + 1."""
    count, operands = described
    maps = [
        ir.AffineMap.get(
            count + 1, 0, [ir.AffineExpr.get_dim(0), *(ir.AffineExpr.get_dim(d + 1) for d in dims)]
        )
        for dims in operands
    ]
    return ir.ArrayAttr.get([ir.AffineMapAttr.get(m) for m in maps])


_ATTRIBUTES = {
    "text": ir.StringAttr.get,
    "function": ir.FlatSymbolRefAttr.get,
    "engine": npu.engine_attr,
    "segments": lambda sizes: ir.DenseI32ArrayAttr.get(list(sizes)),
    "box": lambda sizes: ir.DenseI64ArrayAttr.get([1, *sizes]),
    "maps": _maps,
    "f32": lambda value: ir.FloatAttr.get(ir.F32Type.get(), value),
    "i64": lambda value: ir.IntegerAttr.get(ir.IntegerType.get_signless(64), value),
}
