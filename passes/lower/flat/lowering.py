"""Turns a planned program into one kernel for a flat target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from polystage.allocation import DoesNotFitError
from polystage.errors import PassError
from polystage.machine.target import Target
from polystage.mlir import func, ir
from polystage.passes.lower.flat.attention import AttentionEngine
from polystage.passes.lower.flat.bodies import ScalarFunctions
from polystage.passes.lower.flat.chunk import Location
from polystage.passes.lower.flat.contraction import ContractionEngine, factors
from polystage.passes.lower.flat.engine import Engine
from polystage.passes.lower.flat.forms import OperatorForm
from polystage.passes.lower.flat.gather import GatherEngine
from polystage.passes.lower.flat.group import Arrays, GroupWriter
from polystage.passes.lower.flat.lanes import LanesEngine
from polystage.passes.lower.flat.writer import FlatWriter, Storage
from polystage.passes.lower.kernel_builder import KernelBuilder
from polystage.planner.fusion.decisions import Plan
from polystage.planner.fusion.operators import Operator, OperatorKind
from polystage.planner.fusion.placement import Placement, place
from polystage.planner.fusion.plan_attributes import read_plan
from polystage.planner.fusion.plan_rules import check_capacity
from polystage.planner.fusion.program import Program
from polystage.planner.fusion.schedule import GroupSchedule

KERNEL = "program"


def lower_flat(module: ir.Module, target: Target) -> func.FuncOp:
    """Carry out the plan of the module's program: replace it by a kernel, and a call of it.

    Raises: PlanError where there is no plan, or it cannot be carried out; PassError for an operator
    that no engine executes.
    """
    program = Program.from_module(module)
    plan = read_plan(program)
    stored = {
        name: array.value for name, array in program.arrays.items() if array.value is not None
    }
    values = list(stored.values())
    builder = KernelBuilder(module, KERNEL, [v.type for v in values], target)
    schedules = check_capacity(program, plan, target.sbuf.bytes)
    placement = _placement(program, plan, schedules, target)
    arrays = Arrays(
        {
            name: _in_dram(argument)
            for name, argument in zip(stored, builder.arguments, strict=True)
        },
        {name: str(array.role) for name, array in program.arrays.items()},
        placement.resident,
    )
    writer = FlatWriter(builder)
    functions = ScalarFunctions(module)
    engines = {
        number: _engine(writer, functions, operator, target)
        for number, operator in enumerate(program.operators)
    }
    for group, steps, addresses in zip(plan.groups, schedules, placement.groups, strict=True):
        GroupWriter(writer, program, group, steps, arrays, engines, addresses).write()
    _note_contractions(builder.function, engines)
    _call(program, builder, values)
    return builder.function


def _placement(
    program: Program, plan: Plan, schedules: Sequence[GroupSchedule], target: Target
) -> Placement:
    """Return where the planner has everything lie; nothing, of a plan that it would not make, for
    which `npu-allocate-scratchpad` may still find addresses."""
    try:
        return place(program, plan, schedules, target.sbuf.bytes)
    except DoesNotFitError:
        return Placement(((),) * len(plan.groups), {})


def _in_dram(argument: ir.Value) -> Location:
    shape = list(ir.MemRefType(argument.type).shape)
    return Location.circular(Storage(argument, is_on_chip=False), shape, shape)


def _engine(
    writer: FlatWriter, functions: ScalarFunctions, operator: Operator, target: Target
) -> tuple[OperatorForm, Engine]:
    """Return what carries an operator out.

    Raises: PassError where nothing does.
    """
    if operator.kind is OperatorKind.OPAQUE:
        raise PassError(
            f"'{operator.name}' cannot run on '{target.name}': {operator.reason}",
            location=operator.layer,
            help="a partitioned target lowers it on its own",
        )
    form = OperatorForm.of(operator)
    if operator.kind is OperatorKind.ATTENTION:
        return form, AttentionEngine(writer, functions, form)
    if operator.kind is OperatorKind.GATHER:
        return form, GatherEngine(writer, functions, form)
    if operator.kind is OperatorKind.CONTRACTION:
        operands = factors(operator, form, target)
        if operands is not None:
            return form, ContractionEngine(writer, functions, form, operands, target)
    return form, LanesEngine(writer, functions, form)


def _note_contractions(
    kernel: func.FuncOp, engines: Mapping[int, tuple[OperatorForm, Engine]]
) -> None:
    """Tell the report what the matmuls of each layer compute."""
    i64 = ir.IntegerType.get_signless(64)
    noted: dict[str, list[ir.Attribute]] = {}
    for form, engine in engines.values():
        if isinstance(engine, ContractionEngine) and form.operator.layer:
            sizes = {key: ir.IntegerAttr.get(i64, n) for key, n in engine.extents().items()}
            noted.setdefault(form.operator.layer, []).append(ir.DictAttr.get(sizes))
    layers = {layer: ir.ArrayAttr.get(found) for layer, found in noted.items()}
    if layers:
        kernel.attributes["npu.contractions"] = ir.DictAttr.get(layers)


def _call(program: Program, builder: KernelBuilder, values: Sequence[ir.Value]) -> None:
    """Replace the operations of the program by a call of the kernel, which takes only the arrays
    that it moves."""
    kernel = builder.function
    entry = kernel.entry_block
    moved = [any(True for _ in argument.uses) for argument in entry.arguments]
    for number in reversed(range(len(moved))):
        if not moved[number]:
            entry.erase_argument(number)
    types = [argument.type for argument in entry.arguments]
    with kernel.context, ir.Location.unknown():
        kernel.attributes["function_type"] = ir.TypeAttr.get(ir.FunctionType.get(types, []))
        block = program.main.regions[0].blocks[0]
        terminator = list(block.operations)[-1]
        with ir.InsertionPoint(terminator):
            passed = [value for value, is_moved in zip(values, moved, strict=True) if is_moved]
            call = func.CallOp([], builder.name, passed).operation
    for op in reversed([op.operation for op in block.operations]):
        is_used = any(True for result in op.results for _ in result.uses)
        if not is_used and op not in (call, terminator.operation):
            op.erase()
