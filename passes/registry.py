"""What a pass is, and the one table of all passes.

A pass is a dataclass: its class docstring is its documentation, its typed fields are its options (a
docstring under each), the same object from Python and from the command line:

    @register_pass
    @dataclass
    class MapBanksPass(Pass):
        \"\"\"Choose which dimension of every array lies across the scratchpad's partitions.\"\"\"

        name = "npu-map-banks"
        input_form = "buffers"
        output_form = "buffers"

        mode: str = "global"
        \"\"\"`global` considers the whole model at once, `local` one operator at a time.\"\"\"

        def run(self, module: ir.Module) -> None: ...

In a pipeline: `npu-map-banks{mode=local}`. A plain function `f(module)` may be registered too.
"""

import ast
import inspect
import itertools
import re
import textwrap
import types
import typing
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from functools import cache
from typing import Any, ClassVar, Literal, Self, TypeVar, Union, cast, get_args, get_origin

from polystage.errors import PipelineError, location_text
from polystage.mlir import ir

Form = Literal["any", "tensors", "buffers", "npu", "placed", "synchronised"]


@dataclass(frozen=True)
class Remark:
    """What a pass did, or declined to do and why, at one place of the IR."""

    pass_name: str
    location: str
    text: str


@dataclass(frozen=True)
class Option:
    """One option of a pass, as the command line and the reference page show it."""

    name: str
    field: str
    type: Any
    default: Any
    owner: "PassClass"

    @property
    def doc(self) -> str:
        """Return the docstring under the field; it is read from the source, which takes time."""
        return field_docs(self.owner).get(self.field, "")


class Pass:
    """A transformation of a module in place.

    `statistics` counts what was done and `remarks` says it op by op; both are filled by `run`.
    """

    name: ClassVar[str] = ""
    input_form: ClassVar[Form] = "any"
    output_form: ClassVar[Form] = "any"

    wants_remarks: ClassVar[bool] = True
    """Whether anybody reads the remarks, on an instance: those that take time may be left out."""

    def run(self, module: ir.Module) -> None:
        """Transform `module` in place."""
        raise NotImplementedError

    def without_remarks(self) -> Self:
        """Leave out what takes time and only explains."""
        self.__dict__["wants_remarks"] = False
        return self

    @property
    def statistics(self) -> dict[str, int]:
        """Return the counters of this pass, to be changed in place."""
        return self.__dict__.setdefault("_statistics", {})

    @property
    def remarks(self) -> list[Remark]:
        """Return the remarks made so far, in order."""
        return self.__dict__.setdefault("_remarks", [])

    def count(self, what: str, number: int = 1) -> None:
        """Add `number` to the statistic `what`."""
        self.statistics[what] = self.statistics.get(what, 0) + number

    def remark(self, op: Any, text: str) -> None:
        """Say what was done to `op`, or declined and why."""
        place = location_text(getattr(op, "location", None))
        self.remarks.append(Remark(self.name, place, text))


PassClass = type[Pass]

PASSES: dict[str, type[Pass]] = {}
"""Every registered pass by its name in pipelines, in order of registration."""

PassOrFunction = TypeVar("PassOrFunction")


def register_pass(target: PassOrFunction) -> PassOrFunction:
    """Make a `Pass` class, or a function of a module, known to pipelines and tools by its name.

    A function's name in pipelines is its own with hyphens: `def count_ops(module)` is `count-ops`.

    Raises: ValueError where the name is missing or taken by another pass.
    """
    if isinstance(target, type):
        pass_class = cast(type[Pass], target)
    else:
        pass_class = _pass_from_function(cast(Callable[[ir.Module], None], target))
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", pass_class.name):
        raise ValueError(f"pass name '{pass_class.name}' is not lower-case words with hyphens")
    known = PASSES.get(pass_class.name)
    if known is not None and known.__qualname__ != pass_class.__qualname__:
        raise ValueError(f"pass name '{pass_class.name}' is taken by {known.__qualname__}")
    PASSES[pass_class.name] = pass_class
    return target


def _pass_from_function(function: Callable[[ir.Module], None]) -> type[Pass]:
    def run(self: Pass, module: ir.Module) -> None:
        function(module)

    namespace = {
        "__doc__": function.__doc__ or "",
        "__module__": function.__module__,
        "name": function.__name__.replace("_", "-"),
        "run": run,
    }
    return type(function.__name__, (Pass,), namespace)


def pass_options(pass_class: type[Pass]) -> list[Option]:
    """Return the options of a pass in the order of its fields."""
    if not hasattr(pass_class, "__dataclass_fields__"):
        return []
    hints = typing.get_type_hints(pass_class)
    return [
        Option(
            field.name.replace("_", "-"),
            field.name,
            hints[field.name],
            field.default_factory()
            if field.default_factory is not MISSING
            else (None if field.default is MISSING else field.default),
            pass_class,
        )
        for field in fields(cast(Any, pass_class))
    ]


@cache
def field_docs(owner: type[Any]) -> dict[str, str]:
    """Return the docstring that stands under each field of a class."""
    return {
        cast(ast.Name, field.target).id: inspect.cleandoc(str(doc.value.value))
        for field, doc in itertools.pairwise(_statements(owner))
        if isinstance(field, ast.AnnAssign)
        and isinstance(doc, ast.Expr)
        and isinstance(doc.value, ast.Constant)
    }


def field_types(owner: type[Any]) -> dict[str, str]:
    """Return the annotation of each field of a class, as written."""
    return {
        cast(ast.Name, field.target).id: ast.unparse(field.annotation)
        for field in _statements(owner)
        if isinstance(field, ast.AnnAssign)
    }


def _statements(owner: type[Any]) -> list[ast.stmt]:
    """Return the statements of a class body, those of its bases first."""
    found: list[ast.stmt] = []
    for base in reversed(owner.__mro__[:-1]):
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        except (OSError, TypeError):
            continue
        if isinstance(tree.body[0], ast.ClassDef):
            found += tree.body[0].body
    return found


def create_pass(name: str, options: dict[str, str]) -> Pass:
    """Build the pass `name` from the text of its options.

    Raises: PipelineError for an unknown pass, option or value.
    """
    if name not in PASSES:
        raise PipelineError(f"unknown pass '{name}'")
    pass_class = PASSES[name]
    known = {option.name: option for option in pass_options(pass_class)}
    values: dict[str, Any] = {}
    for key, text in options.items():
        if key not in known:
            allowed = ", ".join(known) or "it has none"
            raise PipelineError(f"pass '{name}' has no option '{key}'", help=f"options: {allowed}")
        values[known[key].field] = _option_value(name, known[key], text)
    return pass_class(**values)


def _option_value(pass_name: str, option: Option, text: str) -> Any:
    try:
        return _parse_value(option.type, text)
    except ValueError:
        raise PipelineError(
            f"option '{option.name}' of '{pass_name}' is '{text}', "
            f"but it takes {type_text(option.type)}"
        ) from None


def _parse_value(kind: Any, text: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _parse_value(next(a for a in arguments if a is not type(None)), text)
    if origin is Literal:
        if text not in arguments:
            raise ValueError(text)
        return text
    if origin in (tuple, list):
        items = [_parse_value(arguments[0], item) for item in split_list(text)]
        return origin(items)
    if kind is bool:
        words = {"true": True, "1": True, "": True, "false": False, "0": False}
        if text.lower() not in words:
            raise ValueError(text)
        return words[text.lower()]
    return kind(text)


def split_list(text: str) -> list[str]:
    """Split a comma-separated list, with or without braces.

    >>> split_list("{1,2}"), split_list("a=1,b=2"), split_list("")
    (['1', '2'], ['a=1', 'b=2'], [])
    """
    inner = text[1:-1] if text.startswith("{") and text.endswith("}") else text
    return [item.strip() for item in inner.split(",") if item.strip()]


def type_text(kind: Any) -> str:
    """Return what an option takes, in words."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return type_text(next(a for a in arguments if a is not type(None)))
    if origin is Literal:
        return " or ".join(f"'{a}'" for a in arguments)
    if origin in (tuple, list):
        return f"a comma-separated list, each {type_text(arguments[0])}"
    words = {bool: "true or false", int: "an integer", float: "a number", str: "text"}
    return words.get(kind, getattr(kind, "__name__", str(kind)))
