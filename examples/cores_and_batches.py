"""More work at once: batches, inferences in flight on one core, cores of a device.

Every line obeys Little's law: in flight = rate x latency. A batch loads weights once for all of its
items; inferences in flight fill engines that wait; cores share the bandwidth of the device's DRAM.
"""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

import polystage as ps

TARGET = "tiny"


def build_model(name: str, kernel: int):
    """Return two convolutions for a batch of 1."""
    random = np.random.default_rng(0)
    weights = {"w1": (16, 8, kernel, kernel), "w2": (8, 16, 1, 1)}
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w1"], ["h"], "conv1", pads=4 * [kernel // 2]),
            helper.make_node("Relu", ["h"], ["r"], "relu"),
            helper.make_node("Conv", ["r", "w2"], ["y"], "conv2"),
        ],
        name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, 12, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8, 12, 12])],
        [numpy_helper.from_array(random.random(s, np.float32), n) for n, s in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def compile_model(name: str, kernel: int, batch: int = 1):
    model = ps.load(build_model(name, kernel), batch=batch)
    return ps.compile(model.module, target=TARGET, settings=("device.cores=4",))


def show(what: str, programs: list, batch: int = 1, inferences: int = 1) -> None:
    """Run a program on each core, and print what flows through the device."""
    flow = ps.simulate_device(programs, timing_only=True, inferences=inferences).flow
    by_law = flow.throughput_per_s * flow.mean_latency_ns / 1e9
    print(
        f"{what:36} {flow.throughput_per_s * batch:7.0f} items/s, {flow.mean_latency_ns / 1e3:6.1f}"
        f" us, in flight {flow.mean_in_flight:.3f} = {by_law:.3f}"
    )


wide, narrow = compile_model("wide", 3), compile_model("narrow", 1)
show("one inference", [wide])
for inferences in (2, 8):
    show(f"{inferences} inferences, one after another", [wide], inferences=inferences)
for batch in (2, 8):
    show(f"a batch of {batch}", [compile_model("wide", 3, batch)], batch)
for cores in (2, 4):
    show(f"{cores} cores, the same model", cores * [wide], inferences=8)
show("2 cores, different models", [wide, narrow], inferences=8)
