"""The machine: its description (`Target`), instruction times (`cost`), `energy`, `area`."""

from polystage.machine import access, area, bounds, cost, energy
from polystage.machine.reference import describe_fields, targets_page
from polystage.machine.target import Target, find_field, parse_settings

__all__ = [
    "Target",
    "access",
    "area",
    "bounds",
    "cost",
    "describe_fields",
    "energy",
    "find_field",
    "parse_settings",
    "targets_page",
]
