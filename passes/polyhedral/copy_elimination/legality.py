"""When a load/store pair may go: one function per rule.

A pair is `T1[w(i)] := T0[r(i)]` for all `i`. Forward, a reader of `T1[x]` reads `T0[r(w^-1(x))]` if

1. `w` is injective;
2. the value that it reads is the pair's, not that of a later writer (`content`) or its own;
3. nothing overwrites the elements of T0 between the pair and the reader, and T0 lives there;
4. T1 is no output of the model;
5. the access can be written, which is asked of `access_rewriting`;
6. no operand of a contraction is repeated then, as no tensor engine reads that.

Backward, T0 moves to the window `w(r^-1(T0))` of T1. Were T0 used by nobody but its producer and
the pair, an injective `r` whose range holds all that is produced would do. Others may use both
arrays here, so what counts besides is who touches the window while T0 lives. Places are compared in
the block that all statements in question stand in; a loop is one place.
"""

from collections.abc import Sequence
from typing import Any

import islpy as isl

from polystage.dialects.npu.views import defining_op
from polystage.mlir import ir
from polystage.passes.polyhedral.access_rewriting import Rewrite, TensorRewrite
from polystage.passes.polyhedral.copy_elimination.merge import Merge
from polystage.passes.polyhedral.copy_elimination.working_program import (
    Node,
    WorkingProgram,
)
from polystage.polyhedral.domains import variables
from polystage.polyhedral.expressions import linear_terms, to_aff, used_dims
from polystage.polyhedral.inversion import Inverse, NotInvertibleError
from polystage.polyhedral.model import Bound, Kind, map_from_affs
from polystage.polyhedral.overlays import instances_where
from polystage.polyhedral.readings import Piece, Region

RULES = {
    "writes_each_element_once": "several of its instances write one element",
    "is_not_seen_outside": "the array that it writes is an output of the model",
    "source_is_unchanged": "source is overwritten before it is read",
    "reads_before_it_writes": "the reader accumulates onto what the pair writes",
    "source_is_not_replaced": "the reader overwrites the source while it reads",
    "source_is_visible": "source is made inside of a loop in which the reader does not stand",
    "repeats_no_operand": "the tensor engine cannot repeat an operand",
    "source_is_local": "source is visible outside of the model, or a weight",
    "reads_each_element_once": "an element of the source is copied to several places",
    "everything_is_copied": "only a part of the source is copied",
    "stands_alone": "the loop around it changes the source as well",
    "window_is_not_read_before": "target is read while the source is being computed",
    "window_is_not_written_before": "target is written while the source is being computed",
    "window_is_kept": "target is overwritten while the source is still read",
    "source_is_final": "source is overwritten while the copy is still read",
    "starts_anew": "source keeps values from one iteration of a loop to the next",
}
"""The reason why a pair stays that breaks a rule, by the name of the rule's function."""


# -- forward: readers of T1 read where the pair reads -------------------------------------------


def writes_each_element_once(inverse: Inverse) -> bool:
    """Rule 1: the write map is injective, so that every element has one instance it comes from."""
    return inverse.is_injective


def is_not_seen_outside(program: WorkingProgram, array: str) -> bool:
    """Rule 4: nobody reads T1 but the statements of the program."""
    return program.is_local(array)


def source_is_unchanged(
    program: WorkingProgram, pair: Node, reader: Node, piece: Piece, depth: int
) -> bool:
    """Rule 3: nothing writes the elements of `piece` between the pair and the reader."""
    assert piece.array is not None
    block = pair.place[:depth]
    for node in program.touching(piece.array):
        if node.place[:depth] != block or node is reader:
            continue
        if not pair.place[depth] <= node.place[depth] <= reader.place[depth]:
            continue
        if piece.array in node.vague_writes:
            return False
        for _, written in node.writes_of(piece.array):
            if may_overlap(reader, piece, node, written):
                return False
    return True


def reads_before_it_writes(reader: Node, piece: Piece, depth: int) -> bool:
    """Rule 2: no instance of the reader writes what another instance reads by `piece`."""
    written = [own for _, own in reader.writes_of(piece.array or "")]
    return _all_same_elements(reader, piece, written, depth)


def source_is_not_replaced(reader: Node, piece: Piece, depth: int) -> bool:
    """Rule 3: the reader itself writes no element of T0 that another instance of it reads."""
    written = [own for _, own in reader.writes_of(piece.array or "")]
    return _all_same_elements(reader, piece, written, depth)


def source_is_visible(program: WorkingProgram, array: str, reader: Node) -> bool:
    """Rule 3: the memory of T0 lives where the reader stands."""
    value = program.arrays[array].value
    if value is None:
        return False
    op = defining_op(value)
    return op is None or _encloses(op.block, reader.statement.op)


def repeats_no_operand(reader: Node, rewrite: Rewrite) -> bool:
    """Rule 6: no loop moves the result of a contraction alone, unless one did before.

    The tensor engine streams rows or columns of an operand for every one of the result; without
    any, the contraction would be left to the vector engine.
    """
    if reader.statement.kind != Kind.CONTRACTION or not isinstance(rewrite, TensorRewrite):
        return True
    return not rewrite.repeats_inputs or _repeats_inputs(reader)


def _repeats_inputs(node: Node) -> bool:
    """Tell whether a parallel loop of several iterations moves no input of a statement as it is."""
    statement = node.statement
    results = {access.array for access in statement.writes}
    moved = set[int]()
    for access in statement.reads:
        if access.array not in results:
            moved = moved.union(*(used_dims(expr) for expr in access.exprs or ()))
    return any(
        kind == "parallel" and dim not in moved and low < high
        for dim, (kind, (low, high)) in enumerate(
            zip(statement.iterators, node.ranges, strict=True)
        )
    )


# -- backward: T0 becomes a window of T1 --------------------------------------------------------


def source_is_local(program: WorkingProgram, array: str) -> bool:
    """T0 is allocated here and nobody else sees it, so that it may lie anywhere."""
    return program.is_local(array) and not program.arrays[array].is_initialized


def reads_each_element_once(inverse: Inverse) -> bool:
    """The read map is injective, so that every element of T0 has one place in T1."""
    return inverse.is_injective


def everything_is_copied(region: Region, where: tuple[Bound, ...]) -> bool:
    """Every element of T0 that a statement touches in `region` lies within `where`, the copied."""
    return all(region.always(bound, ()) for bound in where)


def stands_alone(users: Sequence[Node], pair: Node, depth: int) -> bool:
    """No loop around the pair touches T0 otherwise, so that before and after are clear."""
    return all(node.place[depth] != pair.place[depth] for node in users)


def window_is_not_read_before(merge: Merge, node: Node) -> bool:
    """`node` does not read the window of T1 between the first access to T0 and the pair.

    The first statement may read there what it replaces, element by element.
    """
    if not merge.first <= node.place[merge.depth] <= merge.copied:
        return True
    if merge.target in node.vague:
        return False
    for _, piece in node.pieces_of(merge.target):
        if not may_overlap(node, piece, merge.pair, merge.pair.target):
            continue
        is_first = node.place[merge.depth] == merge.first and merge.is_alone(node)
        if not (is_first and _all_same_elements(node, piece, merge.writes_of(node), merge.depth)):
            return False
    return True


def window_is_not_written_before(merge: Merge, node: Node) -> bool:
    """`node` does not write the window of T1 between the first access to T0 and the pair."""
    if not merge.first <= node.place[merge.depth] <= merge.copied:
        return True
    return not _writes_window(merge, node)


def window_is_kept(merge: Merge, node: Node) -> bool:
    """`node` does not write the window of T1 after the pair while T0 is still read.

    The last reader may replace what it reads, element by element.
    """
    place = node.place[merge.depth]
    if not merge.copied < place <= merge.last_read or not _writes_window(merge, node):
        return True
    if place != merge.last_read or not merge.is_alone(node) or merge.target in node.vague_writes:
        return False
    return all(
        _all_same_elements(node, read, [piece], merge.depth)
        for read in merge.reads_of(node)
        for _, piece in node.writes_of(merge.target)
    )


def source_is_final(merge: Merge, node: Node) -> bool:
    """`node` does not read the window of T1 after T0 has been written again."""
    if merge.changed is None:
        return True
    if node.place[merge.depth] < merge.changed:
        return True
    return merge.target not in node.vague and not any(
        may_overlap(node, piece, merge.pair, merge.pair.target)
        for _, piece in node.pieces_of(merge.target)
    )


def starts_anew(program: WorkingProgram, users: Sequence[Node], array: str, depth: int) -> bool:
    """In the body of a loop, T0 is all written before it is read, in each iteration."""
    if not depth:
        return True
    first = users[0]
    if any(first.pieces_of(array)):
        return False
    return any(
        _covers(first, piece, program.shapes[array], depth) for _, piece in first.writes_of(array)
    )


# -- elements -----------------------------------------------------------------------------------


def touches_once(node: Node, piece: Piece, depth: int) -> bool:
    """Tell whether no two instances of a statement touch the same element by `piece`.

    Only instances in the same iteration of the `depth` outer loops count.
    """
    alone: set[int] = set(range(depth))
    for expr in piece.index:
        terms = list(linear_terms(expr)[0])
        if len(terms) == 1 and isinstance(terms[0], ir.AffineDimExpr):
            alone.add(terms[0].position)
    if all(dim in alone or low == high for dim, (low, high) in enumerate(node.ranges)):
        return True
    if "reduction" in node.statement.iterators or depth:
        return False
    return bool(elements_map(node, piece).is_injective())


def may_overlap(one: Node, first: Piece, other: Node, second: Piece) -> bool:
    """Tell whether two pieces of one array may share an element."""
    boxes = zip(one.box(first), other.box(second), strict=True)
    if any(a[1] < b[0] or b[1] < a[0] for a, b in boxes):
        return False
    elements = elements_map(one, first).range(), elements_map(other, second).range()
    return not elements[0].is_disjoint(elements[1])


def elements_map(node: Node, piece: Piece) -> isl.Map:
    """Return the map from the instances of a statement to the elements that `piece` touches."""
    domain = node.statement.domain.reset_tuple_id()
    space = domain.get_space()
    dims = variables(space)
    index = map_from_affs(space, [to_aff(expr, dims) for expr in piece.index])
    return index.intersect_domain(instances_where(domain, piece.where))


def _all_same_elements(node: Node, read: Piece, written: Sequence[Piece], depth: int) -> bool:
    """Tell whether each instance reads no element by `read` that another one writes."""
    for piece in written:
        if piece.index == read.index:
            if not touches_once(node, piece, depth):
                return False
        elif may_overlap(node, read, node, piece):
            return False
    return True


def _writes_window(merge: Merge, node: Node) -> bool:
    return merge.target in node.vague_writes or any(
        may_overlap(node, piece, merge.pair, merge.pair.target)
        for _, piece in node.writes_of(merge.target)
    )


def _covers(node: Node, piece: Piece, shape: tuple[int, ...], depth: int) -> bool:
    """Tell whether one iteration of the outer loops writes every element of an array."""
    try:
        inverse = node.inverse(piece, shape, depth)
    except NotInvertibleError:
        return False
    return not inverse.where


def _encloses(block: ir.Block, op: ir.Operation) -> bool:
    """Tell whether `op` stands in `block` or in a region below it."""
    current: Any = op
    while current.name != "func.func":
        if current.block == block:
            return True
        current = current.block.owner.operation
    return False
