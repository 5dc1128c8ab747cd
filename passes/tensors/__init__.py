"""Imported model to clean linalg on tensors to `buffers` form."""

from polystage.passes.tensors import (
    demote_doubles,
    drop_assertions,
    expand_scans,
    fold_constants,
)

__all__ = [
    "demote_doubles",
    "drop_assertions",
    "expand_scans",
    "fold_constants",
]
