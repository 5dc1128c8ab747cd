"""Programs compute the same whichever layouts their arrays get, by the pass or by hand."""

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polystage.dialects import npu
from polystage.dialects.npu.target import target_attribute
from polystage.errors import PassError
from polystage.evaluator.module_evaluator import evaluate
from polystage.forms import walk
from polystage.machine.target import Target
from polystage.mlir import ir
from polystage.passes.lower.convert_linalg_to_npu import ConvertLinalgToNpuPass
from polystage.passes.lower.physical_layout import possible_dims
from polystage.passes.placement.allocate_scratchpad import AllocateScratchpadPass
from polystage.passes.polyhedral.map_banks import MapBanksPass
from polystage.simulator import simulate

RELAXED = {"deadline": None, "suppress_health_check": list(HealthCheck)}
MATMUL = """%m = arith.mulf %i0, %i1 : f32
    %v = arith.addf %o, %m : f32"""
SQUARE = "%v = arith.mulf %i0, %i0 : f32"
ADD = "%v = arith.addf %i0, %i1 : f32"
SUM = "%v = arith.addf %o, %i0 : f32"


def memref(shape):
    return "memref<" + "".join(f"{n}x" for n in shape) + "f32>"


class Program:
    """Text of a function on memrefs: arguments, and operations with a result of their own each."""

    def __init__(self):
        self.arguments, self.lines, self.shapes = [], [], {}

    def argument(self, *shape):
        name = f"%x{len(self.arguments)}"
        self.arguments.append(f'{name}: {memref(shape)} {{npu.name = "{name[1:]}"}}')
        self.shapes[name] = shape
        return name

    def view(self, name, operation, shape, type_=None):
        result = f"%w{len(self.lines)}"
        source = (
            self.shapes[name] if isinstance(self.shapes[name], str) else memref(self.shapes[name])
        )
        word = "into" if "_shape" in operation else "to"
        text = operation.replace("@", name)
        self.lines.append(f"{result} = memref.{text} : {source} {word} {type_ or memref(shape)}")
        self.shapes[result] = shape if type_ is None else type_
        return result

    def apply(self, body, shape, dims, out_map, *inputs, reductions="", attributes="", out=None):
        """Add an operation; inputs are (name, map) over the letters of `dims`."""
        result = out or f"%a{len(self.lines)}"
        zero = f"%z{len(self.lines)}"
        if out is None:
            self.lines.append(f"{result} = memref.alloc() : {memref(shape)}")
        self.shapes[result] = shape
        letters = ", ".join(dims)
        identity = f"affine_map<({letters}) -> ({', '.join(out_map)})>"
        if reductions:
            plain = ", ".join(f"d{i}" for i in range(len(shape)))
            parallel = ", ".join(['"parallel"'] * len(shape))
            self.lines.append(
                f"{zero} = arith.constant 0.0 : f32\nlinalg.generic {{indexing_maps = "
                f"[affine_map<({plain}) -> ({plain})>], iterator_types = [{parallel}]}} "
                f"outs({result} : {memref(shape)}) {{\n^bb0(%o: f32):\n"
                f"linalg.yield {zero} : f32\n}}"
            )
        maps = [f"affine_map<({letters}) -> ({', '.join(m)})>" for _, m in inputs]
        kinds = ['"reduction"' if d in reductions else '"parallel"' for d in dims]
        types = [t if isinstance(t := self.shapes[n], str) else memref(t) for n, _ in inputs]
        block = ", ".join([*(f"%i{i}: f32" for i in range(len(inputs))), "%o: f32"])
        self.lines.append(
            f"linalg.generic {{indexing_maps = [{', '.join([*maps, identity])}], "
            f"iterator_types = [{', '.join(kinds)}]}} ins({', '.join(n for n, _ in inputs)} : "
            f"{', '.join(types)}) outs({result} : {memref(shape)}) {attributes} {{\n"
            f"^bb0({block}):\n{body}\nlinalg.yield %v : f32\n}}"
        )
        return result

    def text(self, result):
        type_ = memref(self.shapes[result])
        lines = "\n".join(self.lines)
        return (
            f"func.func @main({', '.join(self.arguments)}) -> ({type_} "
            f'{{npu.name = "out"}}) {{\n{lines}\nreturn {result} : {type_}\n}}'
        )


def parsed(text, target):
    context = ir.Context()
    npu.load(context)
    with context, ir.Location.unknown():
        module = ir.Module.parse(text)
        module.operation.attributes["npu.target"] = target_attribute(Target.load(target))
    return module


def run(module):
    with module.context, ir.Location.unknown():
        ConvertLinalgToNpuPass().run(module)
        AllocateScratchpadPass().run(module)
        module.operation.verify()
    return module


def inputs_of(text):
    module = parsed(text, "tiny")
    function = module.body.operations[0]
    rng = np.random.default_rng(0)
    return module, {
        f"x{i}": rng.standard_normal(ir.MemRefType(t).shape).astype(np.float32)
        for i, t in enumerate(function.type.inputs)
    }


def check(text, change, target="neuroncore_v2"):
    """Lower `text` after `change` of the module, simulate, compare with numpy; return both."""
    plain, inputs = inputs_of(text)
    want = evaluate(plain, {n: v.copy() for n, v in inputs.items()})["out"]
    module = parsed(text, target)
    change(module)
    module.operation.verify()
    mapped = str(module)
    result = simulate(run(module), inputs)
    scale = np.abs(want).max()
    np.testing.assert_allclose(result.outputs["out"] / scale, want / scale, atol=1e-5)
    return mapped, result


def attention(tokens=24, heads=3, width=8):
    """Return scores and their use, with the heads cut out of one array, as transformers do it."""
    program = Program()
    hidden = heads * width
    x, w = program.argument(tokens, hidden), program.argument(hidden, 3 * hidden)
    qkv = program.apply(
        MATMUL, (tokens, 3 * hidden), "tnk", "tn", (x, "tk"), (w, "kn"), reductions="k"
    )
    rows = f"strided<[{3 * hidden}, 1], offset: "
    parts = []
    for i in range(3):
        flat = f"memref<{tokens}x{hidden}xf32, {rows}{i * hidden}>>"
        part = program.view(
            qkv, f"subview @[0, {i * hidden}] [{tokens}, {hidden}] [1, 1]", None, flat
        )
        split = f"memref<{tokens}x{heads}x{width}xf32, "
        split += f"strided<[{3 * hidden}, {width}, 1], offset: {i * hidden}>>"
        shape = f"output_shape [{tokens}, {heads}, {width}]"
        parts.append(program.view(part, f"expand_shape @ [[0], [1, 2]] {shape}", None, split))
    q, k, v = parts
    scores = program.apply(
        MATMUL, (heads, tokens, tokens), "hqke", "hqk", (q, "qhe"), (k, "khe"), reductions="e"
    )
    total = program.apply(SUM, (heads, tokens), "hqk", "hq", (scores, "hqk"), reductions="k")
    shares = program.apply(
        ADD, (heads, tokens, tokens), "hqk", "hqk", (scores, "hqk"), (total, "hq")
    )
    mixed = program.apply(
        MATMUL, (tokens, heads, width), "hqek", "qhe", (shares, "hqk"), (v, "khe"), reductions="k"
    )
    return program.text(mixed)


def perceptron(tokens=40, width=48, hidden=160):
    """Return two matmuls with a square between, and a sum along each row of what comes in."""
    program = Program()
    x = program.argument(tokens, width)
    w1, w2 = program.argument(width, hidden), program.argument(hidden, width)
    total = program.apply(SUM, (tokens,), "tc", "t", (x, "tc"), reductions="c")
    y = program.apply(ADD, (tokens, width), "tc", "tc", (x, "tc"), (total, "t"))
    h = program.apply(MATMUL, (tokens, hidden), "tnk", "tn", (y, "tk"), (w1, "kn"), reductions="k")
    g = program.apply(SQUARE, (tokens, hidden), "tn", "tn", (h, "tn"))
    z = program.apply(MATMUL, (tokens, width), "tnk", "tn", (g, "tk"), (w2, "kn"), reductions="k")
    return program.text(program.apply(ADD, (tokens, width), "tc", "tc", (z, "tc"), (y, "tc")))


def shared_columns(readers=12, size=1024, border=0):
    """Return sums along the columns of one argument, perhaps with a border of ones, so many that a
    copy pays."""
    program = Program()
    x = program.argument(size - 2 * border, size - 2 * border)
    if border:
        program.lines.append(
            f'%padded = "npu.overlay"({x}) {{offsets = array<i64: {border}, {border}>, fill = 1.0 '
            f": f32}} : ({memref(program.shapes[x])}) -> {memref((size, size))}"
        )
        x = "%padded"
        program.shapes[x] = (size, size)
    sums = [
        program.apply(SUM, (size,), "ji", "j", (x, "ij"), reductions="i") for _ in range(readers)
    ]
    while len(sums) > 1:
        a, b = sums.pop(), sums.pop()
        sums.insert(0, program.apply(ADD, (size,), "i", "i", (a, "i"), (b, "i")))
    return program.text(sums[0])


@pytest.mark.parametrize("mode", ["global", "local"])
@pytest.mark.parametrize("target", ["tiny", "neuroncore_v2"])
@pytest.mark.parametrize("make", [attention, perceptron])
def test_mapped_programs_compute_the_same(make, target, mode):
    check(make(), lambda module: MapBanksPass(mode=mode).run(module), target)


def test_a_chosen_copy_is_made_once_for_all_readers():
    mapped, result = check(shared_columns(), lambda module: MapBanksPass().run(module))
    assert mapped.count("memref.copy") == 1
    assert result.totals.onchip_copy_bytes == 1024 * 1024 * 4


def test_a_copy_is_read_through_an_overlay():
    text = shared_columns(border=2)
    mapped, result = check(text, lambda module: MapBanksPass().run(module))
    assert mapped.count("memref.copy") == 1
    assert result.totals.onchip_copy_bytes == 1020 * 1020 * 4


def test_no_copy_where_views_need_the_rows_together():
    text = shared_columns(readers=12)
    view = "%flat = memref.collapse_shape %x0 [[0, 1]] : memref<1024x1024xf32> "
    view += "into memref<1048576xf32>"
    view += "\n%back = memref.expand_shape %flat [[0, 1]] output_shape [1024, 1024] : "
    view += "memref<1048576xf32> into memref<1024x1024xf32>"
    body = text.replace("ins(%x0 :", "ins(%back :").replace(") {\n", f") {{\n{view}\n", 1)
    mapped, _ = check(body, lambda module: MapBanksPass().run(module))
    assert mapped.count("memref.copy") == 0


def test_global_turns_less_than_local():
    program = Program()
    a = program.apply(SQUARE, (96, 512), "ij", "ij", (program.argument(96, 512), "ij"))
    text = program.text(program.apply(SUM, (96,), "ij", "i", (a, "ij"), reductions="j"))
    totals = {}
    for mode in ("global", "local"):
        totals[mode] = check(text, lambda m, mode=mode: MapBanksPass(mode=mode).run(m))[1].totals
    assert totals["global"].onchip_copy_bytes < totals["local"].onchip_copy_bytes
    assert totals["global"].latency_us < totals["local"].latency_us


NEGATED = """%g = arith.negf %i0 : f32
    %m = arith.mulf %g, %i1 : f32
    %v = arith.addf %o, %m : f32"""
UNLIKE_MATMUL = {
    "a factor is computed": (NEGATED, "tk", "kn", (64, 64), (64, 64)),
    "an operand is a diagonal": (MATMUL, "tk", "knn", (64, 64), (64, 64, 64)),
    "an operand starts inside": (MATMUL, ["t", "k + 1"], "kn", (64, 65), (64, 64)),
    "the other operand starts inside": (MATMUL, "tk", ["k + 2", "n"], (64, 64), (66, 64)),
}


@pytest.mark.parametrize("mode", ["global", "local"])
@pytest.mark.parametrize("case", UNLIKE_MATMUL)
def test_what_is_chosen_for_unusual_contractions_can_be_lowered(case, mode):
    body, left, right, *shapes = UNLIKE_MATMUL[case]
    program = Program()
    x, w = (program.argument(*shape) for shape in shapes)
    out = program.apply(body, (64, 64), "tnk", "tn", (x, left), (w, right), reductions="k")
    check(program.text(out), lambda module: MapBanksPass(mode=mode).run(module))


def test_the_tensor_engine_takes_no_operands_of_two_types():
    program = Program()
    x, w = program.argument(64, 64), program.argument(64, 64)
    program.shapes[w] = "memref<64x64xbf16>"
    wide = MATMUL.replace("%i1", "%e").replace("%m =", "%e = arith.extf %i1 : bf16 to f32\n%m =")
    out = program.apply(wide, (64, 64), "tnk", "tn", (x, "tk"), (w, "kn"), reductions="k")
    text = program.text(out).replace("%i1: f32", "%i1: bf16")
    module = parsed(text.replace("%x1: memref<64x64xf32>", "%x1: memref<64x64xbf16>"), "tiny")
    MapBanksPass().run(module)
    assert "npu.stationary" not in str(module)
    assert "npu.matmul" not in str(run(module))


@pytest.mark.parametrize("mode", ["global", "local"])
@pytest.mark.parametrize("held", [0, 1])
def test_a_contraction_keeps_the_stationary_operand_that_it_names(held, mode):
    """One row by many columns: on its own, the pass would always hold the same operand."""
    program = Program()
    x, w = program.argument(64, 3), program.argument(64, 200)
    attribute = f"attrs = {{npu.stationary = {held} : i64}}"
    operands = ((x, "km"), (w, "kn"))
    out = program.apply(
        MATMUL, (3, 200), "mnk", "mn", *operands, reductions="k", attributes=attribute
    )

    def change(module):
        MapBanksPass(mode=mode).run(module)
        named = [op.attributes["npu.stationary"].value for op in generics(module)[-1:]]
        assert named == [held]

    check(program.text(out), change)


def test_a_name_of_no_operand_is_left_for_the_lowering_to_refuse():
    program = Program()
    x, w = program.argument(64, 3), program.argument(64, 200)
    attribute = 'attrs = {npu.stationary = "left"}'
    operands = ((x, "km"), (w, "kn"))
    out = program.apply(
        MATMUL, (3, 200), "mnk", "mn", *operands, reductions="k", attributes=attribute
    )
    module = parsed(program.text(out), "tiny")
    MapBanksPass().run(module)
    assert 'npu.stationary = "left"' in str(module)
    with pytest.raises(PassError):
        run(module)


def allocations(module):
    return [op for op in walk(module.operation) if op.name == "memref.alloc"]


def generics(module):
    return [op for op in walk(module.operation) if op.name == "linalg.generic"]


@given(st.data())
@settings(max_examples=25, **RELAXED)
def test_any_layout_by_hand_is_obeyed(data):
    """Arrays get any dimension that their views allow, contractions any operand."""
    text = data.draw(st.sampled_from([attention(), perceptron()]))
    target = data.draw(st.sampled_from(["tiny", "neuroncore_v2"]))

    def change(module):
        with module.context, ir.Location.unknown():
            i64 = ir.IntegerType.get_signless(64)
            for op in allocations(module):
                if dims := possible_dims(op.results[0]):
                    dim = data.draw(st.sampled_from(dims))
                    op.attributes["npu.partition"] = ir.IntegerAttr.get(i64, dim)
            for op in generics(module):
                if "arith.mulf" in str(op) and "reduction" in str(op.attributes["iterator_types"]):
                    held = data.draw(st.integers(0, 1))
                    op.attributes["npu.stationary"] = ir.IntegerAttr.get(i64, held)

    check(text, change, target)


@pytest.mark.parametrize("loop", [0, 1])
@pytest.mark.parametrize("layouts", list(itertools.product((0, 1), repeat=2)))
def test_the_named_loop_lies_across_the_partitions(loop, layouts):
    program = Program()
    x = program.argument(20, 30)
    a = program.apply(SQUARE, (20, 30), "ij", "ij", (x, "ij"))
    attribute = f"attrs = {{npu.partition_loop = {loop} : i64}}"
    b = program.apply(SQUARE, (20, 30), "ij", "ij", (a, "ij"), attributes=attribute)
    c = program.apply(SQUARE, (20, 30), "ij", "ij", (b, "ij"))

    def change(module):
        i64 = ir.IntegerType.get_signless(64, module.context)
        for op, dim in zip(allocations(module), layouts, strict=False):
            op.attributes["npu.partition"] = ir.IntegerAttr.get(i64, dim)

    check(program.text(c), change)
