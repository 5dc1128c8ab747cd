"""Check that a JSON report has all that issue 2 promises."""

import json
import math
import sys

FIGURES = [
    "cycles",
    "latency_us",
    "latency_bound_us",
    "throughput_per_s",
    "macs",
    "utilization",
    "dram_read_bytes",
    "dram_write_bytes",
    "compulsory_bytes",
    "onchip_copy_bytes",
    "offchip_copy_bytes",
    "energy_pj",
    "peak_sbuf_bytes",
    "utilization_bound",
    "energy_bound_pj",
]

with open(sys.argv[1]) as file:
    report = json.load(file)

assert report["model"] == "good" and report["target"] == "tiny" and report["dtype"] == "f32"
assert report["check"]["reference"] == "onnxruntime" and report["check"]["passed"] is True
assert report["check"]["max_abs_error"] < 1e-4 and report["check"]["max_rel_error"] < 1e-4
assert [layer["name"] for layer in report["layers"]] == ["first", "second"]
assert list(report["phases_s"]) == ["import", "compile", "simulate", "reference"]
for figures in (report["totals"], *report["layers"]):
    for key in FIGURES:
        assert math.isfinite(figures[key]), key

totals, layers = report["totals"], report["layers"]
assert totals["macs"] == sum(layer["macs"] for layer in layers) == 3 * 12 * 10 + 3 * 10 * 5
assert math.isclose(totals["latency_us"], sum(layer["latency_us"] for layer in layers))
assert totals["latency_us"] >= totals["latency_bound_us"]
assert totals["compulsory_bytes"] == 4 * (3 * 12 + 12 * 10 + 10 * 5 + 3 * 5)
assert totals["utilization"] <= totals["utilization_bound"] <= 1
assert totals["energy_pj"] >= totals["energy_bound_pj"] > 0
assert math.isclose(totals["throughput_per_s"] * totals["latency_us"], 1e6)
