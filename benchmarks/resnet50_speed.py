"""ResNet-50 in f32, batch 1: seconds and memory of the chain, beside their bounds.

The model is the light ResNet-50 of the onnx package with random weights. Each figure is measured in
a process of its own that has imported the package before the clock starts; peak memory is that of
the process from its start to its end. onnxruntime's time for the same inference (best of five, all
threads that it wants) stands below, for comparison. Exit code 1 if a bound is missed.

    python benchmarks/resnet50_speed.py
"""

import json
import multiprocessing
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import light_models as light
import numpy as np
import onnx
import onnxruntime
from chain import TARGET, largest_error

BOUNDS = {
    "import to npu program, s": 10.0,
    "simulation with numerics, s": 10.0,
    "simulation without numerics, s": 3.0,
    "peak memory, GiB": 3.0,
}
"""The largest value of each figure."""

SEED = 0


def measure(model: str) -> dict[str, float]:
    """Return the figures, taken in this process."""
    from polystage.frontends import load
    from polystage.pipeline import compile_module
    from polystage.simulator import simulate

    start = time.perf_counter()
    imported = load(model)
    program = compile_module(imported.module, target=TARGET, dtype="f32")
    compiled = time.perf_counter()
    inputs = light.random_inputs(onnx.load(model), SEED)
    begin = time.perf_counter()
    result = simulate(program, inputs)
    simulated = time.perf_counter()
    simulate(program, timing_only=True)
    end = time.perf_counter()
    np.save(Path(model).with_suffix(".npy"), result.outputs[imported.outputs[0].name])
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = (compiled - start, simulated - begin, end - simulated)
    return dict(zip(BOUNDS, (*seconds, kilobytes / 2**20), strict=True))


def onnxruntime_seconds(model: str, inputs: dict[str, np.ndarray]) -> tuple[np.ndarray, float]:
    """Return the output and the best time of five runs."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    times: list[float] = []
    for _ in range(5):
        start = time.perf_counter()
        (output,) = session.run(None, inputs)
        times.append(time.perf_counter() - start)
    return output, min(times)


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "resnet50.onnx"
        onnx.save(light.with_random_weights(onnx.load(light.light_path("resnet50"))), path)
        done = subprocess.run(
            [sys.executable, __file__, str(path)], capture_output=True, text=True, check=True
        )
        figures = json.loads(done.stdout)
        inputs = light.random_inputs(onnx.load(path), SEED)
        expected, seconds = onnxruntime_seconds(str(path), inputs)
        error = largest_error(np.load(path.with_suffix(".npy")), expected)
    for name, bound in BOUNDS.items():
        verdict = "" if figures[name] < bound else "  MISSED"
        print(f"{name:32} {figures[name]:7.2f}  bound {bound:5.1f}{verdict}")
    print(f"{'onnxruntime, s':32} {seconds:7.3f}  on {multiprocessing.cpu_count()} cores")
    print(f"{'error against onnxruntime':32} {error:7.1e}  bound {light.F32_TOLERANCE:.0e}")
    met = all(figures[name] < bound for name, bound in BOUNDS.items())
    return 0 if met and error < light.F32_TOLERANCE else 1


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1])))
        sys.exit(0)
    sys.exit(main())
