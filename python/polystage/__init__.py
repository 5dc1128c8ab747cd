"""Polystage: a polyhedral compiler and simulator for scratchpad accelerators.

    import polystage as ps

    model = ps.load("model.onnx")
    program = ps.compile(model.module, target="neuroncore_v2", dtype="f32")
    result = ps.simulate(program, {"x": x})

`@ps.register_pass` makes a class or function a pass that pipelines know by name.
"""

import importlib
from typing import Any

_PUBLIC = {
    "load": ("polystage.frontends", "load"),
    "compile": ("polystage.pipeline", "compile_module"),
    "simulate": ("polystage.simulator", "simulate"),
    "simulate_device": ("polystage.simulator", "simulate_device"),
    "Pass": ("polystage.passes.registry", "Pass"),
    "register_pass": ("polystage.passes.registry", "register_pass"),
    "Target": ("polystage.machine", "Target"),
    "PassError": ("polystage.errors", "PassError"),
    "PolystageError": ("polystage.errors", "PolystageError"),
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that the tools start fast."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'polystage' has no attribute '{name}'")
    module, attribute = _PUBLIC[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted(_PUBLIC)
