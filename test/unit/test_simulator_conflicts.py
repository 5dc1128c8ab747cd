"""Dependences and races of traces, against all pairs of instructions."""

from dataclasses import replace
from itertools import combinations, pairwise, product
from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulator_traces import QUEUES, Builder, each_core, patient, regions_of, traces, with_after

from polystage.compiled import CHOICE
from polystage.simulator.conflicts import Meetings, with_order
from polystage.simulator.races import find_races, stuck_waits, unneeded_semaphores
from polystage.simulator.timeline import run_timeline
from polystage.simulator.trace import (
    COMPUTE,
    DMA,
    DRAM,
    GATHER,
    NO_BOX,
    PSUM,
    SBUF,
    SIGNAL,
    WAIT,
    Rates,
)

core = each_core()
BOX = ((0, 2), (0, 2))
A, B = 0, 1


def chip(buffer, low, high, partitions=(0, 8), key=NO_BOX, box=BOX, memory=SBUF):
    return (memory, buffer, (low, high), partitions, key, box)


def meet(first, second):
    meetings = Meetings(regions_of([first, second]))
    assert meetings(0, 1) == meetings(1, 0)
    return meetings(0, 1)


class TestRegions:
    def test_of_different_buffers_on_chip_meet_by_bytes_and_partitions(self):
        assert meet(chip(A, 0, 8), chip(B, 7, 9))
        assert not meet(chip(A, 0, 8), chip(B, 8, 9))
        assert not meet(chip(A, 0, 8, (0, 4)), chip(B, 0, 8, (4, 8)))

    def test_of_different_buffers_do_not_compare_boxes(self):
        assert meet(chip(A, 0, 8, key=0, box=((0, 1), (0, 1))), chip(B, 0, 8, key=0, box=BOX))

    def test_of_one_buffer_meet_by_boxes_of_the_same_key(self):
        left, right = ((0, 2), (0, 1)), ((0, 2), (1, 2))
        assert not meet(chip(A, 0, 8, key=0, box=left), chip(A, 0, 8, key=0, box=right))
        assert meet(chip(A, 0, 8, key=0, box=left), chip(A, 0, 8, key=1, box=right))
        assert meet(chip(A, 0, 8, key=0, box=left), chip(A, 0, 8, box=right))
        assert not meet(chip(A, 0, 4, key=0), chip(A, 4, 8, key=0))

    def test_of_different_memories_or_dram_buffers_never_meet(self):
        assert not meet(chip(A, 0, 8), chip(A, 0, 8, memory=PSUM))
        assert not meet(chip(A, 0, 8, memory=DRAM), chip(B, 0, 8, memory=DRAM))
        assert meet(chip(A, 0, 8, memory=DRAM), chip(A, 0, 8, memory=DRAM))


def after_of(builder, order="interlocked"):
    trace = with_order(builder.trace(), order)
    bounds = trace.after_start.tolist()
    return [trace.after[a:b].tolist() for a, b in pairwise(bounds)]


class TestOrder:
    """Regions 0 and 1 meet, 2 meets neither."""

    REGIONS = (chip(A, 0, 8), chip(A, 4, 12), chip(A, 12, 16))

    def test_interlocked_waits_for_writes_to_end_and_for_reads_to_be_issued(self):
        b = Builder(self.REGIONS)
        b.dma("dma0", 1.0, writes=[0])
        b.compute("vector", 1.0, reads=[1], writes=[2])
        b.dma("dma0", 1.0, writes=[0])
        b.compute("scalar", 1.0, reads=[2])
        assert after_of(b) == [[], [0], [~1], [1]]

    def test_a_transfer_reads_until_it_ends(self):
        b = Builder(self.REGIONS)
        b.dma("dma0", 1.0, reads=[0])
        b.compute("vector", 1.0, writes=[1])
        assert after_of(b) == [[], [0]]

    def test_what_earlier_dependences_say_is_left_out(self):
        b = Builder(self.REGIONS)
        b.dma("dma0", 1.0, writes=[0])
        b.compute("vector", 1.0, reads=[0], writes=[2])
        b.compute("scalar", 1.0, reads=[2])
        b.compute("scalar", 1.0, reads=[0])
        assert after_of(b) == [[], [0], [1], []]

    def test_transfers_of_one_queue_follow_each_other_anyway(self):
        b = Builder(self.REGIONS)
        b.dma("dma0", 1.0, writes=[0])
        b.dma("dma0", 1.0, reads=[0])
        b.dma("dma1", 1.0, reads=[0])
        assert after_of(b) == [[], [], [0]]

    def test_matmuls_do_not_wait_for_matmuls_but_others_do(self):
        b = Builder(self.REGIONS)
        b.compute("tensor", 1.0, 50.0, array_writes=[0])
        b.compute("tensor", 1.0, 50.0, array_writes=[0])
        b.compute("tensor", 1.0, 50.0, reads=[0])
        b.compute("vector", 1.0, reads=[0])
        assert after_of(b) == [[], [], [1], [1]]
        assert after_of(b, "concurrent") == [[], [], [1], []]

    def test_concurrent_waits_for_own_results_alone(self):
        b = Builder(self.REGIONS)
        b.compute("vector", 1.0, 9.0, reads=[2], writes=[0])
        b.compute("scalar", 1.0, 9.0, reads=[0], writes=[0])
        b.compute("vector", 1.0, 9.0, reads=[1], writes=[2])
        assert after_of(b, "concurrent") == [[], [], [0]]

    def test_a_result_that_is_sure_to_be_there_needs_no_wait(self):
        b = Builder(self.REGIONS)
        b.compute("vector", 1.0, 9.0, writes=[0])
        b.compute("vector", 10.0, writes=[2])
        b.compute("vector", 1.0, reads=[0])
        assert after_of(b, "concurrent") == [[], [], []]

    def test_gpsimd_waits_for_its_gathers(self):
        b = Builder(self.REGIONS)
        b.gather(1.0, 1.0, writes=[0])
        b.compute("gpsimd", 500.0, writes=[2])
        b.compute("gpsimd", 1.0, reads=[0])
        b.gather(1.0, 1.0, reads=[2], writes=[0])
        assert after_of(b, "concurrent") == [[], [], [0], [1, 0]]

    def test_sequential_waits_for_the_instruction_before(self):
        b = Builder(self.REGIONS, [1])
        b.wait("vector", 0)
        b.compute("vector", 1.0)
        b.signal("vector", 0)
        b.dma("dma0", 1.0)
        b.compute("vector", 1.0)
        assert after_of(b, "sequential") == [[], [], [], [1], [3]]
        assert after_of(Builder(), "sequential") == []

    def test_constants_in_dram_cost_nothing(self):
        b = Builder([chip(A, 0, 8, memory=DRAM)])
        b.dma("dma0", 1.0, reads=[0])
        b.dma("dma1", 1.0, reads=[0])
        assert after_of(b) == [[], []]


# --- all pairs ----------------------------------------------------------------------------------


def accesses(trace, i):
    for a in range(trace.access_start[i], trace.access_start[i + 1]):
        yield int(trace.region[a]), bool(trace.writes[a]), bool(trace.by_array[a])


def conflicts(trace, meet, i, j, write_after_read=True):
    """Say whether j, which comes after i, conflicts with it: (by a result, by what i reads)."""
    result = read = False
    for (a, writes, by_array), (b, their_writes, their_array) in product(
        accesses(trace, i), accesses(trace, j)
    ):
        if meet(a, b):
            result |= writes and not (by_array and their_array)
            read |= not writes and their_writes
    return result, read


def all_pairs(trace, order):
    """Return what every instruction waits for, from all pairs of instructions."""
    meet = Meetings(trace.regions)
    is_dma = trace.kind == DMA
    waits = [[] for _ in range(trace.count)]
    for i, j in combinations(np.flatnonzero(trace.kind < SIGNAL).tolist(), 2):
        own = trace.queue[i] == trace.queue[j]
        result, read = conflicts(trace, meet, i, j)
        if (own and is_dma[i]) or (not own and order == "concurrent"):
            continue
        if result or (read and not own and trace.kind[i] != COMPUTE):
            waits[j].append(i)
        elif read and not own:
            waits[j].append(~i)
    return with_after(trace, waits)


RATES = Rates(dma_startup_ns=5.0, dram_bytes_per_ns=inf)
orders = st.sampled_from(["concurrent", "interlocked"])


@patient
@given(traces(), orders)
def test_times_are_those_of_all_pairs(trace, order):
    found, wanted = with_order(trace, order), all_pairs(trace, order)
    one, other = run_timeline([found], RATES).cores[0], run_timeline([wanted], RATES).cores[0]
    np.testing.assert_array_equal(one.start_ns, other.start_ns)
    np.testing.assert_array_equal(one.end_ns, other.end_ns)


@patient
@given(traces(), orders)
def test_every_dependence_is_one_of_all_pairs(trace, order):
    found, wanted = with_order(trace, order), all_pairs(trace, order)
    for i in range(trace.count):
        mine = found.after[found.after_start[i] : found.after_start[i + 1]]
        all_mine = wanted.after[wanted.after_start[i] : wanted.after_start[i + 1]]
        assert set(mine) <= set(all_mine)


@patient
@given(traces(semaphores=0))
def test_interlocked_implies_every_conflict(trace):
    """What has ended before an instruction, by its dependences, is what all pairs say.

    Instructions take no time to issue, so that nothing is left out because of time.
    """
    trace = replace(trace, busy_ns=trace.busy_ns * 0.0, latency_ns=trace.latency_ns + 1.0)
    found = with_order(trace, "interlocked")
    ended, wanted = closure(found), closure(all_pairs(trace, "interlocked"))
    assert ended == wanted


def closure(trace):
    """Return, per instruction, (the ended, the issued) that `after` implies, by steps alone."""
    party = np.where(trace.kind == GATHER, len(QUEUES), trace.queue)
    known = []
    last = {}
    for i in range(trace.count):
        ended, issued = (set(s) for s in known[last[party[i]]]) if party[i] in last else ({}, {})
        ended, issued = set(ended), set(issued)
        for entry in trace.after[trace.after_start[i] : trace.after_start[i + 1]]:
            j = entry if entry >= 0 else ~entry
            before = set(np.flatnonzero(party[: j + 1] == party[j]).tolist())
            ended |= known[j][0] | (before if entry >= 0 else set())
            issued |= known[j][1] | before
        known.append((ended, issued | ended))
        last[party[i]] = i
    return known


# --- races --------------------------------------------------------------------------------------


class TestRaces:
    REGIONS = (chip(A, 0, 8), chip(A, 4, 12), chip(A, 12, 16))

    def pairs(self, builder):
        return races_of(find_races(builder.trace()))

    def test_a_conflict_that_nothing_orders(self):
        b = Builder(self.REGIONS)
        b.dma("dma0", 1.0, writes=[0])
        b.compute("vector", 1.0, reads=[1, 2])
        assert self.pairs(b) == {(0, 1, 0, 1)}

    def test_a_semaphore_orders(self):
        b = Builder(self.REGIONS, [0])
        b.dma("dma0", 1.0, writes=[0])
        b.signal("dma0", 0)
        b.wait("vector", 0)
        b.compute("vector", 1.0, reads=[1])
        assert self.pairs(b) == set()

    def test_a_semaphore_that_was_positive_does_not(self):
        b = Builder(self.REGIONS, [1])
        b.dma("dma0", 1.0, writes=[0])
        b.signal("dma0", 0)
        b.wait("vector", 0)
        b.compute("vector", 1.0, reads=[1])
        b.wait("vector", 0)
        b.compute("vector", 1.0, reads=[1])
        assert self.pairs(b) == {(0, 3, 0, 1)}

    def test_order_passes_through_a_third_queue(self):
        b = Builder(self.REGIONS, [0, 0])
        b.dma("dma0", 1.0, writes=[0])
        b.signal("dma0", 0)
        b.wait("scalar", 0)
        b.signal("scalar", 1)
        b.wait("vector", 1)
        b.compute("vector", 1.0, reads=[1])
        assert self.pairs(b) == set()

    def test_the_wrong_order_is_a_race(self):
        b = Builder(self.REGIONS, [0])
        b.wait("dma0", 0)
        b.dma("dma0", 1.0, writes=[0])
        b.compute("vector", 1.0, reads=[1])
        b.signal("vector", 0)
        assert self.pairs(b) == {(1, 2, 0, 1)}

    def test_reads_do_not_race_and_neither_does_one_queue(self):
        b = Builder(self.REGIONS)
        b.compute("vector", 1.0, reads=[0])
        b.compute("scalar", 1.0, reads=[0])
        b.dma("dma0", 1.0, writes=[2])
        b.dma("dma0", 1.0, writes=[2])
        assert self.pairs(b) == set()

    def test_limit(self):
        b = Builder(self.REGIONS)
        for _ in range(4):
            b.dma("dma0", 1.0, writes=[0])
        b.compute("vector", 1.0, reads=[0])
        assert find_races(b.trace()).count == 4
        assert races_of(find_races(b.trace(), limit=2)) == {(0, 4, 0, 0), (1, 4, 0, 0)}

    def test_unneeded_semaphores(self):
        b = Builder(self.REGIONS, [0, 0, 0])
        b.dma("dma0", 1.0, writes=[0])
        b.signal("dma0", 0)
        b.signal("dma0", 1)
        b.compute("scalar", 1.0)
        b.signal("scalar", 2)
        for s in range(3):
            b.wait("vector", s)
        b.compute("vector", 1.0, reads=[1])
        assert unneeded_semaphores(b.trace()) == [0, 1, 2]  # 0 or 1, but not both
        alone = replace(b.trace(), semaphores=np.array([0, 9, 0]))
        assert unneeded_semaphores(alone) == [1, 2]

    def test_waits_that_never_pass_whatever_the_timing(self):
        b = Builder(self.REGIONS, [0, 0])
        b.wait("vector", 0)
        b.signal("vector", 1)
        b.compute("vector", 1.0, writes=[0])
        b.wait("scalar", 1)
        b.signal("scalar", 0)
        b.compute("tensor", 1.0, reads=[0])
        assert stuck_waits(b.trace()) == [0, 3]
        assert self.pairs(b) == set()  # what never runs does not race


def races_of(races):
    columns = (races.first, races.second, races.first_region, races.second_region)
    return set(zip(*(c.tolist() for c in columns), strict=True))


def reachable(trace):
    """Return `ended[j, i]`: j has ended when i starts, by the paths of a graph; and who runs.

    A node for the start and one for the end of every instruction.
    """
    n = trace.count
    runs = runnable(trace)
    step = np.zeros((2 * n, 2 * n), bool)
    for i in range(n):
        step[i, n + i] = True
        for j in range(i + 1, n):
            if trace.queue[i] == trace.queue[j]:
                # a wait has passed, and what is before a signal has ended
                step[i, j] = True
                step[n + i, j] |= trace.kind[i] == WAIT
                step[n + i, n + j] |= trace.kind[j] == SIGNAL
    for s, initial in enumerate(trace.semaphores):
        mine = (trace.semaphore == s) & runs
        signals, waits = (np.flatnonzero(mine & (trace.kind == k)) for k in (SIGNAL, WAIT))
        for token, wait in zip(signals, waits[int(initial) :], strict=False):
            step[n + token, n + wait] = True
    for k in range(2 * n):
        step |= step[:, k : k + 1] & step[k : k + 1, :]
    return step[n:, :n], runs


def runnable(trace):
    """Return which instructions ever run, by trying again and again."""
    runs = np.zeros(trace.count, bool)
    while True:
        before = runs.copy()
        for q in range(len(QUEUES)):
            for i in np.flatnonzero(trace.queue == q):
                s = trace.semaphore[i]
                signals = int((runs & (trace.kind == SIGNAL) & (trace.semaphore == s)).sum())
                waits = int((runs[:i] & ((trace.kind == WAIT) & (trace.semaphore == s))[:i]).sum())
                if trace.kind[i] == WAIT and waits >= trace.semaphores[s] + signals:
                    break
                runs[i] = True
        if (before == runs).all():
            return runs


@patient
@given(traces())
def test_races_are_those_of_the_graph(trace):
    ended, runs = reachable(trace)
    meet = Meetings(trace.regions)
    wanted = set()
    for j, i in combinations(np.flatnonzero(runs).tolist(), 2):
        if trace.queue[i] == trace.queue[j] or ended[j, i]:
            continue
        for (a, writes, _), (b, their_writes, _) in product(accesses(trace, j), accesses(trace, i)):
            if (writes or their_writes) and meet(a, b):
                wanted.add((j, i, a, b))
    assert races_of(find_races(trace)) == wanted
    limited = find_races(trace, limit=3)
    assert races_of(limited) <= wanted and limited.count == min(3, len(wanted))
    assert sorted(stuck_waits(trace)) == sorted(
        next(i for i in np.flatnonzero(trace.queue == q) if not runs[i])
        for q in range(len(QUEUES))
        if not runs[trace.queue == q].all()
    )


@patient
@given(traces())
def test_what_is_ordered_runs_in_that_order_whatever_the_rates(trace):
    ended, runs = reachable(trace)
    for startup in (0.0, 50.0):
        rates = Rates(dma_startup_ns=startup, dram_bytes_per_ns=3.0)
        core = run_timeline([trace], rates).cores[0]
        np.testing.assert_array_equal(runs, ~np.isnan(core.end_ns))
        for j, i in np.argwhere(ended):
            if runs[i] and trace.kind[i] < SIGNAL:
                assert core.end_ns[j] <= core.start_ns[i]


@pytest.mark.parametrize("order", ["concurrent", "interlocked"])
def test_long_loops_stay_near_linear(order, monkeypatch):
    """Looks at a few accesses per instruction, however often a loop comes back."""
    monkeypatch.setenv(CHOICE, "python")  # where looks can be counted
    looks = []
    original = Meetings.__call__
    monkeypatch.setattr(Meetings, "__call__", lambda *a: looks.append(0) or original(*a))
    counts = []
    for trips in (200, 400):
        trace = loop(trips)
        looks.clear()
        with_order(trace, order)
        find_races(trace)
        counts.append(len(looks))
    assert 0 < counts[1] <= 2.2 * counts[0]


def loop(trips):
    """Return load, multiply, move out, store; two tiles of every buffer in turn."""
    places = [chip(b, 10 * b + 4 * t, 10 * b + 4 * t + 4) for b in range(3) for t in range(2)]
    rows = [chip(9, 4 * t, 4 * t + 4, memory=DRAM) for t in range(trips)]
    b = Builder([*places, *rows], [0, 0, 0, 2, 2, 2])
    sides = [("dma0", "tensor"), ("tensor", "vector"), ("vector", "dma1")]
    for t in range(trips):
        for s, (signals, waits) in enumerate(sides):
            if s == 0:
                b.wait(signals, 3)
                b.dma(signals, 1.0, writes=[t % 2])
            b.signal(signals, s)
            b.wait(waits, s)
            if s < 2:
                b.wait(waits, 4 + s)
                b.compute(waits, 1.0, 50.0, reads=[2 * s + t % 2], writes=[2 * s + 2 + t % 2])
            else:
                b.dma(waits, 1.0, reads=[2 * s + t % 2], writes=[6 + t])
            b.signal(waits, 3 + s)
    return b.trace()


def test_the_loop_has_no_races_and_needs_its_semaphores():
    trace = loop(6)
    assert find_races(trace).count == 0
    assert unneeded_semaphores(trace) == []
    assert not stuck_waits(trace)
