"""Reports of real runs of a small model, for the tests of what is made of them."""

import copy
import sys
from functools import cache
from pathlib import Path

from polystage.pipeline import default_pipeline
from polystage.tools import run as runs

sys.path.append(str(Path(__file__).parents[1] / "tools" / "Inputs"))
import make_models

NASTY = "</script><img src=x onerror=alert(1)>&\"'\u2028<!--"
"""A name that breaks out of everything that forgets to escape it."""


@cache
def finished_run(folder, apart=False, **options):
    """Return the run of a perceptron on `tiny`, if asked for with all its operations `apart`."""
    make_models.main(Path(folder))
    model = str(Path(folder) / "good.onnx")
    settings = ("device.cores=2",)
    pipeline = default_pipeline("tiny", "f32", settings)
    if apart:
        pipeline = pipeline.replace("npu-fuse-operators{", "npu-fuse-operators{max-group=1 ")
    compiler = runs.CompilerOptions(target="tiny", settings=settings, pipeline=pipeline)
    options = runs.RunOptions(timing_only=True, **options)
    return runs.run_model(model, [], None, compiler, options)


def document(folder, name=None, slower=1.0, **options):
    """Return the report of a run; with another name of a layer, or other latencies."""
    found = copy.deepcopy(finished_run(str(folder), **options).document)
    for layer in found["layers"]:
        layer["latency_us"] *= slower
    found["totals"]["latency_us"] *= slower
    if name is not None:
        found["model"] = found["layers"][0]["name"] = name
        found["memory"]["names"][0] = name
        found["timeline"]["ops"][0] = [name, name]
    return found
