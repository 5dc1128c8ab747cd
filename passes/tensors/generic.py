"""Structured operations as the passes on tensors see them, and how to build new ones."""

from collections.abc import Callable, Iterator, Sequence

from polystage.evaluator.module_evaluator import indexing_maps
from polystage.forms import walk
from polystage.mlir import arith, ir, linalg

_PARALLEL = "#linalg.iterator_type<parallel>"
_REDUCTION = "#linalg.iterator_type<reduction>"


def captured_values(op: ir.Operation) -> Iterator[ir.Value]:
    """Yield the values that the regions of `op` use and that are defined outside of it."""
    inner = dict.fromkeys(walk(op))
    for child in inner:
        for value in child.operands:
            owner = value.owner
            parent = owner.owner if isinstance(owner, ir.Block) else owner
            if parent.operation not in inner and (
                not isinstance(owner, ir.Block) or parent.operation != op
            ):
                yield value


def is_fill(op: ir.Operation) -> bool:
    """Return whether `op` writes one scalar everywhere."""
    if op.name == "linalg.fill":
        return True
    if op.name != "linalg.generic" or len(op.results) > 1:
        return False
    inputs = [o for o in inputs_of(op) if isinstance(o.type, ir.ShapedType)]
    return not inputs and len(list(op.regions[0].blocks[0])) == 1


def fill_value(op: ir.Operation) -> ir.Value:
    """Return the scalar that a fill writes."""
    if op.name == "linalg.fill":
        return op.operands[0]
    block = op.regions[0].blocks[0]
    value = list(block)[-1].operands[0]
    if isinstance(value.owner, ir.Block):
        return op.operands[ir.BlockArgument(value).arg_number]
    return value


def is_broadcast(op: ir.Operation) -> bool:
    """Return whether `op` only repeats its single input along further dimensions, of whatever
    extent."""
    if op.name == "linalg.broadcast":
        return True
    if op.name != "linalg.generic" or len(inputs_of(op)) != 1 or not only_yields(op):
        return False
    source, result = (v.type for v in op.operands)
    if not isinstance(source, ir.RankedTensorType | ir.MemRefType):
        return False
    return source.rank < result.rank or _elements(source) < _elements(result)


def only_yields(op: ir.Operation) -> bool:
    """Return whether the body of `op` passes its inputs on unchanged."""
    block = op.regions[0].blocks[0]
    operations = list(block)
    return len(operations) == 1 and all(
        isinstance(v.owner, ir.Block) and v.owner == block for v in operations[0].operands
    )


def inputs_of(op: ir.Operation) -> list[ir.Value]:
    """Return the input operands of a structured operation."""
    return list(op.operands)[: len(list(op.operands)) - n_outputs(op)]


def outputs_of(op: ir.Operation) -> list[ir.Value]:
    """Return the output operands of a structured operation: the initial values of its results."""
    return list(op.operands)[len(list(op.operands)) - n_outputs(op) :]


def n_outputs(op: ir.Operation) -> int:
    """Return how many outputs a structured operation has."""
    if "operandSegmentSizes" in op.attributes:
        return list(ir.DenseI32ArrayAttr(op.attributes["operandSegmentSizes"]))[1]
    return 1


def iterator_types(op: ir.Operation) -> list[str]:
    """Return `parallel` or `reduction` for every loop dimension of a linalg.generic."""
    kinds = ir.ArrayAttr(op.attributes["iterator_types"])
    return ["reduction" if "reduction" in str(kind) else "parallel" for kind in kinds]


def is_elementwise(op: ir.Operation) -> bool:
    """Return whether `op` is a linalg.generic without reduction dimensions."""
    return op.name == "linalg.generic" and "reduction" not in iterator_types(op)


def is_contraction(op: ir.Operation) -> bool:
    """Return whether a linalg.generic adds the product of two operands to its output."""
    if op.name != "linalg.generic" or is_elementwise(op) or n_outputs(op) != 1:
        return False
    block = op.regions[0].blocks[0]
    names = [o.operation.name.partition(".")[2] for o in block]
    core = [n for n in names if n not in ("extf", "extsi", "extui", "truncf", "sitofp")]
    return core in (["mulf", "addf", "yield"], ["muli", "addi", "yield"])


def affine_maps(op: ir.Operation) -> list[ir.AffineMap]:
    """Return the indexing maps of a structured operation."""
    return indexing_maps(op)


def empty(type_: ir.RankedTensorType) -> ir.Value:
    """Build a tensor without contents."""
    return ir.Operation.create("tensor.empty", results=[type_]).result


def build_zero_fill(type_: ir.RankedTensorType) -> ir.Value:
    """Build a tensor of zeros."""
    element = type_.element_type
    is_float = isinstance(element, ir.FloatType)
    return build_fill(
        type_, ir.FloatAttr.get(element, 0.0) if is_float else ir.IntegerAttr.get(element, 0)
    )


def build_fill(type_: ir.RankedTensorType, value: ir.Attribute) -> ir.Value:
    """Build a tensor whose elements are all `value`."""
    scalar = arith.ConstantOp(type_.element_type, value).result
    identity = ir.AffineMap.get_identity(len(type_.shape))
    return build_generic(type_, [], [identity], lambda _: scalar)


def build_generic(
    type_: ir.RankedTensorType,
    inputs: Sequence[ir.Value],
    maps: Sequence[ir.AffineMap],
    body: Callable[..., ir.Value],
    *,
    iterators: Sequence[str] = (),
    init: ir.Value | None = None,
) -> ir.Value:
    """Build a linalg.generic with one result and return it.

    `maps` holds one map per input and one for the result; `body` receives one scalar per input and
    the present value of the result. `init` is an empty tensor, and the dimensions are parallel,
    unless given.
    """
    start = empty(type_) if init is None else init
    kinds = iterators or ["parallel"] * maps[0].n_dims
    op = linalg.GenericOp(
        [type_],
        inputs,
        [start],
        ir.ArrayAttr.get([ir.AffineMapAttr.get(m) for m in maps]),
        ir.ArrayAttr.get(
            [ir.Attribute.parse(_REDUCTION if k == "reduction" else _PARALLEL) for k in kinds]
        ),
    )
    scalars = [element_type(v.type) for v in (*inputs, start)]
    block = op.regions[0].blocks.append(*scalars)
    with ir.InsertionPoint(block):
        linalg.YieldOp([body(*block.arguments)])
    return op.results[0]


def element_type(type_: ir.Type) -> ir.Type:
    """Return what a shaped type is made of, or a scalar type itself."""
    return type_.element_type if isinstance(type_, ir.ShapedType) else type_


def _elements(type_: ir.Type) -> int:
    count = 1
    for extent in ir.ShapedType(type_).shape:
        count *= extent
    return count
