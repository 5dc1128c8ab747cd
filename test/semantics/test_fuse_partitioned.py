"""Operations that share a kernel compute what they compute alone."""

import re

import numpy as np
import pytest

from polystage.dialects import npu
from polystage.dialects.npu.target import target_attribute
from polystage.evaluator.module_evaluator import evaluate
from polystage.machine.target import Target
from polystage.mlir import ir
from polystage.passes.lower.convert_linalg_to_npu import ConvertLinalgToNpuPass
from polystage.passes.placement.allocate_scratchpad import AllocateScratchpadPass
from polystage.passes.polyhedral.fuse_partitioned import fuse_partitioned
from polystage.simulator import simulate


def memref(shape, dtype="f32"):
    return "memref<" + "".join(f"{n}x" for n in shape) + f"{dtype}>"


def generic(dims, maps, reductions=""):
    names = re.findall(r"\w+", dims)
    kinds = ", ".join('"reduction"' if n in reductions.split() else '"parallel"' for n in names)
    texts = ", ".join(f"affine_map<({dims}) -> ({m})>" for m in maps)
    return f"linalg.generic {{indexing_maps = [{texts}], iterator_types = [{kinds}]}}"


def program(contraction, shapes, epilogue, reads, body, out, dtype="f32", expand=None):
    """Return `t = a x b` by `contraction` (dims; maps of a, b, t; reduced dims), then `out = body`
    by `epilogue` (dims; maps of t, reads.., out), `reads` being the shapes of %r0, %r1, ..

    `expand` is the type in which the epilogue sees t, and how its dimensions are grouped.
    """
    a, b, t = (memref(s, dtype) for s in shapes)
    seen, view = (t, "") if expand is None else expand
    rs = [memref(s, dtype) for s in reads]
    o = memref(out, dtype)
    arguments = [f'%a: {a} {{npu.name = "a"}}', f'%b: {b} {{npu.name = "b"}}']
    arguments += [f'%r{i}: {r} {{npu.name = "r{i}"}}' for i, r in enumerate(rs)]
    dims, *maps, reduced = contraction
    t_dims = ", ".join(f"i{i}" for i in range(len(shapes[2])))
    names = ["%seen" if view else "%t", *(f"%r{i}" for i in range(len(rs)))]
    values = ", ".join(["%x: f32", *(f"%y{i}: f32" for i in range(len(rs)))])
    types = ", ".join([seen, *rs])
    return f"""
func.func @main({", ".join(arguments)}) -> ({o} {{npu.name = "out"}}) {{
  %zero = arith.constant 0.0 : f32
  %t = memref.alloc() : {t}
  %out = memref.alloc() : {o}
  {generic(t_dims, [t_dims])} outs(%t : {t}) {{
  ^bb0(%old: f32):
    linalg.yield %zero : f32
  }}
  {generic(dims, maps, reduced)} ins(%a, %b : {a}, {b}) outs(%t : {t}) {{
  ^bb0(%x: f32, %y: f32, %old: f32):
    %m = arith.mulf %x, %y : f32
    %s = arith.addf %old, %m : f32
    linalg.yield %s : f32
  }}
  {view}
  {generic(epilogue[0], epilogue[1:])} ins({", ".join(names)} : {types}) outs(%out : {o}) {{
  ^bb0({values}, %old: f32):
    {body}
    linalg.yield %v : f32
  }}
  return %out : {o}
}}"""


MATMUL = ("m, n, k", "m, k", "k, n", "m, n", "k")
SHAPES = [(20, 35), (35, 41), (20, 41)]
SUM_RELU = "%u = arith.addf %x, %y0 : f32\n%v = arith.maximumf %u, %zero : f32"
TANH_BLEND = """%h = math.tanh %x : f32
    %p = arith.mulf %h, %y0 : f32
    %v = arith.addf %p, %x : f32"""
CASES = {
    "relu": (MATMUL, SHAPES, ("m, n", "m, n", "m, n"), [], "%v = arith.maximumf %x, %zero : f32"),
    "bias_of_rows": (MATMUL, SHAPES, ("m, n", "m, n", "m", "m, n"), [(20,)], SUM_RELU),
    "bias_of_columns": (MATMUL, SHAPES, ("m, n", "m, n", "n", "m, n"), [(41,)], SUM_RELU),
    "residual": (MATMUL, SHAPES, ("m, n", "m, n", "m, n", "m, n"), [(20, 41)], SUM_RELU),
    "bias_and_residual": (
        MATMUL,
        SHAPES,
        ("m, n", "m, n", "m", "m, n", "m, n"),
        [(20,), (20, 41)],
        "%w = arith.addf %x, %y0 : f32\n%u = arith.addf %y1, %w : f32\n"
        "%v = arith.maximumf %u, %zero : f32",
    ),
    "scaled_by_columns": (
        MATMUL,
        SHAPES,
        ("m, n", "m, n", "n", "m, n"),
        [(41,)],
        "%v = arith.mulf %x, %y0 : f32",
    ),
    "read_twice": (MATMUL, SHAPES, ("m, n", "m, n", "m, n", "m, n"), [(20, 41)], TANH_BLEND),
    "copy_to_another_order": (
        ("b, m, n, k", "b, m, k", "b, k, n", "b, m, n", "k"),
        [(3, 9, 10), (3, 10, 17), (3, 9, 17)],
        ("m, b, n", "b, m, n", "b", "m, b, n"),
        [(3,)],
        "%v = arith.mulf %x, %y0 : f32",
    ),
    "heads": (
        MATMUL,
        [(20, 35), (35, 24), (20, 24)],
        ("h, m, d", "m, h, d", "h, d", "h, m, d"),
        [(4, 6)],
        "%v = arith.addf %x, %y0 : f32",
    ),
    "convolution": (
        ("m, h, w, c, i, j", "c, h + i, w + j", "m, c, i, j", "m, h, w", "c i j"),
        [(5, 9, 10), (18, 5, 3, 3), (18, 7, 8)],
        ("m, h, w", "m, h, w", "m", "m, h, w", "m, h, w"),
        [(18,), (18, 7, 8)],
        "%w = arith.addf %x, %y0 : f32\n%u = arith.addf %w, %y1 : f32\n"
        "%v = arith.maximumf %u, %zero : f32",
    ),
}
OUT = {"copy_to_another_order": (9, 3, 17), "heads": (4, 20, 6)}
VIEW = "%seen = memref.expand_shape %t [[0], [1, 2]] output_shape [20, 4, 6] : {} into {}"
EXPAND = {
    "heads": (memref((20, 4, 6)), VIEW.format(memref((20, 24)), memref((20, 4, 6)))),
}


def outputs(text, inputs, target):
    """Return what the simulated program computes, the evaluation of the module, and what was
    fused."""
    context = ir.Context()
    npu.load(context)
    with context, ir.Location.unknown():
        module = ir.Module.parse(text)
        want = evaluate(module, {k: v.copy() for k, v in inputs.items()})["out"]
        description = Target.load(target)
        module.operation.attributes["npu.target"] = target_attribute(description)
        fused = fuse_partitioned(module, description, resident=False).statistics
        ConvertLinalgToNpuPass().run(module)
        AllocateScratchpadPass().run(module)
        module.operation.verify()
        got = simulate(module, {k: v.copy() for k, v in inputs.items()}).outputs["out"]
    return got, want, fused


@pytest.mark.parametrize("target", ["tiny", "neuroncore_v2"])
@pytest.mark.parametrize("name", CASES)
def test_fused_computes_the_same(name, target):
    contraction, shapes, epilogue, reads, body = CASES[name]
    out = OUT.get(name, shapes[2])
    text = program(contraction, shapes, epilogue, reads, body, out, expand=EXPAND.get(name))
    rng = np.random.default_rng(0)
    arrays = {"a": shapes[0], "b": shapes[1]} | {f"r{i}": s for i, s in enumerate(reads)}
    inputs = {k: rng.standard_normal(s, dtype=np.float32) for k, s in arrays.items()}
    got, want, fused = outputs(text, inputs, target)
    assert fused == {"contractions with an epilogue": 1}
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


# --- chains ---------------------------------------------------------------------------------------


class Chain:
    """A program of linalg operations, one after the other, on f32 arrays."""

    def __init__(self, **inputs):
        self.shapes = dict(inputs)
        self.inputs = dict(inputs)
        self.lines = []

    def add(self, name, shape, dims, maps, body, reductions="", initial=None):
        """Append `name = body`; `maps` has operand names and their map, then that of the result."""
        self.shapes[name] = shape
        type_ = memref(shape)
        self.lines.append(f"%{name} = memref.alloc() : {type_}")
        if initial is not None:
            at = ", ".join(f"i{i}" for i in range(len(shape)))
            self.lines.append(f"%{name}_start = arith.constant {initial} : f32")
            self.lines.append(f"""{generic(at, [at])} outs(%{name} : {type_}) {{
  ^bb0(%old: f32):
    linalg.yield %{name}_start : f32
  }}""")
        *reads, (_, written) = maps
        values = ", ".join(f"%{read}" for read, _ in reads)
        types = ", ".join(memref(self.shapes[read]) for read, _ in reads)
        arguments = ", ".join([*(f"%x{i}: f32" for i in range(len(reads))), "%old: f32"])
        texts = [*(map_ for _, map_ in reads), written]
        self.lines.append(f"""{generic(dims, texts, reductions)}
    ins({values} : {types}) outs(%{name} : {type_}) {{
  ^bb0({arguments}):
    {body}
    linalg.yield %v : f32
  }}""")
        return self

    def text(self):
        """Return the program; its result is the last array."""
        arguments = [
            f'%{name}: {memref(shape)} {{npu.name = "{name}"}}'
            for name, shape in self.inputs.items()
        ]
        last = list(self.shapes)[-1]
        type_ = memref(self.shapes[last])
        body = "\n  ".join(self.lines)
        return f"""func.func @main({", ".join(arguments)}) -> ({type_} {{npu.name = "out"}}) {{
  {body}
  return %{last} : {type_}
}}"""


def layer_norm(rows, width):
    """Return x - mean, over the root of its mean square."""
    return (
        Chain(x=(rows, width), g=(width,))
        .add("s", (rows, 1), "m, d", [("x", "m, d"), ("s", "m, 0")], SUM, "d", 0.0)
        .add("y", (rows, width), "m, d", [("x", "m, d"), ("s", "m, 0"), ("y", "m, d")], f"""
    %n = arith.constant {width}.0 : f32
    %mean = arith.divf %x1, %n : f32
    %v = arith.subf %x0, %mean : f32""")
        .add("q", (rows, 1), "m, d", [("y", "m, d"), ("q", "m, 0")], SQUARES, "d", 0.0)
        .add("z", (rows, width), "m, d",
             [("y", "m, d"), ("q", "m, 0"), ("g", "d"), ("z", "m, d")], """
    %e = arith.constant 1.0 : f32
    %shifted = arith.addf %x1, %e : f32
    %r = math.rsqrt %shifted : f32
    %t = arith.mulf %x0, %r : f32
    %v = arith.mulf %t, %x2 : f32""")
    )  # fmt: skip


def softmax(heads, rows, width):
    """Return exp(x - max), over its sum."""
    shape, row = (heads, rows, width), (heads, rows)
    return (
        Chain(x=shape)
        .add("m", row, "h, q, k", [("x", "h, q, k"), ("m", "h, q")],
             "%v = arith.maximumf %x0, %old : f32", "k", "0xFF800000")
        .add("e", shape, "h, q, k", [("x", "h, q, k"), ("m", "h, q"), ("e", "h, q, k")], """
    %d = arith.subf %x0, %x1 : f32
    %v = math.exp %d : f32""")
        .add("s", row, "h, q, k", [("e", "h, q, k"), ("s", "h, q")], SUM, "k", 0.0)
        .add("p", shape, "h, q, k", [("e", "h, q, k"), ("s", "h, q"), ("p", "h, q, k")],
             "%v = arith.divf %x0, %x1 : f32")
    )  # fmt: skip


def depthwise(channels, size):
    """Return a depthwise convolution of 3 x 3 with bias and clip."""
    out = (channels, size, size)
    return (
        Chain(x=(channels, size + 2, size + 2), w=(channels, 3, 3), b=(channels,))
        .add("t", out, "c, h, w, i, j",
             [("x", "c, h + i, w + j"), ("w", "c, i, j"), ("t", "c, h, w")], """
    %m = arith.mulf %x0, %x1 : f32
    %v = arith.addf %old, %m : f32""", "i j", 0.0)
        .add("r", out, "c, h, w", [("t", "c, h, w"), ("b", "c"), ("r", "c, h, w")], """
    %zero = arith.constant 0.0 : f32
    %six = arith.constant 6.0 : f32
    %a = arith.addf %x0, %x1 : f32
    %l = arith.maximumf %a, %zero : f32
    %v = arith.minimumf %l, %six : f32""")
    )  # fmt: skip


def gated_difference(rows, width):
    """Return t * tanh(t) of t = x - sum(x), which two instructions read."""
    return (
        Chain(x=(rows, width))
        .add("s", (rows,), "m, d", [("x", "m, d"), ("s", "m")], SUM, "d", 0.0)
        .add("y", (rows, width), "m, d", [("x", "m, d"), ("s", "m"), ("y", "m, d")], """
    %t = arith.subf %x0, %x1 : f32
    %h = math.tanh %t : f32
    %v = arith.mulf %t, %h : f32""")
    )  # fmt: skip


SUM = "%v = arith.addf %x0, %old : f32"
SQUARES = "%p = arith.mulf %x0, %x0 : f32\n    %v = arith.addf %p, %old : f32"
CHAINS = {
    "layer_norm": layer_norm(37, 50),
    "layer_norm_of_many_rows": layer_norm(300, 24),
    "softmax": softmax(3, 9, 20),
    "gated_difference": gated_difference(21, 30),
    "depthwise": depthwise(40, 7),
    "depthwise_of_many_channels": depthwise(150, 6),
}


ON_THE_ARRAY = {"tiny": [], "neuroncore_v2": ["depthwise", "depthwise_of_many_channels"]}


@pytest.mark.parametrize("target", ["tiny", "neuroncore_v2"])
@pytest.mark.parametrize("name", CHAINS)
def test_chain_computes_the_same(name, target):
    chain = CHAINS[name]
    rng = np.random.default_rng(0)
    inputs = {k: rng.standard_normal(s, dtype=np.float32) for k, s in chain.inputs.items()}
    got, want, fused = outputs(chain.text(), inputs, target)
    assert fused == {"chains": 1} or name in ON_THE_ARRAY[target]
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


def test_chain_whose_rows_do_not_fit_stays_apart():
    text = softmax(2, 5, 700).text()
    x = np.random.default_rng(0).standard_normal((2, 5, 700), dtype=np.float32)
    got, want, fused = outputs(text, {"x": x}, "tiny")
    assert fused == {}
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


def test_chain_that_no_instruction_walks_stays_apart():
    shape, out = (3, 2, 3, 3), (3, 4, 4)
    chain = (
        Chain(x=(2, 6, 6), w=shape)
        .add("e", shape, "m, c, i, j", [("w", "m, c, i, j"), ("e", "m, c, i, j")],
             "%v = math.tanh %x0 : f32")
        .add("t", out, "m, h, w, c, i, j",
             [("x", "c, h + i, w + j"), ("e", "m, c, i, j"), ("t", "m, h, w")], """
    %s = arith.addf %x0, %x1 : f32
    %v = arith.maximumf %s, %old : f32""", "c i j", "0xFF800000")
    )  # fmt: skip
    rng = np.random.default_rng(0)
    inputs = {k: rng.standard_normal(s, dtype=np.float32) for k, s in chain.inputs.items()}
    got, want, fused = outputs(chain.text(), inputs, "neuroncore_v2")
    assert fused == {}
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)
