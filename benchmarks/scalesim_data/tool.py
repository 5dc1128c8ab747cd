"""Runs SCALE-Sim itself; for the Python of an environment that has `scalesim` and `numpy<2`.

Reads a line of JSON per layer from standard input, {"array": [rows, columns], "dataflow": "ws",
"layer": [name, input height, width, filter height, width, channels, filters, stride]}, runs
SCALE-Sim with its published configuration (scale.cfg: CALC bandwidth, so nothing stalls), and
answers with a line of JSON: its report's "Total Cycles" and "Stall Cycles", seconds of CPU time,
and its version.

    python -m venv scalesim && scalesim/bin/pip install scalesim==3.0.0 'numpy<2'
    scalesim/bin/python benchmarks/scalesim_data/tool.py < requests
"""

import contextlib
import io
import json
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from scalesim.scale_sim import scalesim

CONFIG = """[general]
run_name = run

[architecture_presets]
ArrayHeight: {rows}
ArrayWidth: {columns}
IfmapSramSzkB: 64
FilterSramSzkB: 64
OfmapSramSzkB: 64
IfmapOffset: 0
FilterOffset: 10000000
OfmapOffset: 20000000
Bandwidth: 10
Dataflow: {dataflow}
MemoryBanks: 1
ReadRequestBuffer: 32
WriteRequestBuffer: 32

[layout]
IfmapCustomLayout: False
IfmapSRAMBankBandwidth: 10
IfmapSRAMBankNum: 10
IfmapSRAMBankPort: 2
FilterCustomLayout: False
FilterSRAMBankBandwidth: 10
FilterSRAMBankNum: 10
FilterSRAMBankPort: 2

[sparsity]
SparsitySupport: false
SparseRep: ellpack_block
OptimizedMapping: false
BlockSize: 8
RandomNumberGeneratorSeed: 40

[run_presets]
InterfaceBandwidth: CALC
UseRamulatorTrace: False
"""
TOPOLOGY_HEADER = (
    "Layer,IFMAP Height,IFMAP Width,Filter Height,Filter Width,Channels,Filters,Strides,\n"
)


def run_layer(layer: list[str | int], array: list[int], dataflow: str, folder: Path) -> list[int]:
    """Return "Total Cycles" and "Stall Cycles" of the tool's report for one layer."""
    config, topology, layout = folder / "scale.cfg", folder / "layer.csv", folder / "layout.csv"
    config.write_text(CONFIG.format(rows=array[0], columns=array[1], dataflow=dataflow))
    topology.write_text(TOPOLOGY_HEADER + ",".join(map(str, layer)) + ",\n")
    layout.write_text("Layer\n" + ",".join([str(layer[0]), *["1"] * 20]) + ",\n")
    with contextlib.redirect_stdout(io.StringIO()):
        tool = scalesim(
            save_disk_space=True,
            verbose=False,
            config=str(config),
            topology=str(topology),
            layout=str(layout),
        )
        tool.run_scale(top_path=str(folder))
    report = (folder / "run" / "COMPUTE_REPORT.csv").read_text().splitlines()
    heads = [text.strip() for text in report[0].split(",")]
    values = [text.strip() for text in report[1].split(",")]
    return [int(float(values[heads.index(head)])) for head in ("Total Cycles", "Stall Cycles")]


def main() -> None:
    """Answer the requests of standard input."""
    for line in sys.stdin:
        request = json.loads(line)
        start = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            cycles, stalls = run_layer(
                request["layer"], request["array"], request["dataflow"], Path(folder)
            )
        seconds = time.process_time() - start
        answer = {"cycles": cycles, "stalls": stalls, "seconds": seconds}
        print(json.dumps(answer | {"version": version("scalesim")}), flush=True)


if __name__ == "__main__":
    main()
