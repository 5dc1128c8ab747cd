"""Compile and simulate an imported model, with the seconds that each step takes."""

import time
from dataclasses import dataclass

import numpy as np

import polystage as ps
from polystage.frontends import ImportedModel
from polystage.mlir import ir
from polystage.pipeline import DEFAULT_PIPELINE, PassRecord, run_pipeline
from polystage.pipeline_syntax import MODULE, PassCall, parse_pipeline
from polystage.simulator import Result

TARGET = "neuroncore_v2"

ELIMINATE_COPIES = "poly-eliminate-copies"
MAP_BANKS = "npu-map-banks"


def clone(module: ir.Module) -> ir.Module:
    """Return a copy of the module, which pipelines may change."""
    with module.context, ir.Location.unknown():
        return module.operation.clone()  # a ModuleOp, which does all that we ask


def run_passes(module: ir.Module, passes: str) -> list[PassRecord]:
    """Run passes, separated by commas, on the module itself."""
    return run_pipeline(module, f"{MODULE}({passes})")


def lowering(*, map_banks: bool, dtype: str = "f32") -> list[str]:
    """Return the passes of the default pipeline after normalisation and copy elimination."""
    after_normalize = ",".join(stage.passes for stage in DEFAULT_PIPELINE[1:])
    text = after_normalize.replace("@dtype", dtype).replace("@target", TARGET)
    text = text.replace("@objective", "traffic")
    dropped = {ELIMINATE_COPIES} if map_banks else {ELIMINATE_COPIES, MAP_BANKS}
    elements = parse_pipeline(f"{MODULE}({text})").children
    return [str(e) for e in elements if not (isinstance(e, PassCall) and e.name in dropped)]


@dataclass(frozen=True)
class Simulated:
    """A simulated run and how long it took to get there."""

    result: Result
    compile_s: float
    simulate_s: float

    def output(self, model: ImportedModel, position: int = 0) -> np.ndarray:
        """Return an output of the model, narrow floats as f32."""
        return self.result.outputs[model.outputs[position].name].astype(np.float32)


def compile_and_simulate(
    model: ImportedModel, inputs: dict[str, np.ndarray], dtype: str
) -> Simulated:
    start = time.perf_counter()
    program = ps.compile(model.module, target=TARGET, dtype=dtype)
    compiled = time.perf_counter()
    result = ps.simulate(program, inputs)
    return Simulated(result, compiled - start, time.perf_counter() - compiled)


def largest_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference over the largest magnitude of what is expected."""
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def norm_error(actual: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))
