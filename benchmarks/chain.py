"""Compile and simulate an imported model, with the seconds that each step takes."""

import time
from dataclasses import dataclass

import numpy as np

import polystage as ps
from polystage.frontends import ImportedModel
from polystage.simulator import Result

TARGET = "neuroncore_v2"


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
