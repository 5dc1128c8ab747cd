"""The course of a run: own times of layers, intervals, curves, residences, and Chrome's trace."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from polystage.report.activity import (
    dram_section,
    occupancy,
    own_times_ns,
    residence_section,
    timeline_section,
)
from polystage.report.chrome_trace import chrome_trace
from polystage.simulator.schedule import OpInfo, Residence, Schedule
from polystage.simulator.trace import COMPUTE, DMA, SIGNAL, WAIT

QUEUES = ("tensor", "dma0")
OPS = (OpInfo("npu.matmul", "k0", ""), OpInfo("npu.dma", "k0", ""))


def schedule(*rows):
    """Make a schedule of rows made by `matmul` and `dma`."""
    rows = [{"semaphore": -1, "dram_bytes": 0.0, "core": 0, **row} for row in rows]
    for row in rows:
        row.setdefault("op", 1 if row["kind"] == DMA else 0)
        row.setdefault("end", row["start"] + row["busy"])

    def column(name, dtype):
        return np.array([row[name] for row in rows], dtype)

    return Schedule(
        start_ns=column("start", np.float64),
        busy_ns=column("busy", np.float64),
        end_ns=column("end", np.float64),
        port_wait_ns=np.zeros(len(rows)),
        dram_bytes=column("dram_bytes", np.float64),
        kind=column("kind", np.uint8),
        queue=column("queue", np.uint8),
        semaphore=column("semaphore", np.int32),
        op=column("op", np.int32),
        layer=column("layer", np.int32),
        inference=np.zeros(len(rows), np.int32),
        core=column("core", np.int32),
        queues=QUEUES,
        ops=OPS,
        layers=("a", "b"),
    )


def matmul(start, busy, layer=0, **more):
    return {"start": start, "busy": busy, "kind": COMPUTE, "queue": 0, "layer": layer, **more}


def dma(start, busy, layer=0, **more):
    return {"start": start, "busy": busy, "kind": DMA, "queue": 1, "layer": layer, **more}


class TestOwnTime:
    def test_overlap_within_a_layer_counts_once(self):
        own = own_times_ns(schedule(matmul(0, 10), matmul(5, 10), matmul(30, 5), dma(8, 4, 1)), 0.0)
        assert own.tolist() == [20.0, 4.0]

    def test_the_start_up_of_a_transfer_belongs_to_it(self):
        assert own_times_ns(schedule(dma(100, 10)), 60.0).tolist() == [70.0, 0.0]

    def test_results_take_longer_than_issue(self):
        assert own_times_ns(schedule(matmul(0, 10, end=25)), 0.0).tolist() == [25.0, 0.0]

    def test_cores_add_up(self):
        own = own_times_ns(schedule(matmul(0, 10), matmul(0, 10, core=1)), 0.0)
        assert own.tolist() == [20.0, 0.0]

    def test_signals_and_waits_are_no_work(self):
        wait = matmul(0, 0, end=500, semaphore=0) | {"kind": WAIT}
        assert own_times_ns(schedule(wait, matmul(500, 10)), 0.0).tolist() == [10.0, 0.0]


class TestTimeline:
    def test_columns_of_intervals(self):
        found = timeline_section(
            schedule(matmul(3, 10), dma(20, 5, 1), matmul(13, 4, 1)), ["b", "a"]
        )
        assert found["start_ns"] == [3, 10, 7]  # 3, 13, 20 as differences
        assert found["busy_ns"] == [10, 4, 5]
        assert found["track"] == [0, 0, 1]
        assert found["layer"] == [1, 0, 0]  # positions in the layers of the report
        assert [found["ops"][i][0] for i in found["op"]] == ["npu.matmul", "npu.matmul", "npu.dma"]
        assert found["instructions"] == [1, 1, 1]
        assert found["merged_gap_ns"] == 0

    def test_too_many_become_fewer_where_gaps_are_small(self):
        rows = [matmul(10 * i, 9) for i in range(100)] + [matmul(2000, 5), dma(0, 5)]
        found = timeline_section(schedule(*rows), ["a", "b"], limit=10)
        assert len(found["start_ns"]) == 3
        assert sum(found["instructions"]) == 102
        assert found["merged_gap_ns"] == 1
        assert max(found["busy_ns"]) == 999

    def test_layers_are_never_merged(self):
        rows = [matmul(10 * i, 10, i % 2) for i in range(50)]
        assert len(timeline_section(schedule(*rows), ["a", "b"], limit=10)["start_ns"]) == 50

    def test_nothing_at_all(self):
        assert timeline_section(schedule(), ["a", "b"])["start_ns"] == []


def test_bandwidth_is_spread_over_a_transfer_and_adds_up():
    rows = schedule(dma(10, 20, dram_bytes=400), dma(35, 1, dram_bytes=100), dma(50, 5))
    found = dram_section(rows, 100.0, bins=10)
    assert found["bin_ns"] == 10.0
    assert found["bytes_per_ns"] == [0, 20, 20, 10, 0, 0, 0, 0, 0, 0]


def residence(name, start, end, memory="sbuf", layer="a", address=0, size=64, core=0):
    return Residence(memory, name, layer, address, size, 8, start, end, core)


def test_residences_are_columns_and_the_shortest_go_first():
    stays = [residence("x", 0, 100), residence("y", 10, 12), residence("z", 50, 90, "psum", "b")]
    found = residence_section(stays, ["a", "b"], limit=2)
    assert found["left_out"] == 1
    assert found["names"] == ["x", "z"]
    assert (found["start_ns"], found["length_ns"]) == ([0, 50], [100, 40])
    assert (found["memory"], found["layer"]) == ([0, 1], [0, 1])
    assert (found["bytes"], found["partitions"]) == ([64, 64], [8, 8])


def test_occupancy_rises_and_falls():
    stays = [residence("x", 0, 10), residence("y", 5, 10), residence("z", 0, 99, core=1)]
    times, sizes = occupancy(stays, "sbuf", 0)
    assert times.tolist() == [0, 5, 10]
    assert sizes.tolist() == [512, 1024, 0]


class TestChromeTrace:
    def trace(self, *rows, semaphores=()):
        result = SimpleNamespace(
            timeline=schedule(*rows),
            target=SimpleNamespace(name="tiny"),
            residences=[residence("x", 0, 10)],
            flow=SimpleNamespace(total_ns=100.0),
        )
        return json.loads(chrome_trace(result, semaphores))["traceEvents"]

    def test_a_thread_per_queue_and_one_of_layers(self):
        events = self.trace(matmul(0, 10), dma(10, 5, 1))
        threads = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
        assert threads == {0: "layers", 1: "tensor", 2: "dma0"}
        work = [(e["tid"], e["name"], e["ts"], e["dur"]) for e in events if e["ph"] == "X"]
        assert work == [
            (0, "a", 0.0, 0.01),
            (0, "b", 0.01, 0.005),
            (1, "npu.matmul", 0.0, 0.01),
            (2, "npu.dma", 0.01, 0.005),
        ]

    def test_layers_never_overlap(self):
        events = self.trace(matmul(0, 50), matmul(10, 20, 1), matmul(60, 10, 1))
        layers = [(e["name"], e["ts"], e["dur"]) for e in events if e.get("cat") == "layer"]
        assert layers == [("a", 0.0, 0.05), ("b", 0.05, 0.02)]

    def test_curves_end_at_zero(self):
        events = self.trace(dma(0, 10, dram_bytes=400))
        curves = {e["name"]: e["args"]["value"] for e in events if e["ph"] == "C"}
        assert curves == {"DRAM GB/s": 0, "sbuf bytes": 0}

    def test_compute_engines_show_their_waits(self):
        wait = {"kind": WAIT, "busy": 0, "semaphore": 3, "layer": 0, "start": 5}
        rows = [matmul(0, 5), wait | {"queue": 0, "end": 9}, wait | {"queue": 0, "start": 9}]
        events = self.trace(*rows, matmul(9, 1))
        waits = [(e["tid"], e["ts"], e["dur"]) for e in events if e.get("cat") == "wait"]
        assert waits == [(1, 0.005, 0.004)]

    @pytest.mark.parametrize(("initial", "reader"), [(0, 0.03), (1, 0.05)])
    def test_arrows_go_to_the_wait_that_a_signal_lets_pass(self, initial, reader):
        sync = {"busy": 0, "semaphore": 0, "layer": 0}
        rows = [
            matmul(0, 10),
            sync | {"kind": SIGNAL, "queue": 0, "start": 10},
            sync | {"kind": WAIT, "queue": 1, "start": 20},
            dma(30, 5),
            sync | {"kind": WAIT, "queue": 1, "start": 40},
            dma(50, 5),
        ]
        events = self.trace(*rows, semaphores=[initial])
        arrows = [(e["ph"], e["tid"], e["ts"]) for e in events if e.get("cat") == "semaphore"]
        assert arrows == [("s", 1, 0.0), ("f", 2, reader)]
