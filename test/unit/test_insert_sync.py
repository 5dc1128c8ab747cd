"""npu-insert-sync: what it refuses, and what it counts."""

import numpy as np
import pytest

from polystage.dialects import npu
from polystage.errors import FormError, PassError, SimulationError
from polystage.forms import walk
from polystage.mlir import ir
from polystage.pipeline import run_pipeline
from polystage.simulator import simulate

TINY = "npu-attach-target{target=tiny}"


def insert_sync(text: str, passes: str = f"{TINY},npu-insert-sync"):
    context = ir.Context()
    npu.load(context)
    module = ir.Module.parse(text, context)
    return module, run_pipeline(module, f"builtin.module({passes})")


LOOP = """func.func private @kernel() attributes {npu.kernel} {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %n = arith.maxsi %c0, %c1 : index
  scf.for %i = %c0 to %n step %c1 {
  }
  return
}"""
SUBVIEW = """func.func private @kernel(%x: memref<4xf32>) attributes {npu.kernel} {
  %c0 = arith.constant 0 : index
  %n = arith.maxsi %c0, %c0 : index
  %0 = memref.subview %x[0] [%n] [1] : memref<4xf32> to memref<?xf32, strided<[1]>>
  return
}"""
INDEX = "func.func private @kernel(%n: index) attributes {npu.kernel} { return }"
SIGNAL = """module attributes {npu.semaphores = array<i64: 0>} {
  func.func private @kernel() attributes {npu.kernel} {
    "npu.signal"() {queue = "tensor", semaphore = 0 : i64} : () -> ()
    return
  }
}"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "module attributes {npu.semaphores = array<i64>} {}",
            "npu-insert-sync: the module has npu.semaphores, so it is synchronised already\n"
            "help: run npu-insert-sync once, on a placed program",
        ),
        (
            LOOP,
            "-:5:3: npu-insert-sync: a bound of 'scf.for' is not constant\n"
            "help: every queue counts a loop's executions by itself: give it constant bounds",
        ),
        (INDEX, "-:1:1: npu-insert-sync: kernel 'kernel' takes index, but kernels take arrays"),
        (SUBVIEW, "-:4:8: npu-insert-sync: sizes and strides of 'memref.subview' are not constant"),
    ],
)
def test_refuses(text, message):
    with pytest.raises(PassError) as error:
        insert_sync(text)
    assert str(error.value) == message


def test_refuses_signals_that_are_there_already():
    with pytest.raises(FormError) as error:
        insert_sync(SIGNAL)
    assert str(error.value) == (
        "-:3:5: npu-insert-sync: 'npu.signal' orders queues, which must not appear in placed form\n"
        "help: npu-insert-sync takes placed form"
    )


def test_needs_a_target():
    with pytest.raises(PassError, match="the module names no target"):
        insert_sync("module {}", "npu-insert-sync")


BUFFER = 'memref<8x16xf32, #npu.space<"sbuf">>'
CHAIN = f"""func.func private @kernel(%x: memref<8x16xf32>) attributes {{npu.kernel}} {{
  %a = "npu.alloc"() {{address = 0 : i64}} : () -> {BUFFER}
  "npu.dma"(%x, %a) {{cause = "input"}} : (memref<8x16xf32>, {BUFFER}) -> ()
  "npu.activate"(%a, %a) {{function = "exp", scale = 1.0 : f32, bias = 0.0 : f32,
   operandSegmentSizes = array<i32: 1, 1, 0, 0, 0>}} :
    ({BUFFER}, {BUFFER}) -> ()
  "npu.dma"(%a, %x) {{cause = "output"}} : ({BUFFER}, memref<8x16xf32>) -> ()
  return
}}"""


@pytest.mark.parametrize(("reduce", "kept"), [("true", 2), ("false", 3)])
def test_counts(reduce, kept):
    _, records = insert_sync(CHAIN, f"{TINY},npu-insert-sync{{reduce={reduce}}}")
    assert records[-1].statistics == {
        "transfers in queues": 2,
        "orders between queues": kept,
        "signals and waits": 2 * kept,
        "semaphores": kept,
    }


@pytest.mark.parametrize(("queues", "names"), [(1, "00"), (2, "01"), (4, "02"), (8, "04")])
def test_loads_and_stores_have_queues_of_their_own(queues, names):
    target = f"npu-attach-target{{target=tiny set=dma.queues={queues}}}"
    module, _ = insert_sync(CHAIN, f"{target},npu-insert-sync")
    used = [
        ir.StringAttr(op.attributes["queue"]).value
        for op in module.body.operations[0].entry_block.operations
        if op.operation.name == "npu.dma"
    ]
    assert used == [f"dma{n}" for n in names]


def rows(first: int) -> str:
    """Return the type of eight rows of an array, from a row on."""
    return f"memref<8x16xf32, strided<[16, 1], offset: {16 * first}>>"


def eight_rows(name: str, array: str, first: int) -> str:
    return (
        f"%{name} = memref.reinterpret_cast %{array} to offset: [{16 * first}], sizes: [8, 16], "
        f"strides: [16, 1] : memref<12x16xf32> to {rows(first)}"
    )


def load_and_store(array: str, first: int) -> str:
    """Return a kernel that loads rows 0 to 7 of %m and stores to eight rows of an array."""
    return f"""func.func private @kernel(%x: {rows(0)}, %y: {rows(first)})
    attributes {{npu.kernel}} {{
  %a = "npu.alloc"() {{address = 0 : i64}} : () -> {BUFFER}
  %b = "npu.alloc"() {{address = 64 : i64}} : () -> {BUFFER}
  "npu.dma"(%x, %a) {{cause = "input"}} : ({rows(0)}, {BUFFER}) -> ()
  "npu.dma"(%b, %y) {{cause = "output"}} : ({BUFFER}, {rows(first)}) -> ()
  return
}}
func.func @main(%m: memref<12x16xf32>, %n: memref<12x16xf32>) {{
  {eight_rows("x", "m", 0)}
  {eight_rows("y", array, first)}
  call @kernel(%x, %y) : ({rows(0)}, {rows(first)}) -> ()
  return
}}"""


@pytest.mark.parametrize("first", [0, 4], ids=["same", "overlapping"])
def test_arguments_that_share_memory_are_ordered(first):
    module, records = insert_sync(load_and_store("m", first))
    assert records[-1].statistics["orders between queues"] == 2, "in the call, and between calls"
    kernel = [op.operation.name for op in module.body.operations[0].entry_block.operations]
    assert kernel[2:6] == ["npu.dma", "npu.signal", "npu.wait", "npu.dma"]


def test_arguments_that_share_nothing_are_not():
    _, records = insert_sync(load_and_store("n", 4))
    assert records[-1].statistics["orders between queues"] == 0


MOVING = "memref<8x16xf32, strided<[16, 1], offset: ?>>"
LOOP_OF_CALLS = f"""func.func private @double(%x: {MOVING}, %y: {MOVING})
    attributes {{npu.kernel}} {{
  %a = "npu.alloc"() {{address = 0 : i64}} : () -> {BUFFER}
  "npu.dma"(%x, %a) {{cause = "input"}} : ({MOVING}, {BUFFER}) -> ()
  "npu.activate"(%a, %a) {{function = "identity", scale = 2.0 : f32, bias = 1.0 : f32,
   operandSegmentSizes = array<i32: 1, 1, 0, 0, 0>}} :
    ({BUFFER}, {BUFFER}) -> ()
  "npu.dma"(%a, %y) {{cause = "output"}} : ({BUFFER}, {MOVING}) -> ()
  return
}}
func.func @main(%m: memref<8x16xf32> {{npu.name = "x"}})
    -> (memref<40x16xf32> {{npu.name = "y"}}) {{
  %c0 = arith.constant 0 : index
  %c8 = arith.constant 8 : index
  %c32 = arith.constant 32 : index
  %n = memref.alloc() : memref<40x16xf32>
  %from = memref.reinterpret_cast %m to offset: [%c0], sizes: [8, 16], strides: [16, 1] :
    memref<8x16xf32> to {MOVING}
  %to = memref.subview %n[%c0, 0] [8, 16] [1, 1] : memref<40x16xf32> to {MOVING}
  call @double(%from, %to) : ({MOVING}, {MOVING}) -> ()
  scf.for %i = %c0 to %c32 step %c8 {{
    %j = arith.addi %i, %c8 : index
    %x = memref.subview %n[%i, 0] [8, 16] [1, 1] : memref<40x16xf32> to {MOVING}
    %y = memref.subview %n[%j, 0] [8, 16] [1, 1] : memref<40x16xf32> to {MOVING}
    func.call @double(%x, %y) : ({MOVING}, {MOVING}) -> ()
  }}
  return %n : memref<40x16xf32>
}}"""


def test_loops_of_calls_run_concurrently_to_the_same_result():
    """Every call reads what the one before has written."""
    module, _ = insert_sync(LOOP_OF_CALLS)
    inputs = {"x": np.random.default_rng(0).normal(size=(8, 16)).astype(np.float32)}
    results = [
        simulate(module, inputs, order=order, inferences=2)
        for order in ("concurrent", "sequential")
    ]
    expected = [inputs["x"] * 2 + 1]
    for _ in range(4):
        expected.append(expected[-1] * 2 + 1)
    for result in results:
        assert np.array_equal(result.outputs["y"], np.concatenate(expected))


def test_without_its_semaphores_the_loop_of_calls_races():
    module, _ = insert_sync(LOOP_OF_CALLS)
    for op in list(walk(module.operation)):
        if op.name in ("npu.signal", "npu.wait"):
            op.erase()
    with pytest.raises(SimulationError, match="race"):
        simulate(module, {"x": np.zeros((8, 16), np.float32)}, order="concurrent")
