"""Exact dependence analysis of whole programs.

Arrays that only statements outside of loops touch, as in a whole model, are solved pair by pair,
latest writer first; the others by parametric integer programming.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import islpy as isl

from polystage.polyhedral.dataflow import dataflow
from polystage.polyhedral.dependences import Dependence, Dependences, union_of
from polystage.polyhedral.model import Array, Statement
from polystage.polyhedral.pairing import Pairing


def compute_dependences(
    arrays: Mapping[str, Array], statements: Sequence[Statement]
) -> Dependences:
    """Return the dependences of `statements`, which are in program order."""
    touching: dict[str, list[Statement]] = defaultdict(list)
    for statement in statements:
        for array in dict.fromkeys(access.array for access in statement.accesses):
            touching[array].append(statement)
    found: list[Dependence] = []
    live_in: dict[tuple[str, str], isl.Map] = {}
    for array in arrays:
        users = touching.get(array, [])
        if not any(access.array == array for s in users for access in s.writes):
            _note_live_in(array, users, live_in)
        elif all(statement.depth == 0 for statement in users):
            found += Pairing(array, users, live_in).solve()
        else:
            found += dataflow(array, users, live_in)
    return Dependences(tuple(found), live_in)


def _note_live_in(
    array: str, users: Sequence[Statement], live_in: dict[tuple[str, str], isl.Map]
) -> None:
    for statement in users:
        reads = union_of(access for access in statement.reads if access.array == array)
        if reads is not None:
            live_in[statement.name, array] = reads
