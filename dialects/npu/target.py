"""The target of a module: the attribute `npu.target`, with every value of the machine."""

import weakref
from collections.abc import Mapping
from typing import Any

from polystage.errors import PassError, TargetError
from polystage.machine import Target
from polystage.mlir import ir

ATTRIBUTE = "npu.target"

_known: "weakref.WeakKeyDictionary[ir.Context, dict[int, Target]]" = weakref.WeakKeyDictionary()
"""Per context: hash of an attribute -> its target. The hash is that of an address, hence unique
while its context lives; holding the attribute itself would keep the context alive."""


def target_attribute(target: Target) -> ir.DictAttr:
    """Return the target as a nested dictionary attribute, in the current context."""
    return _dictionary(target.to_tree())


def target_of(op: Any) -> Target | None:
    """Return the target of the module that an operation is in (or is), None if it has none.

    Raises: TargetError where the attribute is not a complete, legal target.
    """
    attribute = _target_attribute_around(op.operation)
    if attribute is None:
        return None
    targets = _known.setdefault(attribute.context, {})
    key = hash(attribute)
    if key not in targets:
        targets[key] = _target(attribute)
    return targets[key]


def required_target(op: Any) -> Target:
    """Return the target of the module that an operation is in (or is), for a pass that needs one.

    Raises: PassError where the module names none; TargetError as `target_of`.
    """
    target = target_of(op)
    if target is None:
        raise PassError(
            "the module names no target", help="run npu-attach-target{target=NAME} first"
        )
    return target


def _target(attribute: ir.Attribute) -> Target:
    if not isinstance(attribute, ir.DictAttr):
        raise TargetError(
            f"{ATTRIBUTE}: is {attribute}, but must be a dictionary",
            help="set it with npu-attach-target{target=tiny}",
        )
    return Target.from_tree(_tree(attribute), ATTRIBUTE)


def _target_attribute_around(op: ir.Operation | None) -> ir.Attribute | None:
    while op is not None:
        if ATTRIBUTE in op.attributes:
            return op.attributes[ATTRIBUTE]
        try:
            op = op.parent
        except ValueError:  # a clone that is in no block yet
            return None
    return None


def _dictionary(tree: Mapping[str, Any]) -> ir.DictAttr:
    return ir.DictAttr.get({key: _attribute(value) for key, value in tree.items()})


def _attribute(value: Any) -> ir.Attribute:
    if isinstance(value, Mapping):
        return _dictionary(value)
    if isinstance(value, bool):
        return ir.BoolAttr.get(value)
    if isinstance(value, int):
        return ir.IntegerAttr.get(ir.IntegerType.get_signless(64), value)
    if isinstance(value, float):
        return ir.FloatAttr.get_f64(value)
    if isinstance(value, str):
        return ir.StringAttr.get(value)
    return ir.ArrayAttr.get([ir.StringAttr.get(item) for item in value])


def _tree(attribute: Any) -> Any:
    """Return an attribute as Python values; what is none of ours stays, to be refused later."""
    match attribute:
        case ir.DictAttr():
            return {item.name: _tree(item.attr) for item in attribute}
        case ir.ArrayAttr():
            return [_tree(item) for item in attribute]
        case ir.BoolAttr() | ir.IntegerAttr() | ir.FloatAttr() | ir.StringAttr():
            return attribute.value
        case _:
            return attribute
