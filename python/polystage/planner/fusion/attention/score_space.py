"""The common dims of the statements that make up attention.

Each statement counts the same scores with loops of its own, through views that merge or split them.
Here they all get one set of dims, and every access is checked to mean the same element.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from polystage.mlir import ir
from polystage.planner.fusion.patterns import extents_of, require
from polystage.polyhedral import Access, Statement
from polystage.polyhedral.domains import box, variables
from polystage.polyhedral.expressions import linear_terms, substitute, to_aff, used_dims
from polystage.polyhedral.model import map_from_affs

Exprs = tuple[ir.AffineExpr, ...]


class ScoreSpace:
    """Dims of scores (heads, queries, keys), of what they are summed over, and of the result.

    `extents` are those of the dims found so far. Dims of extent 1 are none. Needs the current
    context of the program.
    """

    def __init__(self) -> None:
        self.extents: list[int] = []
        self.keys: int | None = None
        self._scores: frozenset[int] = frozenset()
        self._depth: int | None = None
        self._values: int | None = None
        self._dims_of: dict[str, list[ir.AffineExpr]] = {}
        self._elements: dict[str, Exprs] = {}

    @classmethod
    def of(cls, scores: Statement, readers: Iterable[Statement]) -> "ScoreSpace":
        """Return the space of a contraction; a dim that readers split (a batch of heads) is
        several."""
        space = cls()
        write = scores.writes[0]
        splits = _splits(write, readers)
        own: list[ir.AffineExpr] = []
        parallel: set[int] = set()
        for dim, extent in enumerate(extents_of(scores)):
            first = len(space.extents)
            own.append(space._new_dims(splits.get(dim, (extent,))))
            if scores.iterators[dim] != "reduction":
                parallel.update(range(first, len(space.extents)))
        space._scores = frozenset(parallel)
        depth = sorted(set(range(len(space.extents))) - parallel)
        require(len(depth) == 1)
        space._depth = depth[0]
        space._enter(scores, own)
        return space

    def enter_pointwise(self, statement: Statement, access: Access) -> None:
        """Add a statement that makes one element of each score, which `access` reads."""
        self._enter(statement, self._solve(statement, access))
        require(self._used(self._elements[statement.writes[0].array]) == self._scores)

    def enter_row(self, statement: Statement, access: Access) -> None:
        """Add a statement that makes one element of each row of scores, which `access` reads."""
        dims = self._solve(statement, access)
        self._sum_over_keys(statement, dims)
        self._enter(statement, dims)
        rows = self._used(self._elements[statement.writes[0].array])
        require(rows == self._scores - {self.keys})

    def enter_mix(self, statement: Statement, weights: Access) -> None:
        """Add the contraction of weights with values."""
        dims = self._solve(statement, weights, new_dims=True)
        self._sum_over_keys(statement, dims)
        self._enter(statement, dims)
        new = set(range(len(self.extents))) - self._scores - {self._depth}
        require(len(new) == 1)
        self._values = new.pop()

    def enter_result(self, statement: Statement, access: Access) -> None:
        """Add a statement that makes one element of each of the result, which `access` reads."""
        self._enter(statement, self._solve(statement, access))
        result = self._used(self._elements[statement.writes[0].array])
        require(result == self._used(self._elements[access.array]))

    def check_same_element(self, statement: Statement, access: Access) -> None:
        """Check that a statement reads the very element that was made for its score."""
        require(_equal(self._exprs(statement, access), self._elements[access.array]))

    def dims_of(self, statement: Statement, access: Access) -> frozenset[int]:
        """Return the dims that the elements of an access depend on."""
        return self._used(self._exprs(statement, access))

    def translated(self, statement: Statement, access: Access) -> Access:
        """Return an access of a statement over the dims of the space."""
        return replace(access, exprs=self._exprs(statement, access))

    def order(
        self, query: frozenset[int], key: frozenset[int], value: frozenset[int]
    ) -> tuple[int, ...]:
        """Return the dims as heads, queries, keys, depth, values, given those of Q, K and V.

        Queries are the last dim that Q has and neither K nor V.
        """
        assert self.keys is not None and self._depth is not None and self._values is not None
        require({self.keys, self._depth} <= key and self._depth in query)
        require({self.keys, self._values} <= value and self.keys not in query)
        own = sorted((query - key - value) & self._scores)
        require(own)
        heads = sorted(self._scores - {own[-1], self.keys})
        return (*heads, own[-1], self.keys, self._depth, self._values)

    def reordered(self, access: Access, order: Sequence[int], name: str) -> Access:
        """Return an access over the dims in another order, as one of an operator `name`."""
        place = {dim: number for number, dim in enumerate(order)}
        dims = [ir.AffineExpr.get_dim(place[dim]) for dim in range(len(order))]
        exprs = tuple(substitute(expr, dims) for expr in access.exprs or ())
        domain = box(tuple(self.extents[dim] for dim in order), name)
        own = variables(domain.get_space())
        relation = map_from_affs(domain.get_space(), [to_aff(e, own) for e in exprs], access.array)
        return replace(access, exprs=exprs, map=relation.intersect_domain(domain))

    # --- inside -----------------------------------------------------------------------------------

    def _new_dims(self, extents: Sequence[int]) -> ir.AffineExpr:
        """Add dims; return the index that they make together, the last one fastest."""
        index: ir.AffineExpr = ir.AffineConstantExpr.get(0)
        for extent in extents:
            index = index * extent
            if extent > 1:
                index = index + ir.AffineExpr.get_dim(len(self.extents))
                self.extents.append(extent)
        return index

    def _enter(self, statement: Statement, dims: list[ir.AffineExpr]) -> None:
        self._dims_of[statement.name] = dims
        write = statement.writes[0]
        require(write.exprs is not None)
        self._elements[write.array] = self._exprs(statement, write)

    def _exprs(self, statement: Statement, access: Access) -> Exprs:
        dims = self._dims_of[statement.name]
        ranges = [(0, extent - 1) for extent in self.extents]
        return tuple(substitute(e, dims, dim_ranges=ranges) for e in access.exprs or ())

    def _solve(
        self, statement: Statement, access: Access, new_dims: bool = False
    ) -> list[ir.AffineExpr]:
        """Return the dims of a statement, given that `access` reads the elements made before."""
        elements = self._elements[access.array]
        known = _inverse(access.exprs or (), elements)
        dims: list[ir.AffineExpr] = []
        for dim, extent in enumerate(extents_of(statement)):
            if extent == 1:
                dims.append(ir.AffineConstantExpr.get(0))
            elif dim in known:
                dims.append(known[dim])
            else:
                require(new_dims)
                dims.append(self._new_dims((extent,)))
        self._dims_of[statement.name] = dims
        self.check_same_element(statement, access)
        return dims

    def _sum_over_keys(self, statement: Statement, dims: Sequence[ir.AffineExpr]) -> None:
        """Check that a statement reduces one dim, the same one as all others."""
        summed = self._used(
            d for d, i in zip(dims, statement.iterators, strict=True) if i == "reduction"
        )
        require(len(summed) == 1 and summed <= self._scores)
        (keys,) = summed
        require(self.keys in (None, keys))
        self.keys = keys

    @staticmethod
    def _used(exprs: Iterable[ir.AffineExpr]) -> frozenset[int]:
        return frozenset[int]().union(*(used_dims(expr) for expr in exprs))


def _equal(left: Exprs, right: Exprs) -> bool:
    return all(linear_terms(a) == linear_terms(b) for a, b in zip(left, right, strict=True))


def _inverse(indices: Exprs, elements: Exprs) -> dict[int, ir.AffineExpr]:
    """Return the dims `x` for which `indices(x) = elements`, as far as they are told by indices
    that are a dim, its quotient and its rest, or a sum in which coefficients tell the dims."""
    found: dict[int, ir.AffineExpr] = {}
    quotients: dict[tuple[int, int], ir.AffineExpr] = {}
    rests: dict[tuple[int, int], ir.AffineExpr] = {}
    for index, element in zip(indices, elements, strict=True):
        index = index.maybe_downcast()
        if isinstance(index, ir.AffineDimExpr):
            found[index.position] = element
        elif isinstance(index, ir.AffineFloorDivExpr | ir.AffineModExpr):
            inner, divisor = index.lhs.maybe_downcast(), index.rhs.maybe_downcast()
            if isinstance(inner, ir.AffineDimExpr):
                table = quotients if isinstance(index, ir.AffineFloorDivExpr) else rests
                table[inner.position, divisor.value] = element
        else:
            atoms = {coefficient: atom for atom, coefficient in linear_terms(element)[0].items()}
            for atom, coefficient in linear_terms(index)[0].items():
                atom = atom.maybe_downcast()
                if isinstance(atom, ir.AffineDimExpr) and coefficient in atoms:
                    found.setdefault(atom.position, atoms[coefficient])
    for (dim, divisor), rest in rests.items():
        if (dim, divisor) in quotients:
            found.setdefault(dim, quotients[dim, divisor] * divisor + rest)
    return found


def _splits(write: Access, readers: Iterable[Statement]) -> dict[int, tuple[int, ...]]:
    """Return dims of a contraction which some reader counts with several loops, and their
    extents."""
    found: dict[int, tuple[int, ...]] = {}
    for reader in readers:
        extents = extents_of(reader)
        for access in reader.reads:
            if access.array != write.array:
                continue
            for own, index in zip(write.exprs or (), access.exprs or (), strict=False):
                own = own.maybe_downcast()
                parts = _mixed_radix(index, extents)
                if isinstance(own, ir.AffineDimExpr) and len(parts) > 1:
                    found.setdefault(own.position, parts)
    return found


def _mixed_radix(index: ir.AffineExpr, extents: Sequence[int]) -> tuple[int, ...]:
    """Return the extents of the dims that count `index` without gaps, slowest first; else
    nothing."""
    terms, constant = linear_terms(index)
    parts: list[int] = []
    step = 1
    for atom, coefficient in sorted(terms.items(), key=lambda term: term[1]):
        atom = atom.maybe_downcast()
        if constant or coefficient != step or not isinstance(atom, ir.AffineDimExpr):
            return ()
        parts.append(extents[atom.position])
        step *= parts[-1]
    return tuple(reversed(parts))
