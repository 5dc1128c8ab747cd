"""Every pass, in pipeline order: importing this package registers them."""

from polystage.passes.lower import attach_target

__all__ = ["attach_target"]
