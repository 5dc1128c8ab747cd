"""Contractions compute the same on the tensor engine as in numpy, at every edge of a tiling."""

import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polystage.dialects import npu
from polystage.dialects.npu.target import target_attribute
from polystage.errors import PassError
from polystage.evaluator.module_evaluator import evaluate
from polystage.machine.target import Target
from polystage.mlir import ir
from polystage.passes.lower.convert_linalg_to_npu import ConvertLinalgToNpuPass
from polystage.passes.placement.allocate_scratchpad import AllocateScratchpadPass
from polystage.simulator import simulate


def contraction_text(maps, shapes, dtype="f32", accumulator=None, zero=True):
    """Return a module whose program is `out = (out or 0) + lhs * rhs` with these maps."""
    accumulator = accumulator or dtype
    dims, results = maps.split(" -> ")
    affine = ", ".join(f"affine_map<{dims} -> {r}>" for r in results.split("; "))
    kept = re.findall(r"\w+", results.split("; ")[2])
    names = re.findall(r"\w+", dims)
    kinds = ", ".join('"parallel"' if d in kept else '"reduction"' for d in names)
    sizes = ["x".join(map(str, shape)) for shape in shapes]
    a, b, c = (
        f"memref<{size}x{type_}>"
        for size, type_ in zip(sizes, (dtype, dtype, accumulator), strict=True)
    )
    suffix = "f" if accumulator[0] in "fb" else "i"
    x, y, casts = "%x", "%y", ""
    if dtype != accumulator:
        x, y, extend = "%xe", "%ye", "extf" if suffix == "f" else "extsi"
        casts = f"%xe = arith.{extend} %x : {dtype} to {accumulator}\n"
        casts += f"%ye = arith.{extend} %y : {dtype} to {accumulator}\n"
    return f"""
func.func @main(%a: {a} {{npu.name = "a"}}, %b: {b} {{npu.name = "b"}}, %c: {c} {{npu.name = "c"}})
    -> ({c} {{npu.name = "out"}}) {{
  {fill_text(c, len(shapes[2]), accumulator) if zero else ""}
  linalg.generic {{indexing_maps = [{affine}], iterator_types = [{kinds}]}}
    ins(%a, %b : {a}, {b}) outs(%c : {c}) {{
  ^bb0(%x: {dtype}, %y: {dtype}, %out: {accumulator}):
    {casts}%m = arith.mul{suffix} {x}, {y} : {accumulator}
    %s = arith.add{suffix} %out, %m : {accumulator}
    linalg.yield %s : {accumulator}
  }}
  return %c : {c}
}}"""


def fill_text(type_, rank, element):
    """Return a fill of %c with zero."""
    dims = ", ".join(f"i{i}" for i in range(rank))
    kinds = ", ".join(['"parallel"'] * rank)
    return f"""
  %zero = arith.constant {"0" if element[0] == "i" else "0.0"} : {element}
  linalg.generic {{
    indexing_maps = [affine_map<({dims}) -> ()>, affine_map<({dims}) -> ({dims})>],
    iterator_types = [{kinds}]
  }} ins(%zero : {element}) outs(%c : {type_}) {{
  ^bb0(%v: {element}, %o: {element}):
    linalg.yield %v : {element}
  }}"""


def random_array(rng, shape, dtype):
    """Return random values of a type."""
    if dtype == "i8":
        return rng.integers(-100, 100, shape, dtype=np.int8)
    if dtype == "i32":
        return rng.integers(-1000, 1000, shape, dtype=np.int32)
    return rng.standard_normal(shape, dtype=np.float32)


def check(text, shapes, target, dtypes=("f32", "f32"), overrides=None, buffers=2):
    """Lower, simulate and compare with the numpy evaluation of the same module."""
    rng = np.random.default_rng(0)
    types = (dtypes[0], dtypes[0], dtypes[1])
    arrays = [random_array(rng, s, d) for s, d in zip(shapes, types, strict=True)]
    inputs = dict(zip("abc", arrays, strict=True))
    context = ir.Context()
    npu.load(context)
    with context, ir.Location.unknown():
        reference = evaluate(ir.Module.parse(text), {k: v.copy() for k, v in inputs.items()})
        module = ir.Module.parse(text)
        attribute = target_attribute(Target.load(target, overrides))
        module.operation.attributes["npu.target"] = attribute
        ConvertLinalgToNpuPass(contractions="tensor", buffers=buffers).run(module)
        AllocateScratchpadPass().run(module)
        module.operation.verify()
        result = simulate(module, {k: v.copy() for k, v in inputs.items()})
    want, got = reference["out"], result.outputs["out"]
    if dtypes[1] == "i32":
        np.testing.assert_array_equal(got, want)
    else:
        scale = max(1.0, np.abs(want).max())  # the operands are around 1, sums of them may cancel
        np.testing.assert_allclose(got / scale, want / scale, atol=2e-5)


MATMUL = "(m, n, k) -> (m, k); (k, n); (m, n)"
CASES = {
    "matmul": (MATMUL, [(5, 7), (7, 9), (5, 9)]),
    "matmul_large": (MATMUL, [(20, 35), (35, 41), (20, 41)]),
    "matmul_right_transposed": (
        "(m, n, k) -> (m, k); (n, k); (m, n)",
        [(20, 19), (33, 19), (20, 33)],
    ),
    "matmul_left_transposed": (
        "(m, n, k) -> (k, m); (k, n); (m, n)",
        [(19, 20), (19, 33), (20, 33)],
    ),
    "matmul_out_transposed": (
        "(m, n, k) -> (m, k); (k, n); (n, m)",
        [(20, 19), (19, 33), (33, 20)],
    ),
    "matvec": ("(m, k) -> (m, k); (k); (m)", [(37, 21), (21,), (37,)]),
    "few_columns": (
        "(m, n, k) -> (k, m); (k, n); (m, n)",
        [(203, 45), (203, 3), (45, 3)],
    ),
    "vecmat": ("(n, k) -> (k); (k, n); (n)", [(21,), (21, 37), (37,)]),
    "batch_matmul": (
        "(b, m, n, k) -> (b, m, k); (b, k, n); (b, m, n)",
        [(3, 9, 10), (3, 10, 17), (3, 9, 17)],
    ),
    "attention_scores": (
        "(b, m, n, k) -> (b, m, k); (b, n, k); (b, m, n)",
        [(2, 19, 9), (2, 20, 9), (2, 19, 20)],
    ),
    "two_row_dims": (
        "(b, m, n, k) -> (b, m, k); (n, k); (b, m, n)",
        [(3, 5, 9), (11, 9), (3, 5, 11)],
    ),
    "two_contracted_dims": (
        "(m, n, k, l) -> (m, k, l); (l, k, n); (m, n)",
        [(6, 5, 4), (4, 5, 18), (6, 18)],
    ),
    "conv2d": (
        "(n, f, h, w, c, p, q) -> (n, c, h + p, w + q); (f, c, p, q); (n, f, h, w)",
        [(1, 10, 9, 8), (11, 10, 3, 3), (1, 11, 7, 6)],
    ),
    "conv2d_batch": (
        "(n, f, h, w, c, p, q) -> (n, c, h + p, w + q); (f, c, p, q); (n, f, h, w)",
        [(2, 5, 6, 7), (4, 5, 2, 3), (2, 4, 5, 5)],
    ),
    "conv2d_strided": (
        "(n, f, h, w, c, p, q) -> (n, c, h * 2 + p, w * 2 + q); (f, c, p, q); (n, f, h, w)",
        [(1, 12, 13, 15), (9, 12, 3, 3), (1, 9, 6, 7)],
    ),
    "conv2d_stem": (
        "(n, f, h, w, c, p, q) -> (n, c, h * 2 + p, w * 2 + q); (f, c, p, q); (n, f, h, w)",
        [(1, 3, 25, 27), (9, 3, 7, 7), (1, 9, 10, 11)],
    ),
    "conv2d_one_channel": (
        "(n, f, h, w, c, p, q) -> (n, c, h + p, w + q); (f, c, p, q); (n, f, h, w)",
        [(1, 1, 12, 13), (6, 1, 3, 3), (1, 6, 10, 11)],
    ),
    "conv2d_dilated": (
        "(n, f, h, w, c, p, q) -> (n, c, h + p * 2, w + q * 3); (f, c, p, q); (n, f, h, w)",
        [(1, 9, 11, 14), (8, 9, 3, 3), (1, 8, 7, 8)],
    ),
    "conv2d_1x1": (
        "(n, f, h, w, c) -> (n, c, h, w); (f, c); (n, f, h, w)",
        [(1, 17, 7, 9), (9, 17), (1, 9, 7, 9)],
    ),
    "conv2d_grouped": (
        "(n, g, f, h, w, c, p, q) -> (n, g, c, h + p, w + q); (g, f, c, p, q); (n, g, f, h, w)",
        [(1, 2, 9, 8, 9), (2, 10, 9, 3, 3), (1, 2, 10, 6, 7)],
    ),
    "conv2d_nhwc": (
        "(n, h, w, f, p, q, c) -> (n, h + p, w + q, c); (p, q, c, f); (n, h, w, f)",
        [(1, 8, 9, 10), (3, 3, 10, 9), (1, 6, 7, 9)],
    ),
    "conv2d_nhwc_stem": (
        "(n, h, w, f, p, q, c) -> (n, h * 2 + p, w * 2 + q, c); (p, q, c, f); (n, h, w, f)",
        [(1, 25, 27, 3), (7, 7, 3, 9), (1, 10, 11, 9)],
    ),
    "conv2d_nhwc_large": (
        "(n, h, w, f, p, q, c) -> (n, h + p, w + q, c); (p, q, c, f); (n, h, w, f)",
        [(1, 20, 30, 40), (3, 3, 40, 9), (1, 18, 28, 9)],
    ),
    "conv2d_nhwc_part": (
        "(n, h, w, f, p, q, c) -> (n, h + p, w + q, c); (p, q, c, f); (n, h, w, f)",
        [(1, 20, 33, 40), (3, 3, 40, 9), (1, 18, 28, 9)],
    ),
    "conv2d_nwhc_part": (
        "(n, h, w, f, p, q, c) -> (n, w + q, h + p, c); (p, q, c, f); (n, h, w, f)",
        [(1, 33, 20, 40), (3, 3, 40, 9), (1, 15, 28, 9)],
    ),
    "heads_joined": (
        "(t, n, h, d) -> (h, t, d); (h, d, n); (t, n)",
        [(12, 33, 16), (12, 16, 40), (33, 40)],
    ),
    "heads_joined_by_rows": (
        "(t, n, h, d) -> (t, h, d); (n, h, d); (t, n)",
        [(33, 6, 4), (40, 6, 4), (33, 40)],
    ),
    "conv1d": (
        "(n, f, w, c, q) -> (n, c, w * 2 + q); (f, c, q); (n, f, w)",
        [(1, 9, 41), (10, 9, 5), (1, 10, 19)],
    ),
    "conv3d": (
        "(n, f, d, h, w, c, o, p, q) -> (n, c, d + o, h + p, w + q); "
        "(f, c, o, p, q); (n, f, d, h, w)",
        [(1, 8, 5, 6, 7), (9, 8, 2, 3, 3), (1, 9, 4, 4, 5)],
    ),
}


@pytest.mark.parametrize("target", ["tiny", "neuroncore_v2"])
@pytest.mark.parametrize("name", sorted(CASES))
def test_contraction(name, target):
    maps, shapes = CASES[name]
    check(contraction_text(maps, shapes), shapes, target)


@pytest.mark.parametrize("columns", [4, 5])
@pytest.mark.parametrize("name", sorted(CASES))
def test_an_array_with_fewer_columns_than_rows(name, columns):
    """Operands of more partitions than the array has columns are turned in pieces."""
    maps, shapes = CASES[name]
    check(contraction_text(maps, shapes), shapes, "tiny", overrides={"tensor.columns": columns})


@pytest.mark.parametrize("name", ["matmul_large", "matmul_right_transposed", "attention_scores"])
def test_turned_tiles_fit_a_psum_bank(name):
    """An array of 32 columns turns 16 f32 at a time where a bank holds no more."""
    maps, shapes = CASES[name]
    sizes = ("tensor.rows", "tensor.columns", "sbuf.partitions", "psum.partitions")
    check(contraction_text(maps, shapes), shapes, "tiny", overrides=dict.fromkeys(sizes, 32))


def test_no_turning_where_no_piece_has_a_legal_start():
    maps, shapes = CASES["matmul_large"]
    overrides = {"tensor.columns": 4, "sbuf.partition_start_granule": 8}
    with pytest.raises(PassError) as caught:
        check(contraction_text(maps, shapes), shapes, "tiny", overrides=overrides)
    assert caught.value.message.endswith(
        "an operand of 8 partitions cannot be turned: the array of 'tiny' has 4 columns, but "
        "accesses start at multiples of 8"
    )
    assert caught.value.help == (
        "use a target whose sbuf.partition_start_granule is at most tensor.columns"
    )


@pytest.mark.parametrize("name", ["matmul_large", "conv2d_strided"])
def test_adds_to_what_the_output_holds(name):
    maps, shapes = CASES[name]
    check(contraction_text(maps, shapes, zero=False), shapes, "tiny")


@pytest.mark.parametrize("name", ["matmul_large", "conv2d", "conv2d_stem", "attention_scores"])
def test_integers_are_exact(name):
    maps, shapes = CASES[name]
    text = contraction_text(maps, shapes, "i8", "i32")
    check(text, shapes, "tiny", ("i8", "i32"))


@pytest.mark.parametrize("name", sorted(CASES))
def test_streams_where_nothing_fits(name):
    """With 640 bytes per partition hardly anything is resident."""
    maps, shapes = CASES[name]
    overrides = {"sbuf.bytes_per_partition": 640}
    check(contraction_text(maps, shapes), shapes, "tiny", overrides=overrides)


@given(
    st.integers(1, 20),
    st.integers(1, 40),
    st.integers(1, 20),
    st.integers(200, 3000),
    st.integers(1, 3),
)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_matmul_in_any_scratchpad(m, n, k, bytes_per_partition, buffers):
    shapes = [(m, k), (k, n), (m, n)]
    text = contraction_text(MATMUL, shapes)
    overrides = {"sbuf.bytes_per_partition": bytes_per_partition}
    check(text, shapes, "tiny", overrides=overrides, buffers=buffers)


@given(
    st.integers(1, 70),
    st.integers(1, 16),
    st.integers(30, 300),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.integers(600, 4096),
    st.integers(1, 3),
)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_deep_contraction(m, n, k, taps, bytes_per_partition, buffers):
    """Many channels for few columns: the stationary operand comes in chunks."""
    p, q = taps
    maps = "(m, n, k, p, q) -> (k, p, q, m); (k, p, q, n); (m, n)"
    shapes = [(k, p, q, m), (k, p, q, n), (m, n)]
    overrides = {"sbuf.bytes_per_partition": bytes_per_partition}
    check(contraction_text(maps, shapes), shapes, "tiny", overrides=overrides, buffers=buffers)


@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(1, 40),
    st.integers(1, 12),
    st.integers(400, 4000),
    st.integers(1, 3),
)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_batches_in_any_scratchpad(b, m, n, k, bytes_per_partition, buffers):
    shapes = [(b, k, m), (b, k, n), (b, m, n)]
    text = contraction_text("(b, m, n, k) -> (b, k, m); (b, k, n); (b, m, n)", shapes)
    overrides = {"sbuf.bytes_per_partition": bytes_per_partition}
    check(text, shapes, "tiny", overrides=overrides, buffers=buffers)


@given(
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.integers(1, 3),
)
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_convolution(channels, window, strides, dilations, outputs, buffers):
    (c, f), (p, q), (s, t), (d, e), (h, w) = channels, window, strides, dilations, outputs
    image = f"(n, c, h * {s} + p * {d}, w * {t} + q * {e})"
    maps = f"(n, f, h, w, c, p, q) -> {image}; (f, c, p, q); (n, f, h, w)"
    height, width = (h - 1) * s + (p - 1) * d + 1, (w - 1) * t + (q - 1) * e + 1
    shapes = [(1, c, height, width), (f, c, p, q), (1, f, h, w)]
    check(contraction_text(maps, shapes), shapes, "tiny", buffers=buffers)
