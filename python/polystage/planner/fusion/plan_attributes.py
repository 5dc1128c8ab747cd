"""A plan as attributes of the IR, to be read and edited by people.

Every operation says which group it belongs to, the function says what each group is:

```mlir
func.func @main(...) attributes {npu.groups = [
    {loops = [[2, 8]], nests = [[], [[1, 64]]], places = {x = "window", weight = "whole"}}]} {
  linalg.generic {npu.group = 0 : i64, ...}
```

`loops` and `nests` are lists of a dimension and its tile, outermost first. Names of arrays are
those of the program that is read from the same IR.

`npu.planned` beside it says what the planner expects all of it to cost: bytes over the DRAM
interface, nanoseconds, picojoules; on a target with partitions, nanoseconds. Nothing reads it but
people and reports.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from polystage.dialects.npu.views import defining_op
from polystage.errors import PlanError
from polystage.mlir import ir
from polystage.planner.fusion.decisions import Group, Loop, Nest, Place, Plan
from polystage.planner.fusion.plan_rules import check_plan
from polystage.planner.fusion.program import Program

GROUP = "npu.group"
GROUPS = "npu.groups"
PLANNED = "npu.planned"


def write_plan(program: Program, plan: Plan, costs: Mapping[str, int] | None = None) -> None:
    """Set the attributes of a plan on the operations of `program`, in place of any older ones.

    `costs` are what it is expected to cost, by unit.
    """
    context = program.main.context
    with context:
        i64 = ir.IntegerType.get_signless(64)
        for number, group in enumerate(plan.groups):
            for operator in group.operators:
                for statement in program.operators[operator].statements:
                    statement.op.attributes[GROUP] = ir.IntegerAttr.get(i64, number)
        descriptions = [_group_attribute(group) for group in plan.groups]
        program.main.attributes[GROUPS] = ir.ArrayAttr.get(descriptions)
        if costs is not None:
            write_planned_costs(program.main, costs)
        _name_arrays(program)


def _name_arrays(program: Program) -> None:
    """Note on allocations the names that the plan knows them by: those of layers are in locations,
    which a file need not have."""
    for name, array in program.arrays.items():
        op = None if array.value is None else defining_op(array.value)
        if op is not None and op.name == "memref.alloc":
            op.attributes["npu.name"] = ir.StringAttr.get(name)


def write_planned_costs(main: ir.Operation, costs: Mapping[str, int]) -> None:
    """Note on a function what it is expected to cost, by unit."""
    with main.context:
        i64 = ir.IntegerType.get_signless(64)
        numbers = {unit: ir.IntegerAttr.get(i64, number) for unit, number in costs.items()}
        main.attributes[PLANNED] = ir.DictAttr.get(numbers)


def planned_costs(module: ir.Module) -> dict[str, int] | None:
    """Return what the plan of a module is expected to cost, by unit; None where nothing says so."""
    for op in module.body.operations:
        found = op.attributes.get(PLANNED, None)
        if isinstance(found, ir.DictAttr):
            return {entry.name: ir.IntegerAttr(entry.attr).value for entry in found}
    return None


def has_plan(program: Program) -> bool:
    """Return whether the function of `program` carries a plan."""
    return GROUPS in program.main.attributes


def read_plan(program: Program) -> Plan:
    """Return the plan that the operations of `program` carry.

    Raises: PlanError where there is none, or where an edit left one that nothing can carry out.
    """
    operation = program.main
    if not has_plan(program):
        raise PlanError("the function has no plan", help="run npu-fuse-operators first")
    descriptions = operation.attributes[GROUPS]
    if not isinstance(descriptions, ir.ArrayAttr):
        raise PlanError(
            f"{GROUPS} is {descriptions}, but must be a list with a dictionary for every group"
        )
    members = _members(program, len(descriptions))
    plan = Plan(
        tuple(
            _group(number, description, members[number])
            for number, description in enumerate(descriptions)
        )
    )
    check_plan(program, plan)
    return plan


def _members(program: Program, groups: int) -> list[tuple[int, ...]]:
    """Return the operators of every group, from the numbers on the operations."""
    members: list[list[int]] = [[] for _ in range(groups)]
    for index, operator in enumerate(program.operators):
        numbers = {_number_of(operator.name, statement.op) for statement in operator.statements}
        if len(numbers) > 1:
            raise PlanError(
                f"'{operator.name}' is one operator, but its operations are in groups "
                f"{', '.join(str(n) for n in sorted(numbers))}",
                help=f"give all of them the same {GROUP}",
            )
        (number,) = numbers
        if not 0 <= number < groups:
            raise PlanError(
                f"'{operator.name}' is in group {number}, but {GROUPS} describes {groups}",
                help=f"add a description to {GROUPS}, or correct {GROUP}",
            )
        members[number].append(index)
    return [tuple(operators) for operators in members]


def _number_of(name: str, op: ir.Operation) -> int:
    if GROUP not in op.attributes:
        raise PlanError(
            f"'{name}' is in no group", help=f"give it {GROUP}, or run npu-fuse-operators"
        )
    return _integer(op.attributes[GROUP], f"{GROUP} of '{name}'")


# --- one group ------------------------------------------------------------------------------------


def _group_attribute(group: Group) -> ir.DictAttr:
    places = {name: ir.StringAttr.get(place) for name, place in sorted(group.places.items())}
    return ir.DictAttr.get(
        {
            "loops": _loops_attribute(group.loops),
            "nests": ir.ArrayAttr.get([_loops_attribute(nest.chunks) for nest in group.nests]),
            "places": ir.DictAttr.get(places),
        }
    )


def _loops_attribute(loops: Sequence[Loop]) -> ir.ArrayAttr:
    i64 = ir.IntegerType.get_signless(64)
    pairs = [[ir.IntegerAttr.get(i64, n) for n in (loop.dim, loop.tile)] for loop in loops]
    return ir.ArrayAttr.get([ir.ArrayAttr.get(pair) for pair in pairs])


def _group(number: int, attribute: ir.Attribute, operators: tuple[int, ...]) -> Group:
    what = f"group {number}"
    if not isinstance(attribute, ir.DictAttr):
        raise PlanError(f"{what}: is {attribute}, but must be a dictionary")
    unknown = [named.name for named in attribute if named.name not in _FIELDS]
    if unknown:
        raise PlanError(
            f"{what}: has '{unknown[0]}', which says nothing", help=f"it has {', '.join(_FIELDS)}"
        )
    nests = _list(_field(attribute, "nests"), f"{what}: nests")
    return Group(
        operators,
        _loops(_field(attribute, "loops"), f"{what}: loops"),
        tuple(Nest(_loops(nest, f"{what}: nest {i}")) for i, nest in enumerate(nests)),
        _places(_field(attribute, "places"), what),
    )


_FIELDS = ("loops", "nests", "places")


def _field(attribute: ir.DictAttr, name: str) -> ir.Attribute | None:
    return attribute[name] if name in attribute else None  # noqa: SIM401 - it has no get


def _loops(attribute: ir.Attribute | None, what: str) -> tuple[Loop, ...]:
    loops: list[Loop] = []
    for item in _list(attribute, what):
        pair = [_integer(number, what) for number in _list(item, what)]
        if len(pair) != 2:
            raise PlanError(f"{what}: {item} is not a dimension and its tile")
        loops.append(Loop(*pair))
    return tuple(loops)


def _places(attribute: ir.Attribute | None, what: str) -> dict[str, Place]:
    if attribute is None:
        return {}
    if not isinstance(attribute, ir.DictAttr):
        raise PlanError(f"{what}: places is {attribute}, but must be a dictionary")
    return {named.name: _place(named.attr, f"{what}: '{named.name}'") for named in attribute}


def _place(attribute: ir.Attribute, what: str) -> Place:
    text = attribute.value if isinstance(attribute, ir.StringAttr) else str(attribute)
    if text not in {*Place}:
        allowed = ", ".join(f'"{place}"' for place in Place)
        raise PlanError(f"{what}: is at the place '{text}'", help=f"places are {allowed}")
    return Place(text)


def _list(attribute: ir.Attribute | None, what: str) -> Sequence[Any]:
    if attribute is None:
        return ()
    if not isinstance(attribute, ir.ArrayAttr):
        raise PlanError(f"{what}: {attribute} is not a list")
    return list(attribute)


def _integer(attribute: ir.Attribute, what: str) -> int:
    if not isinstance(attribute, ir.IntegerAttr):
        raise PlanError(f"{what}: {attribute} is not an integer")
    return attribute.value
