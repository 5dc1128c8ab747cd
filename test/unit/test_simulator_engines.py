"""Queues, the DMA pool, ports, hazards and index forms, by themselves."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polystage.machine import Target
from polystage.simulator.engines import DmaPool, Engine, Machine, Port
from polystage.simulator.hazards import MANY, Hazards, Region
from polystage.simulator.index import Linear
from polystage.simulator.memory import ChipBuffer, ChipMemory, DramBuffer


def test_pool_one_transfer_takes_its_time_alone():
    assert DmaPool().reserve(5.0, 2.0, 2.0) == 7.0
    assert DmaPool().reserve(5.0, 2.0, 8.0) == 13.0  # few descriptors use a quarter of the engines


def test_pool_full_transfers_follow_each_other():
    pool = DmaPool()
    assert pool.reserve(0.0, 4.0, 4.0) == 4.0
    assert pool.reserve(1.0, 2.0, 2.0) == 6.0


def test_pool_later_transfers_fill_gaps():
    """A store that starts late leaves the time before to a load that comes after it."""
    pool = DmaPool()
    assert pool.reserve(10.0, 4.0, 4.0) == 14.0
    assert pool.reserve(0.0, 5.0, 5.0) == 5.0
    assert pool.reserve(0.0, 7.0, 7.0) == 16.0  # 5 until the store, 2 after it


def test_pool_narrow_transfers_share():
    pool = DmaPool()
    assert pool.reserve(0.0, 1.0, 2.0) == 2.0
    assert pool.reserve(0.0, 1.0, 2.0) == 2.0
    assert pool.reserve(0.0, 1.0, 1.0) == 3.0
    assert pool.busy_ns == 3.0


@given(
    st.lists(
        st.tuples(st.integers(0, 50), st.integers(1, 20), st.integers(1, 4)),
        min_size=1,
        max_size=30,
    )
)
def test_pool_is_never_over_capacity_and_never_idle_for_nothing(transfers):
    pool = DmaPool()
    ends = [pool.reserve(float(s), float(b), float(b * f)) for s, b, f in transfers]
    for (start, busy, factor), end in zip(transfers, ends, strict=True):
        assert end >= start + busy * factor - 1e-6
    work = sum(b for _, b, _ in transfers)
    assert max(ends) >= min(s for s, _, _ in transfers) + work - 1e-6
    assert max(ends) <= max(s for s, _, _ in transfers) + sum(b * f for _, b, f in transfers) + 1e-6
    assert all(0 <= level <= 1 for level in pool._levels)
    spans = zip(pool._times, pool._times[1:], pool._levels, strict=False)
    assert sum((b - a) * level for a, b, level in spans) == pytest.approx(work)


def test_port_waits_for_the_other_engine_only():
    port, first, second = Port(["a", "b"]), Engine("a"), Engine("b")
    port.use(first, 0.0, 10.0)
    port.use(first, 15.0, 5.0)
    assert port.first_gap(first, 3.0, 1.0) == 3.0
    assert port.first_gap(second, 3.0, 5.0) == 10.0
    assert port.first_gap(second, 3.0, 6.0) == 20.0


def test_queues_of_different_classes_are_different():
    machine = Machine(Target.load("neuroncore_v2"), ["tensor", "vector"])
    queues = {machine.queue_of(c, 0).name for c in ("load", "weight", "store", "copy")}
    assert len(queues) == 4
    machine = Machine(Target.load("tiny"), ["tensor"])
    assert machine.queue_of("load", 0) is not machine.queue_of("weight", 0)


def test_ports_only_between_engines_that_are_used():
    target = Target.load("neuroncore_v2")
    assert Machine(target, ["vector", "gpsimd"]).ports_of("vector", ["sbuf"])
    assert not Machine(target, ["vector"]).ports_of("vector", ["sbuf"])
    assert not Machine(target, ["vector", "gpsimd"]).ports_of("vector", ["psum"])


def box(*bounds, low=0, high=100):
    return Region(low, high, tuple(bounds), False)


def test_regions_meet_where_their_boxes_do():
    left, right = box((0, 8), (0, 5)), box((0, 8), (5, 10))
    assert not left.meets(right)
    assert left.meets(box((3, 4), (4, 6)))
    assert left.meets(Region(50, 60, None, False))
    assert not left.meets(Region(100, 160, None, False))
    assert not Region(0, 9, None, False, (0, 32)).meets(Region(0, 9, None, False, (32, 64)))
    other = Region(0, 100, ((0, 8), (5, 10)), False, key=(7,))
    assert left.meets(other)  # boxes of different layouts do not compare


def test_hazards():
    hazards = Hazards()
    hazards.record_write(box((0, 4)), 10.0)
    hazards.record_read(box((4, 8)), 20.0)
    assert hazards.after_writes(box((2, 6)), 0.0) == 10.0
    assert hazards.after_writes(box((4, 6)), 0.0) == 0.0
    assert hazards.after_reads(box((2, 6)), 0.0) == 20.0
    assert hazards.latest() == 20.0
    hazards.record_write(Region(0, 100, ((0, 8),), True), 30.0)
    assert hazards.reads == {} and len(hazards.writes) == 1


def test_hazards_stay_few_and_safe():
    hazards = Hazards()
    for i in range(4 * MANY):
        hazards.record_write(Region(i, i + 1, None, False), float(i))
    assert len(hazards.writes) <= MANY
    for i in range(4 * MANY):
        assert hazards.after_writes(Region(i, i + 1, None, False), 0.0) >= i


def test_chip_memory_is_real():
    memory = ChipMemory("sbuf", 4, 64)
    memory.materialise()
    assert memory.bytes.size == 4 * memory.pitch
    buffer = ChipBuffer(memory, (4, 8), np.dtype(np.float32), 16, "buffer")
    assert buffer.row_bytes == 32
    buffer.leave()
    assert memory.board.tolist() == [0.0]


def test_dram_keeps_a_splat_as_one_value():
    buffer = DramBuffer("w", "constant", 6, np.dtype(np.float32))
    buffer.fill(np.broadcast_to(np.float32(1.5), (2, 3)))
    assert buffer.array is None
    view = buffer.view(np.dtype(np.uint32), 2, (2, 2), (3, 1))
    assert view.tolist() == [[0x3FC00000] * 2] * 2


def test_linear_forms():
    form = Linear(3, ((0, 2),)) + Linear(1, ((0, -2), (1, 5))) + 1
    assert form == Linear(5, ((1, 5),))
    assert (form * 2).evaluator()([9, 10]) == 110
    assert form.range([(0, 1), (2, 4)]) == (15, 25)
    assert (form * -1).range([(0, 1), (2, 4)]) == (-25, -15)
    many = Linear(1, ((0, 1), (1, 2), (2, 3)))
    assert many.evaluator()([1, 1, 1]) == 7
    assert (form * 0).is_constant
