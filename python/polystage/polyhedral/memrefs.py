"""The arrays of a function, and what its memref and index values stand for."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from polystage.dialects.npu.overlay import is_overlay, pieces
from polystage.dialects.npu.views import defining_op
from polystage.errors import PolystageError
from polystage.mlir import ir
from polystage.polyhedral.expressions import (
    NotAffineError,
    Range,
    linear_terms,
    substitute,
)
from polystage.polyhedral.model import Array, Role
from polystage.polyhedral.names import Names, location_name
from polystage.polyhedral.operations import is_memref, is_row_major, root_op
from polystage.polyhedral.scalar import LOADS
from polystage.polyhedral.views import VIEW_OPS, View, fold_view, whole

ALLOCATIONS = frozenset({"memref.alloc", "memref.alloca", "memref.get_global"})


class Values:
    """Arrays by name, memref values as views on them, index values as expressions."""

    def __init__(self, function: Any, names: Names) -> None:
        self.arrays: dict[str, Array] = {}
        self.symbol_ranges: Sequence[Range] = ()
        """The ranges of the loops around what is being read."""
        self._names = names
        self._block = function.regions[0].blocks[0]
        self._views: dict[ir.Value, View] = {}
        self._indices: dict[ir.Value, ir.AffineExpr] = {}
        self._globals: dict[str, str] = {}
        self._name_arguments(function)

    # -- arrays --------------------------------------------------------------------------------

    def _name_arguments(self, function: Any) -> None:
        """Add the arguments, and the buffers that are returned under a name."""
        for index, argument in enumerate(self._block.arguments):
            if is_memref(argument):
                name = _attribute_name(function, "arg_attrs", index)
                name = name or location_name(argument.location) or f"arg{index}"
                self._add_array(argument, name, Role.INPUT, True)
        for index, value in enumerate(self.returned):
            name = _attribute_name(function, "res_attrs", index)
            root = root_op(value)
            if name and root is not None and root.name in ("memref.alloc", "memref.alloca"):
                self._add_array(root.results[0], name, Role.OUTPUT, False)

    @property
    def returned(self) -> list[ir.Value]:
        """The values that the function returns."""
        return list(list(self._block.operations)[-1].operands)

    def settle_roles(self, written: set[str]) -> None:
        """Set the roles that depend on what the function writes and returns."""
        outputs = {self.view(value).array for value in self.returned if is_memref(value)}
        for name, array in self.arrays.items():
            is_argument = array.role == Role.INPUT
            if (name in outputs and not is_argument) or (is_argument and name in written):
                self.arrays[name] = replace(array, role=Role.OUTPUT)
            elif array.role == Role.WEIGHT and name in written:
                self.arrays[name] = replace(array, role=Role.INTERMEDIATE)

    def _add_array(self, value: ir.Value, name: str, role: Role, is_initialized: bool) -> View:
        if value in self._views:
            return self._views[value]
        type_ = ir.MemRefType(value.type)
        name = self._names.unique(name)
        if not type_.has_static_shape:
            raise PolystageError(
                f"array '{name}' has the dynamic shape {type_}",
                help="bind dynamic dimensions when importing, e.g. --bind batch=1",
                op=value,
            )
        element = type_.element_type
        dtype = str(element)
        array = Array(
            name, tuple(type_.shape), dtype, role, _byte_width(element), is_initialized, value
        )
        self.arrays[name] = array
        self._views[value] = whole(name, array.shape)
        return self._views[value]

    def add_temporary(self, element: ir.Type) -> tuple[View, tuple[ir.AffineExpr, ...]]:
        """Add an array with one element for every instance of the enclosing loops."""
        known = [(level, ends) for level, ends in enumerate(self.symbol_ranges) if ends]
        shape = tuple(high - low + 1 for _, (low, high) in known)
        indices = tuple(ir.AffineExpr.get_symbol(level) - low for level, (low, _) in known)
        if not shape:
            shape, indices = (1,), (ir.AffineConstantExpr.get(0),)
        name = self._names.unique("value")
        self.arrays[name] = Array(
            name, shape, str(element), Role.INTERMEDIATE, _byte_width(element), False, None
        )
        return whole(name, shape), indices

    # -- memrefs -------------------------------------------------------------------------------

    def view(self, value: ir.Value) -> View:
        """Return the window on an array that a memref value is."""
        if value in self._views:
            return self._views[value]
        op = defining_op(value)
        view = self._defined_view(op, value) if op is not None else _unknown(value)
        self._views[value] = view
        return view

    def layers(self, value: ir.Value) -> tuple[list[tuple[tuple[int, ...], View]], Any]:
        """Return what an overlay shows: offsets and view of each piece, the top one first, and
        the constant elsewhere, if any."""
        found, fill = pieces(value)
        return [(offsets, self.view(piece)) for offsets, piece in found], fill

    def arrays_behind(self, value: ir.Value) -> list[str | None]:
        """Return the array that a memref value shows, all of them for an overlay; None stands for
        one that is not known."""
        if is_overlay(value):
            return [view.array for _, view in self.layers(value)[0]]
        return [self.view(value).array]

    def root_array(self, value: ir.Value) -> str | None:
        """Return the array behind `value` without reading views whose loops are not entered yet."""
        op = defining_op(value)
        while op is not None and op.name in VIEW_OPS:
            value = op.operands[0]
            op = defining_op(value)
        view = self._views.get(value)
        return None if view is None else view.array

    def _defined_view(self, op: Any, value: ir.Value) -> View:
        if op.name in ("memref.alloc", "memref.alloca"):
            return self._add_array(value, _name_of_allocation(op), Role.INTERMEDIATE, False)
        if op.name == "memref.get_global":
            return self._global_view(op, value)
        if op.name in VIEW_OPS:
            source = self.view(op.operands[0])
            if source.array is None:
                return replace(source, shape=tuple(ir.MemRefType(value.type).shape))
            shape = self.arrays[source.array].shape
            root = self.arrays[source.array].value
            if op.name == "memref.reinterpret_cast" and (root is None or not is_row_major(root)):
                return replace(
                    source,
                    shape=tuple(ir.MemRefType(value.type).shape),
                    exprs=None,
                    reason="reinterpret_cast of an array that is not row-major",
                )
            return fold_view(op, source, shape, self.index, list(self.symbol_ranges))
        return _unknown(value)

    def _global_view(self, op: Any, value: ir.Value) -> View:
        symbol = ir.FlatSymbolRefAttr(op.attributes["name"]).value
        if symbol not in self._globals:
            view = self._add_array(value, symbol, Role.WEIGHT, True)
            assert view.array is not None
            self._globals[symbol] = view.array
        name = self._globals[symbol]
        return whole(name, self.arrays[name].shape)

    # -- indices -------------------------------------------------------------------------------

    def set_index(self, value: ir.Value, expr: ir.AffineExpr) -> None:
        """Note what a loop's index is: in symbols, or in dims inside of a linalg body."""
        self._indices[value] = expr

    def index(self, value: ir.Value) -> ir.AffineExpr:
        """Return an index value as an expression in the indices of loops."""
        if value in self._indices:
            return self._indices[value]
        op = defining_op(value)
        if op is None:
            is_argument = value.owner == self._block
            raise NotAffineError(
                "index is an argument of the function"
                if is_argument
                else "index is loaded from memory or carried by a loop"
            )
        expr = self._computed_index(op)
        self._indices[value] = expr
        return expr

    def _computed_index(self, op: Any) -> ir.AffineExpr:
        name = op.name
        if name == "arith.constant" and isinstance(op.attributes["value"], ir.IntegerAttr):
            return ir.AffineConstantExpr.get(ir.IntegerAttr(op.attributes["value"]).value)
        if name in ("arith.index_cast", "arith.extsi"):
            return self.index(op.operands[0])
        if name == "affine.apply":
            return self.apply(ir.AffineMapAttr(op.attributes["map"]).value, op.operands)[0]
        if name in LOADS:
            raise NotAffineError("index is loaded from memory")
        if name not in ("arith.addi", "arith.subi", "arith.muli"):
            raise NotAffineError(f"index is computed by {name}")
        left, right = self.index(op.operands[0]), self.index(op.operands[1])
        if name == "arith.addi":
            return left + right
        if name == "arith.subi":
            return left + right * -1
        if linear_terms(left)[0] and linear_terms(right)[0]:
            raise NotAffineError("index is a product of two indices")
        return left * right

    def apply(self, map_: ir.AffineMap, operands: Iterable[ir.Value]) -> list[ir.AffineExpr]:
        """Return the results of an affine map on index values."""
        values = [self.index(operand) for operand in operands]
        dims, symbols = values[: map_.n_dims], values[map_.n_dims :]
        return [substitute(expr, dims, symbols, (), ()) for expr in map_.results]


def _unknown(value: ir.Value) -> View:
    return View(None, tuple(ir.MemRefType(value.type).shape), None, "array is not known")


def _byte_width(type_: ir.Type) -> int:
    if isinstance(type_, ir.IntegerType | ir.FloatType):
        return max(1, -(-type_.width // 8))
    return 8


def _name_of_allocation(op: Any) -> str:
    """Return the name that a plan gave an array, or else one after the layer."""
    if "npu.name" in op.attributes:
        return str(op.attributes["npu.name"].value)
    layer = location_name(op.location)
    return f"{layer}_out" if layer else "t"


def _attribute_name(function: Any, attribute: str, index: int) -> str:
    """Return the `npu.name` of an argument or result, or nothing."""
    if attribute not in function.attributes:
        return ""
    names = ir.DictAttr(ir.ArrayAttr(function.attributes[attribute])[index])
    return ir.StringAttr(names["npu.name"]).value if "npu.name" in names else ""
