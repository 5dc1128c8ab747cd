"""The program while copies go: statements whose accesses change, indexed by the arrays touched."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from polystage.dialects.npu.views import defining_op
from polystage.mlir import ir
from polystage.passes.polyhedral.access_rewriting import Rewrite
from polystage.polyhedral import Array, Kind, Role, Statement, TensorProgram
from polystage.polyhedral.domains import ranges_of
from polystage.polyhedral.expressions import value_range
from polystage.polyhedral.inversion import Inverse, NotInvertibleError, invert
from polystage.polyhedral.readings import Piece, Reading

Place = tuple[Fraction, ...]
Box = tuple[tuple[int, int], ...]
"""Smallest and largest index in every dimension of an array."""


@dataclass(eq=False)
class Node:
    """A statement with its accesses as they are now."""

    statement: Statement
    place: Place
    """`Statement.position`, with places between for what has moved."""
    ranges: tuple[tuple[int, int], ...]
    """The ranges of the statement's dims."""
    is_box: bool
    """Whether the domain is all of these ranges."""
    reads: dict[int, Reading]
    """By operand; loads of a scalar body have -1, -2, ..., and those of a copy all -1."""
    writes: dict[int, Piece]
    vague: frozenset[str]
    """Arrays of which it touches nobody knows what."""
    vague_writes: frozenset[str]
    """Those of them to which it may write."""
    changed: set[int] = field(default_factory=set[int])
    """The operands whose access is not that of the IR any more."""
    rewrite: Rewrite | None = None
    """The change of the IR that makes the accesses what they are here."""
    _inverses: dict[tuple[object, ...], Inverse | str] = field(
        default_factory=dict[tuple[object, ...], Inverse | str]
    )

    @property
    def name(self) -> str:
        """The name of the statement."""
        return self.statement.name

    @property
    def is_pair(self) -> bool:
        """Whether it loads and stores, and nothing else."""
        return (
            self.statement.kind == Kind.COPY
            and len(self.reads) == 1
            and len(self.writes) == 1
            and not self.vague
        )

    @property
    def source(self) -> Reading:
        """What a pair reads."""
        return next(iter(self.reads.values()))

    @property
    def target(self) -> Piece:
        """What a pair or a fill writes."""
        return next(iter(self.writes.values()))

    @property
    def arrays(self) -> set[str]:
        """All arrays that it touches."""
        found = {piece.array for piece in self.writes.values()}
        found |= {piece.array for reading in self.reads.values() for piece in reading.pieces}
        return {array for array in found if array is not None} | self.vague

    def pieces_of(self, array: str) -> Iterator[tuple[int, Piece]]:
        """Yield every piece of a read that lies in `array`, with its operand."""
        for operand, reading in self.reads.items():
            for piece in reading.pieces:
                if piece.array == array:
                    yield operand, piece

    def writes_of(self, array: str) -> Iterator[tuple[int, Piece]]:
        """Yield every write to `array`, with its operand."""
        return ((n, piece) for n, piece in self.writes.items() if piece.array == array)

    def box(self, piece: Piece) -> Box:
        """Return bounds of the elements that a piece of this statement covers."""
        limits = {bound.expr: (bound.low, bound.high) for bound in piece.where}
        found: list[tuple[int, int]] = []
        for expr in piece.index:
            ends = value_range(expr, self.ranges)
            assert ends is not None
            low, high = limits.get(expr, ends)
            found.append((max(low, ends[0]), min(high, ends[1])))
        return tuple(found)

    def inverse(self, piece: Piece, shape: tuple[int, ...], shared: int) -> Inverse:
        """Return which instance touches which element by `piece`, inside of `shared` loops.

        Raises: NotInvertibleError.
        """
        key = (piece.index, shape, shared)
        if key not in self._inverses:
            try:
                if not self.is_box:
                    raise NotInvertibleError("its loops do not run over a box")
                self._inverses[key] = invert(piece.index, self.ranges, shape, shared)
            except NotInvertibleError as error:
                self._inverses[key] = str(error)
        known = self._inverses[key]
        if isinstance(known, str):
            raise NotInvertibleError(known)
        return known

    @property
    def constant(self) -> ir.Attribute | None:
        """The constant that a fill writes, or None for any other statement."""
        if self.statement.kind != Kind.FILL:
            return None
        return _fill_value(self.statement.op)


class WorkingProgram:
    """All statements, by the arrays that they touch, in program order."""

    def __init__(self, program: TensorProgram) -> None:
        self.original = program
        """The program as the IR has it."""
        self.arrays: dict[str, Array] = dict(program.arrays)
        self.shapes: dict[str, tuple[int, ...]] = {
            name: array.shape for name, array in program.arrays.items()
        }
        self.nodes: dict[str, Node] = {}
        self.versions: dict[str, int] = defaultdict(int)
        """How often something about the accesses to an array has changed."""
        self.order: dict[str, int] = {}
        self._touching: dict[str, dict[str, Node]] = defaultdict(dict)
        self._sorted: dict[str, list[Node]] = {}
        for index, statement in enumerate(program.statements):
            self.order[statement.name] = index
            self.nodes[statement.name] = _node(statement)
            self._index(self.nodes[statement.name])

    def touching(self, array: str) -> list[Node]:
        """Return the statements that touch `array`, in program order."""
        if array not in self._sorted:
            nodes = self._touching[array].values()
            self._sorted[array] = sorted(nodes, key=lambda n: (n.place, self.order[n.name]))
        return self._sorted[array]

    def writers(self, array: str) -> list[Node]:
        """Return the statements that write known elements of `array`, in program order."""
        return [node for node in self.touching(array) if any(node.writes_of(array))]

    def readers(self, array: str) -> list[Node]:
        """Return the statements that read known elements of `array`, in program order."""
        return [node for node in self.touching(array) if any(node.pieces_of(array))]

    def is_local(self, array: str) -> bool:
        """Tell whether `array` is allocated here, and nothing outside sees it."""
        return self.arrays[array].role == Role.INTERMEDIATE

    def is_vague(self, array: str) -> bool:
        """Tell whether something touches `array` of which nobody knows what."""
        return any(array in node.vague for node in self.touching(array))

    def copied_bytes(self, pair: Node) -> int:
        """Return how much a pair copies."""
        instances = 1
        for low, high in pair.ranges:
            instances *= high - low + 1
        return instances * self.arrays[pair.target.array or ""].element_bytes

    def intermediate_bytes(self) -> int:
        """Return the size of all arrays that only statements of the program touch."""
        used = {array for node in self.nodes.values() for array in node.arrays}
        return sum(self.arrays[array].size_bytes for array in used if self.is_local(array))

    def update(self, node: Node, reads: Mapping[int, Reading], writes: Mapping[int, Piece]) -> None:
        """Change accesses of a statement."""
        self._unindex(node)
        node.reads.update(reads)
        node.writes.update(writes)
        node.changed |= reads.keys() | writes.keys()
        self._index(node)

    def remove(self, node: Node) -> None:
        """Take a statement out of the program."""
        self._unindex(node)
        del self.nodes[node.name]

    def move(self, node: Node, place: Place) -> None:
        """Give a statement another place in the program."""
        self._unindex(node)
        node.place = place
        self._index(node)

    def place_before(self, place: Place) -> Place:
        """Return a place that nothing has yet, right before `place` in its block."""
        prefix, last = place[:-1], place[-1]
        depth = len(prefix)
        earlier = [
            node.place[depth]
            for node in self.nodes.values()
            if node.place[:depth] == prefix and node.place[depth] < last
        ]
        return (*prefix, (max(earlier, default=last - 2) + last) / 2)

    def _index(self, node: Node) -> None:
        for array in node.arrays:
            self._touching[array][node.name] = node
            self._note(array)

    def _unindex(self, node: Node) -> None:
        for array in node.arrays:
            self._touching[array].pop(node.name, None)
            self._note(array)

    def _note(self, array: str) -> None:
        self._sorted.pop(array, None)
        self.versions[array] += 1


def shared_depth(nodes: Iterable[Node]) -> int:
    """Return how many loops around all of `nodes` are the same."""
    places = [node.place for node in nodes]
    depth = 0
    shortest = min(map(len, places), default=1)
    while depth < shortest - 1 and len({place[depth] for place in places}) == 1:
        depth += 1
    return depth


def _node(statement: Statement) -> Node:
    """Return the statement as it is at first."""
    if statement.domain.is_empty():
        return _unknown(statement)
    reads: dict[int, list[Piece]] = {}
    loads = 0
    for access in statement.reads:
        if access.exprs is None:
            continue
        key = access.operand
        if key is None:
            loads += 0 if loads and statement.kind == Kind.COPY else 1
            key = -loads
        pieces = reads.setdefault(key, [])
        pieces.append(Piece(access.array, access.exprs, access.where))
        if access.fill is not None:
            pieces.append(Piece(None, fill=access.fill))
    writes = {
        access.operand: Piece(access.array, access.exprs)
        for access in statement.writes
        if access.exprs is not None and access.operand is not None
    }
    kept = frozenset(a.array for a in statement.writes if a.operand is None)
    return Node(
        statement,
        _place(statement),
        tuple(ranges_of(statement.domain)),
        _is_box(statement),
        {key: Reading(tuple(pieces)) for key, pieces in reads.items()},
        writes,
        frozenset(a.array for a in statement.accesses if a.exprs is None) | kept,
        frozenset(a.array for a in statement.writes if a.exprs is None) | kept,
    )


def _unknown(statement: Statement) -> Node:
    """Return a statement of which nothing is known but the arrays that it may touch."""
    return Node(
        statement,
        _place(statement),
        ((0, 0),) * len(statement.dims),
        False,
        {},
        {},
        frozenset(access.array for access in statement.accesses),
        frozenset(access.array for access in statement.writes),
    )


def _place(statement: Statement) -> Place:
    return tuple(Fraction(index) for index in statement.position)


def _is_box(statement: Statement) -> bool:
    if statement.depth == 0 and statement.op.name != "affine.store":
        return True
    return bool(statement.domain.is_box())


def _fill_value(op: ir.Operation) -> ir.Attribute | None:
    """Return the constant that a linalg op or a store writes everywhere."""
    if not list(op.regions):
        return _constant(op.operands[0])
    block = op.regions[0].blocks[0]
    value = next(iter(list(block.operations)[-1].operands))
    for argument, operand in zip(block.arguments, op.operands, strict=False):
        if argument == value:
            value = operand
    return _constant(value)


def _constant(value: ir.Value) -> ir.Attribute | None:
    op = defining_op(value)
    if op is None or op.name != "arith.constant":
        return None
    return op.attributes["value"]
