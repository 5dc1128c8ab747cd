"""Kernels that read overlays compute the same as kernels that read padded and joined arrays."""

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polystage.dialects import npu
from polystage.dialects.npu.overlay import materialize_overlays
from polystage.dialects.npu.target import target_attribute
from polystage.evaluator.module_evaluator import evaluate
from polystage.forms import walk
from polystage.machine.target import Target
from polystage.mlir import ir
from polystage.passes.lower.convert_linalg_to_npu import ConvertLinalgToNpuPass
from polystage.passes.placement.allocate_scratchpad import AllocateScratchpadPass
from polystage.simulator import simulate

TARGETS = ("tiny", "neuroncore_v2")
RELAXED = {"deadline": None, "suppress_health_check": list(HealthCheck)}


def memref(shape):
    return "memref<" + "".join(f"{n}x" for n in shape) + "f32>"


class Overlays:
    """Text of arguments, and of the overlays on top of them."""

    def __init__(self):
        self.arguments = {}
        self.lines = []

    def argument(self, shape):
        name = f"a{len(self.arguments)}"
        self.arguments[name] = tuple(shape)
        return f"%{name}"

    def lay(self, source, source_shape, offsets, shape, base=None, fill=None):
        """Return the name of `source` laid over `base` or `fill`."""
        name = f"%v{len(self.lines)}"
        operands = source if base is None else f"{source}, {base}"
        types = memref(source_shape) if base is None else f"{memref(source_shape)}, {memref(shape)}"
        attribute = "" if fill is None else f", fill = {fill:e} : f32"
        self.lines.append(
            f'{name} = "npu.overlay"({operands}) {{offsets = array<i64: '
            f"{', '.join(map(str, offsets))}>{attribute}}} : ({types}) -> {memref(shape)}"
        )
        return name

    def padded(self, shape, low, high, fill):
        """Return an argument with a border."""
        total = [n + a + b for n, a, b in zip(shape, low, high, strict=True)]
        return self.lay(self.argument(shape), shape, low, total, fill=fill), total

    def joined(self, shape, dim, sizes, fill=None):
        """Return arguments side by side along `dim`; with a fill, the first place is left empty."""
        total = [*shape[:dim], sum(sizes), *shape[dim + 1 :]]
        places = list(zip(itertools.accumulate([0, *sizes]), sizes, strict=False))
        name = None
        for start, size in places[1 if fill is not None else 0 :]:
            part = [*shape[:dim], size, *shape[dim + 1 :]]
            offsets = [start if d == dim else 0 for d in range(len(shape))]
            source = self.argument(part)
            name = self.lay(source, part, offsets, total, name, fill if name is None else None)
        return name, total


def program(overlays, ins, out_shape, dims, out_map, body, reductions=()):
    """Return a module; ins are (value, shape, map) over `dims`."""
    names = [d.strip() for d in dims.split(",")]
    kinds = ", ".join('"reduction"' if d in reductions else '"parallel"' for d in names)
    maps = ", ".join(f"affine_map<({dims}) -> ({m})>" for m in [*(m for *_, m in ins), out_map])
    arguments = dict(overlays.arguments)
    for value, shape, _ in ins:
        if value[1] not in "av":
            arguments[value[1:]] = shape
    declared = ", ".join(f'%{n}: {memref(s)} {{npu.name = "{n}"}}' for n, s in arguments.items())
    out = memref(out_shape)
    blocks = ", ".join([*(f"%i{k}: f32" for k in range(len(ins))), "%o: f32"])
    types = ", ".join(memref(s) for _, s, _ in ins)
    lines = "\n  ".join(overlays.lines)
    return f"""
func.func @main({declared}, %y: {out} {{npu.name = "y"}}) -> ({out} {{npu.name = "out"}}) {{
  {lines}
  linalg.generic {{indexing_maps = [{maps}], iterator_types = [{kinds}]}}
    ins({", ".join(v for v, *_ in ins)} : {types}) outs(%y : {out}) {{
  ^bb0({blocks}):
    {body}
  }}
  return %y : {out}
}}"""


def check(text, target, contractions="auto", exact=True, overrides=None):
    """Lower with and without storage for the overlays, simulate both, and compare with numpy."""
    rng = np.random.default_rng(0)
    context = ir.Context()
    npu.load(context)
    with context, ir.Location.unknown():
        plain = ir.Module.parse(text)
        plain.operation.verify()
        function = plain.body.operations[len(plain.body.operations) - 1]
        names = [ir.StringAttr(ir.DictAttr(a)["npu.name"]).value for a in function.arg_attrs]
        shapes = [tuple(ir.MemRefType(t).shape) for t in function.type.inputs]
        inputs = {
            n: rng.standard_normal(s, dtype=np.float32) for n, s in zip(names, shapes, strict=True)
        }
        materialize_overlays(plain)
        want = evaluate(plain, copied(inputs))["out"]
        stored = simulate(lowered(plain, target, contractions, overrides), copied(inputs))
        module = lowered(ir.Module.parse(text), target, contractions, overrides)
        assert not [op for op in walk(module.operation) if op.name == "memref.alloc"]
        got = simulate(module, copied(inputs))
    if exact:
        np.testing.assert_array_equal(got.outputs["out"], stored.outputs["out"])
    scale = max(1e-6, np.abs(want[np.isfinite(want)]).max(initial=0))
    np.testing.assert_allclose(got.outputs["out"] / scale, want / scale, atol=2e-5)
    return module, got, stored


def copied(inputs):
    return {k: v.copy() for k, v in inputs.items()}


def lowered(module, target, contractions="auto", overrides=None):
    module.operation.attributes["npu.target"] = target_attribute(Target.load(target, overrides))
    ConvertLinalgToNpuPass(contractions=contractions).run(module)
    AllocateScratchpadPass().run(module)
    module.operation.verify()
    return module


SQUARE = "%m = arith.mulf %i0, %i0 : f32\nlinalg.yield %m : f32"
COPY = "linalg.yield %i0 : f32"
ADD_UP = "%m = arith.addf %o, %i0 : f32\nlinalg.yield %m : f32"
GREATEST = "%m = arith.maximumf %o, %i0 : f32\nlinalg.yield %m : f32"
MULTIPLY_ADD = """%m = arith.mulf %i0, %i1 : f32
    %s = arith.addf %o, %m : f32
    linalg.yield %s : f32"""


def dims_of(rank):
    return ", ".join(f"d{i}" for i in range(rank))


# --- lane engines ---------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [SQUARE, COPY])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "shape, low, high",
    [
        ((5,), (2,), (3,)),
        ((4, 6), (1, 0), (0, 2)),
        ((2, 3, 5), (0, 1, 2), (0, 2, 1)),
        ((1, 64, 13, 13), (0, 0, 1, 1), (0, 0, 1, 1)),
        ((600, 30), (100, 1), (7, 1)),
    ],
)
def test_pad(shape, low, high, target, body):
    overlays = Overlays()
    value, total = overlays.padded(shape, low, high, 1.5)
    dims = dims_of(len(shape))
    check(program(overlays, [(value, total, dims)], total, dims, dims, body), target)


@pytest.mark.parametrize("body", [SQUARE, COPY])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dim", range(3))
def test_concat(dim, target, body):
    overlays = Overlays()
    value, total = overlays.joined([6, 5, 40], dim, [3, 1, 9])
    dims = dims_of(3)
    check(program(overlays, [(value, total, dims)], total, dims, dims, body), target)


@st.composite
def stacks(draw, rank):
    """Draw an array of overlapping layers on a constant."""
    overlays = Overlays()
    total = [draw(st.integers(1, 30)) for _ in range(rank)]
    name = None
    for _ in range(draw(st.integers(1, 4))):
        low = [draw(st.integers(0, n - 1)) for n in total]
        size = [draw(st.integers(1, n - a)) for n, a in zip(total, low, strict=True)]
        source = overlays.argument(size)
        name = overlays.lay(source, size, low, total, name, 0.5 if name is None else None)
    return overlays, name, total


@given(st.data(), st.integers(1, 3), st.integers(400, 4000), st.sampled_from([SQUARE, COPY]))
@settings(max_examples=60, **RELAXED)
def test_any_layers(data, rank, bytes_per_partition, body):
    overlays, value, total = data.draw(stacks(rank))
    order = data.draw(st.permutations(range(rank)))
    out = [total[d] for d in order]
    out_map = ", ".join(f"d{d}" for d in order)
    text = program(overlays, [(value, total, dims_of(rank))], out, dims_of(rank), out_map, body)
    check(text, "tiny", overrides={"sbuf.bytes_per_partition": bytes_per_partition})


@given(st.data(), st.integers(400, 4000), st.booleans())
@settings(max_examples=60, **RELAXED)
def test_any_pooling(data, bytes_per_partition, maximum):
    """Windows of any stride and dilation over an image with a border and joined channels."""
    whole = st.integers
    c, h, w = (data.draw(whole(1, n)) for n in (12, 9, 9))
    (p, q), (s, t), (d, e) = (data.draw(st.tuples(whole(1, 3), whole(1, 3))) for _ in range(3))
    height, width = (h - 1) * s + (p - 1) * d + 1, (w - 1) * t + (q - 1) * e + 1
    top = data.draw(whole(0, min(2, height - 1)))
    bottom = data.draw(whole(0, min(2, height - 1 - top)))
    left = data.draw(whole(0, min(2, width - 1)))
    right = data.draw(whole(0, min(2, width - 1 - left)))
    overlays = Overlays()
    size = (c, height - top - bottom, width - left - right)
    value, total = overlays.padded(size, (0, top, left), (0, bottom, right), -0.25)
    window = f"c, h * {s} + p * {d}, w * {t} + q * {e}"
    ins = [(value, total, window), ("%window", (p, q), "p, q")]
    text = program(
        overlays, ins, (c, h, w), "c, h, w, p, q", "c, h, w",
        GREATEST if maximum else ADD_UP, ("p", "q"),
    )  # fmt: skip
    overrides = {"sbuf.bytes_per_partition": bytes_per_partition}
    check(text, "tiny", exact=maximum, overrides=overrides)  # tiles decide on the order of sums


@pytest.mark.parametrize("channels", [28, 64, 192])
@pytest.mark.parametrize("extent", [14, 56])
def test_pooling_of_a_model(channels, extent):
    overlays = Overlays()
    value, total = overlays.padded((channels, extent, extent), (0, 1, 1), (0, 1, 1), -3e38)
    ins = [(value, total, "c, h * 2 + p, w * 2 + q"), ("%window", (3, 3), "p, q")]
    out = (channels, extent // 2, extent // 2)
    dims = "c, h, w, p, q"
    text = program(overlays, ins, out, dims, "c, h, w", GREATEST, ("p", "q"))
    _, got, stored = check(text, "neuroncore_v2")
    assert got.totals.latency_us < stored.totals.latency_us


# --- tensor engine --------------------------------------------------------------------------------


def convolution(overlays, value, total, weight, strides, dilations):
    """Return the program of a convolution over [channel, height, width]."""
    f, _, p, q = weight
    (s, t), (d, e) = strides, dilations
    h, w = (
        (total[1] - (p - 1) * d - 1) // s + 1,
        (total[2] - (q - 1) * e - 1) // t + 1,
    )
    image = f"c, h * {s} + p * {d}, w * {t} + q * {e}"
    ins = [(value, total, image), ("%filter", weight, "f, c, p, q")]
    dims = "f, h, w, c, p, q"
    reductions = ("c", "p", "q")
    return program(overlays, ins, (f, h, w), dims, "f, h, w", MULTIPLY_ADD, reductions)


@pytest.mark.parametrize(
    "shape, weight, strides, pad",
    [
        ((3, 32, 32), (16, 3, 7, 7), (2, 2), 3),
        ((64, 14, 14), (32, 64, 3, 3), (1, 1), 1),
        ((300, 7, 7), (40, 300, 3, 3), (2, 2), 1),
        ((24, 28, 28), (24, 24, 3, 3), (1, 1), 1),
        ((16, 12, 12), (24, 16, 1, 1), (1, 1), 1),
    ],
)
@pytest.mark.parametrize("target", TARGETS)
def test_padded_convolution(shape, weight, strides, pad, target):
    overlays = Overlays()
    value, total = overlays.padded(shape, (0, pad, pad), (0, pad, pad), 0.0)
    text = convolution(overlays, value, total, weight, strides, (1, 1))
    check(text, target, "tensor")


@given(st.data(), st.integers(0, 1))
@settings(max_examples=60, **RELAXED)
def test_any_padded_convolution(data, large):
    whole = st.integers
    c, f, h, w = (data.draw(whole(1, n)) for n in (20, 12, 9, 9))
    (p, q), (s, t), (d, e) = (data.draw(st.tuples(whole(1, 3), whole(1, 3))) for _ in range(3))
    height, width = (h - 1) * s + (p - 1) * d + 1, (w - 1) * t + (q - 1) * e + 1
    top, left = data.draw(whole(0, min(2, height - 1))), data.draw(whole(0, min(2, width - 1)))
    bottom = data.draw(whole(0, min(2, height - 1 - top)))
    right = data.draw(whole(0, min(2, width - 1 - left)))
    overlays = Overlays()
    size = (c, height - top - bottom, width - left - right)
    value, total = overlays.padded(size, (0, top, left), (0, bottom, right), 0.0)
    text = convolution(overlays, value, total, (f, c, p, q), (s, t), (d, e))
    bytes_ = data.draw(whole(700, 8000))
    overrides = None if large else {"sbuf.bytes_per_partition": bytes_}
    # dimensions that only storage lets merge change the order of sums
    check(text, "tiny", "tensor", exact=False, overrides=overrides)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("sizes", [(5, 130, 60), (128, 128), (3, 4)])
def test_convolution_of_joined_channels(sizes, target):
    overlays = Overlays()
    value, total = overlays.joined([0, 6, 7], 0, sizes)
    text = convolution(overlays, value, total, (9, sum(sizes), 1, 1), (1, 1), (1, 1))
    check(text, target, "tensor")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("bytes_per_partition", [600, 4096])
@pytest.mark.parametrize("fill", [None, 0.5])
@pytest.mark.parametrize(
    "left, right", [("m, k", "k, n"), ("k, m", "n, k"), ("m, k", "n, k"), ("k, m", "k, n")]
)
@pytest.mark.parametrize("dim", [0, 1])
def test_matmul_of_joined_operands(left, right, dim, fill, bytes_per_partition, target):
    extents = {"m": 20, "n": 33, "k": 19}
    overlays = Overlays()
    ins = []
    for map_ in (left, right):
        shape = [extents[d] for d in map_.split(", ")]
        first = shape[dim] // 3
        sizes = (first, 2, shape[dim] - first - 2)
        value, total = overlays.joined(shape, dim, sizes, fill)
        assert total == shape
        ins.append((value, shape, map_))
    text = program(overlays, ins, (20, 33), "m, n, k", "m, n", MULTIPLY_ADD, ("k",))
    small = {"sbuf.bytes_per_partition": bytes_per_partition} if target == "tiny" else None
    check(text, target, "tensor", overrides=small)


@pytest.mark.parametrize("target", TARGETS)
def test_tokens_behind_a_class_token(target):
    """A batch of token sequences, each with one more in front, times a weight."""
    overlays = Overlays()
    value, total = overlays.joined([2, 0, 24], 1, [1, 30])
    ins = [(value, total, "b, t, k"), ("%w", (24, 40), "k, n")]
    text = program(overlays, ins, (2, 31, 40), "b, t, n, k", "b, t, n", MULTIPLY_ADD, ("k",))
    check(text, target, "tensor")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("groups, channels", [(3, 4), (4, 24)])
@pytest.mark.parametrize("pad", [0, 2])
def test_grouped_convolution_of_rows(groups, channels, pad, target):
    """Tokens of `groups * channels` features, which the access reads as one sum of loops."""
    overlays = Overlays()
    width = groups * channels
    value, total = overlays.argument((17, width)), (17, width)
    if pad:
        total = [17 + 2 * pad, width]
        value = overlays.lay(value, (17, width), (pad, 0), total, fill=0.0)
    weight = (groups, 6, channels, 5)
    out = (groups, 6, total[0] - 4)
    ins = [(value, total, f"t + k, g * {channels} + c"), ("%w", weight, "g, m, c, k")]
    text = program(overlays, ins, out, "g, m, t, c, k", "g, m, t", MULTIPLY_ADD, ("c", "k"))
    module, _, _ = check(text, target, exact=False)
    kernels = [op for op in walk(module.operation) if op.name == "npu.matmul"]
    assert kernels, "on the tensor engine"


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("shape", [(10, 17, 9), (9, 8, 40)])
def test_padded_convolution_of_channels_last(shape, target):
    overlays = Overlays()
    value, total = overlays.padded(shape, (1, 1, 0), (1, 1, 0), 0.0)
    h, w, c = shape
    ins = [(value, total, "h + p, w + q, c"), ("%filter", (3, 3, c, 6), "p, q, c, f")]
    dims, reductions = "h, w, f, p, q, c", ("p", "q", "c")
    text = program(overlays, ins, (h, w, 6), dims, "h, w, f", MULTIPLY_ADD, reductions)
    check(text, target, "tensor")
