"""Positions in a kernel: linear expressions over the variables of its loops, and tiles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from polystage.mlir import ir


@dataclass(frozen=True)
class Offset:
    """A linear index expression: `constant + sum(coefficient * loop variable)`."""

    constant: int = 0
    terms: Mapping[ir.Value, int] = field(default_factory=dict)

    def __add__(self, other: Offset | int) -> Offset:
        """Return the sum of two expressions."""
        other = other if isinstance(other, Offset) else Offset(other)
        terms = dict(self.terms)
        for variable, coefficient in other.terms.items():
            terms[variable] = terms.get(variable, 0) + coefficient
        return Offset(self.constant + other.constant, {v: c for v, c in terms.items() if c})

    def __mul__(self, factor: int) -> Offset:
        """Return the expression times a constant."""
        if factor == 0:
            return Offset()
        return Offset(self.constant * factor, {v: c * factor for v, c in self.terms.items()})

    @property
    def is_constant(self) -> bool:
        """Whether no loop variable occurs."""
        return not self.terms


@dataclass(frozen=True)
class Tile:
    """A piece of a loop dimension: `size` iterations from `start`."""

    start: Offset
    size: int
