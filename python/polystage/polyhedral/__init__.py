"""Whole models as sets of statement instances with exact access relations, on isl."""

from polystage.polyhedral.analysis import compute_dependences
from polystage.polyhedral.dependences import Dependence, DependenceKind, Dependences
from polystage.polyhedral.footprint import (
    TileFootprint,
    access_footprint,
    footprint,
    tile_footprint,
)
from polystage.polyhedral.model import Access, Array, Kind, Role, Statement
from polystage.polyhedral.printing import print_program
from polystage.polyhedral.program import TensorProgram

__all__ = [
    "Access",
    "Array",
    "Dependence",
    "DependenceKind",
    "Dependences",
    "Kind",
    "Role",
    "Statement",
    "TensorProgram",
    "TileFootprint",
    "access_footprint",
    "compute_dependences",
    "footprint",
    "print_program",
    "tile_footprint",
]
