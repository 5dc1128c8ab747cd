"""linalg.generic and affine loop nests for `copy_programs`: scalar expressions over operands."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from copy_programs import DTYPES, Memref, NoMeaning, Op, State, check_overlap, indices

Scalar = Any
"""`("add", a, b)` and the like, `("constant", n)`, `("index", d)`, `("load", memref, ...)`, which
takes indices modulo the extents, `("row", memref, a)`, which loads `memref[a, d1, d2, ..]`, or the
number of an operand."""

_FUNCTIONS = {
    "add": ("arith.addi", "arith.addf", np.add),
    "sub": ("arith.subi", "arith.subf", np.subtract),
    "mul": ("arith.muli", "arith.mulf", np.multiply),
    "max": ("arith.maxsi", "arith.maximumf", np.maximum),
    "min": ("arith.minsi", "arith.minimumf", np.minimum),
}


class _Writer:
    """Writes the operations that compute a scalar."""

    def __init__(self, element: str, operands: Sequence[str]) -> None:
        self.element, self.operands = element, operands
        self.lines: list[str] = []

    def write(self, scalar: Scalar) -> str:
        """Return the name of the value."""
        if isinstance(scalar, int):
            return self.operands[scalar]
        kind, *arguments = scalar
        if kind == "constant":
            text = arguments[0] if self.element == "i32" else f"{arguments[0]}.0"
            return self.line(f"arith.constant {text} : {self.element}")
        if kind == "index":
            index = self.line(f"linalg.index {arguments[0]} : index")
            number = self.line(f"arith.index_cast {index} : index to i32")
            is_float = self.element == "f32"
            return self.line(f"arith.sitofp {number} : i32 to f32") if is_float else number
        if kind == "load":
            return self.load(*arguments)
        if kind == "row":
            return self.row(*arguments)
        name = _FUNCTIONS[kind][self.element == "f32"]
        left, right = map(self.write, arguments)
        return self.line(f"{name} {left}, {right} : {self.element}")

    def load(self, table: Memref, *scalars: Scalar) -> str:
        """Load where the data says, modulo the extents."""
        places = []
        for scalar, extent in zip(scalars, table.shape, strict=True):
            value = self.write(scalar)
            limit = self.line(f"arith.constant {extent} : i32")
            inside = self.line(f"arith.remui {value}, {limit} : i32")
            places.append(self.line(f"arith.index_cast {inside} : i32 to index"))
        return self.line(f"memref.load {table.name}[{', '.join(places)}] : {table.type}")

    def row(self, table: Memref, scalar: Scalar) -> str:
        """Load from the row that a scalar names, at the place where the loops are."""
        first = self.line(f"arith.index_cast {self.write(scalar)} : i32 to index")
        rest = [self.line(f"linalg.index {d} : index") for d in range(1, len(table.shape))]
        return self.line(f"memref.load {table.name}[{', '.join([first, *rest])}] : {table.type}")

    def line(self, text: str) -> str:
        name = f"%r{len(self.lines)}"
        self.lines.append(f"{name} = {text}")
        return name


def _value(scalar: Scalar, operands: Sequence[Any], state: State, extents: Sequence[int]) -> Any:
    if isinstance(scalar, int):
        return operands[scalar]
    kind, *arguments = scalar
    if kind == "constant":
        return arguments[0]
    if kind == "index":
        return np.indices(extents)[arguments[0]]
    if kind == "load":
        table, *scalars = arguments
        places = (np.asarray(_value(s, operands, state, extents), np.int32) for s in scalars)
        index = tuple(p.view(np.uint32) % n for p, n in zip(places, table.shape, strict=True))
        return state.memory[table.name].read(index)
    if kind == "row":
        table, scalar = arguments
        rows = np.asarray(_value(scalar, operands, state, extents))
        return state.memory[table.name].read((rows, *np.indices(extents)[1:]))
    left, right = (_value(s, operands, state, extents) for s in arguments)
    return _FUNCTIONS[kind][2](left, right)


def _parts(scalar: Scalar) -> list[Scalar | Memref]:
    """Return what a scalar is computed from."""
    is_leaf = isinstance(scalar, int) or scalar[0] in ("constant", "index")
    return [] if is_leaf else list(scalar[1:])


def _used(scalar: Scalar) -> set[int]:
    """Return the operands of which a scalar takes the value."""
    if isinstance(scalar, int):
        return {scalar}
    inner = (part for part in _parts(scalar) if not isinstance(part, Memref))
    return set().union(*map(_used, inner))


def _tables(scalar: Scalar) -> list[Memref]:
    """Return the memrefs that a scalar is loaded from."""
    found: list[Memref] = []
    for part in _parts(scalar):
        found += [part] if isinstance(part, Memref) else _tables(part)
    return found


@dataclass(frozen=True)
class Operand:
    """A memref and the index into it, over the loops `d0, d1, ..`."""

    memref: Memref
    index: tuple[str, ...]


def generic(
    extents: Sequence[int],
    ins: Sequence[Operand],
    outs: Sequence[Operand],
    results: Sequence[Scalar],
    fold: str = "",
) -> Op:
    """`outs = results`, or with `fold`, `outs = fold(outs, results)` over loops outs do not use.

    Operands count from 0, inputs first; with `fold`, results use inputs only.
    """
    operands = (*ins, *outs)
    element = operands[0].memref.element
    loops = ", ".join(f"d{d}" for d in range(len(extents)))
    maps = ", ".join(f"affine_map<({loops}) -> ({', '.join(o.index)})>" for o in operands)
    kept = {e for o in outs for e in o.index}
    kinds = [
        '"parallel"' if not fold or f"d{d}" in kept else '"reduction"' for d in range(len(extents))
    ]
    scalars = [f"%x{n}" for n in range(len(operands))]
    folded = [(fold, len(ins) + n, r) for n, r in enumerate(results)] if fold else list(results)
    writer = _Writer(element, scalars)
    yielded = [writer.write(scalar) for scalar in folded]
    lists = [
        f"{', '.join(o.memref.name for o in group)} : {', '.join(o.memref.type for o in group)}"
        for group in (ins, outs)
    ]
    text = "\n".join(
        [
            f"linalg.generic {{indexing_maps = [{maps}], iterator_types = "
            f"[{', '.join(kinds)}]}}"
            f"{f' ins({lists[0]})' if ins else ''} outs({lists[1]}) {{",
            f"^bb0({', '.join(f'{n}: {element}' for n in scalars)}):",
            *writer.lines,
            f"linalg.yield {', '.join(yielded)} : {', '.join([element] * len(outs))}",
            "}",
        ]
    )
    used = set().union(*map(_used, folded))
    tables = [t for scalar in folded for t in _tables(scalar)]

    def run(state: State) -> None:
        cells = [state.memory[o.memref.name] for o in operands]
        places = [indices(o.index, extents) for o in operands]
        for place, cell in zip(places, cells, strict=True):
            for index, extent in zip(place, cell.values.shape, strict=True):
                if index.size and index.max() >= extent:
                    raise NoMeaning("leaves the array")
        for n in range(len(ins), len(operands)):
            written = cells[n].address[places[n]]
            for m, (other, place) in enumerate(zip(cells, places, strict=True)):
                if m != n and (m in used or m >= len(ins)) and other.root == cells[n].root:
                    check_overlap(written, other.address[place], not fold and m < len(ins))
            for table in tables:
                if state.memory[table.name].root == cells[n].root:
                    raise NoMeaning("gathers from what it writes")
        values = [
            c.read(p) if n in used else None
            for n, (c, p) in enumerate(zip(cells, places, strict=True))
        ]
        computed = [
            np.broadcast_to(_value(r, values, state, extents), tuple(extents)).astype(
                DTYPES[element]
            )
            for r in results
        ]
        for cell, place, value in zip(cells[len(ins) :], places[len(ins) :], computed, strict=True):
            if fold:
                total = cell.values.copy(order="C")
                shape = total.shape
                flat = np.ravel_multi_index(place, shape) if shape else np.zeros(extents, int)
                _FUNCTIONS[fold][2].at(total.reshape(-1), flat, value)
                value = total[place]
            cell.write(place, value)

    names = [o.memref.name for o in operands]
    reads = (*names[: len(ins)], *(table.name for table in tables))
    return Op(text, run, reads=reads, writes=tuple(names[len(ins) :]))


def affine_nest(
    extents: Sequence[int],
    loads: Sequence[Operand],
    store: Operand,
    result: Scalar,
    steps: Sequence[int],
) -> Op:
    """`affine.for` loops around one store; `d0, ..` of indices are how often a loop has run."""
    element = store.memref.element

    def access(operand: Operand) -> str:
        exprs = list(operand.index)
        for d, step in enumerate(steps):
            iv = f"%d{d}" if step == 1 else f"(%d{d} floordiv {step})"
            exprs = [expr.replace(f"d{d}", iv) for expr in exprs]
        return f"{operand.memref.name}[{', '.join(exprs)}] : {operand.memref.type}"

    writer = _Writer(element, [f"%x{n}" for n in range(len(loads))])
    lines = [
        f"affine.for %d{d} = 0 to {n * s} step {s} {{"
        for d, (n, s) in enumerate(zip(extents, steps, strict=True))
    ]
    lines += [f"%x{n} = affine.load {access(load)}" for n, load in enumerate(loads)]
    value = writer.write(result)
    lines += [*writer.lines, f"affine.store {value}, {access(store)}", *("}" for _ in extents)]

    def run(state: State) -> None:
        def places(operand: Operand) -> tuple:
            found = indices(operand.index, extents)
            for index, extent in zip(found, operand.memref.shape, strict=True):
                if index.max() >= extent:
                    raise NoMeaning("leaves the array")
            return found

        target, where = state.memory[store.memref.name], places(store)
        written = target.address[where]
        if len(np.unique(written)) < written.size:
            raise NoMeaning("writes an element twice")
        values = []
        for load in loads:
            cell, place = state.memory[load.memref.name], places(load)
            if cell.root == target.root:
                check_overlap(written, cell.address[place], True)
            values.append(cell.read(place))
        target.write(where, _value(result, values, state, extents))

    reads = tuple(load.memref.name for load in loads)
    return Op("\n".join(lines), run, reads=reads, writes=(store.memref.name,))
