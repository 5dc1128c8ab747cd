"""Attention in resident groups computes what numpy computes; what it cannot do, it declines."""

from math import prod

import ml_dtypes
import numpy as np
import pytest
from attention_programs import AttentionProgram
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polystage.dialects import npu
from polystage.machine.target import Target
from polystage.mlir import ir
from polystage.passes.lower.generic_op import Linear
from polystage.passes.lower.resident import marking
from polystage.passes.lower.resident.attention.mask import HIDDEN, Mask
from polystage.passes.lower.resident.attention.reading import AttentionReader
from polystage.passes.lower.resident.attention.tiles import AttentionTiles, Units
from polystage.passes.lower.resident.reading import Reading
from polystage.pipeline import run_pipeline
from polystage.simulator import simulate

TOLERANCE = {"f32": 3e-6, "bf16": 1e-2}
PASSES = (
    "builtin.module(npu-attach-target{target=neuroncore_v2},npu-fuse-operators,"
    "convert-linalg-to-npu,npu-allocate-scratchpad,npu-insert-sync)"
)


@pytest.fixture(autouse=True)
def _always_worth_it(monkeypatch):
    """A program of one attention waits longer for its operands than it saves."""
    monkeypatch.setattr(marking, "saved_ns", lambda group, target: 1.0)


def parsed(program):
    context = ir.Context()
    npu.load(context)
    return ir.Module.parse(program.text(), context)


def check(scale=1.0, **shape):
    """Run attention and a relu in a group; compare with numpy, in f64."""
    program = AttentionProgram(features=True, rectified=True, **shape)
    module = parsed(program)
    with module.context, ir.Location.unknown():
        run_pipeline(module, PASSES)
    functions = [op.name.value for op in module.body.operations if "function_type" in op.attributes]
    assert "resident_0" in functions
    inputs = program.inputs()
    inputs["q"] *= scale
    given = {n: x for n, x in inputs.items() if n != "mask" or not program.constant_mask}
    result = simulate(module, given)
    assert set(result.totals.dram_read_by_cause) <= {"input", "weight"}
    if program.dtype == "bf16":
        inputs = {n: x.astype(ml_dtypes.bfloat16).astype("f4") for n, x in inputs.items()}
    (output,) = result.outputs.values()
    difference = np.abs(output.astype("f8") - program.expected(inputs))
    assert difference.max() < TOLERANCE[program.dtype] * max(1, np.abs(output).max())


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize(
    ("heads", "queries", "keys", "depth"),
    [(2, 128, 128, 64), (4, 197, 197, 64), (3, 50, 600, 96), (5, 40, 70, 32), (1, 530, 140, 128)],
)
def test_shapes(heads, queries, keys, depth, dtype):
    """One and two tiles of queries and keys, more of them than psum has columns; heads that lie in
    a half or a quarter of a tile, and across tiles."""
    check(heads=heads, queries=queries, keys=keys, depth=depth, values=depth, dtype=dtype)


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    heads=st.integers(1, 5),
    queries=st.integers(2, 140),
    keys=st.integers(2, 140),
    depth=st.sampled_from([32, 64, 96]),
    values=st.sampled_from([32, 64, 128]),
)
def test_any_shape(heads, queries, keys, depth, values):
    check(heads=heads, queries=queries, keys=keys, depth=depth, values=values)


@pytest.mark.parametrize("form", ["late", "plain", "guarded"])
def test_forms(form):
    check(heads=2, queries=20, keys=30, depth=64, values=64, form=form)


@pytest.mark.parametrize("mask", ["qk", "hqk", "k"])
def test_constant_masks(mask):
    """Numbers and -inf are added to the scores."""
    shape = {"heads": 2, "queries": 140, "keys": 130, "depth": 32, "values": 32}
    check(**shape, mask=mask, constant_mask=True)


def test_large_scores_do_not_overflow():
    check(heads=2, queries=20, keys=30, depth=64, values=64, scale=300.0)


def reason(**shape):
    """Return why attention is declined."""
    module = parsed(AttentionProgram(**shape))
    (function,) = (op for op in module.body.operations if "function_type" in op.attributes)
    body = [op.operation for op in function.regions[0].blocks[0].operations]
    operations = [op for op in body if op.name == "linalg.generic"]
    reader = AttentionReader(Reading(operations, Target.load("neuroncore_v2")))
    assert not reader.members
    (found,) = reader.reasons.values()
    return found


@pytest.mark.parametrize(
    ("shape", "why"),
    [
        ({"depth": 40}, "heads of 40 begin at partitions at which no access does"),
        ({"mask": "qk"}, "a mask of the attention is no constant"),
        (
            {"mask": "qk", "constant_mask": True, "dtype": "f16"},
            "a mask of the attention is beyond the numbers of f16",
        ),
        (
            {"form": "guarded", "mask": "qk", "constant_mask": True},
            "a mask of the attention hides all keys of a query",
        ),
    ],
)
def test_declined(shape, why):
    shape = {"heads": 4, "depth": 32, "values": 32, "features": True} | shape
    assert reason(**shape) == why


def test_batches_cover_all_heads_and_queries():
    target = Target.load("neuroncore_v2")
    for heads, queries, keys in ((12, 128, 128), (12, 197, 197), (5, 40, 3000), (3, 1100, 7)):
        tiles = AttentionTiles.of(heads, (queries, keys, 64, 64), target)
        seen = np.zeros((heads, queries), int)
        for batch in tiles.batches:
            assert batch.queries.size <= tiles.rows
            rows = slice(batch.queries.start, batch.queries.start + batch.queries.size)
            seen[batch.heads.start : batch.heads.stop, rows] += 1
        assert (seen == 1).all()
        assert all(
            len(b.heads) * p.size <= tiles.columns for b in tiles.batches for p in tiles.key_pieces
        )


def test_units_lie_side_by_side():
    """Heads of 96 in three tiles of 128; every element has a column of its own."""
    starts = [(0, head * 96) for head in range(4)]
    units = Units(starts, 1, 96, 384, 128)
    assert [(u.tile, u.column, u.count) for u in units.all] == [
        (0, 0, 128),
        (1, 128, 128),
        (2, 256, 128),
    ]
    assert [units.column(start) for start in starts] == [0, 96, 192, 288]
    assert units.columns == prod((4, 96))


def test_the_least_float_hides_a_key_without_a_warning():
    """It is the mask of GPT-2; divided by the scale of the scores it is out of range."""
    dims = tuple(Linear(0, tuple(int(i == d) for i in range(3))) for d in (1, 2))
    mask = Mask("hidden", dims, (1, 2, 2), 8.0, None)
    least = np.finfo(np.float32).min
    found = mask.values(lambda name: np.array([[0, least], [0, 1]], np.float32))
    assert found.tolist() == [[[0, np.float32(HIDDEN)], [0, 8]]]
