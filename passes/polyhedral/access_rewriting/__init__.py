"""From accesses, as the polyhedral model has them, back to operations with linear maps on views."""

from polystage.passes.polyhedral.access_rewriting.errors import CannotRewriteError
from polystage.passes.polyhedral.access_rewriting.generic_emission import TensorRewrite
from polystage.passes.polyhedral.access_rewriting.rewriting import Rewrite, plan_rewrite

__all__ = ["CannotRewriteError", "Rewrite", "TensorRewrite", "plan_rewrite"]
