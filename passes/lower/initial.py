"""What an output holds before its operation runs, where that is one constant."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Initial:
    """Every element of the output is `value`: it is set on chip and never loaded."""

    value: float | int
