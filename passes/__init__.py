"""Every pass, in pipeline order: importing this package registers them."""
# isort: skip_file

from polystage.passes.tensors import drop_assertions
from polystage.passes.tensors import demote_doubles
from polystage.passes.tensors import expand_scans
from polystage.passes.tensors import fold_constants
from polystage.passes.lower import attach_target
from polystage.passes.lower import pack_weights
from polystage.passes.lower import convert_linalg_to_npu
from polystage.passes.placement import allocate_scratchpad

__all__ = [
    "allocate_scratchpad",
    "attach_target",
    "convert_linalg_to_npu",
    "demote_doubles",
    "drop_assertions",
    "expand_scans",
    "fold_constants",
    "pack_weights",
]
