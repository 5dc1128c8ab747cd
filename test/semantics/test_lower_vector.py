"""All but contractions compute the same on the vector, scalar and gpsimd engines as in numpy."""

# ruff: noqa: E501

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polystage.dialects import npu
from polystage.dialects.npu.target import target_attribute
from polystage.dtypes import numpy_dtype
from polystage.evaluator.module_evaluator import evaluate
from polystage.machine.target import Target
from polystage.mlir import ir
from polystage.passes.lower.convert_linalg_to_npu import ConvertLinalgToNpuPass
from polystage.passes.placement.allocate_scratchpad import AllocateScratchpadPass
from polystage.passes.polyhedral.fuse_operators import FuseOperatorsPass
from polystage.simulator import simulate

TARGETS = ("tiny", "neuroncore_v2")


def memref(shape, dtype):
    return "memref<" + "".join(f"{n}x" for n in shape) + f"{dtype}>"


def generic(dims, ins, outs, body, reductions="", constants=""):
    """Return a `linalg.generic`; ins and outs are (name, map results, memref type)."""
    operands = [*ins, *outs]
    maps = ", ".join(f"affine_map<({dims}) -> ({m})>" for _, m, _ in operands)
    names = [d.strip() for d in dims.split(",") if d.strip()]
    kinds = ", ".join(
        '"reduction"' if d in reductions.replace(",", " ").split() else '"parallel"' for d in names
    )

    def listed(word, group):
        if not group:
            return ""
        values = ", ".join(n for n, _, _ in group)
        return f"{word}({values} : {', '.join(t for _, _, t in group)})"

    arguments = [
        f"%i{k}: {t.split('x')[-1].rstrip('>').replace('memref<', '')}"
        for k, (_, _, t) in enumerate(ins)
    ]
    arguments += [
        f"%o{k}: {t.split('x')[-1].rstrip('>').replace('memref<', '')}"
        for k, (_, _, t) in enumerate(outs)
    ]
    return f"""
  {constants}
  linalg.generic {{indexing_maps = [{maps}], iterator_types = [{kinds}]}}
    {listed("ins", ins)} {listed("outs", outs)} {{
  ^bb0({", ".join(arguments)}):
    {body}
  }}"""


def program(arguments, results, body):
    """Return a module; arguments and results are {name: memref type}."""
    ins = ", ".join(f'%{n}: {t} {{npu.name = "{n}"}}' for n, t in arguments.items())
    outs = ", ".join(f'{t} {{npu.name = "{n}_out"}}' for n, t in results.items())
    allocs = "\n".join(
        f"  %{n} = memref.alloc() : {t}" for n, t in results.items() if n not in arguments
    )
    values = ", ".join(f"%{n}" for n in results)
    types = ", ".join(results.values())
    return (
        f"func.func @main({ins}) -> ({outs}) {{\n{allocs}\n{body}\n  return {values} : {types}\n}}"
    )


def array(rng, type_, low=None, high=None):
    type_ = ir.MemRefType(type_)
    shape, dtype = tuple(type_.shape), numpy_dtype(type_.element_type)
    if dtype == np.bool_:
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.kind == "i":
        return rng.integers(low or 0, high or 100, shape, dtype=np.int64).astype(dtype)
    return rng.standard_normal(shape, dtype=np.float32).astype(dtype)


def lowered(text, target, overrides=None, buffers=2):
    module = ir.Module.parse(text)
    module.operation.attributes["npu.target"] = target_attribute(Target.load(target, overrides))
    FuseOperatorsPass().run(module)
    ConvertLinalgToNpuPass(buffers=buffers).run(module)
    AllocateScratchpadPass().run(module)
    module.operation.verify()
    return module


def check(text, target, limits=None, tolerance=1e-5, overrides=None, expect=(), buffers=2):
    """Lower, simulate and compare with the numpy evaluation of the same module."""
    rng = np.random.default_rng(0)
    context = ir.Context()
    npu.load(context)
    with context, ir.Location.unknown():
        module = ir.Module.parse(text)
        function = module.body.operations[len(module.body.operations) - 1]
        names = [ir.StringAttr(ir.DictAttr(a)["npu.name"]).value for a in function.arg_attrs]
        inputs = {
            n: array(rng, t, *(limits or {}).get(n, (None, None)))
            for n, t in zip(names, function.type.inputs, strict=True)
        }
        want = evaluate(module, {k: v.copy() for k, v in inputs.items()})
        program_ = lowered(text, target, overrides, buffers)
        for word in expect:
            assert word in str(program_), word
        got = simulate(program_, {k: v.copy() for k, v in inputs.items()}).outputs
    for name, expected in want.items():
        if expected.dtype.kind in "ib":
            np.testing.assert_array_equal(got[name], expected)
            continue
        a, b = got[name].astype(np.float32), expected.astype(np.float32)
        scale = max(1e-6, np.abs(b[np.isfinite(b)]).max(initial=0))
        np.testing.assert_allclose(a / scale, b / scale, atol=tolerance)


ZERO = "%z = arith.constant 0.0 : f32"
RELU = "%m = arith.maximumf %i0, %z : f32\nlinalg.yield %m : f32"


def relu(shape):
    t, dims = memref(shape, "f32"), ", ".join(f"d{i}" for i in range(len(shape)))
    body = generic(dims, [("%x", dims, t)], [("%y", dims, t)], RELU, constants=ZERO)
    return program({"x": t}, {"y": t}, body)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "shape", [(7,), (997,), (1000,), (1, 64, 13, 13), (3, 5, 7), (4096,), (1,), ()]
)
def test_relu(shape, target):
    check(relu(shape), target)


def one(dims, arguments, out, body, reductions="", constants="", results=None):
    """Return a program of one operation; arguments are {name: (map, type)}, out is (map, type)."""
    ins = [(f"%{n}", m, t) for n, (m, t) in arguments.items()]
    outs = {f"y{k}": o for k, o in enumerate(out if isinstance(out, list) else [out])}
    text = generic(
        dims, ins, [(f"%{n}", m, t) for n, (m, t) in outs.items()], body, reductions, constants
    )
    types = {n: t for n, (_, t) in arguments.items()}
    if reductions or "%o0" in body:
        types |= {n: t for n, (_, t) in outs.items()}
    return program(types, {n: t for n, (_, t) in outs.items()}, text)


F = "f32"
CASES = {
    "bias": one(
        "n, c, h, w",
        {"x": ("n, c, h, w", memref([2, 5, 9, 11], F)), "b": ("c", memref([5], F))},
        ("n, c, h, w", memref([2, 5, 9, 11], F)),
        "%s = arith.addf %i0, %i1 : f32\nlinalg.yield %s : f32",
    ),
    "bias_rows": one(
        "s, c",
        {"x": ("s, c", memref([13, 300], F)), "b": ("c", memref([300], F))},
        ("s, c", memref([13, 300], F)),
        "%s = arith.addf %i0, %i1 : f32\nlinalg.yield %s : f32",
    ),
    "keepdim": one(
        "s, c",
        {"x": ("s, c", memref([13, 300], F)), "m": ("s, 0", memref([13, 1], F))},
        ("s, c", memref([13, 300], F)),
        "%s = arith.subf %i0, %i1 : f32\n%e = math.exp %s : f32\nlinalg.yield %e : f32",
    ),
    "sum_rows": one(
        "s, c",
        {"x": ("s, c", memref([13, 300], F))},
        ("s", memref([13], F)),
        "%s = arith.addf %o0, %i0 : f32\nlinalg.yield %s : f32",
        "c",
    ),
    "sum_columns": one(
        "s, c",
        {"x": ("s, c", memref([13, 300], F))},
        ("c", memref([300], F)),
        "%s = arith.addf %o0, %i0 : f32\nlinalg.yield %s : f32",
        "s",
    ),
    "sum_all": one(
        "s, c",
        {"x": ("s, c", memref([13, 300], F))},
        ("", memref([], F)),
        "%s = arith.addf %o0, %i0 : f32\nlinalg.yield %s : f32",
        "s, c",
    ),
    "sum_long": one(
        "s, c",
        {"x": ("s, c", memref([3, 5000], F))},
        ("s", memref([3], F)),
        "%s = arith.addf %o0, %i0 : f32\nlinalg.yield %s : f32",
        "c",
    ),
    "sum_exp": one(
        "s, c",
        {"x": ("s, c", memref([13, 300], F)), "m": ("s", memref([13], F))},
        ("s", memref([13], F)),
        "%d = arith.subf %i0, %i1 : f32\n%e = math.exp %d : f32\n"
        "%s = arith.addf %o0, %e : f32\nlinalg.yield %s : f32",
        "c",
    ),
    "middle": one(
        "a, r, c",
        {"x": ("a, r, c", memref([5, 7, 33], F))},
        ("a, c", memref([5, 33], F)),
        "%s = arith.maximumf %o0, %i0 : f32\nlinalg.yield %s : f32",
        "r",
    ),
    "max_pool": one(
        "n, c, h, w, kh, kw",
        {
            "x": ("n, c, h * 2 + kh, w * 2 + kw", memref([1, 6, 29, 31], F)),
            "k": ("kh, kw", memref([3, 3], F)),
        },
        ("n, c, h, w", memref([1, 6, 14, 15], F)),
        "%s = arith.maximumf %o0, %i0 : f32\nlinalg.yield %s : f32",
        "kh, kw",
    ),
    "pool_relu": one(
        "c, h, w, kh, kw",
        {
            "x": ("c, h * 3 + kh, w + kw * 2", memref([20, 31, 40], F)),
            "k": ("kh, kw", memref([2, 3], F)),
        },
        ("c, h, w", memref([20, 10, 36], F)),
        "%z = arith.constant 0.0 : f32\n%r = arith.maximumf %i0, %z : f32\n"
        "%s = arith.addf %o0, %r : f32\nlinalg.yield %s : f32",
        "kh, kw",
    ),
    "depthwise": one(
        "n, c, h, w, kh, kw",
        {
            "x": ("n, c, h + kh, w + kw", memref([1, 10, 12, 13], F)),
            "k": ("c, kh, kw", memref([10, 3, 3], F)),
        },
        ("n, c, h, w", memref([1, 10, 10, 11], F)),
        "%m = arith.mulf %i0, %i1 : f32\n%s = arith.addf %o0, %m : f32\nlinalg.yield %s : f32",
        "kh, kw",
    ),
    "gelu": one(
        "a, b",
        {"x": ("a, b", memref([13, 77], F))},
        ("a, b", memref([13, 77], F)),
        "%c = arith.constant 1.4142135 : f32\n%d = arith.divf %i0, %c : f32\n%e = math.erf %d : f32\n"
        "%o = arith.constant 1.0 : f32\n%f = arith.addf %e, %o : f32\n%h = arith.constant 0.5 : f32\n"
        "%g = arith.mulf %f, %h : f32\n%r = arith.mulf %g, %i0 : f32\nlinalg.yield %r : f32",
    ),
    "normalise": one(
        "a, b",
        {
            "x": ("a, b", memref([13, 77], F)),
            "m": ("a", memref([13], F)),
            "v": ("a", memref([13], F)),
            "g": ("b", memref([77], F)),
            "h": ("b", memref([77], F)),
        },
        ("a, b", memref([13, 77], F)),
        "%d = arith.subf %i0, %i1 : f32\n%q = arith.mulf %i2, %i2 : f32\n"
        "%eps = arith.constant 1.0e-5 : f32\n%w = arith.addf %q, %eps : f32\n"
        "%r = math.rsqrt %w : f32\n%n = arith.mulf %d, %r : f32\n%s = arith.mulf %n, %i3 : f32\n"
        "%t = arith.addf %s, %i4 : f32\nlinalg.yield %t : f32",
    ),
    "silu_bf16": one(
        "a, b",
        {"x": ("a, b", memref([13, 77], "bf16"))},
        ("a, b", memref([13, 77], "bf16")),
        "%f = arith.extf %i0 : bf16 to f32\n%n = arith.negf %f : f32\n%e = math.exp %n : f32\n"
        "%o = arith.constant 1.0 : f32\n%d = arith.addf %e, %o : f32\n%r = arith.divf %f, %d : f32\n"
        "%t = arith.truncf %r : f32 to bf16\nlinalg.yield %t : bf16",
    ),
    "sum_bf16": one(
        "s, c",
        {"x": ("s, c", memref([13, 300], "bf16"))},
        ("s", memref([13], F)),
        "%f = arith.extf %i0 : bf16 to f32\n%s = arith.addf %o0, %f : f32\nlinalg.yield %s : f32",
        "c",
    ),
    "compare": one(
        "a, b",
        {"x": ("a, b", memref([13, 77], F)), "y": ("b", memref([77], F))},
        ("a, b", memref([13, 77], "i1")),
        "%c = arith.cmpf ogt, %i0, %i1 : f32\nlinalg.yield %c : i1",
    ),
    "select": one(
        "a, b",
        {"m": ("a, b", memref([13, 77], "i1")), "x": ("a, b", memref([13, 77], F))},
        ("a, b", memref([13, 77], F)),
        "%z = arith.constant -1.0e9 : f32\n%c = arith.select %i0, %i1, %z : f32\nlinalg.yield %c : f32",
    ),
    "causal": one(
        "a, b",
        {"x": ("a, b", memref([19, 21], F))},
        ("a, b", memref([19, 21], F)),
        "%i = linalg.index 0 : index\n%j = linalg.index 1 : index\n%k = arith.index_cast %i : index to i64\n"
        "%l = arith.index_cast %j : index to i64\n%c = arith.cmpi sge, %k, %l : i64\n"
        "%z = arith.constant -1.0e9 : f32\n%r = arith.select %c, %i0, %z : f32\nlinalg.yield %r : f32",
    ),
    "arange": one(
        "a",
        {},
        ("a", memref([1000], "i64")),
        "%i = linalg.index 0 : index\n%k = arith.index_cast %i : index to i64\n"
        "%t = arith.constant 3 : i64\n%r = arith.muli %k, %t : i64\nlinalg.yield %r : i64",
    ),
    "integers": one(
        "a, b",
        {"x": ("a, b", memref([13, 77], "i64")), "y": ("b", memref([77], "i64"))},
        ("a, b", memref([13, 77], "i64")),
        "%s = arith.addi %i0, %i1 : i64\n%m = arith.muli %s, %i0 : i64\nlinalg.yield %m : i64",
    ),
    "casts": one(
        "a",
        {"x": ("a", memref([513], "i64"))},
        ("a", memref([513], F)),
        "%s = arith.sitofp %i0 : i64 to f32\n%m = math.sqrt %s : f32\nlinalg.yield %m : f32",
    ),
    "argmax": one(
        "a, b",
        {"x": ("a, b", memref([13, 77], F))},
        [("a", memref([13], F)), ("a", memref([13], "i64"))],
        "%i = linalg.index 1 : index\n%k = arith.index_cast %i : index to i64\n"
        "%m = arith.maximumf %i0, %o0 : f32\n%c = arith.cmpf ogt, %i0, %o0 : f32\n"
        "%s = arith.select %c, %k, %o1 : i64\nlinalg.yield %m, %s : f32, i64",
        "b",
    ),
    "in_place": one(
        "a, b",
        {"x": ("a, b", memref([13, 77], F))},
        ("a, b", memref([13, 77], F)),
        "%s = arith.addf %i0, %o0 : f32\nlinalg.yield %s : f32",
    ),
    "outer": one(
        "a, b",
        {"x": ("a", memref([130], F)), "y": ("b", memref([77], F))},
        ("a, b", memref([130, 77], F)),
        "%s = arith.mulf %i0, %i1 : f32\nlinalg.yield %s : f32",
    ),
    "add_transposed": one(
        "a, b",
        {"x": ("a, b", memref([70, 41], F)), "y": ("b, a", memref([41, 70], F))},
        ("a, b", memref([70, 41], F)),
        "%s = arith.addf %i0, %i1 : f32\nlinalg.yield %s : f32",
    ),
    "flip": one(
        "a, b",
        {"x": ("a, 40 - b", memref([70, 41], F))},
        ("a, b", memref([70, 41], F)),
        "linalg.yield %i0 : f32",
    ),
    "diagonal": one(
        "a",
        {"x": ("a, a", memref([41, 41], F))},
        ("a", memref([41], F)),
        "linalg.yield %i0 : f32",
    ),
    "scalar": one(
        "",
        {"x": ("", memref([], F)), "y": ("", memref([], F))},
        ("", memref([], F)),
        "%s = arith.divf %i0, %i1 : f32\nlinalg.yield %s : f32",
    ),
    "broadcast_scalar": one(
        "a, b",
        {"x": ("", memref([], F))},
        ("a, b", memref([41, 7], F)),
        "linalg.yield %i0 : f32",
    ),
    "channel_broadcast": one(
        "n, c, h, w",
        {"x": ("c", memref([6], F))},
        ("n, c, h, w", memref([1, 6, 17, 19], F)),
        "linalg.yield %i0 : f32",
    ),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("case", CASES)
def test_one(case, target):
    check(CASES[case], target)


@pytest.mark.parametrize("case", ["bias", "sum_columns", "max_pool", "argmax", "causal", "gelu"])
def test_flat_scratchpad(case):
    check(CASES[case], "flat", overrides={"scratchpad_bytes": 32768})


def gather(table, indices, out, dtype="f32"):
    """Return out[i.., e] = table[x[i..], e]."""
    dims = [f"d{i}" for i in range(len(out))]
    lead = ", ".join(dims[: len(indices)])
    rest = dims[len(indices) :]
    loads = "".join(
        f"%j{d} = linalg.index {len(indices) + k} : index\n" for k, d in enumerate(rest)
    )
    index = ", ".join(["%k", *(f"%j{d}" for d in rest)])
    t, x, y = memref(table, dtype), memref(indices, "i64"), memref(out, dtype)
    body = (
        "%z = arith.constant 0 : i64\n%n = arith.constant 7 : i64\n%c = arith.cmpi slt, %i0, %z : i64\n"
        "%w = arith.addi %i0, %n : i64\n%s = arith.select %c, %w, %i0 : i64\n"
        f"%k = arith.index_cast %s : i64 to index\n{loads}%v = memref.load %t[{index}] : {t}\n"
        f"linalg.yield %v : {dtype}"
    )
    text = generic(", ".join(dims), [("%x", lead, x)], [("%y", ", ".join(dims), y)], body)
    return program({"t": t, "x": x}, {"y": y}, text)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "table, indices, out",
    [
        ((7, 33), (2, 9), (2, 9, 33)),
        ((7, 33), (1, 5), (1, 5, 33)),
        ((7,), (40,), (40,)),
        ((7, 3, 5), (11,), (11, 3, 5)),
        ((7, 2000), (3,), (3, 2000)),
    ],
)
def test_gather(table, indices, out, target):
    check(gather(table, indices, out), target, {"x": (-7, 7)}, expect=["npu.gather"])


def permuted(shape, order, dtype="f32"):
    dims = [f"d{i}" for i in range(len(shape))]
    out = [shape[i] for i in order]
    source = [""] * len(shape)
    for place, i in enumerate(order):
        source[i] = dims[place]
    return one(
        ", ".join(dims),
        {"x": (", ".join(source), memref(shape, dtype))},
        (", ".join(dims), memref(out, dtype)),
        f"linalg.yield %i0 : {dtype}",
    )


ORDERS = [*itertools.permutations(range(3)), *itertools.permutations(range(4))]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("order", ORDERS)
def test_transpose(order, target):
    check(permuted([9, 10, 21] if len(order) == 3 else [3, 9, 4, 20], order), target)


@pytest.mark.parametrize("dtype", ["i64", "bf16", "i8", "i1"])
def test_transpose_types(dtype):
    check(permuted([40, 50], (1, 0), dtype), "tiny")


@pytest.mark.parametrize("dtype", ["f32", "bf16", "i8"])
@pytest.mark.parametrize(
    "shape, order",
    [
        ([200, 300], (1, 0)),
        ([3, 131, 150], (0, 2, 1)),
        ([2, 3, 257, 40], (0, 3, 1, 2)),
        ([140, 6, 129], (2, 1, 0)),
    ],
)
def test_transpose_runs_in_the_array(shape, order, dtype):
    check(permuted(shape, order, dtype), "neuroncore_v2", expect=["npu.transpose"])


def test_operands_go_through_the_array():
    """One operand and the result lie the other way round."""
    text = one(
        "a, b, c",
        {"x": ("a, b, c", memref([3, 70, 140], F)), "y": ("c", memref([140], F))},
        ("a, c, b", memref([3, 140, 70], F)),
        "%s = arith.addf %i0, %i1 : f32\n%e = math.exp %s : f32\nlinalg.yield %e : f32",
    )
    check(text, "neuroncore_v2", expect=["npu.transpose"])


def test_pad():
    """A fill of the whole and a copy into the middle, read by a window."""
    text = """
func.func @main(%x: memref<1x3x9x9xf32> {npu.name = "x"}) -> (memref<1x3x11x11xf32> {npu.name = "y"}) {
  %c = arith.constant -1.0 : f32
  %y = memref.alloc() : memref<1x3x11x11xf32>
  linalg.generic {indexing_maps = [affine_map<(a, b, c, d) -> (a, b, c, d)>],
      iterator_types = ["parallel", "parallel", "parallel", "parallel"]} outs(%y : memref<1x3x11x11xf32>) {
  ^bb0(%o: f32):
    linalg.yield %c : f32
  }
  %s = memref.subview %y[0, 0, 1, 1] [1, 3, 9, 9] [1, 1, 1, 1]
      : memref<1x3x11x11xf32> to memref<1x3x9x9xf32, strided<[363, 121, 11, 1], offset: 12>>
  memref.copy %x, %s : memref<1x3x9x9xf32> to memref<1x3x9x9xf32, strided<[363, 121, 11, 1], offset: 12>>
  return %y : memref<1x3x11x11xf32>
}"""
    for target in TARGETS:
        check(text, target)


def test_concat_and_slice():
    text = """
func.func @main(%a: memref<5x7xf32> {npu.name = "a"}, %b: memref<5x30xf32> {npu.name = "b"})
    -> (memref<5x22xf32> {npu.name = "y"}) {
  %y = memref.alloc() : memref<5x22xf32>
  %s = memref.subview %y[0, 0] [5, 7] [1, 1] : memref<5x22xf32> to memref<5x7xf32, strided<[22, 1]>>
  memref.copy %a, %s : memref<5x7xf32> to memref<5x7xf32, strided<[22, 1]>>
  %t = memref.subview %y[0, 7] [5, 15] [1, 1] : memref<5x22xf32> to memref<5x15xf32, strided<[22, 1], offset: 7>>
  %u = memref.subview %b[0, 0] [5, 15] [1, 2] : memref<5x30xf32> to memref<5x15xf32, strided<[30, 2]>>
  memref.copy %u, %t : memref<5x15xf32, strided<[30, 2]>> to memref<5x15xf32, strided<[22, 1], offset: 7>>
  return %y : memref<5x22xf32>
}"""
    for target in TARGETS:
        check(text, target)


@pytest.mark.parametrize("target", TARGETS)
def test_narrow_sums_are_rounded_once(target):
    """1 + 4096 * 2 ** -8 is 17; rounded to bf16 after every step it would stay 1."""
    text = one(
        "s, c",
        {"x": ("s, c", memref([3, 4096], "bf16"))},
        ("s", memref([3], "bf16")),
        "%f = arith.extf %i0 : bf16 to f32\n%g = arith.extf %o0 : bf16 to f32\n"
        "%s = arith.addf %g, %f : f32\n%t = arith.truncf %s : f32 to bf16\nlinalg.yield %t : bf16",
        "c",
    )
    context = ir.Context()
    npu.load(context)
    with context, ir.Location.unknown():
        module = lowered(text, target)
        bf16 = numpy_dtype(ir.BF16Type.get())
        inputs = {"x": np.full((3, 4096), 2.0**-8, bf16), "y0": np.ones(3, bf16)}
        got = simulate(module, inputs).outputs["y0_out"]
    np.testing.assert_array_equal(got.astype(np.float32), [17, 17, 17])


@pytest.mark.parametrize("target", TARGETS)
def test_shared_values_are_computed_once(target):
    t = memref([9, 40], F)
    body = (
        "%t = arith.addf %i0, %i1 : f32\n%q = arith.mulf %t, %t : f32\n"
        "%c = arith.mulf %q, %t : f32\n%d = arith.addf %c, %t : f32\n%h = math.tanh %d : f32\n"
        "%r = arith.mulf %h, %t : f32\nlinalg.yield %r : f32"
    )
    text = one("a, b", {"x": ("a, b", t), "b": ("b", memref([40], F))}, ("a, b", t), body)
    check(text, target, expect=["@add(", "@mul_add(", "@mul("])


@pytest.mark.parametrize("reduced", ["", "b"])
@pytest.mark.parametrize("target", TARGETS)
def test_many_operands(target, reduced):
    """More operands than one instruction has."""
    count, t = 25, memref([9, 40], F)
    arguments = {f"x{i}": ("a, b", t) for i in range(count)}
    body = [
        f"%s{i} = arith.addf %{f's{i - 1}' if i > 1 else 'i0'}, %i{i} : f32"
        for i in range(1, count)
    ]
    last = f"%s{count - 1}"
    if reduced:
        body.append(f"%r = arith.addf %o0, {last} : f32")
        last = "%r"
    body.append(f"linalg.yield {last} : f32")
    out = ("a", memref([9], F)) if reduced else ("a, b", t)
    check(one("a, b", arguments, out, "\n".join(body), reduced), target)


@pytest.mark.parametrize("target", TARGETS)
def test_scalars_between_operations(target):
    """A scalar that is loaded, computed with, and used after its memref has changed."""
    text = """
func.func @main(%x: memref<5x7xf32> {npu.name = "x"}, %s: memref<3xf32> {npu.name = "s"})
    -> (memref<5x7xf32> {npu.name = "y"}, memref<3xf32> {npu.name = "t"}) {
  %c1 = arith.constant 1 : index
  %half = arith.constant 0.5 : f32
  %zero = arith.constant 0.0 : f32
  %v = memref.load %s[%c1] : memref<3xf32>
  %w = arith.mulf %v, %half : f32
  linalg.generic {indexing_maps = [affine_map<(d0) -> (d0)>], iterator_types = ["parallel"]}
      outs(%s : memref<3xf32>) {
  ^bb0(%o: f32):
    linalg.yield %zero : f32
  }
  %y = memref.alloc() : memref<5x7xf32>
  linalg.generic {indexing_maps = [affine_map<(a, b) -> ()>, affine_map<(a, b) -> (a, b)>,
      affine_map<(a, b) -> (a, b)>], iterator_types = ["parallel", "parallel"]}
      ins(%w, %x : f32, memref<5x7xf32>) outs(%y : memref<5x7xf32>) {
  ^bb0(%a: f32, %i: f32, %o: f32):
    %p = arith.mulf %i, %a : f32
    %q = arith.addf %p, %v : f32
    linalg.yield %q : f32
  }
  return %y, %s : memref<5x7xf32>, memref<3xf32>
}"""
    check(text, target)


SPECIAL = np.array([np.nan, -0.0, 0.0, 1.0, -1.0, np.inf, -np.inf, 0.5, 2.0], np.float32)


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("reversed_", [False, True])
@pytest.mark.parametrize("predicate", ["ogt", "oge", "olt", "ole", "ugt", "uge", "ult", "ule"])
def test_select_of_comparison_is_an_extremum(predicate, reversed_, swapped):
    pair = ["%i0", "%c"]
    chosen = pair[::-1] if reversed_ else pair
    compared = pair[::-1] if swapped else pair
    text = one(
        "a",
        {"x": ("a", memref([9], F))},
        ("a", memref([9], F)),
        f"%c = arith.constant 0.5 : f32\n%p = arith.cmpf {predicate}, {', '.join(compared)} : f32\n"
        f"%s = arith.select %p, {', '.join(chosen)} : f32\nlinalg.yield %s : f32",
    )
    context = ir.Context()
    npu.load(context)
    with context, ir.Location.unknown():
        want = evaluate(ir.Module.parse(text), {"x": SPECIAL})
        module = lowered(text, "tiny")
        assert "arith.select" not in str(module)
        got = simulate(module, {"x": SPECIAL}).outputs
    np.testing.assert_array_equal(got["y0_out"], want["y0_out"])


@st.composite
def operations(draw):
    """Return a random operation: loops, reductions, permuted, broadcast, strided and windowed operands."""
    names = [f"d{i}" for i in range(draw(st.integers(1, 4)))]
    extents = {n: draw(st.sampled_from([1, 2, 3, 5, 8, 9, 13, 21])) for n in names}
    reduced = [n for n in names if draw(st.integers(0, 3)) == 0]
    parallel = draw(st.permutations([n for n in names if n not in reduced]))
    arguments = {"k": (", ".join(names), memref(list(extents.values()), F))}
    for number in range(draw(st.integers(1, 3))):
        dims = draw(st.permutations([n for n in names if draw(st.integers(0, 3))]))
        index, shape = [], []
        while dims:
            terms = [dims.pop() for _ in range(1 if draw(st.integers(0, 3)) else 2) if dims]
            steps = [draw(st.sampled_from([1, 1, 1, 2, 3])) for _ in terms]
            start = draw(st.sampled_from([0, 0, 0, 1, 4]))
            last = start + sum(s * (extents[t] - 1) for t, s in zip(terms, steps, strict=True))
            index.append(
                " + ".join([*(f"{t} * {s}" for t, s in zip(terms, steps, strict=True)), str(start)])
            )
            plain = len(terms) == 1 and steps == [1] and start == 0
            shape.append(last + 1 + (0 if plain else draw(st.sampled_from([0, 0, 2]))))
        arguments[f"x{number}"] = (", ".join(index), memref(shape, F))
    body = []
    value = "%i1"
    for number in range(2, len(arguments)):
        op = draw(st.sampled_from(["addf", "mulf", "subf"]))
        body.append(f"%v{number} = arith.{op} {value}, %i{number} : f32")
        value = f"%v{number}"
    if draw(st.booleans()):
        body.append(f"%t = math.tanh {value} : f32")
        value = "%t"
    if draw(st.integers(0, 2)) == 0:
        body.append(f"%n = linalg.index {draw(st.integers(0, len(names) - 1))} : index")
        body.append("%n1 = arith.index_cast %n : index to i64\n%n2 = arith.sitofp %n1 : i64 to f32")
        body.append(f"%w = arith.addf {value}, %n2 : f32")
        value = "%w"
    if reduced:
        op = draw(st.sampled_from(["addf", "maximumf"]))
        body.append(f"%r = arith.{op} %o0, {value} : f32")
        value = "%r"
    body.append(f"linalg.yield {value} : f32")
    out = memref([extents[n] for n in parallel], F)
    return one(
        ", ".join(names), arguments, (", ".join(parallel), out), "\n".join(body), ", ".join(reduced)
    )


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(operations(), st.sampled_from(TARGETS), st.integers(1, 3))
def test_random(text, target, buffers):
    check(text, target, buffers=buffers)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.sampled_from([1, 2, 3, 7, 16, 30]), min_size=1, max_size=5), st.data())
def test_random_transpose(shape, data):
    order = data.draw(st.permutations(range(len(shape))))
    dtype = data.draw(st.sampled_from(["f32", "bf16", "i64", "i1"]))
    check(permuted(shape, order, dtype), data.draw(st.sampled_from(TARGETS)))
