"""The data of constants as numpy arrays, and arrays as constants.

Large constants are `dense_resource` attributes, whose bytes the Python bindings do not give back.
So every array that `constant_attr` turned into an attribute is remembered, for as long as its
context lives; the bytes of a resource that came from a file are read once from its printed form.
"""

import re
import weakref

import numpy as np

from polystage.dtypes import numpy_dtype
from polystage.errors import PolystageError
from polystage.mlir import ir

_ARRAYS: weakref.WeakKeyDictionary[ir.Context, dict[str, np.ndarray]] = weakref.WeakKeyDictionary()
"""The raw bytes behind each resource of a context, by the resource's name."""

_INLINE_ELEMENTS = 16
_SCRATCH = '"builtin.module"() ({{}}) {{polystage.constant = {}}} : () -> ()'


def constant_array(attribute: ir.Attribute, context: ir.Context | None = None) -> np.ndarray:
    """Return the elements of a `dense` or `dense_resource` attribute, read-only.

    Splats are broadcast, not copied. `context` is where the attribute lives, by default its own.

    Shapes: that of the attribute's type.
    Raises: PolystageError for any other attribute, or an element type that numpy cannot hold.
    """
    if isinstance(attribute, ir.DenseElementsAttr):
        array = _dense_array(attribute)
    elif str(attribute).startswith("dense_resource<"):  # parsed ones have no class of their own
        array = _resource_array(attribute, context or attribute.context)
    else:
        raise PolystageError(
            f"attribute {str(attribute)[:60]} holds no elements that can be read",
            help="use a dense or dense_resource attribute",
        )
    array.flags.writeable = False
    return array


def constant_attr(array: np.ndarray, name: str, element_type: ir.Type) -> ir.Attribute:
    """Return an attribute of type `tensor<..x element_type>` that holds `array`.

    Few elements are written out as `dense`, more become the resource `name` (made unique by the
    context) without being copied; the caller must not write to `array` afterwards.

    Raises: PolystageError where the array's dtype is not the one of `element_type`.
    """
    context = element_type.context
    dtype = numpy_dtype(element_type)
    if array.dtype != dtype:
        raise PolystageError(
            f"constant '{name}' is {array.dtype}, but {element_type} takes {dtype}"
        )
    array = np.asarray(array, order="C")
    with context, ir.Location.unknown():
        type_ = ir.RankedTensorType.get(array.shape, element_type)
    if array.size <= _INLINE_ELEMENTS:
        return _inline_attr(array, type_)
    with context:
        attribute = ir.DenseResourceElementsAttr.get_from_buffer(
            array.reshape(-1).view(np.uint8), name, type_, alignment=dtype.itemsize
        )
    _ARRAYS.setdefault(context, {})[resource_name(attribute)] = array.reshape(-1).view(np.uint8)
    return attribute


def resource_name(attribute: ir.Attribute) -> str:
    """Return the name of the resource behind a `dense_resource` attribute, quotes removed.

    >>> with ir.Context():
    ...     resource_name(ir.Attribute.parse("dense_resource<w1> : tensor<4xf32>"))
    'w1'
    """
    inside = str(attribute).split("<", 1)[1].rsplit("> : ", 1)[0]
    return inside.strip('"')


def _resource_array(attribute: ir.Attribute, context: ir.Context) -> np.ndarray:
    known = _ARRAYS.setdefault(context, {})
    name = resource_name(attribute)
    if name not in known:
        known[name] = _printed_bytes(attribute, name)
    shape = ir.ShapedType(attribute.type).shape
    return known[name].view(numpy_dtype(attribute.type)).reshape(shape)


def _printed_bytes(attribute: ir.Attribute, name: str) -> np.ndarray:
    """Print a module that holds nothing but the attribute, and read its bytes from there.

    A resource is printed as `"0x<alignment: 4 bytes><data>"` at the end.
    """
    with attribute.context, ir.Location.unknown():
        scratch = ir.Module.create()
        scratch.operation.attributes["polystage.constant"] = attribute
        text = str(scratch)
    start = text.rfind(': "0x')
    if start < 0:
        raise PolystageError(
            f"the data of constant '{name}' is missing",
            help="the file was printed with its resources elided; write it out in full",
        )
    start += len(': "0x')
    return np.frombuffer(bytes.fromhex(text[start : text.index('"', start)]), np.uint8)[4:]


def _dense_array(attribute: ir.DenseElementsAttr) -> np.ndarray:
    dtype = numpy_dtype(attribute.type)
    shape = tuple(ir.ShapedType(attribute.type).shape)
    if 0 in shape:
        return np.zeros(shape, dtype)
    if attribute.is_splat:
        return np.broadcast_to(np.array(attribute.get_splat_value().value, dtype), shape)
    try:
        return np.asarray(attribute)
    except TypeError:  # short floats, which the bindings do not give
        return _elements_from_text(str(attribute), dtype).reshape(shape)


def _elements_from_text(text: str, dtype: np.dtype) -> np.ndarray:
    """Return the elements of a printed `dense` attribute, in order.

    >>> _elements_from_text("dense<[[1.5, 0x7E00]]> : tensor<1x2xf16>", np.dtype("f2"))
    array([1.5, nan], dtype=float16)
    """
    inside = text[text.index("dense<") + len("dense<") : text.rindex("> : ")]
    if inside.startswith('"0x'):
        return np.frombuffer(bytes.fromhex(inside[3:-1]), dtype)
    words = re.findall(r"0x[0-9A-F]+|[-+.0-9eE]+", inside)
    bits = np.dtype(f"u{dtype.itemsize}")
    return np.array(
        [
            np.array(int(word, 16), bits).view(dtype)
            if word.startswith("0x")
            else np.array(float(word), dtype)
            for word in words
        ],
        dtype,
    )


def _inline_attr(array: np.ndarray, type_: ir.RankedTensorType) -> ir.Attribute:
    if array.size == 0:
        return ir.Attribute.parse(f"dense<> : {type_}", type_.context)
    if array.dtype == np.bool_:
        nested = str(array.tolist()).lower()
        return ir.Attribute.parse(f"dense<{nested}> : {type_}", type_.context)
    data = array.tobytes().hex().upper()
    return ir.Attribute.parse(f'dense<"0x{data}"> : {type_}', type_.context)
