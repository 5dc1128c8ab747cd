"""Programs in `buffers` form that execute themselves: every operation is its text and its effect.

Memory knows which of its elements were written, and where each element of a view lies, so that
what has no meaning is noticed: reading what nothing wrote, or an operation whose operands overlap
in part. This is a second implementation of what the operations mean, element by element, which
shares nothing with `polystage.evaluator`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np

DTYPES = {"i32": np.dtype(np.int32), "f32": np.dtype(np.float32)}
EXACT = 1 << 22
"""Up to here sums of integers are exact in f32, in any order."""


class NoMeaning(Exception):
    """The program reads what nothing wrote, or does not say in which order it overwrites."""


# -- memory ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Memref:
    """A memref value: an array, or a view of one. An offset of None is known at run time only."""

    name: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int | None
    element: str
    is_plain: bool = True
    """Without a layout in its type."""

    @property
    def type(self) -> str:
        extents = "".join(f"{n}x" for n in self.shape)
        if self.is_plain:
            return f"memref<{extents}{self.element}>"
        offset = "?" if self.offset is None else self.offset
        tail = f", offset: {offset}" if offset else ""
        strides = ", ".join(map(str, self.strides))
        return f"memref<{extents}{self.element}, strided<[{strides}]{tail}>>"


@dataclass
class Cells:
    """What a memref holds, which elements were written, and the array they lie in, and where."""

    values: np.ndarray
    written: np.ndarray
    address: np.ndarray
    root: str

    def view(self, function: Callable[[np.ndarray], np.ndarray]) -> "Cells":
        return Cells(*map(function, (self.values, self.written, self.address)), self.root)

    def read(self, index: Any = ...) -> np.ndarray:
        if not self.written[index].all():
            raise NoMeaning("reads what nothing wrote")
        return self.values[index]

    def write(self, index: Any, values: Any) -> None:
        if self.values.dtype.kind == "f" and np.abs(values).max(initial=0) > EXACT:
            raise NoMeaning("sums would depend on their order")
        self.values[index] = values
        self.written[index] = True


class State:
    """The memrefs and loop indices that exist at one time."""

    def __init__(self) -> None:
        self.memory: dict[str, Cells] = {}
        self.ivs: dict[str, int] = {}

    def allocate(self, array: Memref, values: np.ndarray | None = None) -> None:
        dtype, size = DTYPES[array.element], int(np.prod(array.shape))
        initial = np.zeros(array.shape, dtype) if values is None else np.array(values, dtype)
        written = np.full(array.shape, values is not None)
        address = np.arange(size).reshape(array.shape)
        self.memory[array.name] = Cells(initial, written, address, array.name)

    def saved(self) -> dict[str, tuple[Cells, np.ndarray, np.ndarray]]:
        return {n: (c, c.values.copy(), c.written.copy()) for n, c in self.memory.items()}

    def restore(self, saved: dict[str, tuple[Cells, np.ndarray, np.ndarray]]) -> None:
        self.memory = {}
        for name, (cells, values, written) in saved.items():
            cells.values[...], cells.written[...] = values, written
            self.memory[name] = cells


# -- operations --------------------------------------------------------------------------------


@dataclass
class Op:
    """One operation: text, effect, and the names it defines and uses."""

    text: str
    run: Callable[[State], None]
    result: str | None = None
    view_of: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()

    @property
    def operands(self) -> tuple[str, ...]:
        return self.view_of + self.reads + self.writes


@dataclass
class Loop:
    """`scf.for`, `count` times: `low`, `low + step`, .."""

    iv: str
    low: int
    step: int
    count: int
    body: list["Op | Loop"] = field(default_factory=list)

    @property
    def text(self) -> str:
        names = [f"{self.iv}_{end}" for end in ("low", "high", "step")]
        values = (self.low, self.low + self.count * self.step, self.step)
        bounds = zip(names, values, strict=True)
        constants = "\n".join(f"{name} = arith.constant {value} : index" for name, value in bounds)
        head = f"scf.for {self.iv} = {names[0]} to {names[1]} step {names[2]} {{"
        return "\n".join([constants, head, *(op.text for op in self.body), "}"])

    def run(self, state: State) -> None:
        self.run_from(0, state)

    def run_from(self, first: int, state: State) -> None:
        for number in range(first, self.count):
            state.ivs[self.iv] = self.low + number * self.step
            for op in self.body:
                op.run(state)


Offset = int | tuple[str, int, int, int]
"""A constant, or `scale * iv floordiv step + constant` as `(iv, scale, step, constant)`."""


def contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    strides = [1]
    for extent in reversed(shape[1:]):
        strides.insert(0, strides[0] * extent)
    return tuple(strides) if shape else ()


def array(name: str, shape: Sequence[int], element: str) -> Memref:
    return Memref(name, tuple(shape), contiguous(shape), 0, element)


def alloc(target: Memref) -> Op:
    text = f"{target.name} = memref.alloc() : {target.type}"
    return Op(text, lambda state: state.allocate(target), target.name)


def subview(
    name: str,
    source: Memref,
    offsets: Sequence[Offset],
    sizes: Sequence[int],
    steps: Sequence[int],
    kept: Sequence[int],
) -> tuple[Op, Memref]:
    """`kept` are the dimensions of the result; the others have size 1."""
    if not sizes:
        raise NoMeaning("a scalar has no parts")
    constants = [o if isinstance(o, int) else o[3] for o in offsets]
    dynamic = [o for o in offsets if not isinstance(o, int)]
    offset: int | None = None
    if not dynamic and source.offset is not None:
        moves = zip(constants, source.strides, strict=True)
        offset = source.offset + sum(c * s for c, s in moves)
    strides = tuple(source.strides[d] * steps[d] for d in kept)
    shape = tuple(sizes[d] for d in kept)
    result = Memref(name, shape, strides, offset, source.element, False)
    applied, listed = "", []
    for number, given in enumerate(offsets):
        if isinstance(given, int):
            listed.append(str(given))
            continue
        iv, scale, step, constant = given
        divided = f"(d0 * {scale}) floordiv {step}" if step > 1 else f"d0 * {scale}"
        map_ = f"affine_map<(d0) -> ({divided} + {constant})>"
        applied += f"{name}_o{number} = affine.apply {map_}({iv})\n"
        listed.append(f"{name}_o{number}")
    lists = "".join(f"[{', '.join(map(str, part))}] " for part in (listed, sizes, steps))
    text = f"{applied}{name} = memref.subview {source.name}{lists}: {source.type} to {result.type}"

    def run(state: State) -> None:
        starts = [
            o if isinstance(o, int) else state.ivs[o[0]] * o[1] // o[2] + o[3] for o in offsets
        ]
        extents = state.memory[source.name].values.shape
        ends = [s + (n - 1) * k + 1 for s, n, k in zip(starts, sizes, steps, strict=True)]
        if min(starts, default=0) < 0 or any(e > n for e, n in zip(ends, extents, strict=True)):
            raise NoMeaning("leaves the array")
        region = tuple(slice(s, e, k) for s, e, k in zip(starts, ends, steps, strict=True))
        pick = tuple(slice(None) if d in kept else 0 for d in range(len(sizes)))
        state.memory[name] = state.memory[source.name].view(lambda a: a[region][pick])

    return Op(text, run, name, (source.name,)), result


def _reshape(name: str, source: Memref, result: Memref, text: str) -> tuple[Op, Memref]:
    def run(state: State) -> None:
        state.memory[name] = state.memory[source.name].view(lambda a: a.reshape(result.shape))
        assert np.shares_memory(state.memory[name].values, state.memory[source.name].values)

    return Op(text, run, name, (source.name,)), result


def _groups(rank: int, dim: int, count: int) -> str:
    """Return the reassociation in which `dim` stands for `count` dimensions."""
    groups = [[d] for d in range(dim)] + [list(range(dim, dim + count))]
    groups += [[d + count - 1] for d in range(dim + 1, rank)]
    return str(groups)


def expand(name: str, source: Memref, dim: int, factors: Sequence[int]) -> tuple[Op, Memref]:
    inner = [source.strides[dim] * s for s in contiguous(factors)]
    shape = (*source.shape[:dim], *factors, *source.shape[dim + 1 :])
    strides = (*source.strides[:dim], *inner, *source.strides[dim + 1 :])
    is_plain = source.is_plain or (source.offset == 0 and source.strides == (1,))
    result = Memref(name, shape, strides, source.offset, source.element, is_plain)
    text = (
        f"{name} = memref.expand_shape {source.name} "
        f"{_groups(len(source.shape), dim, len(factors))} output_shape {list(shape)} : "
        f"{source.type} into {result.type}"
    )
    return _reshape(name, source, result, text)


def can_collapse(source: Memref, dim: int) -> bool:
    return source.strides[dim] == source.strides[dim + 1] * source.shape[dim + 1] and not (
        {1} & set(source.shape[dim : dim + 2]) and not source.is_plain
    )


def collapse(name: str, source: Memref, dim: int) -> tuple[Op, Memref]:
    shape = (
        *source.shape[:dim],
        source.shape[dim] * source.shape[dim + 1],
        *source.shape[dim + 2 :],
    )
    strides = (*source.strides[:dim], *source.strides[dim + 1 :])
    result = replace(source, name=name, shape=shape, strides=strides)
    text = (
        f"{name} = memref.collapse_shape {source.name} {_groups(len(shape), dim, 2)} : "
        f"{source.type} into {result.type}"
    )
    return _reshape(name, source, result, text)


def transpose(name: str, source: Memref, order: Sequence[int]) -> tuple[Op, Memref]:
    shape = tuple(source.shape[d] for d in order)
    strides = tuple(source.strides[d] for d in order)
    result = Memref(name, shape, strides, source.offset, source.element, False)
    dims = ", ".join(f"d{d}" for d in range(len(order)))
    map_ = f"({dims}) -> ({', '.join(f'd{d}' for d in order)})"
    text = f"{name} = memref.transpose {source.name} {map_} : {source.type} to {result.type}"

    def run(state: State) -> None:
        state.memory[name] = state.memory[source.name].view(lambda a: a.transpose(order))

    return Op(text, run, name, (source.name,)), result


def copy(source: Memref, target: Memref) -> Op:
    text = f"memref.copy {source.name}, {target.name} : {source.type} to {target.type}"

    def run(state: State) -> None:
        read, written = state.memory[source.name], state.memory[target.name]
        if read.root == written.root and np.isin(read.address, written.address).any():
            raise NoMeaning("copies onto itself")
        written.write(..., read.read())

    return Op(text, run, reads=(source.name,), writes=(target.name,))


@cache
def index_function(expr: str) -> Any:
    return compile(expr.replace("floordiv", "//").replace("mod", "%"), expr, "eval")


def indices(exprs: Iterable[str], extents: Sequence[int], letter: str = "d") -> tuple:
    grid = np.indices(extents)
    names = {f"{letter}{n}": part for n, part in enumerate(grid)}
    return tuple(np.broadcast_to(eval(index_function(e), names), tuple(extents)) for e in exprs)


def check_overlap(written: np.ndarray, other: np.ndarray, may_be_equal: bool) -> None:
    """Refuse an operation that reads or writes elsewhere what it writes."""
    if not (may_be_equal and np.array_equal(written, other)) and np.isin(written, other).any():
        raise NoMeaning("overlaps in part")


# -- the whole -----------------------------------------------------------------------------------


@dataclass
class Program:
    """A function `@main` on memrefs; arguments hold values, results are memrefs made inside."""

    element: str
    arguments: list[Memref] = field(default_factory=list)
    weights: list[Memref] = field(default_factory=list)
    body: list[Op | Loop] = field(default_factory=list)
    results: list[Memref] = field(default_factory=list)
    given: dict[str, np.ndarray] = field(default_factory=dict)
    """The values of some of the weights; the others are random."""

    def initial(self, memref: Memref) -> np.ndarray:
        """Return the values of an argument or a weight before the first operation."""
        if memref.name in self.given:
            return self.given[memref.name]
        name = int(memref.name.removeprefix("%v"))
        values = np.random.default_rng(name).integers(-5, 6, memref.shape)
        return values.astype(DTYPES[self.element])

    def inputs(self) -> list[np.ndarray]:
        """Return new arrays to call the function with."""
        return [self.initial(argument) for argument in self.arguments]

    def start(self) -> State:
        state = State()
        for memref in (*self.arguments, *self.weights):
            state.allocate(memref, self.initial(memref))
        return state

    def execute(self) -> list[Cells]:
        """Return what the arguments and the results hold at the end.

        Raises: NoMeaning, or KeyError where a name is not defined.
        """
        state = self.start()
        with np.errstate(over="ignore"):
            for op in self.body:
                op.run(state)
        return [state.memory[memref.name] for memref in (*self.arguments, *self.results)]

    @property
    def text(self) -> str:
        signature = ", ".join(
            f'{a.name}: {a.type} {{npu.name = "{a.name[1:]}"}}' for a in self.arguments
        )
        types = ", ".join(r.type for r in self.results)
        lines = [
            f"memref.global @{w.name[1:]} : {w.type} = dense<{self.initial(w).tolist()}>"
            for w in self.weights
        ]
        lines.append(f"func.func @main({signature}){f' -> ({types})' if types else ''} {{")
        lines += [f"{w.name} = memref.get_global @{w.name[1:]} : {w.type}" for w in self.weights]
        lines += [op.text for op in self.body]
        names = ", ".join(r.name for r in self.results)
        lines += [f"return {names} : {types}" if types else "return", "}"]
        return "\n".join(lines)


def flattened(body: Sequence[Op | Loop]) -> list[Op]:
    return [o for op in body for o in (flattened(op.body) if isinstance(op, Loop) else [op])]
