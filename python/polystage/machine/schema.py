"""Typed, documented, range-checked settings: from a nested mapping to frozen dataclasses and back.

A field is declared with its unit and range, and a docstring under it says what it is:

    partitions: int = quantity("partitions", minimum=1)
    \"\"\"Partitions; dimension 0 of an on-chip memref lies across them.\"\"\"

Everything here is about any such dataclass; `polystage.machine.target` has the ones of a machine.
"""

import ast
import dataclasses
import difflib
import inspect
import itertools
import math
import textwrap
import typing
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, TypeVar, cast

from polystage.errors import TargetError

Value = int | float | str | bool | tuple[str, ...]
Section = TypeVar("Section")


@dataclasses.dataclass(frozen=True, slots=True)
class Quantity:
    """The unit and the legal range of a field, or the texts it may be."""

    unit: str
    minimum: float | None = None
    above: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()

    def allows(self, value: float | str) -> bool:
        """Return whether a number is finite and in range, or a text one of the choices."""
        if isinstance(value, str):
            return not self.choices or value in self.choices
        return (
            math.isfinite(value)
            and (self.minimum is None or value >= self.minimum)
            and (self.above is None or value > self.above)
            and (self.maximum is None or value <= self.maximum)
        )

    def allowed(self) -> str:
        """Return the range in words, empty if every finite number or every text is allowed.

        >>> Quantity("bytes", minimum=1).allowed()
        'at least 1'
        """
        if self.choices:
            return " or ".join(f'"{choice}"' for choice in self.choices)
        bounds = [
            ("at least", self.minimum),
            ("more than", self.above),
            ("at most", self.maximum),
        ]
        return " and ".join(f"{word} {bound:g}" for word, bound in bounds if bound is not None)


@dataclasses.dataclass(frozen=True, slots=True)
class FieldInfo:
    """One field of a nested dataclass: its dotted key, type, unit, range and docstring."""

    key: str
    type: type
    quantity: Quantity
    doc: str


def quantity(
    unit: str,
    *,
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """Declare a field with its unit and legal range, or the texts it may be."""
    found = Quantity(unit, minimum, above, maximum, choices)
    return dataclasses.field(metadata={"quantity": found})


@cache
def describe(section: type) -> tuple[FieldInfo, ...]:
    """Return every field of a nested dataclass, in order of declaration, with dotted keys."""
    return tuple(_describe(section, ""))


def _describe(section: type, prefix: str) -> Iterator[FieldInfo]:
    docs = _field_docs(section)
    types = typing.get_type_hints(section)
    for field in dataclasses.fields(section):
        key, kind = prefix + field.name, types[field.name]
        if dataclasses.is_dataclass(kind):
            yield from _describe(cast(type, kind), key + ".")
        else:
            unit = field.metadata.get("quantity", Quantity(""))
            yield FieldInfo(key, kind, unit, docs.get(field.name, ""))


@cache
def _field_docs(section: type) -> dict[str, str]:
    docs: dict[str, str] = {}
    for base in reversed(section.__mro__[:-1]):
        tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        for field, doc in itertools.pairwise(cast(ast.ClassDef, tree.body[0]).body):
            match field, doc:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(ast.Constant(str() as text)):
                    docs[name] = " ".join(text.split())
                case _:
                    pass
    return docs


def to_tree(section: Any) -> dict[str, Any]:
    """Return a nested dataclass as nested dictionaries."""
    return {
        field.name: to_tree(value) if dataclasses.is_dataclass(value) else value
        for field in dataclasses.fields(section)
        for value in [getattr(section, field.name)]
    }


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one with dotted keys.

    >>> flatten({"sbuf": {"partitions": 128}, "name": "x"})
    {'sbuf.partitions': 128, 'name': 'x'}
    """
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(cast(Mapping[str, Any], value), f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def build(section: type[Section], tree: Mapping[str, Any], file: str) -> Section:
    """Make a nested dataclass from nested mappings, every value checked.

    Raises: TargetError that names `file`, the key, the value found and what is allowed.
    """
    values = flatten(tree)
    known = {info.key: info for info in describe(section)}
    for key in values:
        if key not in known:
            raise unknown_key(key, list(known), file)
    missing = [key for key in known if key not in values]
    if missing:
        raise TargetError(f"{file}: missing key {_quoted(missing)}", help=_missing_help(missing[0]))
    checked = {key: check_value(info, values[key], file) for key, info in known.items()}
    return _assemble(section, checked, "")


def _assemble(section: type[Section], values: Mapping[str, Value], prefix: str) -> Section:
    types = typing.get_type_hints(section)
    arguments = {
        field.name: _assemble(types[field.name], values, f"{prefix}{field.name}.")
        if dataclasses.is_dataclass(types[field.name])
        else values[prefix + field.name]
        for field in dataclasses.fields(cast(Any, section))
    }
    return section(**arguments)


def _quoted(keys: list[str]) -> str:
    shown = ", ".join(f"'{key}'" for key in keys[:3])
    return shown if len(keys) <= 3 else f"{shown} and {len(keys) - 3} more"


def _missing_help(key: str) -> str:
    table, _, name = key.rpartition(".")
    where = f"in table [{table}]" if table else "at the top of the file"
    return f"write `{name} = ...` {where}; docs/targets.md says what it means"


def unknown_key(key: str, known: list[str], file: str) -> TargetError:
    """Return the error for a key that does not exist, with the nearest ones that do."""
    near = difflib.get_close_matches(key, known, n=3, cutoff=0.85)
    near = near or [k for k in known if k.startswith(key.split(".")[0] + ".")][:3]
    remedy = "did you mean " + " or ".join(f"'{k}'" for k in near) if near else ""
    return TargetError(f"{file}: unknown key '{key}'", help=remedy or "docs/targets.md lists them")


def check_value(info: FieldInfo, value: Any, file: str) -> Value:
    """Return `value` in the type of the field.

    Raises: TargetError where it is of another type, or out of range.
    """
    found = f"{file}: '{info.key}' is {_shown(value)}"
    if not _has_type(info.type, value):
        raise TargetError(f"{found}, but must be {type_words(info.type)}", help=_unit_help(info))
    if info.type is float:
        value = float(value)
    if info.type in (int, float, str) and not info.quantity.allows(value):
        allowed = info.quantity.allowed() or "finite"
        raise TargetError(f"{found}, but must be {allowed}", help=_unit_help(info))
    return tuple(cast(list[str], value)) if isinstance(value, list) else value


def _has_type(kind: type, value: Any) -> bool:
    if typing.get_origin(kind) is tuple:
        items = cast(list[object], value)
        return isinstance(value, list | tuple) and all(isinstance(item, str) for item in items)
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, int | float if kind is float else kind)


def type_words(kind: type) -> str:
    """Return a field's type in words."""
    words = {int: "an integer", float: "a number", str: "a text", bool: "true or false"}
    return words.get(kind, "a list of texts")


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else f"{value}"


def _unit_help(info: FieldInfo) -> str:
    unit = f" ({info.quantity.unit})" if info.quantity.unit else ""
    return f"{info.key}{unit}: {info.doc}"


def parse_text(info: FieldInfo, text: str, file: str) -> Value:
    """Return a value written as text, as on the command line, in the type of the field.

    Lists are comma-separated. Raises: TargetError as `check_value`.
    """
    value: Any = text
    if info.type in (int, float):
        value = _number(text)
    elif info.type is bool:
        value = {"true": True, "false": False}.get(text.lower(), text)
    elif typing.get_origin(info.type) is tuple:
        value = [item.strip() for item in text.split(",") if item.strip()]
    return check_value(info, value, file)


def _number(text: str) -> int | float | str:
    try:
        return int(text, 0)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return text
