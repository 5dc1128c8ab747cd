"""Statements of which nobody reads what they write."""

from collections.abc import Iterable

from polystage.passes.polyhedral.copy_elimination.content import (
    Viewpoint,
    content,
    end_of_program,
)
from polystage.passes.polyhedral.copy_elimination.working_program import Node, WorkingProgram
from polystage.polyhedral import Kind


def remove_dead(program: WorkingProgram, arrays: Iterable[str]) -> list[Node]:
    """Remove what writes only what nobody reads, as far as `arrays` and their sources go.

    An array that is not read loses all its writers; one that is loses the fills and copies of which
    every element is written again before it is read. Return what is gone.
    """
    removed: list[Node] = []
    todo = dict.fromkeys(arrays)
    while todo:
        array = next(iter(todo))
        del todo[array]
        for node in _dead_writers(program, array):
            program.remove(node)
            removed.append(node)
            todo.update(dict.fromkeys(sorted(node.arrays)))
    return removed


def _dead_writers(program: WorkingProgram, array: str) -> list[Node]:
    if program.is_vague(array):
        return []
    writers = program.writers(array)
    if not any(program.readers(array)) and program.is_local(array):
        return [node for node in writers if _writes_only(node, array)]
    simple = [node for node in writers if node.statement.kind in (Kind.FILL, Kind.COPY)]
    if len(writers) == 1 or not simple:
        return []
    needed = _needed(program, array)
    return [node for node in simple if node not in needed and _writes_only(node, array)]


def _writes_only(node: Node, array: str) -> bool:
    return not node.vague and all(piece.array == array for piece in node.writes.values())


def _needed(program: WorkingProgram, array: str) -> set[Node]:
    """Return the writers of `array` of which somebody reads a value."""
    views = [
        Viewpoint(node, piece, node.ranges)
        for node in program.readers(array)
        for _, piece in node.pieces_of(array)
    ]
    if not program.is_local(array):
        views.append(end_of_program(program, array))
    needed: set[Node] = set()
    for view in views:
        needed |= content(program, view, (), with_fills=False).needed
    return needed
