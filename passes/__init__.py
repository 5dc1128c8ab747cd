"""Every pass, in pipeline order: importing this package registers them."""
# isort: skip_file

from polystage.passes.tensors import drop_assertions
from polystage.passes.tensors import drop_copies
from polystage.passes.tensors import demote_doubles
from polystage.passes.tensors import expand_scans
from polystage.passes.tensors import decompose_softmax
from polystage.passes.tensors import expand_powers
from polystage.passes.tensors import fold_constants
from polystage.passes.tensors import separate_biases
from polystage.passes.tensors import fold_batch_norm
from polystage.passes.tensors import protect_contractions
from polystage.passes.tensors import separate_fills
from polystage.passes.tensors import carry_in_place
from polystage.passes.tensors import keep_arguments
from polystage.passes.tensors import set_float_type
from polystage.passes.polyhedral import raise_affine_to_linalg
from polystage.passes.polyhedral import eliminate_copies
from polystage.passes.lower import attach_target
from polystage.passes.polyhedral import map_banks
from polystage.passes.lower import pack_weights
from polystage.passes.polyhedral import compact_strided_reads
from polystage.passes.polyhedral import fuse_operators
from polystage.passes.lower import convert_linalg_to_npu
from polystage.passes.placement import allocate_scratchpad
from polystage.passes.placement import schedule_instructions
from polystage.passes.placement import insert_sync

__all__ = [
    "allocate_scratchpad",
    "attach_target",
    "carry_in_place",
    "compact_strided_reads",
    "convert_linalg_to_npu",
    "decompose_softmax",
    "demote_doubles",
    "drop_assertions",
    "drop_copies",
    "eliminate_copies",
    "expand_powers",
    "expand_scans",
    "fold_batch_norm",
    "fold_constants",
    "fuse_operators",
    "insert_sync",
    "keep_arguments",
    "map_banks",
    "pack_weights",
    "protect_contractions",
    "raise_affine_to_linalg",
    "schedule_instructions",
    "separate_biases",
    "separate_fills",
    "set_float_type",
]
