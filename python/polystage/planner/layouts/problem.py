"""The choice of layouts of a whole program as a problem: what may be chosen, what it costs.

    choices     array A: home dimension h, and perhaps the dimension of an explicit copy
                statement S: variant v (loop across the partitions, stationary operand)
    minimise    sum_S penalty(S, v) + sum_A (copy(A) + order(A))
                + sum_(S accesses A) charge(S, v, A, h)

in nanoseconds of the machine. `penalty` is what the engine takes longer than with the fastest
variant; `charge` what a transfer takes longer than if the array lay as the variant wants it, by
the cheapest way (`charges`): bytes that are turned on chip or copied in DRAM, times what the
machine takes for them; `order` is a handicap of arrays that are not row-major. An explicit copy is
paid once for all its readers. Constants cost nothing: they are laid out when the program is
compiled. The boundary of the program is row-major.

The objective is copied bytes, as in the paper (arXiv 2002.12798); the weights are the target's.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingOf
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod

import numpy as np

from polystage.machine import cost
from polystage.machine.target import Target
from polystage.planner.layouts.charges import ALIGNED, Charge, access_charge, copy_charge
from polystage.planner.layouts.cost_graph import CostGraph
from polystage.planner.layouts.strides import (
    IndexForm,
    dimension_of,
    index_forms,
    strides_with_outermost,
    walk,
)
from polystage.planner.layouts.variants import Variant, variants_of
from polystage.polyhedral.model import Access, Array, Role, Statement
from polystage.polyhedral.program import TensorProgram

ROW_MAJOR_NS = 500.0
"""What an array has to save by any other order than row-major, in which views on it and loops over
it merge best. Chosen so that no model of `benchmarks/bank_mapping.py` gets slower."""

ROW_MAJOR_SHARE = 0.25
"""The same as a share of the time to transfer the array once: a charge does not know how much of a
transfer hides behind an engine, so a gain as small as this may be none. Chosen from 0, 0.1, 0.25,
0.5, 1 so that SqueezeNet does not get slower (0.1 does) and ViT keeps its gain (0.5 does not)."""


@dataclass(frozen=True)
class Layout:
    """An array lies with dimension `home` outermost, a copy of it with `copy`."""

    home: int
    copy: int | None = None


@dataclass(frozen=True)
class Use:
    """An access of a statement to an array with a choice of layouts."""

    statement: Statement
    access: Access
    is_write: bool
    forms: tuple[IndexForm, ...]

    def loop(self, variant: Variant) -> int | None:
        """Return the loop that a variant wants across the partitions for this access."""
        if self.is_write or variant.contracted is None:
            return variant.partition
        return variant.contracted

    def wanted(self, variant: Variant) -> int | None:
        """Return the dimension of the array that a variant wants across the partitions."""
        loop = self.loop(variant)
        return None if loop is None else dimension_of(self.forms, loop)


@dataclass(frozen=True)
class Reshuffle:
    """An access that finds its array otherwise than it wants it, and what that costs."""

    array: Array
    statement: Statement | None
    """None for an explicit copy."""
    is_write: bool
    home: int
    wanted: int
    charge: Charge


@dataclass(frozen=True)
class Mapping:
    """A choice for every array and statement, and what follows from it."""

    layouts: dict[str, Layout]
    variants: dict[str, Variant]
    reshuffles: tuple[Reshuffle, ...]
    cost_ns: float
    is_exact: bool = False

    @property
    def onchip_bytes(self) -> int:
        """Bytes that are turned on chip."""
        return sum(r.charge.onchip_bytes for r in self.reshuffles)

    @property
    def offchip_bytes(self) -> int:
        """Bytes that explicit copies read and write in DRAM."""
        return sum(r.charge.offchip_bytes for r in self.reshuffles)


@dataclass
class LayoutProblem:
    """All choices of a program. `graph` numbers the arrays first, then the statements."""

    program: TensorProgram
    target: Target
    layouts: dict[str, list[Layout]]
    variants: dict[str, list[Variant]]
    uses: list[Use]
    extents: dict[str, tuple[int, ...]]
    _charges: dict[tuple[int, int, int], Charge] = field(
        default_factory=dict[tuple[int, int, int], Charge]
    )

    # --- costs ------------------------------------------------------------------------------------

    def charge(self, use: Use, variant: Variant, layout: Layout) -> tuple[Charge, int]:
        """Return what a use costs, and the dimension outermost in what it then accesses."""
        best = self._charge_at(use, variant, layout.home)
        if layout.copy is None or use.is_write:
            return best, layout.home
        other = self._charge_at(use, variant, layout.copy)
        return (other, layout.copy) if other.ns < best.ns else (best, layout.home)

    def _charge_at(self, use: Use, variant: Variant, home: int) -> Charge:
        key = (id(use), id(variant), home)
        if key not in self._charges:
            self._charges[key] = self._compute_charge(use, variant, home)
        return self._charges[key]

    def _compute_charge(self, use: Use, variant: Variant, home: int) -> Charge:
        loop = use.loop(variant)
        wanted = use.wanted(variant)
        if loop is None or wanted is None or wanted == home:
            return ALIGNED
        array = self.program.arrays[use.access.array]
        extents = self.extents[use.statement.name]
        kernel = "lanes"
        if variant.contracted is not None:
            kernel = "array store" if use.is_write else "array load"
        still = dict.fromkeys(variant.stepped, 1)
        at_once = tuple(still.get(d, n) for d, n in enumerate(extents))
        forms = index_forms(use.access, at_once, array.shape) if still else use.forms
        way = walk(forms, at_once, array.shape, home, loop)
        touched = prod(form.touched for form in use.forms)
        walked = {d for form in use.forms for d in form.coefficients}
        turns = prod(extents[d] for d in variant.stepped & walked)
        charge = access_charge(self.target, array, touched, extents[loop], way, kernel, turns)
        trips = prod(extents[: use.statement.depth])
        return charge if trips == 1 else _times(charge, trips)

    def order_ns(self, array: str) -> float:
        """Return the handicap of any other order of an array than row-major."""
        size = self.program.arrays[array].size_bytes
        return max(ROW_MAJOR_NS, ROW_MAJOR_SHARE * cost.dma(self.target, size, size, size).busy_ns)

    def copied(self, array: str, layout: Layout) -> Charge:
        """Return the charge of the explicit copy of a layout."""
        if layout.copy is None:
            return ALIGNED
        found = self.program.arrays[array]
        strides = [strides_with_outermost(found.shape, d) for d in (layout.home, layout.copy)]
        inner = [s.index(1) for s in strides]
        turns = inner[0] != inner[1]
        runs = [1, 1] if turns else [found.shape[d] for d in inner]
        return copy_charge(self.target, found, runs, turns=turns)

    # --- as a graph -------------------------------------------------------------------------------

    @cached_property
    def graph(self) -> CostGraph:
        """The problem as solvers see it."""
        graph = CostGraph()
        places: dict[str, int] = {}
        for name, layouts in self.layouts.items():
            costs = [
                self.copied(name, layout).ns
                + (layout.home != layouts[0].home) * self.order_ns(name)
                for layout in layouts
            ]
            places[name] = graph.add_variable(costs)
        statements: dict[str, int] = {}
        for name, variants in self.variants.items():
            least = min(v.engine_ns for v in variants)
            statements[name] = graph.add_variable([v.engine_ns - least for v in variants])
        for use in self.uses:
            layouts = self.layouts[use.access.array]
            variants = self.variants[use.statement.name]
            costs = np.array(
                [[self.charge(use, v, layout)[0].ns for v in variants] for layout in layouts]
            )
            if costs.any():
                graph.add_costs(places[use.access.array], statements[use.statement.name], costs)
        return graph

    def mapping(self, choices: Sequence[int], *, is_exact: bool = False) -> Mapping:
        """Return what a choice for every variable of `graph` means."""
        names = [*self.layouts, *self.variants]
        chosen = dict(zip(names, choices, strict=True))
        layouts = {name: options[chosen[name]] for name, options in self.layouts.items()}
        variants = {name: options[chosen[name]] for name, options in self.variants.items()}
        found: list[Reshuffle] = []
        for name, layout in layouts.items():
            if layout.copy is not None:
                array, charge = self.program.arrays[name], self.copied(name, layout)
                found.append(Reshuffle(array, None, False, layout.home, layout.copy, charge))
        for use in self.uses:
            variant, layout = variants[use.statement.name], layouts[use.access.array]
            charge, home = self.charge(use, variant, layout)
            wanted = use.wanted(variant)
            if charge.way != "aligned" and wanted is not None:
                array = self.program.arrays[use.access.array]
                found.append(Reshuffle(array, use.statement, use.is_write, home, wanted, charge))
        return Mapping(layouts, variants, tuple(found), self.graph.cost(choices), is_exact)


def build_problem(
    program: TensorProgram,
    target: Target,
    allowed: MappingOf[str, Sequence[int]] | None = None,
) -> LayoutProblem:
    """Return the problem of a program on a target.

    Statements that never run, as they do on arrays without elements, have no say.

    `allowed` restricts the dimensions that may lie outermost in some arrays and copies of them, as
    views on them may;
    an array's first dimension of more than one element is always allowed.
    """
    running = [s for s in program.statements if not s.domain.is_empty()]
    extents = {s.name: _extents(s) for s in running}
    variants = {s.name: variants_of(s, extents[s.name], target) for s in running}
    variants = {name: found for name, found in variants.items() if found}
    uses = list(_uses(program, variants, extents))
    mine: dict[str, list[Use]] = {}
    for use in uses:
        mine.setdefault(use.access.array, []).append(use)
    touching: dict[str, list[Statement]] = {name: [] for name in mine}
    for statement in program.statements:
        for name in {access.array for access in statement.accesses} & mine.keys():
            touching[name].append(statement)
    layouts: dict[str, list[Layout]] = {}
    for name, array in program.arrays.items():
        if name in mine:
            dims = _home_dims(array, (allowed or {}).get(name))
            copies = _may_be_copied(array, touching[name])
            storable = (allowed or {}).get(name, range(len(array.shape))) if copies else ()
            layouts[name] = _layouts(array, dims, mine[name], variants, storable)
    return LayoutProblem(program, target, layouts, variants, uses, extents)


def _extents(statement: Statement) -> tuple[int, ...]:
    domain = statement.domain
    return tuple(domain.dim_max_val(d).to_python() + 1 for d in range(len(statement.dims)))


def first_wide(shape: Sequence[int]) -> int:
    """Return the first dimension with more than one element, 0 where there is none.

    With it outermost, an array is row-major.
    """
    return next((d for d, n in enumerate(shape) if n > 1), 0)


def _home_dims(array: Array, allowed: Sequence[int] | None) -> list[int]:
    first = first_wide(array.shape)
    if array.role != Role.INTERMEDIATE:
        return [first]
    others = range(len(array.shape)) if allowed is None else allowed
    return [first, *(d for d in others if array.shape[d] > 1 and d != first)]


def _uses(
    program: TensorProgram,
    variants: dict[str, list[Variant]],
    extents: dict[str, tuple[int, ...]],
) -> list[Use]:
    found: list[Use] = []
    for statement in program.statements:
        if statement.name not in variants:
            continue
        written = {access.array for access in statement.writes}
        for access in statement.accesses:
            array = program.arrays[access.array]
            is_write = any(access is w for w in statement.writes)
            if array.role == Role.WEIGHT or access.exprs is None or not array.shape:
                continue
            if access.array in written and not is_write:
                continue  # what accumulates is fetched as it is stored
            forms = index_forms(access, extents[statement.name], array.shape)
            found.append(Use(statement, access, is_write, tuple(forms)))
    return found


def _layouts(
    array: Array,
    dims: list[int],
    uses: list[Use],
    variants: dict[str, list[Variant]],
    storable: Sequence[int],
) -> list[Layout]:
    """Return the layouts worth considering: those that some use wants, the row-major one first.

    A copy is worth considering where several operands may want it, after the last write.
    """
    wanted: dict[int, set[str]] = {}
    for use in uses:
        for variant in variants[use.statement.name]:
            d = use.wanted(variant)
            if d is not None:
                readers = wanted.setdefault(d, set())
                if not use.is_write:
                    readers.add(use.statement.name)
    homes = [d for i, d in enumerate(dims) if i == 0 or d in wanted]
    plain = [Layout(home) for home in homes]
    shared = [d for d in wanted if len(wanted[d]) > 1 and array.shape[d] > 1 and d in storable]
    return plain + [Layout(h, d) for h in homes for d in shared if d != h]


def _may_be_copied(array: Array, touching: Sequence[Statement]) -> bool:
    accesses = [a for s in touching for a in s.reads if a.array == array.name]
    if any(s.depth for s in touching) or any(a.operand is None for a in accesses):
        return False
    writes = [s.position for s in touching if any(a.array == array.name for a in s.writes)]
    reads = [s.position for s in touching if not any(a.array == array.name for a in s.writes)]
    return bool(reads) and (not writes or max(writes) < min(reads))


def _times(charge: Charge, trips: int) -> Charge:
    return Charge(
        charge.way, charge.ns * trips, charge.onchip_bytes * trips, charge.offchip_bytes * trips
    )
