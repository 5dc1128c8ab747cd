"""What every dimension of a product of two operands is to the matmuls that make it.

A matmul sums over one dimension and has one dimension of stationary columns; all others are columns
that move, or repeat the matmul. Planner and lowering share them out by the same rule.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

from polystage.machine import Target


@dataclass(frozen=True, eq=False)
class Dim:
    """Variables that all operands run through as through one; steps are those of a, b and the
    sums."""

    size: int
    steps: tuple[int, ...]


@dataclass(frozen=True)
class Roles:
    """What every dimension of a product is to its matmuls."""

    stationary: int
    contracted: Dim
    column: Dim
    moving: tuple[Dim, ...]
    repeated: tuple[Dim, ...]

    def cost(self, target: Target) -> float:
        """Estimate the time in columns that move: each pass brings its weights first."""
        array = target.tensor
        passes = -(-self.contracted.size // array.rows) * -(-self.column.size // array.columns)
        columns = max(prod(d.size for d in self.moving), array.min_issue_cycles)
        load = min(self.contracted.size, array.rows) / array.weight_load_speedup
        return prod(d.size for d in self.repeated) * passes * (columns + load)


_UNIT = Dim(1, (0, 0, 0))


def roles_of(dims: Sequence[Dim]) -> Iterator[Roles]:
    """Yield the ways to share dimensions out, one for each operand that may be stationary."""
    reduced = [d for d in dims if not d.steps[2]]
    contracted = max(reduced, key=lambda d: d.size, default=_UNIT)
    for stationary in (0, 1):
        other = 1 - stationary
        kept = [d for d in dims if d.steps[2]]
        columns = [d for d in kept if d.steps[stationary] and not d.steps[other]]
        moving = [d for d in kept if d.steps[other] and not d.steps[stationary]]
        column = max(columns, key=lambda d: d.size, default=_UNIT)
        repeated = [d for d in dims if d not in (contracted, column) and d not in moving]
        yield Roles(stationary, contracted, column, tuple(moving or [_UNIT]), tuple(repeated))


def merged(dims: Sequence[Dim]) -> list[Dim]:
    """Join neighbours that continue each other in all operands."""
    found: list[Dim] = []  # innermost first
    for dim in reversed(dims):
        inner = found[-1] if found else None
        if inner is not None and dim.steps == tuple(s * inner.size for s in inner.steps):
            found[-1] = Dim(dim.size * inner.size, inner.steps)
        else:
            found.append(dim)
    return found[::-1]
