"""What other machines would make of a model: sweeps over the sizes of a design."""

from polystage.explore.axes import AXES, Axis, parse_axis
from polystage.explore.points import Figures, Outcome, Point
from polystage.explore.sweep import Options, sweep

__all__ = ["AXES", "Axis", "Figures", "Options", "Outcome", "Point", "parse_axis", "sweep"]
