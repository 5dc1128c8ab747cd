"""The rules of time, each by itself; then over random traces what holds for all of them."""

from dataclasses import replace
from itertools import pairwise
from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulator_traces import QUEUES, Builder, each_core, patient, traces

from polystage.simulator.conflicts import with_order
from polystage.simulator.timeline import (
    NO_QUEUE,
    Blocked,
    deadlock_cycle,
    run_timeline,
)
from polystage.simulator.trace import COMPUTE, DMA, GATHER, NO_SEMAPHORE, SIGNAL, WAIT, Rates

core = each_core()
UNLIMITED = Rates(dma_startup_ns=100.0, dram_bytes_per_ns=inf)
SBUF_PORT, PSUM_PORT = 1, 2


def run(*builders, rates=UNLIMITED):
    return run_timeline([b.trace() for b in builders], rates)


def run_one(builder, rates=UNLIMITED):
    timeline = run(builder, rates=rates)
    assert not timeline.blocked
    return timeline.cores[0]


class TestComputeEngine:
    def test_takes_the_next_instruction_when_the_one_before_is_issued(self):
        b = Builder()
        b.compute("vector", 10.0, 25.0)
        b.compute("vector", 5.0, 6.0)
        core = run_one(b)
        assert core.start_ns.tolist() == [0.0, 10.0]
        assert core.end_ns.tolist() == [25.0, 16.0]

    def test_works_at_the_same_time_as_another(self):
        b = Builder()
        b.compute("vector", 10.0)
        b.compute("scalar", 5.0)
        assert run_one(b).start_ns.tolist() == [0.0, 0.0]

    def test_waits_for_the_end_or_the_issue_of_single_instructions(self):
        b = Builder()
        first = b.compute("vector", 10.0, 25.0)
        b.compute("scalar", 1.0, after=[first])
        b.compute("tensor", 1.0, after=[~first])
        assert run_one(b).start_ns.tolist() == [0.0, 25.0, 10.0]

    def test_whoever_waits_for_an_instruction_waits_for_those_before_it(self):
        b = Builder()
        b.compute("vector", 1.0, 30.0)
        second = b.compute("vector", 1.0, 2.0)
        b.compute("scalar", 1.0, after=[second])
        assert run_one(b).start_ns[2] == 30.0

    def test_waits_for_a_later_instruction_of_the_program(self):
        b = Builder()
        b.compute("vector", 1.0, after=[1])
        b.compute("scalar", 4.0)
        assert run_one(b).start_ns[0] == 4.0


class TestDmaQueue:
    def test_triggers_while_the_transfer_before_moves(self):
        b = Builder()
        b.dma("dma0", 30.0)
        b.dma("dma0", 30.0)
        core = run_one(b)
        assert core.start_ns.tolist() == [0.0, 0.0]
        assert core.move_ns.tolist() == [100.0, 130.0]
        assert core.end_ns.tolist() == [130.0, 160.0]

    def test_pays_the_startup_after_a_wait(self):
        b = Builder()
        first = b.compute("vector", 500.0)
        b.dma("dma0", 30.0, after=[first])
        core = run_one(b)
        assert (core.start_ns[1], core.move_ns[1], core.end_ns[1]) == (500.0, 600.0, 630.0)

    def test_moves_one_transfer_at_a_time(self):
        """Half of the DMA engines idle, but the queue is the same."""
        b = Builder()
        b.dma("dma0", 30.0, 60.0)
        b.dma("dma0", 30.0, 60.0)
        assert run_one(b).move_ns.tolist() == [100.0, 160.0]

    def test_queues_share_the_engines(self):
        b = Builder()
        b.dma("dma0", 30.0)
        b.dma("dma1", 30.0)
        core = run_one(b)
        assert core.move_ns.tolist() == [100.0, 100.0]
        assert core.end_ns.tolist() == [130.0, 160.0]

    def test_a_transfer_that_uses_part_of_the_engines_leaves_the_rest(self):
        b = Builder()
        b.dma("dma0", 30.0, 60.0)
        b.dma("dma1", 30.0)
        core = run_one(b)
        assert core.end_ns.tolist() == [160.0, 160.0]

    def test_a_transfer_speeds_up_when_the_one_before_ends(self):
        b = Builder()
        b.dma("dma0", 30.0, 60.0)
        b.dma("dma1", 40.0)
        core = run_one(b)
        assert core.end_ns.tolist() == [160.0, 170.0]  # 60 ns at one half, then 10 ns at full rate

    def test_an_empty_transfer_ends_when_it_begins(self):
        b = Builder()
        b.dma("dma0", 0.0)
        assert run_one(b).end_ns.tolist() == [100.0]


class TestGather:
    def test_keeps_gpsimd_while_it_forms_descriptors(self):
        b = Builder()
        b.gather(40.0, 30.0)
        b.compute("gpsimd", 7.0)
        core = run_one(b)
        assert core.start_ns.tolist() == [0.0, 40.0]
        assert core.move_ns[0] == 140.0
        assert core.end_ns.tolist() == [170.0, 47.0]

    def test_shares_the_engines_and_keeps_no_queue(self):
        b = Builder()
        b.gather(0.0, 30.0)
        b.gather(0.0, 30.0)
        b.dma("dma0", 10.0)
        core = run_one(b)
        assert core.move_ns.tolist() == [100.0, 100.0, 100.0]
        assert core.end_ns.tolist() == [130.0, 160.0, 170.0]

    def test_a_computation_does_not_end_with_the_gather_before_it(self):
        b = Builder()
        b.gather(40.0, 30.0)
        second = b.compute("gpsimd", 7.0)
        b.compute("vector", 1.0, after=[second])
        b.compute("scalar", 1.0, after=[0])
        assert run_one(b).start_ns[2:].tolist() == [47.0, 170.0]


class TestDram:
    RATES = Rates(dma_startup_ns=0.0, dram_bytes_per_ns=10.0)

    def transfer(self, dram_bytes=300.0, busy=30.0):
        b = Builder()
        b.dma("dma0", busy, dram_bytes=dram_bytes)
        return b

    def test_one_core_has_its_own_share(self):
        assert run(self.transfer(), rates=self.RATES).end_ns == 30.0

    def test_two_cores_share_the_bandwidth(self):
        timeline = run(self.transfer(), self.transfer(), rates=self.RATES)
        assert [c.end_ns[0] for c in timeline.cores] == [30.0, 60.0]

    def test_what_one_core_leaves_another_takes(self):
        timeline = run(self.transfer(150.0), self.transfer(), rates=self.RATES)
        assert [c.end_ns[0] for c in timeline.cores] == [30.0, 45.0]

    def test_transfers_on_chip_need_none(self):
        timeline = run(self.transfer(), self.transfer(0.0), rates=self.RATES)
        assert [c.end_ns[0] for c in timeline.cores] == [30.0, 30.0]

    def test_a_core_that_asks_for_more_than_there_is_is_held_up(self):
        assert run(self.transfer(600.0), rates=self.RATES).end_ns == 60.0

    def test_enough_for_both(self):
        rates = Rates(dma_startup_ns=0.0, dram_bytes_per_ns=20.0)
        assert run(self.transfer(), self.transfer(), rates=rates).end_ns == 30.0


class TestPort:
    def test_one_engine_at_a_time_in_order_of_time_then_of_the_program(self):
        b = Builder()
        b.compute("vector", 10.0, 15.0, ports=SBUF_PORT)
        b.compute("gpsimd", 10.0, 15.0, ports=SBUF_PORT)
        b.compute("vector", 10.0, 15.0, ports=SBUF_PORT)
        core = run_one(b)
        assert core.start_ns.tolist() == [0.0, 10.0, 20.0]
        assert core.port_wait_ns.tolist() == [0.0, 10.0, 10.0]
        assert core.port_waits.holder.tolist() == [1, 3]
        assert core.port_waits.port.tolist() == [SBUF_PORT, SBUF_PORT]

    def test_ports_are_apart(self):
        b = Builder()
        b.compute("vector", 10.0, ports=SBUF_PORT)
        b.compute("scalar", 10.0, ports=PSUM_PORT)
        b.compute("gpsimd", 10.0)
        core = run_one(b)
        assert core.start_ns.tolist() == [0.0, 0.0, 0.0]
        assert core.port_wait_ns.tolist() == [0.0, 0.0, 0.0]

    def test_an_instruction_that_needs_both_waits_for_both(self):
        b = Builder()
        b.compute("gpsimd", 10.0, ports=SBUF_PORT)
        b.compute("scalar", 25.0, ports=PSUM_PORT)
        b.compute("vector", 5.0, ports=SBUF_PORT | PSUM_PORT)
        core = run_one(b)
        assert core.start_ns[2] == 25.0
        assert core.port_waits.port.tolist() == [PSUM_PORT]

    def test_is_free_before_an_earlier_instruction_of_the_program_needs_it(self):
        b = Builder()
        first = b.dma("dma0", 1.0)
        b.compute("vector", 10.0, ports=SBUF_PORT, after=[first])
        b.compute("gpsimd", 10.0, ports=SBUF_PORT)
        assert run_one(b).start_ns[1:].tolist() == [101.0, 0.0]

    def test_a_gather_holds_it_while_it_forms(self):
        b = Builder()
        b.gather(10.0, 50.0, ports=SBUF_PORT)
        b.compute("vector", 10.0, ports=SBUF_PORT)
        assert run_one(b).start_ns[1] == 10.0


class TestSemaphore:
    def test_goes_up_when_everything_before_the_signal_has_ended(self):
        b = Builder(semaphores=[0])
        b.compute("vector", 10.0, 50.0)
        b.compute("vector", 10.0, 12.0)
        b.signal("vector", 0)
        b.compute("vector", 1.0)
        b.wait("scalar", 0)
        b.compute("scalar", 1.0)
        core = run_one(b)
        assert core.start_ns[3] == 20.0  # a signal does not hold its queue
        assert (core.start_ns[2], core.end_ns[2]) == (20.0, 50.0)
        assert (core.start_ns[4], core.end_ns[4]) == (0.0, 50.0)
        assert core.start_ns[5] == 50.0

    def test_of_a_dma_queue_goes_up_with_the_transfer(self):
        b = Builder(semaphores=[0, 0])
        b.dma("dma0", 30.0)
        b.signal("dma0", 0)
        b.dma("dma0", 30.0)
        b.signal("dma0", 1)
        b.wait("vector", 0)
        b.wait("scalar", 1)
        core = run_one(b)
        assert core.end_ns[4:].tolist() == [130.0, 160.0]

    def test_of_gpsimd_goes_up_with_gathers_and_computations(self):
        b = Builder(semaphores=[0])
        b.gather(40.0, 30.0)
        b.compute("gpsimd", 300.0)
        b.signal("gpsimd", 0)
        b.compute("gpsimd", 500.0)
        b.wait("vector", 0)
        assert run_one(b).end_ns[4] == 340.0

    def test_initial_tokens_let_the_first_waits_pass(self):
        b = Builder(semaphores=[2])
        for _ in range(3):
            b.wait("vector", 0)
            b.compute("vector", 1.0)
        b.compute("scalar", 70.0)
        b.signal("scalar", 0)
        assert run_one(b).start_ns[[1, 3, 5]].tolist() == [0.0, 1.0, 70.0]

    def test_every_wait_takes_one_token(self):
        b = Builder(semaphores=[0])
        for _ in range(2):
            b.compute("scalar", 10.0)
            b.signal("scalar", 0)
        b.wait("vector", 0)
        b.wait("vector", 0)
        assert run_one(b).end_ns[4:].tolist() == [10.0, 20.0]

    def test_signal_after_a_wait_fires_no_sooner_than_the_wait_has_passed(self):
        b = Builder(semaphores=[0, 0])
        b.compute("scalar", 10.0)
        b.signal("scalar", 0)
        b.wait("dma0", 0)
        b.signal("dma0", 1)
        b.wait("vector", 1)
        assert run_one(b).end_ns[4] == 10.0

    def test_a_wait_holds_a_dma_queue(self):
        b = Builder(semaphores=[0])
        b.compute("scalar", 10.0)
        b.signal("scalar", 0)
        b.wait("dma0", 0)
        b.dma("dma0", 1.0)
        assert run_one(b).move_ns[3] == 110.0


class TestDeadlock:
    def test_names_the_queues_that_wait_for_each_other(self):
        b = Builder(semaphores=[0, 0, 0])
        for queue, waits, signals in (("vector", 0, 1), ("scalar", 1, 2), ("dma0", 2, 0)):
            b.wait(queue, waits)
            b.signal(queue, signals)
        b.compute("tensor", 5.0)
        timeline = run(b)
        assert timeline.cores[0].start_ns[6] == 0.0
        assert np.isnan(timeline.cores[0].end_ns[:6]).all()
        assert deadlock_cycle(timeline.blocked) == (
            Blocked(0, QUEUES.index("vector"), 0, 0, QUEUES.index("dma0")),
            Blocked(0, QUEUES.index("dma0"), 4, 2, QUEUES.index("scalar")),
            Blocked(0, QUEUES.index("scalar"), 2, 1, QUEUES.index("vector")),
        )

    def test_a_queue_that_only_leads_to_the_cycle_is_not_of_it(self):
        b = Builder(semaphores=[0, 0, 0])
        b.wait("tensor", 2)
        b.wait("vector", 0)
        b.signal("vector", 1)
        b.signal("vector", 2)
        b.wait("scalar", 1)
        b.signal("scalar", 0)
        cycle = deadlock_cycle(run(b).blocked)
        assert [QUEUES[b.queue] for b in cycle] == ["vector", "scalar"]

    def test_a_wait_for_which_no_signal_is_left(self):
        b = Builder(semaphores=[1])
        b.wait("vector", 0)
        b.wait("vector", 0)
        timeline = run(b)
        assert deadlock_cycle(timeline.blocked) == (Blocked(0, 1, 1, 0, NO_QUEUE),)

    def test_by_single_instructions(self):
        b = Builder()
        b.compute("vector", 1.0, after=[1])
        b.compute("scalar", 1.0, after=[0])
        cycle = deadlock_cycle(run(b).blocked)
        assert [(c.queue, c.semaphore, c.awaited) for c in cycle] == [
            (1, NO_SEMAPHORE, 2),
            (2, NO_SEMAPHORE, 1),
        ]

    def test_none(self):
        assert deadlock_cycle(run(Builder()).blocked) == ()
        assert run(Builder()).end_ns == 0.0


# --- over random traces -------------------------------------------------------------------------

device = st.lists(traces(), min_size=1, max_size=3)
rates = st.builds(
    Rates,
    dma_startup_ns=st.integers(0, 30).map(lambda n: n / 7),
    dram_bytes_per_ns=st.sampled_from([0.5, 3.0, 10.0, inf]),
)
orders = st.sampled_from(["concurrent", "interlocked"])


def ended(core, i):
    return not np.isnan(core.end_ns[i])


@patient
@given(device, rates, orders)
def test_instructions_keep_the_order_of_their_queue_and_what_they_wait_for(cores, rates, order):
    cores = [with_order(trace, order) for trace in cores]
    for trace, core in zip(cores, run_timeline(cores, rates).cores, strict=True):
        for q in range(len(QUEUES)):
            program = np.flatnonzero(trace.queue == q)
            starts = core.start_ns[program]
            reached = ~np.isnan(starts)
            assert (np.diff(reached.astype(int)) <= 0).all()  # nothing after a wait that holds
            assert (np.diff(starts[reached]) >= 0).all()
        for i in range(trace.count):
            for entry in trace.after[trace.after_start[i] : trace.after_start[i + 1]]:
                if not np.isnan(core.start_ns[i]):
                    j = entry if entry >= 0 else ~entry
                    until = core.end_ns[j] if entry >= 0 else core.start_ns[j] + trace.busy_ns[j]
                    assert core.start_ns[i] >= until


@patient
@given(device, rates)
def test_a_wait_passes_with_its_token(cores, rates):
    for trace, core in zip(cores, run_timeline(cores, rates).cores, strict=True):
        for s, initial in enumerate(trace.semaphores):
            mine = trace.semaphore == s
            fired = core.end_ns[mine & (trace.kind == SIGNAL)]
            tokens = [0.0] * int(initial) + sorted(fired[~np.isnan(fired)])
            waits = np.flatnonzero(mine & (trace.kind == WAIT))
            for k, i in enumerate(waits):
                if k < len(tokens) and not np.isnan(core.start_ns[i]):
                    assert core.end_ns[i] == max(core.start_ns[i], tokens[k])
                    later = np.flatnonzero(trace.queue == trace.queue[i])
                    later = later[(later > i) & ~np.isnan(core.start_ns[later])]
                    assert (core.start_ns[later] >= tokens[k]).all()
                else:
                    assert not ended(core, i)


@patient
@given(device, rates)
def test_a_signal_fires_at_the_last_end_before_it(cores, rates):
    for trace, core in zip(cores, run_timeline(cores, rates).cores, strict=True):
        for i in np.flatnonzero((trace.kind == SIGNAL) & ~np.isnan(core.start_ns)):
            mine = (trace.queue[:i] == trace.queue[i]) & (trace.kind[:i] != SIGNAL)
            ends = core.end_ns[:i][mine]
            issued = (core.start_ns[:i] + trace.busy_ns[:i])[mine & (trace.kind[:i] == COMPUTE)]
            formed = (core.start_ns[:i] + trace.form_ns[:i])[mine & (trace.kind[:i] == GATHER)]
            assert core.end_ns[i] == max([0.0, *ends, *issued, *formed])


@patient
@given(device, rates)
def test_bandwidth_is_never_exceeded(cores, rates):
    """Between any begin and any end no more is done than the DMA engines and DRAM can do."""
    timeline = run_timeline(cores, rates)
    everything = []
    for trace, core in zip(cores, timeline.cores, strict=True):
        mine = []
        moves = ((trace.kind == DMA) | (trace.kind == GATHER)) & (core.end_ns > core.move_ns)
        for i in np.flatnonzero(moves):
            begin, end, work = core.move_ns[i], core.end_ns[i], trace.busy_ns[i]
            assert end - begin >= max(work, trace.latency_ns[i]) * (1 - 1e-9)
            mine.append((begin, end, work))
            everything.append((begin, end, trace.dram_bytes[i]))
        assert_within(mine, 1.0)
    assert_within(everything, rates.dram_bytes_per_ns)


def assert_within(spans, capacity):
    for begin in {s[0] for s in spans}:
        for end in {s[1] for s in spans if s[1] > begin}:
            inside = sum(w for b, e, w in spans if b >= begin and e <= end)
            assert inside <= (end - begin) * capacity * (1 + 1e-6) + 1e-6


@patient
@given(device, rates)
def test_ports_are_held_by_one_engine_at_a_time(cores, rates):
    for trace, core in zip(cores, run_timeline(cores, rates).cores, strict=True):
        for port in (SBUF_PORT, PSUM_PORT):
            uses = np.flatnonzero((trace.ports & port).astype(bool) & ~np.isnan(core.start_ns))
            held = np.where(trace.kind == GATHER, trace.form_ns, trace.busy_ns)
            spans = sorted((core.start_ns[i], core.start_ns[i] + held[i]) for i in uses)
            for (_, end), (begin, _) in pairwise(spans):
                assert begin >= end


@patient
@given(device, rates)
def test_is_deterministic_and_every_instruction_ends_or_is_blocked(cores, rates):
    first, second = run_timeline(cores, rates), run_timeline(cores, rates)
    assert first.blocked == second.blocked
    for trace, a, b in zip(cores, first.cores, second.cores, strict=True):
        for name in ("start_ns", "move_ns", "end_ns", "port_wait_ns"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        assert not np.isnan(a.end_ns).any() or first.blocked
        works = (trace.kind < SIGNAL) & ~np.isnan(a.start_ns)
        assert not np.isnan(a.end_ns[works]).any()


@patient
@given(device)
def test_more_bandwidth_than_is_asked_for_changes_nothing(cores):
    enough = Rates(dma_startup_ns=1.0, dram_bytes_per_ns=inf)
    alone = [run_timeline([trace], enough).cores[0] for trace in cores]
    together = run_timeline(cores, enough).cores
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_array_equal(a.end_ns, b.end_ns)


@patient
@given(traces(), rates)
def test_an_unused_limit_changes_nothing(trace, rates):
    """The same numbers, whether the limit is looked at or known not to matter."""
    trace = replace(trace, dram_bytes=np.zeros_like(trace.dram_bytes))
    unlimited = replace(rates, dram_bytes_per_ns=inf)
    one, other = run_timeline([trace], rates), run_timeline([trace], unlimited)
    np.testing.assert_array_equal(one.cores[0].end_ns, other.cores[0].end_ns)


@pytest.mark.parametrize("count", [1, 5])
def test_sequential_order_is_the_sum_of_all_times(count):
    b = Builder()
    for _ in range(count):
        b.compute("vector", 10.0, 15.0)
        b.dma("dma0", 30.0)
    core = run_timeline([with_order(b.trace(), "sequential")], UNLIMITED)
    assert core.end_ns == count * (15.0 + 100.0 + 30.0)
