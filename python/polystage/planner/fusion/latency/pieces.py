"""Boxes of iterations cut into pieces that one instruction takes, as the lowering cuts them.

An instruction takes a box in which every operand lies at a linear address. A box is cut where a
circular window wraps, at the edge between what one array shows and the next (padding,
concatenation), dim by dim, until that is so. Here it is done on plain numbers: how often, and in
which sizes, is all that their time depends on.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from polystage.mlir import ir
from polystage.polyhedral import Access
from polystage.polyhedral.expressions import constant_value, linear_terms

T = TypeVar("T")


class Iterations(NamedTuple):
    """A box of an operator's iterations: start and size of every dim."""

    starts: tuple[int, ...]
    sizes: tuple[int, ...]

    def cut(self, dim: int, at: int) -> "Cut":
        """Divide into what is below `at`, counted from the start of `dim`, and the rest."""
        starts, sizes = list(self.starts), list(self.sizes)
        sizes[dim] = at
        below = Iterations(self.starts, tuple(sizes))
        starts[dim] += at
        sizes[dim] = self.sizes[dim] - at
        return Cut(below, Iterations(tuple(starts), tuple(sizes)))


class Cut(Exception):
    """Not a failure: a box has to be divided before it goes on; `parts` make it up."""

    def __init__(self, *parts: Iterations) -> None:
        super().__init__()
        self.parts = parts


@dataclass(frozen=True, slots=True)
class Form:
    """`constant + sum(factor * dim)`."""

    constant: int
    terms: tuple[tuple[int, int], ...]
    curves: tuple[tuple[int, int, int], ...] = ()
    """(dim, factor, modulus) of the dims in quotients and remainders."""

    @classmethod
    def of(cls, expression: ir.AffineExpr) -> "Form":
        """Read an index. Of a quotient and a remainder the latter counts, which says how far
        neighbours are from each other."""
        atoms, constant = linear_terms(expression)
        terms: dict[int, int] = {}
        curves: list[tuple[int, int, int]] = []
        for atom, factor in atoms.items():
            node = atom.maybe_downcast()
            if isinstance(node, ir.AffineDimExpr):
                terms[node.position] = terms.get(node.position, 0) + factor
                continue
            inner, modulus = cls.of(node.lhs), constant_value(node.rhs) or 1
            curves += [*inner.curves, *((dim, step, modulus) for dim, step in inner.terms)]
            if isinstance(node, ir.AffineModExpr):
                for dim, step in inner.terms:
                    terms[dim] = terms.get(dim, 0) + factor * step
        return cls(constant, tuple(terms.items()), tuple(curves))

    def is_even(self, dim: int, step: int) -> bool:
        """Tell whether it grows by the same with every `step` iterations of a dim."""
        return all(f * step % modulus == 0 for d, f, modulus in self.curves if d == dim)

    def ends(self, box: Iterations) -> tuple[int, int]:
        """Return the least and the greatest value in a box."""
        low = high = self.constant
        for dim, factor in self.terms:
            near = factor * box.starts[dim]
            far = near + factor * (box.sizes[dim] - 1)
            low += min(near, far)
            high += max(near, far)
        return low, high

    def depends_on(self, dim: int) -> bool:
        """Tell whether a dim is among its terms."""
        return any(d == dim for d, _ in self.terms)

    def divide(self, box: Iterations, value: int) -> Cut:
        """Divide a box where the form reaches `value`; of several dims the smallest gives one
        iteration at a time."""
        own = [(d, f) for d, f in self.terms if box.sizes[d] > 1]
        if len(own) > 1:
            return box.cut(min(own, key=lambda term: box.sizes[term[0]])[0], 1)
        dim, step = own[0]
        first = self.constant + sum(f * box.starts[d] for d, f in self.terms)
        at = -((first - value) // step) if step > 0 else (first - value) // -step + 1
        return box.cut(dim, at)


@dataclass(frozen=True, slots=True)
class Part:
    """The elements of an array that an access reads where its bounds hold."""

    access: int
    axes: tuple[Form, ...]
    bounds: tuple[tuple[Form, int, int], ...]

    @classmethod
    def of(cls, number: int, access: Access) -> "Part":
        """Read an access of an operator."""
        return cls(
            number,
            tuple(Form.of(e) for e in access.exprs or ()),
            tuple((Form.of(b.expr), b.low, b.high) for b in access.where),
        )

    def applies(self, box: Iterations) -> bool:
        """Tell whether it is read in all of a box, or in none of it.

        Raises: Cut, where it is in a part.
        """
        for form, least, greatest in self.bounds:
            low, high = form.ends(box)
            if high < least or low > greatest:
                return False
            if low < least or high > greatest:
                raise form.divide(box, least if low < least else greatest + 1)
        return True


@dataclass(frozen=True, slots=True)
class Layout:
    """How the elements of an array lie in memory: element x of an axis at `x mod extent * stride`,
    where there is an extent."""

    strides: tuple[int, ...]
    extents: tuple[int | None, ...]

    @classmethod
    def circular(cls, shape: Sequence[int], array: Sequence[int]) -> "Layout":
        """Return a window of `shape` on an array of shape `array`."""
        wraps = (None if n >= whole else n for n, whole in zip(shape, array, strict=True))
        return cls(row_major(shape), tuple(wraps))

    @classmethod
    def box(cls, shape: Sequence[int]) -> "Layout":
        """Return a box of an array that lies by itself."""
        return cls(row_major(shape), (None,) * len(shape))

    def check(self, axes: Sequence[Form], box: Iterations) -> None:
        """Raise Cut where addresses are not linear in all of a box."""
        for form, extent in zip(axes, self.extents, strict=False):
            if extent is not None:
                low, high = form.ends(box)
                if low // extent != high // extent:
                    raise form.divide(box, (low // extent + 1) * extent)

    def steps(self, axes: Sequence[Form]) -> dict[int, int]:
        """Return how far apart neighbours along each dim are, in elements."""
        found: dict[int, int] = {}
        for form, stride in zip(axes, self.strides, strict=False):
            for dim, factor in form.terms:
                found[dim] = found.get(dim, 0) + factor * stride
        return found


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the strides of an array that lies row by row."""
    strides: list[int] = []
    step = 1
    for extent in reversed(shape):
        strides.append(step)
        step *= extent
    return tuple(reversed(strides))


def shown(parts: Sequence[Part], box: Iterations) -> Part | None:
    """Return which part a box reads; None is the constant below all of them.

    Raises: Cut.
    """
    return next((part for part in parts if part.applies(box)), None)


def refine(box: Iterations, read: Callable[[Iterations], T]) -> Iterator[tuple[Iterations, T]]:
    """Yield the pieces that `read` takes without dividing them further, with what it returns."""
    todo = [box]
    while todo:
        current = todo.pop()
        try:
            found = read(current)
        except Cut as cut:
            todo += reversed(cut.parts)
            continue
        yield current, found
