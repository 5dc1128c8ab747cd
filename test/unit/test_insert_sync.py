"""npu-insert-sync: what it refuses, and what it counts."""

import pytest

from polystage.dialects import npu
from polystage.errors import FormError, PassError
from polystage.mlir import ir
from polystage.pipeline import run_pipeline

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
  "npu.activate"(%a, %a) {{function = "exp", scale = 1.0 : f32, bias = 0.0 : f32}} :
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
