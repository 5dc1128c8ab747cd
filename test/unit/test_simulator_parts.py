"""Queues, index forms, windows and memories of the simulator, by themselves."""

import numpy as np
import pytest

from polystage.machine import Target
from polystage.simulator.access import Layout, Walk
from polystage.simulator.index import NONLINEAR, IndexSpace, Linear
from polystage.simulator.memory import ALWAYS, ChipBuffer, ChipMemory, DramBuffer
from polystage.simulator.queues import Queues

F32 = np.dtype(np.float32)


# --- queues and ports ---


def test_queues_of_different_classes_are_different():
    queues = Queues(Target.load("neuroncore_v2"), ["tensor", "vector"])
    assert len({queues.dma_queue(c, 0) for c in ("load", "weight", "store", "copy")}) == 4
    queues = Queues(Target.load("tiny"), ["tensor"])
    assert queues.dma_queue("load", 0) == queues.dma_queue("weight", 0)
    assert queues.dma_queue("load", 0) != queues.dma_queue("store", 0)


def test_ports_only_between_engines_that_are_used():
    target = Target.load("neuroncore_v2")
    assert Queues(target, ["vector", "gpsimd"]).ports("vector", ["sbuf"]) == 1
    assert Queues(target, ["vector"]).ports("vector", ["sbuf"]) == 0
    assert Queues(target, ["vector", "gpsimd"]).ports("vector", ["psum"]) == 0


# --- index values ---


def test_linear_forms():
    form = Linear(3, ((0, 2),)) + Linear(1, ((0, -2), (1, 5))) + 1
    assert form == Linear(5, ((1, 5),))
    assert (form * 0).is_constant


def test_values_of_all_iterations():
    space = IndexSpace()
    i = space.loop(range(0, 6, 2), 0)
    j = space.loop(range(5, 7), 1)
    both = i * 10 + j + 1
    assert space.values(both, 2).tolist() == [[6, 7], [26, 27], [46, 47]]
    assert space.values(i, 2).shape == (3, 1)
    assert space.range(i * -1 + j) == (1, 6)
    assert space.values(Linear(4), 0).tolist() == 4


def test_what_is_not_linear_is_known_exactly():
    space = IndexSpace()
    i = space.loop(range(10), 0)
    remainder = space.apply(NONLINEAR["arith.remui"], [i, Linear(4)], 1)
    assert space.range(remainder + i) == (0, 10)
    assert not space.is_exact(remainder)
    assert space.first(remainder + i, lambda x: x > 5) == 6
    assert space.apply(NONLINEAR["arith.divsi"], [Linear(-7), Linear(2)], 0) == Linear(-3)
    chosen = space.apply(NONLINEAR["arith.select"], [remainder, i, Linear(-1)], 1)
    assert space.values(chosen, 1).tolist() == [-1, 1, 2, 3, -1, 5, 6, 7, -1, 9]


# --- windows ---


def test_boxes_of_a_walk():
    layout = Layout((4, 10), (10, 1), Walk((2, 3), (10, 2)))
    boxes, valid = layout.boxes(np.array([0, 12, 26, 31]))
    assert boxes[:2].tolist() == [[0, 2, 0, 5], [1, 3, 2, 7]]
    assert valid.tolist() == [True, True, False, False]  # crosses a row; reaches a fifth row
    assert (layout.low, layout.high) == (0, 14)


def test_a_run_through_whole_rows_is_a_box():
    layout = Layout((64, 56, 56), (3136, 56, 1), Walk((64, 392), (3136, 1)))
    boxes, valid = layout.boxes(np.array([0, 392, 400]))
    assert boxes[:2].tolist() == [[0, 64, 0, 7, 0, 56], [0, 64, 7, 14, 0, 56]]
    assert valid.tolist() == [True, True, False]
    every_second = Layout((4, 8), (8, 1), Walk((8,), (2,)))
    assert every_second.boxes(np.array([1]))[0].tolist() == [[0, 2, 1, 8]]
    assert Layout((4, 8), (8, 1), Walk((12,), (1,))).boxes(np.array([0]))[1].tolist() == [False]


def test_a_walk_backwards_is_no_box():
    layout = Layout((4, 10), (10, 1), Walk((3,), (-1,)))
    assert layout.boxes(np.array([5]))[1].tolist() == [False]
    assert (layout.low, layout.high) == (-2, 0)


# --- memories ---


def test_chip_memory_is_real():
    memory = ChipMemory("sbuf", 4, 64)
    memory.materialise()
    assert memory.bytes is not None and memory.bytes.size == 4 * memory.pitch
    buffer = ChipBuffer(memory, (4, 8), F32, 16, "4x8xf32")
    assert buffer.row_bytes == 32
    assert buffer.place == "buffer 4x8xf32 at address 16"


def test_dram_keeps_a_splat_as_one_value():
    buffer = DramBuffer("w", "constant", 6, F32)
    buffer.fill(np.broadcast_to(np.float32(1.5), (2, 3)))
    buffer.materialise()
    assert buffer.array is None
    view = buffer.view(np.dtype(np.uint32), 2, (2, 2), (3, 1))
    assert view.tolist() == [[0x3FC00000] * 2] * 2


WHOLE, LEFT, RIGHT = (0, (2, 4), (4, 1)), (0, (2, 2), (4, 1)), (2, (2, 2), (4, 1))


def test_lives_of_a_buffer():
    written = DramBuffer("b", "intermediate", 8, F32).written
    assert not written.has(LEFT, 0)
    written.note(LEFT, 0, False)
    assert written.has(LEFT, 0) and not written.has(WHOLE, 0)
    written.note(RIGHT, 0, False)
    assert written.has(WHOLE, 0) and written.whole == 0
    written.note(LEFT, 1, False)
    assert written.has(RIGHT, 0) and written.has(LEFT, 1)
    assert not written.has(LEFT, 0) and not written.has(RIGHT, 1)
    written.note(WHOLE, 2, True)
    assert written.has(LEFT, 2) and not written.has(LEFT, 1)
    assert ALWAYS < 0


@pytest.mark.parametrize(("low", "high", "lost"), [(0, 16, True), (32, 40, False), (28, 40, True)])
def test_a_buffer_loses_what_another_is_given(low, high, lost):
    buffer = ChipBuffer(ChipMemory("sbuf", 4, 64), (2, 4), F32, 16, "2x4xf32")
    buffer.written.note(WHOLE, 0, True)
    buffer.lose(low, high, (1, 4), "another")
    assert buffer.written.has((0, (1, 4), (4, 1)), 0)
    assert buffer.written.has(WHOLE, 0) is (not lost or high <= 16)
