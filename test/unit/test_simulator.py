"""The simulator: every instruction's numbers, time and order, and every refusal."""

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from npu_programs import FUNCTIONS, Kernel, Value, chain, dram, module_of, program, random

from polystage.errors import SimulationError
from polystage.forms import walk
from polystage.machine import Target, cost
from polystage.mlir import ir
from polystage.simulator import simulate

BF16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = {
    "f32": np.float32,
    "f16": np.float16,
    "bf16": BF16,
    "f8E4M3": np.dtype(ml_dtypes.float8_e4m3),
    "i8": np.int8,
    "i32": np.int32,
    "i64": np.int64,
    "i1": np.bool_,
}


# --- numbers ---


def test_loop_loads_computes_and_stores():
    k = Kernel(x=dram(64, 100), y=dram(64, 100))

    def body(j):
        buffer = k.alloc([64, 50])
        k.dma(k.subview(k.x, [0, j], [64, 50]), buffer)
        k.box("elementwise", "double", [buffer, buffer], [64, 50], ["d0, d1"] * 2)
        k.dma(buffer, k.subview(k.y, [0, j], [64, 50]), "output")

    k.loop(0, 100, 50, body)
    x = random(64, 100)
    result = simulate(program(k), {"x": x})
    np.testing.assert_array_equal(result.outputs["y"], x + x)
    assert result.totals.instructions == {"npu.dma": 4, "npu.elementwise": 2}
    assert result.totals.dram_read_by_cause == {"input": 25600}
    assert result.totals.dram_write_by_cause == {"output": 25600}
    assert result.totals.compulsory_bytes == 51200
    assert result.totals.peak_sbuf_bytes == 200 * 128


@pytest.mark.parametrize(
    ("dtype", "result_dtype"),
    [("f32", "f32"), ("bf16", "f32"), ("f16", "f32"), ("f8E4M3", "f32"), ("i8", "i32")],
)
def test_matmul(dtype, result_dtype):
    k = Kernel(
        a=dram(96, 40, dtype=dtype),
        b=dram(96, 5, 7, dtype=dtype),
        y=dram(40, 5, 7, dtype=result_dtype),
    )
    a, b = k.load(k.a, 0, "weight"), k.load(k.b, 1024)
    psum = k.alloc([40, 5, 7], result_dtype, "psum")
    k.matmul(a, b, psum)
    k.matmul(a, b, psum, True)
    out = k.alloc([40, 5, 7], result_dtype, address=4096)
    k.activate(psum, out)
    k.dma(out, k.y, "output")
    overrides = {"tensor.cycles_per_row.i8": 1.0} if dtype == "i8" else None
    inputs = {
        "a": random(96, 40, dtype=DTYPES[dtype]),
        "b": random(96, 5, 7, dtype=DTYPES[dtype], seed=1),
    }
    result = simulate(program(k, overrides=overrides), inputs)
    exact = [inputs[n].astype(np.float64) for n in "ab"]
    expected = 2 * np.einsum("km,kij->mij", *exact)
    got = result.outputs["y"].astype(np.float64)
    np.testing.assert_allclose(got, expected, rtol=0 if dtype == "i8" else 1e-5, atol=1e-4)
    assert result.totals.macs == 2 * 96 * 40 * 35
    assert result.totals.instructions["npu.matmul"] == 2


def test_matmul_on_convolution_windows():
    k = Kernel(x=dram(3, 9, 9), w=dram(3, 3, 3, 8), y=dram(8, 4, 4))
    x, w = k.load(k.x), k.load(k.w, 512, "weight")
    psum = k.alloc([8, 4, 4], space="psum")
    first = True
    for i in range(3):
        for j in range(3):
            tap = k.subview(w, [0, i, j, 0], [3, 1, 1, 8])
            window = k.subview(x, [0, i, j], [3, 4, 4], [1, 2, 2])
            k.matmul(tap, window, psum, not first)
            first = False
    out = k.alloc([8, 4, 4], address=2048)
    k.activate(psum, out, "tanh", 0.5, 0.25)
    k.dma(out, k.y, "output")
    x, w = random(3, 9, 9), random(3, 3, 3, 8, seed=1)
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))[:, ::2, ::2]
    expected = np.tanh(np.einsum("cyxij,cijf->fyx", windows, w) * 0.5 + 0.25)
    got = simulate(program(k), {"x": x, "w": w}).outputs["y"]
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_accumulate_flag_from_a_loop():
    k = Kernel(a=dram(64, 4, 16), b=dram(64, 4, 20), y=dram(16, 20))
    a, b = k.load(k.a), k.load(k.b, 4096)
    psum = k.alloc([16, 20], space="psum")
    zero = k.const(0)

    def body(i):
        flag = k.fresh()
        k.emit(f"{flag} = arith.cmpi ne, {i}, {zero} : index")
        k.matmul(k.subview(a, [0, i, 0], [64, 1, 16]), flatten(k, b, i), psum, flag)

    def flatten(k, b, i):
        piece = k.subview(b, [0, i, 0], [64, 1, 20])
        flat = Value(k.fresh(), (64, 20), "f32", "sbuf", (80, 1), "?")
        k.emit(
            f"{flat.name} = memref.collapse_shape {piece.name} [[0], [1, 2]] : "
            f"{piece.type} into {flat.type}"
        )
        return flat

    k.loop(0, 4, 1, body)
    out = k.alloc([16, 20], address=8192)
    k.activate(psum, out)
    k.dma(out, k.y, "output")
    a, b = random(64, 4, 16), random(64, 4, 20, seed=1)
    got = simulate(program(k), {"a": a, "b": b}).outputs["y"]
    np.testing.assert_allclose(got, np.einsum("kcm,kcn->mn", a, b), rtol=1e-4, atol=1e-4)


def test_transpose():
    k = Kernel(x=dram(30, 50), y=dram(50, 30))
    x = k.load(k.x)
    psum = k.alloc([50, 30], space="psum")
    k.op("transpose", [x, psum])
    out = k.alloc([50, 30], address=512)
    k.activate(psum, out)
    k.dma(out, k.y, "output")
    x = random(30, 50)
    result = simulate(program(k), {"x": x})
    np.testing.assert_array_equal(result.outputs["y"], x.T)
    assert result.totals.onchip_copy_bytes == 30 * 50 * 4


def test_elementwise_broadcasts_and_casts():
    k = Kernel(x=dram(16, 20, dtype="bf16"), b=dram(16, 1), y=dram(16, 20, dtype="bf16"))
    x, b = k.load(k.x), k.load(k.b, 512)
    k.box("elementwise", "add", [x, b, x], [16, 20], ["d0, d1", "d0, 0", "d0, d1"], "gpsimd")
    k.dma(x, k.y, "output")
    x, b = random(16, 20, dtype=BF16), random(16, 1, seed=1)
    got = simulate(program(k), {"x": x, "b": b}).outputs["y"]
    np.testing.assert_array_equal(got, (x.astype(np.float32) + b).astype(BF16))


def test_reduce_with_windows():
    k = Kernel(x=dram(12, 9, 9), y=dram(12, 4, 4))
    x = k.load(k.x)
    out = k.alloc([12, 4, 4], address=512)
    k.memset(out, -1000.0)
    maps = ["d0, d1 * 2 + d3, d2 * 2 + d4", "d0, d1, d2"]
    k.box("reduce", "max", [x, out], [12, 4, 4, 3, 3], maps)
    k.dma(out, k.y, "output")
    x = random(12, 9, 9)
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))[:, ::2, ::2]
    got = simulate(program(k), {"x": x}).outputs["y"]
    np.testing.assert_array_equal(got, windows.max((3, 4)))


@pytest.mark.parametrize("n", [5, 300])
def test_reduce_adds_to_what_is_there(n):
    k = Kernel(x=dram(12, n), y=dram(12, 1))
    x = k.load(k.x)
    out = k.alloc([12, 1], address=4096)
    k.memset(out, 3.0)
    k.box("reduce", "accumulate", [x, out], [12, n], ["d0, d1", "d0, 0"])
    k.dma(out, k.y, "output")
    x = random(12, n)
    got = simulate(program(k), {"x": x}).outputs["y"]
    np.testing.assert_allclose(got[:, 0], 3 + x.sum(1), rtol=1e-5, atol=1e-5)


def test_depthwise_reduce():
    k = Kernel(x=dram(12, 6, 6), w=dram(12, 3, 3), y=dram(12, 4, 4))
    x, w = k.load(k.x), k.load(k.w, 512)
    out = k.alloc([12, 4, 4], address=1024)
    k.memset(out, 0.0)
    maps = ["d0, d1 + d3, d2 + d4", "d0, d3, d4", "d0, d1, d2"]
    k.box("reduce", "mac", [x, w, out], [12, 4, 4, 3, 3], maps)
    k.dma(out, k.y, "output")
    x, w = random(12, 6, 6), random(12, 3, 3, seed=1)
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))
    got = simulate(program(k), {"x": x, "w": w}).outputs["y"]
    np.testing.assert_allclose(got, np.einsum("cyxij,cij->cyx", windows, w), rtol=1e-4, atol=1e-5)


def test_argmax_with_iota():
    k = Kernel(x=dram(12, 30), y=dram(12, 1, dtype="i32"))
    x = k.load(k.x)
    indices = k.alloc([12, 30], "i32", address=512)
    zero = k.const(0)
    k.emit(
        f'"npu.iota"({indices.name}, {zero}) {{dimension = 1 : i64}} : '
        f"({indices.type}, index) -> ()"
    )
    best, where = k.alloc([12, 1], address=1024), k.alloc([12, 1], "i32", address=1028)
    k.memset(best, -1000.0)
    k.memset(where, 0)
    maps = ["d0, d1", "d0, d1", "d0, 0", "d0, 0"]
    k.box("reduce", "argmax", [x, indices, best, where], [12, 30], maps)
    k.dma(where, k.y, "output")
    x = random(12, 30)
    got = simulate(program(k), {"x": x}).outputs["y"]
    np.testing.assert_array_equal(got[:, 0], x.argmax(1))


def test_iota_counts_from_a_loop_dependent_offset():
    k = Kernel(y=dram(4, 3, 8, dtype="i64"))

    def body(i):
        out = k.alloc([4, 1, 8], "i64")
        k.emit(f'"npu.iota"({out.name}, {i}) {{dimension = 2 : i64}} : ({out.type}, index) -> ()')
        k.dma(out, k.subview(k.y, [0, i, 0], [4, 1, 8]), "output")

    k.loop(0, 3, 1, body)
    got = simulate(program(k)).outputs["y"]
    np.testing.assert_array_equal(
        got, np.broadcast_to(np.arange(3)[:, None] + np.arange(8), got.shape)
    )


def gather_program(dtype="i32"):
    k = Kernel(w=dram(50, 6), i=dram(10, 3, dtype=dtype), y=dram(10, 3, 6))
    i = k.load(k.i)
    out = k.alloc([10, 3, 6], address=512)
    k.op("gather", [k.w, out, i])
    k.dma(out, k.y, "output")
    return k


@pytest.mark.parametrize("dtype", ["i32", "i64"])
def test_gather(dtype):
    table = random(50, 6)
    index = np.random.default_rng(0).integers(0, 50, (10, 3)).astype(DTYPES[dtype])
    result = simulate(program(gather_program(dtype)), {"w": table, "i": index})
    np.testing.assert_array_equal(result.outputs["y"], table[index])
    assert result.totals.dram_read_by_cause["input"] == 30 * 24 + index.nbytes


@pytest.mark.parametrize("wrong", [-1, 50])
def test_gather_outside_the_table(wrong):
    index = np.zeros((10, 3), np.int32)
    index[4, 1] = wrong
    message = (
        rf"npu\.gather in @kernel of layer 'kernel' looks up index {wrong} in dimension 0 of a "
        "table of extent 50"
    )
    with pytest.raises(SimulationError, match=message):
        simulate(program(gather_program()), {"w": random(50, 6), "i": index})


def test_gather_by_two_indices():
    k = Kernel(
        w=dram(5, 7, 4), i=dram(10, 3, dtype="i32"), j=dram(10, 3, dtype="i32"), y=dram(10, 3, 4)
    )
    i, j = k.load(k.i), k.load(k.j, 64)
    out = k.alloc([10, 3, 4], address=512)
    k.op("gather", [k.w, out, i, j])
    k.dma(out, k.y, "output")
    rng, table = np.random.default_rng(0), random(5, 7, 4)
    i, j = (rng.integers(0, n, (10, 3)).astype(np.int32) for n in (5, 7))
    got = simulate(program(k), {"w": table, "i": i, "j": j}).outputs["y"]
    np.testing.assert_array_equal(got, table[i, j])


def test_dma_broadcasts_and_copies_on_chip():
    k = Kernel(x=dram(1, 8, dtype="bf16"), y=dram(16, 8, dtype="bf16"))
    first = k.alloc([16, 8], "bf16")
    k.dma(k.x, first)
    second = k.alloc([16, 8], "bf16", address=64)
    k.dma(first, second, "copy")
    k.dma(second, k.y, "output")
    x = random(1, 8, dtype=BF16)
    result = simulate(program(k), {"x": x})
    np.testing.assert_array_equal(result.outputs["y"], np.broadcast_to(x, (16, 8)))
    assert result.totals.onchip_copy_bytes == 256
    assert result.totals.dram_read_bytes == 256  # every row is read


def test_views():
    k = Kernel(x=dram(6, 4, 5), y=dram(20, 6))
    flat = replace(dram(6, 20), name=k.fresh())
    k.emit(f"{flat.name} = memref.collapse_shape %x [[0], [1, 2]] : {k.x.type} into {flat.type}")
    turned = Value(k.fresh(), (20, 6), strides=(1, 20))
    k.emit(
        f"{turned.name} = memref.transpose {flat.name} (a, b) -> (b, a) : "
        f"{flat.type} to {turned.type}"
    )
    buffer = k.alloc([20, 6])
    k.dma(turned, buffer)
    again = Value(k.fresh(), (20, 2, 3), space="sbuf")
    k.emit(
        f"{again.name} = memref.expand_shape {buffer.name} [[0], [1, 2]] "
        f"output_shape [20, 2, 3] : {buffer.type} into {again.type}"
    )
    k.box("elementwise", "double", [again, again], [20, 2, 3], ["d0, d1, d2"] * 2)
    k.dma(buffer, k.y, "output")
    x = random(6, 4, 5)
    got = simulate(program(k), {"x": x}).outputs["y"]
    np.testing.assert_array_equal(got, 2 * x.reshape(6, 20).T)


def test_nonlinear_index_arithmetic():
    k = Kernel(x=dram(4, 40), y=dram(4, 40))

    def body(i):
        row = k.index("arith.divui", i, 4)
        column = k.index("arith.muli", k.index("arith.remui", i, 4), 10)
        buffer = k.alloc([1, 10])
        k.dma(k.subview(k.x, [row, column], [1, 10]), buffer)
        k.dma(buffer, k.subview(k.y, [row, column], [1, 10]), "output")

    k.loop(0, 16, 1, body)
    x = random(4, 40)
    np.testing.assert_array_equal(simulate(program(k), {"x": x}).outputs["y"], x)


def test_main_copies_views_globals_and_loops():
    k = Kernel("double_it", x=Value("", (2, 3), strides=(6, 1), offset="?"), y=dram(2, 3))
    buffer = k.load(k.x)
    k.box("elementwise", "double", [buffer, buffer], [2, 3], ["d0, d1"] * 2)
    k.dma(buffer, k.y, "output")
    view = k.x.type
    text = f"""{FUNCTIONS}{k.text()}
      memref.global "private" constant @w : memref<2x6xf32> =
        dense<[[1., 2., 3., 4., 5., 6.], [7., 8., 9., 10., 11., 12.]]>
      memref.global "private" constant @s : memref<2x6xf32> = dense<0.5>
      func.func @main() -> (memref<2x2x3xf32>, memref<2x6xf32>) {{
        %c0 = arith.constant 0 : index
        %c1 = arith.constant 1 : index
        %c2 = arith.constant 2 : index
        %c3 = arith.constant 3 : index
        %w = memref.get_global @w : memref<2x6xf32>
        %s = memref.get_global @s : memref<2x6xf32>
        %y = memref.alloc() : memref<2x2x3xf32>
        scf.for %i = %c0 to %c2 step %c1 {{
          %o = arith.muli %i, %c3 : index
          %v = memref.subview %w[0, %o] [2, 3] [1, 1] : memref<2x6xf32> to {view}
          %t = memref.alloc() : memref<2x3xf32>
          func.call @double_it(%v, %t) : ({view}, memref<2x3xf32>) -> ()
          %d = memref.subview %y[%i, 0, 0] [1, 2, 3] [1, 1, 1] :
            memref<2x2x3xf32> to memref<2x3xf32, strided<[3, 1], offset: ?>>
          memref.copy %t, %d : memref<2x3xf32> to memref<2x3xf32, strided<[3, 1], offset: ?>>
          memref.dealloc %t : memref<2x3xf32>
        }}
        %z = memref.alloc() : memref<2x6xf32>
        memref.copy %s, %z : memref<2x6xf32> to memref<2x6xf32>
        return %y, %z : memref<2x2x3xf32>, memref<2x6xf32>
      }}"""
    result = simulate(module_of(text))
    w = np.arange(1, 13, dtype=np.float32).reshape(2, 2, 3).transpose(1, 0, 2)
    np.testing.assert_array_equal(result.outputs["result0"], 2 * w)
    np.testing.assert_array_equal(result.outputs["result1"], np.full((2, 6), 0.5))
    layers = {layer.name: layer for layer in result.layers}
    assert layers["double_it"].calls == 2
    assert layers["copy"].calls == 3
    assert result.totals.offchip_copy_bytes == 2 * (2 * 24 + 48)
    assert result.totals.dram_read_by_cause["copy"] == 2 * 24 + 48


# --- time ---


def latency(module):
    return simulate(module, timing_only=True).totals.latency_ns


def two_tiles(second_address):
    k = Kernel(x=dram(128, 8192), y=dram(128, 8192))
    for i, address in enumerate([0, second_address]):
        window = [0, i * 4096], [128, 4096]
        chain(k, k.subview(k.x, *window), k.subview(k.y, *window), address)
    return program(k)


def test_independent_instructions_overlap():
    alone = Kernel(x=dram(128, 4096), y=dram(128, 4096))
    chain(alone, alone.x, alone.y, 0)
    one = latency(program(alone))
    apart, together = latency(two_tiles(16384)), latency(two_tiles(0))
    assert apart < 1.8 * one
    assert together > apart  # the second load waits until the first tile is stored


def test_reads_wait_for_writes():
    target = Target.load("neuroncore_v2")
    k = Kernel(x=dram(128, 512), y=dram(128, 512))
    chain(k, k.x, k.y, 0)
    load = cost.dma(target, 128 * 2048, 128 * 2048, 2048)
    add = cost.lanes(target, "vector", 512, partitions=128)
    assert latency(program(k)) == pytest.approx(2 * load.latency_ns + add.latency_ns)


def test_writes_wait_for_reads():
    """The second load may not overwrite the tile before the first store has read it."""
    k = Kernel(x=dram(128, 512), z=dram(128, 512), y=dram(128, 512), u=dram(128, 512))
    buffer = k.load(k.x)
    k.dma(buffer, k.y, "output")
    k.dma(k.z, buffer)
    k.dma(buffer, k.u, "output")
    x, z = random(128, 512), random(128, 512, seed=1)
    result = simulate(program(k, results=("y", "u")), {"x": x, "z": z})
    np.testing.assert_array_equal(result.outputs["y"], x)
    np.testing.assert_array_equal(result.outputs["u"], z)
    load = cost.dma(Target.load("neuroncore_v2"), 128 * 2048, 128 * 2048, 2048)
    assert result.totals.latency_ns == pytest.approx(4 * load.latency_ns)


def test_disjoint_partitions_of_the_same_bytes_do_not_wait():
    def build(second):
        k = Kernel(x=dram(32, 4096), y=dram(32, 4096), t=dram(32, 4096))
        buffer = k.alloc([128, 4096])
        for start, out in ((0, k.y), (second, k.t)):
            part = k.subview(buffer, [start, 0], [32, 4096])
            k.dma(k.x, part)
            k.box("elementwise", "double", [part, part], [32, 4096], ["d0, d1"] * 2)
            k.dma(part, out, "output")
        return latency(program(k))

    assert build(64) < 0.9 * build(0)


def test_store_that_waits_does_not_hold_up_a_load():
    """While vector works on the first tile, the second is loaded although a store came first."""
    k = Kernel(x=dram(128, 512), z=dram(128, 512), y=dram(128, 512), u=dram(128, 512))
    chain(k, k.x, k.y, 0, functions=20)
    second = k.load(k.z, 8192)
    k.dma(second, k.u, "output")
    serial = Kernel(x=dram(128, 512), y=dram(128, 512))
    chain(serial, serial.x, serial.y, 0, functions=20)
    both = latency(program(k, results=("y", "u")))
    assert both == pytest.approx(latency(program(serial)), rel=0.1)


def test_tensor_engine_reaches_its_peak():
    k = Kernel(a=dram(128, 128, dtype="bf16"), b=dram(128, 512, dtype="bf16"), y=dram(128, 512))
    a, b = k.load(k.a), k.load(k.b, 256)
    psum = k.alloc([128, 512], space="psum")
    k.memset(psum, 0.0)
    k.loop(0, 4000, 1, lambda i: k.matmul(a, b, psum, True))
    out = k.alloc([128, 512], address=2048)
    k.activate(psum, out)
    k.dma(out, k.y, "output")
    totals = simulate(program(k), timing_only=True).totals
    assert totals.macs == 4000 * 128 * 128 * 512
    assert totals.utilization > 0.98
    assert totals.latency_ns >= totals.latency_bound_ns
    assert 2 * totals.macs / totals.latency_ns / 1000 == pytest.approx(91.75, rel=0.02)


def test_auxiliary_matmuls_take_their_time_and_energy_but_are_no_work_of_the_model():
    k = Kernel(a=dram(64, 32), b=dram(64, 128), y=dram(32, 128))
    a, b = k.load(k.a, 0, "weight"), k.load(k.b, 1024)
    psum = k.alloc([32, 128], space="psum")
    k.matmul(a, b, psum)
    k.matmul(a, b, psum, True)
    out = k.alloc([32, 128], address=4096)
    k.activate(psum, out)
    k.dma(out, k.y, "output")
    module = program(k)
    plain = simulate(module, timing_only=True).totals
    with module.context:
        last = [op for op in walk(module.operation) if op.name == "npu.matmul"][-1]
        last.attributes["auxiliary"] = ir.UnitAttr.get()
    totals = simulate(module, timing_only=True).totals
    assert (plain.macs, totals.macs) == (2 * 64 * 32 * 128, 64 * 32 * 128)
    assert totals.mac_bound_ns == plain.mac_bound_ns / 2
    assert sum(totals.matmuls.values()) == 1
    assert totals.latency_ns == plain.latency_ns
    assert totals.energy_pj == plain.energy_pj


def test_vector_and_gpsimd_share_the_port_of_sbuf():
    def build(engine, overrides=None):
        k = Kernel(x=dram(128, 4096), z=dram(128, 4096), y=dram(128, 4096), u=dram(128, 4096))
        for source, out, unit, address in ((k.x, k.y, "vector", 0), (k.z, k.u, engine, 16384)):
            buffer = k.load(source, address)
            for _ in range(8):
                k.box("elementwise", "double", [buffer, buffer], [128, 4096], ["d0, d1"] * 2, unit)
            k.dma(buffer, out, "output")
        return latency(program(k, results=("y", "u"), overrides=overrides))

    target = Target.load("neuroncore_v2")
    assert "gpsimd" in target.sbuf.exclusive_engines
    shared = build("gpsimd")
    work = 8 * cost.lanes(target, "vector", 4096, partitions=128).busy_ns
    assert shared > build("gpsimd", {"sbuf.exclusive_engines": []}) + 0.7 * work


def test_layers_sum_to_the_total():
    kernels = [
        Kernel("one", x=dram(128, 512), t=dram(128, 512)),
        Kernel("two", t=dram(128, 512), y=dram(128, 512)),
    ]
    chain(kernels[0], kernels[0].x, kernels[0].t, 0)
    chain(kernels[1], kernels[1].t, kernels[1].y, 4096)
    x = random(128, 512)
    result = simulate(program(*kernels), {"x": x})
    np.testing.assert_array_equal(result.outputs["y"], 4 * x)
    assert [layer.name for layer in result.layers] == ["one", "two"]
    total = result.totals
    assert sum(layer.cost.latency_ns for layer in result.layers) == pytest.approx(total.latency_ns)
    for name in total.busy_ns:
        each = sum(layer.cost.busy_ns[name] for layer in result.layers)
        assert each == pytest.approx(total.busy_ns[name])
    for level, energy in total.energy_pj.items():
        each = sum(layer.cost.energy_pj[level] for layer in result.layers)
        assert each == pytest.approx(energy)
    size = 128 * 512 * 4
    assert total.compulsory_bytes == 2 * size
    assert [layer.cost.compulsory_bytes for layer in result.layers] == [2 * size] * 2
    bound = cost.dram_bound_ns(result.target, 2 * size)
    assert total.latency_bound_ns == pytest.approx(bound)


def test_timing_only_takes_the_same_time():
    k = Kernel(x=dram(64, 100), y=dram(64, 100))
    chain(k, k.x, k.y, 0, functions=3)
    module = program(k)
    full = simulate(module, {"x": random(64, 100)})
    timed = simulate(module, timing_only=True)
    assert timed.totals == full.totals
    assert timed.layers == full.layers
    assert timed.outputs == {}


def test_progress_is_called_per_kernel():
    k = Kernel(x=dram(8, 8), y=dram(8, 8))
    chain(k, k.x, k.y, 0)
    calls = []
    simulate(program(k), {"x": random(8, 8)}, progress=lambda *a: calls.append(a))
    assert calls == [(0, 1, "kernel")]


def test_result_as_plain_data():
    k = Kernel(x=dram(8, 8), y=dram(8, 8))
    chain(k, k.x, k.y, 0)
    data = simulate(program(k), {"x": random(8, 8)}).to_dict()
    assert data["target"] == "neuroncore_v2"
    assert data["layers"][0]["name"] == "kernel"
    assert data["totals"]["cycles"] == round(data["totals"]["latency_us"] * 2800)
    assert data["totals"]["energy_pj"] == pytest.approx(
        sum(data["totals"]["energy_pj_by_level"].values())
    )


# --- refusals ---


def refuse(module, message, inputs=None, **options):
    with pytest.raises(SimulationError, match=message) as caught:
        simulate(module, inputs, **options)
    return caught.value


def test_invalid_uninitialised_read_on_chip():
    k = Kernel(x=dram(8, 8), y=dram(8, 16))
    buffer = k.alloc([8, 16], address=64)
    k.dma(k.x, k.subview(buffer, [0, 0], [8, 8]))
    k.dma(buffer, k.y, "output")
    error = refuse(
        program(k),
        r"npu\.dma in @kernel of layer 'kernel' reads bytes \[64, 128\) of partitions \[0, 8\) "
        r"in sbuf \(buffer 8x16xf32 at address 64\), of which not everything has been written",
        {"x": random(8, 8)},
    )
    assert "npu.memset" in error.help


def test_invalid_every_iteration_writes_its_own_buffer():
    k = Kernel(x=dram(8, 8), y=dram(2, 8, 8))
    first = k.const(0)

    def body(i):
        buffer = k.alloc([8, 8])
        k.emit(f"%is{k.count} = arith.cmpi eq, {i}, {first} : index")
        k.box("elementwise", "accumulate", [buffer, buffer], [8, 8], ["d0, d1"] * 2)

    k.loop(0, 2, 1, body)
    refuse(program(k), "not everything has been written", {"x": random(8, 8)})


def test_invalid_uninitialised_read_of_dram():
    first, second = (
        Kernel("one", x=dram(8, 8), t=dram(8, 16)),
        Kernel("two", t=dram(8, 16), y=dram(8, 16)),
    )
    buffer = first.load(first.x)
    first.dma(buffer, first.subview(first.t, [0, 0], [8, 8]), "intermediate")
    buffer = second.load(second.t)
    second.dma(buffer, second.y, "output")
    refuse(
        program(first, second),
        r"npu\.dma in @two of layer 'two' reads bytes \[0, 512\) of intermediate 'buffer \d' "
        "in DRAM",
        {"x": random(8, 8)},
    )


def test_invalid_result_that_nothing_wrote():
    k = Kernel(x=dram(8, 8), y=dram(8, 8))
    k.load(k.x)
    refuse(program(k), "returns 'buffer 1', of which not all was written", {"x": random(8, 8)})


def freeing_main(first, second):
    """A @main that frees %t after the first of two kernels has written it."""
    types = [(first.x.type, first.t.type), (second.t.type, second.y.type)]
    return [
        f"%t = memref.alloc() : {types[0][1]}",
        f"%y = memref.alloc() : {types[1][1]}",
        f"call @one(%x, %t) : ({', '.join(types[0])}) -> ()",
        f"memref.dealloc %t : {types[0][1]}",
        f"call @two(%t, %y) : ({', '.join(types[1])}) -> ()",
        f"return %y : {types[1][1]}",
    ]


def test_invalid_use_after_deallocation():
    first = Kernel("one", x=dram(8, 8), t=dram(8, 8))
    first.dma(first.load(first.x), first.t, "intermediate")
    second = Kernel("two", t=dram(8, 8), y=dram(8, 8))
    second.dma(second.load(second.t), second.y, "output")
    x = {"x": random(8, 8)}
    module = program(first, second, main=freeing_main(first, second))
    refuse(module, "npu.dma in @two of layer 'two' reads .* after its deallocation", x)
    second = Kernel("two", t=dram(8, 8), y=dram(8, 8))
    zeros = second.alloc([8, 8])
    second.memset(zeros, 0.0)
    second.dma(zeros, second.t, "intermediate")
    module = program(first, second, main=freeing_main(first, second))
    refuse(module, "npu.dma in @two of layer 'two' writes .* after its deallocation", x)


def test_partial_writes_make_a_whole():
    k = Kernel(x=dram(8, 8), y=dram(8, 10))
    buffer = k.alloc([8, 10])
    k.memset(k.subview(buffer, [0, 0], [8, 1]), 0.0)
    k.memset(k.subview(buffer, [0, 9], [8, 1]), 0.0)
    k.dma(k.x, k.subview(buffer, [0, 1], [8, 8]))
    k.dma(buffer, k.y, "output")
    x = random(8, 8)
    got = simulate(program(k), {"x": x}).outputs["y"]
    np.testing.assert_array_equal(got, np.pad(x, [(0, 0), (1, 1)]))


def test_invalid_out_of_bounds_in_a_loop():
    k = Kernel(x=dram(8, 100), y=dram(8, 100))

    def body(i):
        buffer = k.alloc([8, 30])
        k.dma(k.subview(k.x, [0, i], [8, 30]), buffer)

    k.loop(0, 100, 30, body)
    refuse(
        program(k),
        r"memref\.subview in @kernel reaches \[0, 119\] in dimension 1 of extent 100 of "
        "'argument 0 of @kernel'",
        {"x": random(8, 100)},
    )


def test_invalid_out_of_bounds_at_a_nonlinear_index():
    k = Kernel(x=dram(8, 100), y=dram(8, 100))

    def body(i):
        k.dma(
            k.subview(k.x, [0, k.index("arith.muli", k.index("arith.divui", i, 2), 60)], [8, 30]),
            k.alloc([8, 30]),
        )

    k.loop(0, 4, 1, body)
    simulate(program(k), timing_only=True)
    k = Kernel(x=dram(8, 80), y=dram(8, 80))
    k.loop(0, 4, 1, body)
    refuse(program(k), r"reaches \[60, 89\] in dimension 1 of extent 80", timing_only=True)


def test_invalid_division_by_zero():
    k = Kernel(x=dram(8, 8), y=dram(8, 8))
    k.loop(0, 4, 1, lambda i: k.index("arith.divui", 8, i))
    refuse(program(k), r"'arith\.divui' in @kernel divides by zero", timing_only=True)


def test_invalid_two_live_buffers_at_one_address():
    k = Kernel(x=dram(8, 16), z=dram(8, 16), y=dram(8, 16))
    first = k.load(k.x, 0)
    second = k.load(k.z, 32)
    k.dma(second, k.y, "output")
    k.dma(first, k.y, "output")
    error = refuse(
        program(k),
        r"npu\.dma in @kernel of layer 'kernel' reads bytes \[0, 64\) of partitions \[0, 8\) "
        r"in sbuf \(buffer 8x16xf32 at address 0\), but npu\.dma in @kernel of layer 'kernel' for "
        r"buffer 8x16xf32 at address 32 has written over it",
        {"x": random(8, 16), "z": random(8, 16)},
    )
    assert "npu-allocate-scratchpad" in error.help


def test_a_wrong_address_gives_a_wrong_number_where_it_is_not_noticed():
    """Memory is real: in partitions that do not overlap, the same address is no clash."""
    k = Kernel(x=dram(64, 16), y=dram(128, 16))
    whole = k.alloc([128, 16])
    upper = k.subview(whole, [64, 0], [64, 16])
    lower = k.subview(whole, [0, 0], [64, 16])
    k.dma(k.x, upper)
    k.dma(k.x, lower)
    k.dma(whole, k.y, "output")
    x = random(64, 16)
    got = simulate(program(k), {"x": x}).outputs["y"]
    np.testing.assert_array_equal(got, np.concatenate([x, x]))


def test_invalid_no_address():
    k = Kernel(x=dram(8, 8), y=dram(8, 8))
    k.dma(k.x, k.alloc([8, 8], address=None))
    error = refuse(program(k), "has no address", {"x": random(8, 8)})
    assert error.help == "run npu-allocate-scratchpad"


def test_invalid_misaligned_address():
    k = Kernel(x=dram(8, 8), y=dram(8, 8))
    k.dma(k.x, k.alloc([8, 8], address=2))
    refuse(program(k), "is not aligned to its elements of 4 bytes", {"x": random(8, 8)})


def test_invalid_inputs():
    k = Kernel(x=dram(8, 8), y=dram(8, 8))
    chain(k, k.x, k.y, 0)
    module = program(k)
    refuse(module, "input 'x' is missing\nhelp: inputs are x \\[8, 8\\] float32")
    refuse(module, "the model has no input 'z'", {"x": random(8, 8), "z": random(1)})
    refuse(
        module, r"input 'x' has shape \[8, 9\], but the model takes \[8, 8\]", {"x": random(8, 9)}
    )
    refuse(module, "input 'x' is complex64", {"x": random(8, 8).astype(np.complex64)})


def test_inputs_stay_as_they_are():
    k = Kernel(x=dram(8, 8), y=dram(8, 8))
    buffer = k.alloc([8, 8])
    k.memset(buffer, 7.0)
    k.dma(buffer, k.x, "output")
    k.dma(buffer, k.y, "output")
    x = random(8, 8)
    before = x.copy()
    simulate(program(k), {"x": x})
    np.testing.assert_array_equal(x, before)


def test_invalid_no_target():
    k = Kernel(x=dram(8, 8), y=dram(8, 8))
    error = refuse(program(k, target=None), "the module names no target")
    assert "npu-attach-target" in error.help


def test_invalid_no_main():
    refuse(module_of("func.func private @f()"), "the module has no function @main")


def test_invalid_operation():
    refuse(
        module_of(
            """func.func @main() { %a = memref.alloc() : memref<2xf32>
            %c = arith.constant 0 : index
            %v = memref.load %a[%c] : memref<2xf32> return }"""
        ),
        r"operation 'memref\.load' is not part of an npu program\nhelp: lower the module",
    )


def test_invalid_program_on_tensors():
    refuse(
        module_of("func.func @main(%a: tensor<2xf32>) { return }"),
        r"the program takes 'arg0' as tensor<2xf32>, not as a memref\nhelp: lower the module",
        {"arg0": random(2)},
    )


def test_invalid_loop_bounds():
    k = Kernel(x=dram(8, 8), y=dram(8, 8))
    k.loop(0, 4, 0, lambda i: None)
    refuse(program(k), r"'scf\.for' has step 0, which must be positive", {"x": random(8, 8)})


def test_invalid_function_of_another_arity():
    k = Kernel(x=dram(8, 8), y=dram(8, 8))
    buffer = k.load(k.x)
    k.box("elementwise", "add", [buffer, buffer], [8, 8], ["d0, d1"] * 2)
    refuse(
        program(k),
        r"'npu\.elementwise' has 2 operands, but @add takes 3 values and returns 1",
        {"x": random(8, 8)},
    )


def test_invalid_after_editing():
    """A program that was changed into an illegal one is refused, not executed."""
    k = Kernel(x=dram(128, 16), y=dram(128, 16))
    k.dma(k.load(k.x), k.y, "output")
    module = program(k, overrides={"sbuf.bytes_per_partition": 8192})
    with module.context:
        for op in module.body.operations:
            if op.name.value == "kernel":
                alloc = op.regions[0].blocks[0].operations[0]
                alloc.attributes["address"] = ir.IntegerAttr.get(
                    ir.IntegerType.get_signless(64), 8190
                )
    refuse(module, "the program is not legal: .*lies at bytes", {"x": random(128, 16)})


# --- random programs against numpy ---


OPS = {"double": lambda a: a + a, "copy": lambda a: a}


@st.composite
def random_programs(draw):
    """A kernel of tiles, loops, elementwise operations and copies, and what it computes."""
    rows = draw(st.integers(1, 16))
    tiles, width = draw(st.integers(1, 4)), draw(st.integers(1, 9))
    columns = tiles * width
    k = Kernel(x=dram(rows, columns), z=dram(rows, columns), y=dram(rows, columns))
    addresses = draw(st.permutations([0, 64, 128, 192]))
    steps = draw(
        st.lists(
            st.tuples(
                st.sampled_from(["add", "double", "copy", "exp", "move", "shift"]),
                st.integers(0, 2),
                st.integers(0, 2),
                st.integers(0, 2),
                st.sampled_from(["vector", "gpsimd"]),
            ),
            max_size=8,
        )
    )

    def body(j):
        buffers = [k.alloc([rows, width], address=a) for a in addresses[:3]]
        piece = [0, j], [rows, width]
        k.dma(k.subview(k.x, *piece), buffers[0])
        k.dma(k.subview(k.z, *piece), buffers[1], "weight")
        k.memset(buffers[2], 0.5)
        for name, a, b, c, engine in steps:
            operands = [buffers[i] for i in (a, b, c)]
            if name == "add":
                k.box("elementwise", "add", operands, [rows, width], ["d0, d1"] * 3, engine)
            elif name == "exp":
                k.activate(operands[0], operands[1], "tanh", 0.5, 0.1)
            elif name == "move":
                if a != b:
                    k.dma(operands[0], operands[1], "copy")
            elif name == "shift":
                if width > 1 and a != b:
                    inner = [rows, width - 1]
                    source = k.subview(operands[0], [0, 1], inner)
                    k.dma(source, k.subview(operands[1], [0, 0], inner), "copy")
            else:
                k.box("elementwise", name, operands[:2], [rows, width], ["d0, d1"] * 2, engine)
        k.dma(buffers[2], k.subview(k.y, *piece), "output")

    k.loop(0, columns, width, body)

    def expected(x, z):
        result = np.zeros_like(x)
        for j in range(0, columns, width):
            b = [
                x[:, j : j + width].copy(),
                z[:, j : j + width].copy(),
                np.full((rows, width), np.float32(0.5)),
            ]
            for name, p, q, r, _ in steps:
                if name == "add":
                    b[r] = b[p] + b[q]
                elif name == "exp":
                    b[q] = np.tanh(b[p] * np.float32(0.5) + np.float32(0.1))
                elif name == "shift":
                    if p != q:
                        b[q] = np.concatenate([b[p][:, 1:], b[q][:, -1:]], 1)
                elif name == "move":
                    b[q] = b[p].copy()
                else:
                    b[q] = OPS[name](b[p])
            result[:, j : j + width] = b[2]
        return result

    return k, expected, (rows, columns)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(random_programs())
def test_random_programs(case):
    k, expected, shape = case
    x, z = random(*shape), random(*shape, seed=1)
    module = program(k, target="tiny") if shape[0] <= 8 else program(k)
    result = simulate(module, {"x": x, "z": z})
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(result.outputs["y"], expected(x, z))
    timed = simulate(module, timing_only=True)
    assert timed.totals == result.totals
    assert result.totals.latency_ns >= max(result.totals.busy_ns.values()) - 1e-6
