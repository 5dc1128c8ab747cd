"""What a plan must keep to, whoever wrote it: the planner, or somebody who edits the IR.

One function per rule; each says what was found, what is allowed, and the way out.
"""

from collections.abc import Iterable, Sequence

from polystage.errors import PlanError
from polystage.planner.fusion.decisions import Group, Loop, Place, Plan
from polystage.planner.fusion.operators import Operator
from polystage.planner.fusion.program import Program
from polystage.planner.fusion.schedule import GroupSchedule, resident_before, schedule


def check_plan(program: Program, plan: Plan) -> None:
    """Hold a plan to every rule that does not depend on the target.

    Raises: PlanError.
    """
    operators_run_in_order(program, plan)
    for number, group in enumerate(plan.groups):
        what = f"group {number}"
        sink = program.operators[group.operators[-1]]
        loops_fit_operator(group.loops, sink, f"{what}: loops")
        every_operator_has_a_nest(program, group, what)
        touched_arrays_have_places(program, group, what)
    resident_arrays_stay(plan)


def check_capacity(program: Program, plan: Plan, capacity: int) -> tuple[GroupSchedule, ...]:
    """Return the schedules of a plan's groups, which all fit in `capacity` bytes.

    Raises: PlanError for the first that does not, or that cannot be carried out.
    """
    found: list[GroupSchedule] = []
    starts = resident_before(program, plan)
    for number, (group, resident) in enumerate(zip(plan.groups, starts, strict=True)):
        steps = schedule(program, group, resident)
        if steps.bytes > capacity:
            raise _too_large(program, number, steps, resident, capacity)
        found.append(steps)
    return tuple(found)


def _too_large(
    program: Program, number: int, steps: GroupSchedule, resident: frozenset[str], capacity: int
) -> PlanError:
    """Return what a group needs, what of it is largest, and what to change."""
    sizes = {f"'{name}', resident": program.arrays[name].size_bytes for name in resident}
    for buffer in steps.buffers:
        what = f"{buffer.purpose} '{buffer.array}'" if buffer.array else str(buffer.purpose)
        sizes[what] = max(sizes.get(what, 0), buffer.bytes)
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:LARGEST]
    account = ", ".join(f"{size} for {what}" for what, size in largest)
    return PlanError(
        f"group {number}: needs {steps.bytes} bytes on chip, but the scratchpad has {capacity}; "
        f"most of it: {account}",
        help="choose smaller tiles in its loops or nests, stream an array or keep it in DRAM "
        'between groups ("streamed" in all groups that touch it), or split the group',
    )


LARGEST = 3
"""Buffers that the message names."""


def operators_run_in_order(program: Program, plan: Plan) -> None:
    """Groups take the operators as they come: each in one group, none before an earlier one."""
    expected = 0
    for number, group in enumerate(plan.groups):
        if not group.operators:
            raise PlanError(f"group {number} has no operators", help="remove its description")
        for operator in group.operators:
            if operator != expected:
                name = program.operators[operator].name
                raise PlanError(
                    f"group {number} takes '{name}' out of order: group numbers must not fall "
                    "from one operation to the next",
                    help="number the groups in program order",
                )
            expected += 1
    if expected != len(program.operators):
        raise PlanError(f"'{program.operators[expected].name}' is in no group")


def loops_fit_operator(loops: Sequence[Loop], operator: Operator, what: str) -> None:
    """Loops run over different dimensions of their operator, with tiles between 1 and the extent.

    The lists of a group's loops are about its last operator.
    """
    seen: set[int] = set()
    for loop in loops:
        if not 0 <= loop.dim < len(operator.extents):
            raise PlanError(
                f"{what}: there is no dimension {loop.dim} in '{operator.name}', which has "
                f"{len(operator.extents)}",
                help=f"its extents are {_numbers(operator.extents)}",
            )
        if loop.dim in seen:
            raise PlanError(f"{what}: dimension {loop.dim} of '{operator.name}' is there twice")
        extent = operator.extents[loop.dim]
        if not 1 <= loop.tile <= extent:
            raise PlanError(
                f"{what}: the tile of dimension {loop.dim} of '{operator.name}' is {loop.tile}",
                help=f"it may be 1 to {extent}",
            )
        seen.add(loop.dim)


def every_operator_has_a_nest(program: Program, group: Group, what: str) -> None:
    """There is one nest per operator of the group, empty where it is not cut in chunks."""
    if len(group.nests) != len(group.operators):
        raise PlanError(
            f"{what}: has {len(group.nests)} nests for {len(group.operators)} operators",
            help="write [] for an operator that is not cut in chunks",
        )
    for index, nest in zip(group.operators, group.nests, strict=True):
        loops_fit_operator(nest.chunks, program.operators[index], f"{what}: nests")


def touched_arrays_have_places(program: Program, group: Group, what: str) -> None:
    """A place is given for every array that the group touches, and for no other."""
    touched = arrays_of(program.operators[index] for index in group.operators)
    for name in group.places:
        if name not in touched:
            known = "" if name in program.arrays else ", nor is there such an array"
            raise PlanError(
                f"{what}: does not touch '{name}'{known}", help=f"it touches {', '.join(touched)}"
            )
    for name in touched:
        if name not in group.places:
            raise PlanError(
                f"{what}: says of '{name}' no place", help=f'add {name} = "{Place.WINDOW}"'
            )


def resident_arrays_stay(plan: Plan) -> None:
    """An array that stays on chip between groups is resident in every group that touches it."""
    for number, group in enumerate(plan.groups):
        for name, place in group.places.items():
            if name in plan.resident and place is not Place.RESIDENT:
                raise PlanError(
                    f"group {number}: '{name}' is at the place '{place}', but resident in another "
                    "group",
                    help="an array is resident in all groups that touch it, or in none",
                )


def arrays_of(operators: Iterable[Operator]) -> list[str]:
    """Return the arrays that operators touch, in order of appearance."""
    return list(dict.fromkeys(name for operator in operators for name in operator.arrays))


def _numbers(values: Iterable[int]) -> str:
    return ", ".join(str(value) for value in values)
