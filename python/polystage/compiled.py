"""The compiled core, where there is one: same results as the Python it stands for, sooner.

It is built with the package where there is a C++ compiler. The environment variable POLYSTAGE_CORE
chooses: `python` does without, `compiled` insists, anything else takes what is there.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING

from polystage.errors import PolystageError

BUILT = find_spec("polystage._core") is not None

if TYPE_CHECKING or BUILT:
    from polystage import _core  # pyright: ignore[reportMissingModuleSource]
else:
    _core = None

CHOICE = "POLYSTAGE_CORE"


def uses_core() -> bool:
    """Say whether the compiled core is to be used.

    Raises: PolystageError where it is asked for, but was not built.
    """
    choice = os.environ.get(CHOICE, "")
    if choice == "compiled" and not BUILT:
        raise PolystageError(
            f"{CHOICE}=compiled, but the compiled core of Polystage was not built",
            help="install a C++ compiler and Polystage again, or unset the variable",
        )
    return BUILT and choice != "python"


__all__ = ["BUILT", "CHOICE", "_core", "uses_core"]
