"""Concurrent engines: order by semaphores, races, deadlocks, rotating buffers, ports, psum groups.

The order of a program that names no semaphores is tested in `test_simulator.py`.
"""

from itertools import pairwise

import numpy as np
import pytest
from npu_programs import Kernel, chain, dram, program, random

from polystage.errors import SimulationError
from polystage.machine import Target, cost
from polystage.mlir import ir
from polystage.simulator import simulate
from polystage.simulator.trace import SIGNAL, WAIT

LOADED, COMPUTED, STORED = range(3)


def pipelined(addresses=(0, 8192), leave_out=(), tiles=6):
    """A loop that loads, doubles and stores tiles in buffers that take turns.

    Of the signals and waits in `leave_out`, as (semaphore, "signal" or "wait"), there are none.
    """
    k = Kernel(x=dram(64, 128 * tiles), y=dram(64, 128 * tiles))

    def order(verb, queue, semaphore):
        if (semaphore, verb) not in leave_out:
            getattr(k, verb)(queue, semaphore)

    def body(j):
        buffer = k.alloc([64, 128], address=list(addresses))
        order("wait", "dma0", STORED)
        k.dma(k.subview(k.x, [0, j], [64, 128]), buffer, queue="dma0")
        order("signal", "dma0", LOADED)
        order("wait", "vector", LOADED)
        k.box("elementwise", "double", [buffer, buffer], [64, 128], ["d0, d1"] * 2)
        order("signal", "vector", COMPUTED)
        order("wait", "dma1", COMPUTED)
        k.dma(buffer, k.subview(k.y, [0, j], [64, 128]), "output", queue="dma1")
        order("signal", "dma1", STORED)

    k.loop(0, 128 * tiles, 128, body)
    return program(k, semaphores=[0, 0, len(addresses)])


X = {"x": random(64, 768)}


def refuse(module, message, inputs=None, **options):
    with pytest.raises(SimulationError, match=message) as caught:
        simulate(module, inputs, **options)
    return caught.value


# --- orders ---


def test_semaphores_overlap_what_does_not_depend_on_each_other():
    module = pipelined()
    result = simulate(module, X)
    assert result.order == "concurrent"
    assert result.races == ()
    np.testing.assert_array_equal(result.outputs["y"], 2 * X["x"])
    times = {order: simulate(module, X, order=order) for order in ("interlocked", "sequential")}
    for other in times.values():
        np.testing.assert_array_equal(other.outputs["y"], 2 * X["x"])
    fastest, slowest = (times[o].totals.latency_ns for o in ("interlocked", "sequential"))
    assert fastest <= result.totals.latency_ns < 0.7 * slowest


def test_what_happens_one_after_the_other_takes_the_sum_of_the_times():
    result = simulate(pipelined(tiles=1), timing_only=True, order="sequential")
    target = Target.load("neuroncore_v2")
    load = cost.dma(target, 64 * 512, 512, 512)
    double = cost.lanes(target, "vector", 128, partitions=64)
    expected = 2 * load.latency_ns + double.latency_ns
    assert result.totals.latency_ns == pytest.approx(expected)


def test_signals_and_waits_are_instructions_of_concurrent_order_only():
    module = pipelined()
    assert simulate(module, X).totals.instructions["npu.wait"] == 18
    assert "npu.wait" not in simulate(module, X, order="sequential").totals.instructions


def test_signals_and_waits_between_calls():
    """Two kernels on different queues; the second waits in @main for the first."""
    kernels = [
        Kernel("one", x=dram(8, 64), t=dram(8, 64)),
        Kernel("two", t=dram(8, 64), y=dram(8, 64)),
    ]
    for k, source, destination, queue in (
        (kernels[0], kernels[0].x, kernels[0].t, "dma0"),
        (kernels[1], kernels[1].t, kernels[1].y, "dma1"),
    ):
        buffer = k.alloc([8, 64], address=0 if queue == "dma0" else 4096)
        k.dma(source, buffer, queue=queue)
        k.dma(buffer, destination, "output", queue=queue)
    calls = [
        f"call @{k.name}({', '.join(v.name for v in k.arguments.values())}) : "
        f"({', '.join(v.type for v in k.arguments.values())}) -> ()"
        for k in kernels
    ]
    between = [
        '"npu.signal"() {queue = "dma0", semaphore = 0 : i64} : () -> ()',
        '"npu.wait"() {queue = "dma1", semaphore = 0 : i64} : () -> ()',
    ]
    type_ = kernels[0].x.type
    lines = [f"%t = memref.alloc() : {type_}", f"%y = memref.alloc() : {type_}", calls[0]]
    end = [calls[1], f"return %y : {type_}"]
    x = random(8, 64)
    result = simulate(program(*kernels, main=[*lines, *between, *end], semaphores=[0]), {"x": x})
    np.testing.assert_array_equal(result.outputs["y"], x)
    layers = [layer.cost.instructions for layer in result.layers]
    assert layers == [{"npu.dma": 2, "npu.signal": 1, "npu.wait": 1}, {"npu.dma": 2}]
    unordered = program(*kernels, main=[*lines, *end], semaphores=[])
    refuse(unordered, "race: .* in @two of layer 'two' .* in @one of layer 'one'", {"x": x})


# --- races ---


def test_invalid_race():
    error = refuse(
        pipelined(leave_out=[(LOADED, "signal"), (LOADED, "wait")]),
        r"race: nothing makes npu\.elementwise in @kernel of layer 'kernel' of queue 'vector', "
        r"which (reads|writes) bytes \[0, 512\) of partitions \[0, 64\) in sbuf "
        r"\(buffer 64x128xf32 at address 0\) wait for npu\.dma in @kernel of layer 'kernel' of "
        r"queue 'dma0', which writes bytes \[0, 512\)",
        X,
    )
    assert "npu-insert-sync" in error.help


def test_races_are_looked_for_when_asked_without_numbers():
    module = pipelined(leave_out=[(STORED, "wait"), (STORED, "signal")])
    assert simulate(module, timing_only=True).races == ()
    refuse(module, "race", timing_only=True, check_races=True)
    found = simulate(module, timing_only=True, check_races=True, races="ignore").races
    assert any("queue 'dma0'" in r.second and "queue 'dma1'" in r.first for r in found)
    assert "and nothing orders them" in str(found[0])


def test_a_race_gives_a_wrong_value_where_it_is_carried_out():
    """A load that does not wait for the store before overwrites what is still to be stored."""
    module = pipelined(addresses=[0], leave_out=[(STORED, "wait"), (STORED, "signal")])
    result = simulate(module, X, races="ignore")
    assert result.races
    assert not np.array_equal(result.outputs["y"], 2 * X["x"])


def test_programs_without_races_compute_the_same_where_races_are_ignored():
    result = simulate(pipelined(), X, races="ignore")
    np.testing.assert_array_equal(result.outputs["y"], 2 * X["x"])


def test_a_transfer_reads_when_its_data_begins_to_move():
    """One queue triggers all transfers at once, but moves one after the other."""
    k = Kernel(x=dram(8, 64), y=dram(8, 64))
    buffer = k.alloc([8, 64], address=0)
    k.dma(k.x, buffer, queue="dma0")
    k.dma(buffer, k.y, "output", queue="dma0")
    x = random(8, 64)
    result = simulate(program(k, semaphores=[]), {"x": x}, races="ignore")
    np.testing.assert_array_equal(result.outputs["y"], x)


def accumulating(matmuls=8):
    k = Kernel(a=dram(64, 32), b=dram(64, 48), y=dram(32, 48))
    a, b = (k.alloc([64, columns], address=at) for columns, at in ((32, 0), (48, 1024)))
    k.dma(k.a, a, queue="dma0")
    k.dma(k.b, b, queue="dma0")
    k.signal("dma0", 0)
    k.wait("tensor", 0)
    psum = k.alloc([32, 48], space="psum")
    for i in range(matmuls):
        k.matmul(a, b, psum, i > 0)
    k.signal("tensor", 1)
    k.wait("scalar", 1)
    out = k.alloc([32, 48], address=4096)
    k.activate(psum, out)
    k.signal("scalar", 2)
    k.wait("dma1", 2)
    k.dma(out, k.y, "output", queue="dma1")
    return program(k, semaphores=[0, 0, 0])


def test_the_array_adds_to_psum_where_matmuls_end():
    """A matmul starts before the one before has left the array; no sum is lost."""
    a, b = random(64, 32), random(64, 48, seed=1)
    for races in ("error", "ignore"):
        result = simulate(accumulating(), {"a": a, "b": b}, races=races)
        np.testing.assert_allclose(result.outputs["y"], 8 * (a.T @ b), rtol=1e-4, atol=1e-4)
    timeline = result.timeline
    tensor = (timeline.queue == 0) & (timeline.kind < SIGNAL)
    starts, ends = timeline.start_ns[tensor], timeline.end_ns[tensor]
    assert (starts[1:] < ends[:-1]).all()


# --- what concurrent order needs ---


def test_invalid_transfer_without_a_queue():
    k = Kernel(x=dram(8, 8), y=dram(8, 8))
    chain(k, k.x, k.y, 0)
    error = refuse(
        program(k, semaphores=[]),
        "'npu.dma' in @kernel names no queue, which concurrent order needs",
        timing_only=True,
    )
    assert "npu-insert-sync" in error.help
    simulate(program(k, semaphores=[]), timing_only=True, order="interlocked")


@pytest.mark.parametrize(
    ("verb", "text"), [("signal", "is signalled by"), ("wait", "is waited on in")]
)
def test_invalid_semaphore_of_two_queues(verb, text):
    k = Kernel(x=dram(8, 8), y=dram(8, 8))
    getattr(k, verb)("tensor", 0)
    getattr(k, verb)("vector", 0)
    refuse(
        program(k, semaphores=[2]),
        f"semaphore 0 {text} queue 'vector' in @kernel, and 'tensor' elsewhere",
        timing_only=True,
    )


@pytest.mark.parametrize("semaphores", [[], [0], None])
def test_invalid_semaphore_out_of_range(semaphores):
    k = Kernel(x=dram(8, 8), y=dram(8, 8))
    with pytest.raises(Exception, match="semaphore 1"):
        k.signal("tensor", 1)
        simulate(program(k, semaphores=semaphores), timing_only=True)


@pytest.mark.parametrize("declared", ["3 : i64", "array<i32: 1>", "array<i64: 1, -1>"])
def test_invalid_declaration_of_semaphores(declared):
    module = program(Kernel(x=dram(8, 8), y=dram(8, 8)))
    with module.context:
        module.operation.attributes["npu.semaphores"] = ir.Attribute.parse(declared)
    with pytest.raises(SimulationError) as error:
        simulate(module, timing_only=True)
    assert str(error.value) == (
        f"npu.semaphores of the module is {declared}, but must be array<i64: ..> of initial values "
        "that are not negative"
    )


def test_invalid_deadlock():
    k = Kernel(x=dram(8, 8), y=dram(8, 8))
    for mine, other, semaphores in (("tensor", "vector", (0, 1)), ("vector", "tensor", (1, 0))):
        k.wait(mine, semaphores[0])
        k.signal(mine, semaphores[1])
        assert other != mine
    error = refuse(
        program(k, semaphores=[0, 0]),
        r"deadlock: queue '(\w+)' stands at npu\.wait in @kernel of layer 'kernel' for semaphore "
        r"\d, which queue '(\w+)' should signal; queue '\2' stands at npu\.wait in @kernel of "
        r"layer 'kernel' for semaphore \d, which queue '\1' should signal",
        timing_only=True,
    )
    assert "npu-insert-sync" in error.help


def test_invalid_wait_without_a_signal():
    refuse(
        pipelined(leave_out=[(COMPUTED, "signal")]),
        "deadlock: .*queue 'dma1' stands at npu.wait in @kernel of layer 'kernel' for semaphore 1, "
        "of which no signal is to come",
        X,
    )


def test_invalid_options():
    module = pipelined()
    refuse(module, "order 'random' does not exist, allowed are concurrent", order="random")
    refuse(module, "races are 'maybe', allowed are error, ignore", races="maybe")
    refuse(module, "0 inferences were asked for, at least 1 is needed", inferences=0)


# --- rotating buffers ---


def test_more_places_let_loads_run_ahead():
    one, two, three = (
        simulate(pipelined(a), X).totals.latency_ns for a in ([0], [0, 8192], [0, 8192, 16384])
    )
    assert one > 1.3 * two > 1.3 * three


def test_places_take_turns_over_all_loops():
    """Three executions per outer iteration on two places: they go on where they stopped."""
    k = Kernel(x=dram(2, 3, 8, 16), y=dram(2, 3, 8, 16))

    def outer(i):
        def inner(j):
            buffer = k.alloc([8, 16], address=[0, 64])
            k.dma(k.subview(k.x, [i, j, 0, 0], [1, 1, 8, 16]), buffer)
            k.dma(buffer, k.subview(k.y, [i, j, 0, 0], [1, 1, 8, 16]), "output")

        k.loop(0, 3, 1, inner)

    def flat(source, offsets, sizes, steps=None):
        piece = Kernel.subview(k, source, offsets, sizes, steps)
        from_ = piece.type
        result = type(piece)(k.fresh(), (8, 16), "f32", "", (16, 1), "?")
        k.emit(
            f"{result.name} = memref.collapse_shape {piece.name} [[0, 1, 2], [3]] : "
            f"{from_} into {result.type}"
        )
        return result

    k.subview = flat
    k.loop(0, 2, 1, outer)
    x = random(2, 3, 8, 16)
    result = simulate(program(k), {"x": x})
    np.testing.assert_array_equal(result.outputs["y"], x)
    assert [r.address for r in result.residences] == [0, 64, 0, 64, 0, 64]
    assert result.totals.peak_sbuf_bytes == 2 * 64 * 128


# --- residences, schedule, ports ---


def test_residences():
    result = simulate(pipelined(), X)
    stays = result.residences
    assert len(stays) == 6
    assert {s.name for s in stays} == {"64x128xf32"}
    assert {(s.memory, s.layer, s.partitions, s.bytes_per_partition) for s in stays} == {
        ("sbuf", "kernel", 64, 512)
    }
    for place in (0, 8192):
        own = [s for s in stays if s.address == place]
        assert all(a.end_ns <= b.start_ns for a, b in pairwise(own))
    assert max(s.end_ns for s in stays) == result.totals.latency_ns


def test_what_a_queue_does_never_overlaps():
    timeline = simulate(pipelined(), X).timeline
    assert timeline.count == 18 + 36
    assert set(timeline.queues) >= {"tensor", "vector", "dma0", "dma1"}
    assert (timeline.end_ns >= timeline.start_ns + timeline.busy_ns - 1e-9).all()
    ends = timeline.start_ns + timeline.busy_ns
    for queue in range(len(timeline.queues)):
        own = np.flatnonzero((timeline.queue == queue) & (timeline.kind < SIGNAL))
        assert (timeline.start_ns[own][1:] >= ends[own][:-1] - 1e-9).all()
    moves = timeline.dram_bytes > 0
    assert timeline.dram_bytes.sum() == 12 * 64 * 512
    assert {timeline.ops[o].name for o in timeline.op[moves]} == {"npu.dma"}
    orders = (timeline.kind == SIGNAL) | (timeline.kind == WAIT)
    assert (timeline.semaphore[~orders] == -1).all() and (timeline.semaphore[orders] >= 0).all()
    assert timeline.layers == ("kernel",)


def two_engines(second):
    k = Kernel(x=dram(128, 512), z=dram(128, 512), y=dram(128, 512), u=dram(128, 512))
    tiles = [k.load(source, at) for source, at in ((k.x, 0), (k.z, 4096))]
    for tile, engine in zip(tiles, ("vector", second), strict=True):
        for _ in range(4):
            if engine == "scalar":
                k.activate(tile, tile)
            else:
                k.box("elementwise", "double", [tile, tile], [128, 512], ["d0, d1"] * 2, engine)
    k.dma(tiles[0], k.y, "output")
    k.dma(tiles[1], k.u, "output")
    return simulate(program(k, results=("y", "u")), timing_only=True)


def test_port_conflicts_say_who_waited_for_whom():
    shared, apart = two_engines("gpsimd"), two_engines("scalar")
    assert apart.port_conflicts == ()
    assert shared.port_conflicts
    for conflict in shared.port_conflicts:
        assert conflict.memory == "sbuf" and conflict.op == "npu.elementwise"
        assert {conflict.queue, conflict.other} == {"vector", "gpsimd"}
        assert conflict.count > 0
    stalls = sum(c.stall_ns for c in shared.port_conflicts)
    assert stalls == pytest.approx(shared.timeline.port_wait_ns.sum())
    assert shared.to_dict()["port_conflicts"][0]["memory"] == "sbuf"


# --- accumulations ---


def interleaved(groups, finish_first=False, touched=False):
    """Accumulations of two matmuls each, begun one after the other before any is finished."""
    k = Kernel(a=dram(64, 32), y=dram(32, 32))
    a = k.load(k.a)
    results = [k.alloc([32, 32], space="psum", address=2048 * i) for i in range(groups % 9)]
    results += [k.alloc([32, 32], space="psum", address=128) for _ in range(groups - len(results))]
    out = k.alloc([32, 32], address=8192)
    for psum in results:
        k.matmul(a, a, psum)
        if finish_first:
            k.matmul(a, a, psum, True)
        if touched:
            k.activate(psum, out)
    if not finish_first:
        for psum in results:
            k.matmul(a, a, psum, True)
    k.activate(results[0], out)
    k.dma(out, k.y, "output")
    return program(k)


def test_invalid_too_many_open_accumulations():
    simulate(interleaved(8), timing_only=True)
    error = refuse(
        interleaved(9),
        r"npu\.matmul in @kernel of layer 'kernel' makes 9 unfinished accumulations in psum, but "
        "'neuroncore_v2' keeps 8",
        timing_only=True,
    )
    assert "finish an accumulation" in error.help


def test_finished_accumulations_are_not_open():
    simulate(interleaved(9, finish_first=True), timing_only=True)
    simulate(interleaved(9, touched=True), timing_only=True)
