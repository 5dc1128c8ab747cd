"""Textual pipelines, parsed and checked before anything runs.

`builtin.module(canonicalize,npu-attach-target{target=tiny},func.func(linalg-generalize-named-ops))`
becomes a tree of `Nest` and `PassCall`. Upstream's own parser ends the process for some misplaced
passes, so names, options and nesting are checked here, and errors point at the exact column.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from polystage.errors import PipelineError
from polystage.mlir import ir, passmanager
from polystage.passes.registry import PASSES, Pass, create_pass

MODULE = "builtin.module"

# What passes may be nested under, and an empty operation of the kind on which a pass is tried,
# to learn whether it may run there.
_EMPTY_OPERATIONS = {MODULE: "module {}", "func.func": "func.func private @f()"}
_ANY = ("any", "*")

# Upstream passes that replace functions, and end the process where they are run on one. Found by
# running every upstream pass on small functions, as a module's and as a function's.
_REPLACE_FUNCTIONS = frozenset(
    {
        "convert-func-to-spirv",
        "convert-scf-to-spirv",
        "convert-tensor-to-spirv",
        "convert-to-emitc",
        "convert-to-llvm",
        "gpu-lower-to-rocdl-pipeline",
        "raise-wasm-mlir",
        "tosa-to-spirv-tosa",
    }
)


@dataclass(frozen=True)
class PassCall:
    """One pass with its options, as written at `column` (from 1)."""

    name: str
    options: tuple[tuple[str, str], ...]
    options_text: str
    column: int

    def __str__(self) -> str:
        return f"{self.name}{{{self.options_text}}}" if self.options_text else self.name


@dataclass(frozen=True)
class Nest:
    """Passes that run on every operation called `anchor`."""

    anchor: str
    children: tuple["PassCall | Nest", ...]
    column: int

    def __str__(self) -> str:
        return f"{self.anchor}({','.join(map(str, self.children))})"


def parse_pipeline(text: str) -> Nest:
    """Return the tree of a textual pipeline, with every name, option and nesting checked.

    Raises: PipelineError, whose location is `pipeline:1:<column>`.
    """
    root = _Parser(text).parse()
    if root.anchor != MODULE:
        raise _error(
            text, root.column, f"the outermost operation is '{root.anchor}', not '{MODULE}'"
        )
    _check_nest(text, root, top_level=True)
    return root


def create_own_pass(call: PassCall) -> Pass:
    """Return the pass object of a call to one of our own passes."""
    return create_pass(call.name, dict(call.options))


def is_own(element: PassCall | Nest) -> bool:
    """Return whether an element of a pipeline is one of our own passes."""
    return isinstance(element, PassCall) and element.name in PASSES


class _Parser:
    """A recursive-descent parser; `position` counts characters from 0."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0

    def parse(self) -> Nest:
        self._skip_space()
        element = self._element()
        if isinstance(element, PassCall):
            raise _error(
                self.text,
                element.column,
                f"expected an operation around the passes, e.g. '{MODULE}({element.name})'",
            )
        self._skip_space()
        if self.position < len(self.text):
            raise self._error(f"unexpected '{self.text[self.position]}' after the pipeline")
        return element

    def _element(self) -> PassCall | Nest:
        start = self.position
        match = re.compile(r"[\w.*-]+").match(self.text, start)
        if match is None:
            raise self._error(f"expected the name of a pass or operation, found {self._found()}")
        self.position = match.end()
        if self._next() == "(":
            return Nest(match.group(), self._children(), start + 1)
        options, options_text = self._options() if self._next() == "{" else ((), "")
        return PassCall(match.group(), options, options_text, start + 1)

    def _children(self) -> tuple[PassCall | Nest, ...]:
        opening = self.position
        self.position += 1
        children: list[PassCall | Nest] = []
        self._skip_space()
        more = self._next() != ")"
        while more:
            self._skip_space()
            children.append(self._element())
            self._skip_space()
            more = self._next() == ","
            self.position += more
        if self._next() == "":
            raise _error(self.text, opening + 1, "this '(' is never closed")
        if self._next() != ")":
            raise self._error(f"expected ',' or ')', found {self._found()}")
        self.position += 1
        return tuple(children)

    def _options(self) -> tuple[tuple[tuple[str, str], ...], str]:
        opening = self.position
        end = _closing_brace(self.text, opening)
        if end is None:
            raise _error(self.text, opening + 1, "this '{' is never closed")
        self.position = end + 1
        inner = self.text[opening + 1 : end]
        return tuple(_split_options(inner)), inner.strip()

    def _next(self) -> str:
        return self.text[self.position : self.position + 1]

    def _found(self) -> str:
        return f"'{self._next()}'" if self._next() else "the end"

    def _skip_space(self) -> None:
        while self._next().isspace():
            self.position += 1

    def _error(self, message: str) -> PipelineError:
        return _error(self.text, self.position + 1, message)


def _closing_brace(text: str, opening: int) -> int | None:
    """Return where the brace at `opening` closes, quotes and inner braces skipped."""
    depth, quote = 0, ""
    for index in range(opening, len(text)):
        char = text[index]
        if quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        elif char in "{}":
            depth += 1 if char == "{" else -1
            if depth == 0:
                return index
    return None


def _split_options(text: str) -> Iterator[tuple[str, str]]:
    """Yield the pairs of `a=1 b={x y} c="p q" d`; a key alone has the empty value."""
    start = 0
    while start < len(text):
        if text[start].isspace():
            start += 1
            continue
        end = _end_of_word(text, start)
        key, _, value = text[start:end].partition("=")
        if len(value) >= 2 and value[0] in "\"'" and value[-1] == value[0]:
            value = value[1:-1]
        yield key, value
        start = end


def _end_of_word(text: str, start: int) -> int:
    index, depth, quote = start, 0, ""
    while index < len(text):
        char = text[index]
        if quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        elif char in "{}":
            depth += 1 if char == "{" else -1
        elif char.isspace() and depth == 0:
            return index
        index += 1
    return index


def _check_nest(text: str, nest: Nest, top_level: bool) -> None:
    for child in nest.children:
        if isinstance(child, Nest):
            _check_anchor(text, child)
            _check_nest(text, child, top_level=False)
        elif is_own(child):
            _check_own_pass(text, child, nest.anchor if not top_level else "")
        else:
            _check_upstream_pass(text, child, nest.anchor)


def _check_anchor(text: str, nest: Nest) -> None:
    if nest.anchor not in (*_ANY, *_EMPTY_OPERATIONS):
        raise _error(
            text,
            nest.column,
            f"passes cannot be nested under '{nest.anchor}', only under 'func.func'",
        )


def _check_own_pass(text: str, call: PassCall, nested_under: str) -> None:
    if nested_under:
        message = f"pass '{call.name}' runs on '{MODULE}', not under '{nested_under}'"
        raise _error(text, call.column, message)
    try:
        create_own_pass(call)
    except PipelineError as error:
        raise _error(text, call.column, error.message, help=error.help) from None


def _check_upstream_pass(text: str, call: PassCall, anchor: str) -> None:
    problem = _upstream_problem(str(call))
    if problem:
        raise _error(text, call.column, problem.replace("@name", f"'{call.name}'"))
    if anchor in _ANY and call.name not in _REPLACE_FUNCTIONS:
        return
    if not runs_on(call.name, anchor):
        others = [op for op in _EMPTY_OPERATIONS if op != anchor and runs_on(call.name, op)]
        where = f"runs on '{others[0]}'" if others else "runs on neither module nor function"
        raise _error(text, call.column, f"pass '{call.name}' {where}, not under '{anchor}'")


@cache
def _probing_context() -> ir.Context:
    """Return the context in which passes are tried; dialects are loaded into it only once."""
    return ir.Context()


@cache
def _upstream_problem(call: str) -> str:
    """Return why upstream's parser rejects one pass with its options, or nothing.

    Under `any` no pass is misplaced, so the parser cannot end the process.
    """
    with _probing_context():
        try:
            passmanager.PassManager.parse(f"any({call})")
        except ValueError as error:
            text = str(error)
        else:
            return ""
    if "does not refer to a registered pass" in text:
        return "unknown pass @name"
    detail = text.splitlines()[0].partition(">: ")[2]
    return f"bad options of pass @name{': ' * bool(detail)}{detail}"


@cache
def runs_on(name: str, anchor: str) -> bool:
    """Return whether an upstream pass may be scheduled on an operation.

    The bindings do not tell, so it is tried on an empty one.
    """
    if name in _REPLACE_FUNCTIONS:
        return anchor == MODULE
    if name.startswith(("print-", "view-")):
        return True  # would print
    with _probing_context():
        try:
            # inside a module: a few passes end the process where they replace the outermost op
            outer = ir.Module.parse(f"module {{ {_EMPTY_OPERATIONS[anchor]} }}")
            passmanager.PassManager.parse(f"any({name})").run(outer.body.operations[0].operation)
        except (ir.MLIRError, ValueError) as error:
            return "trying to schedule pass" not in str(error)
    return True


def _error(text: str, column: int, message: str, help: str = "") -> PipelineError:
    pointer = f"{message}\n{text}\n{' ' * (column - 1)}^"
    return PipelineError(pointer, help=help, location=f"pipeline:1:{column}")
