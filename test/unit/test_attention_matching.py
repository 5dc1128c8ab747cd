"""Attention is found in all forms that models have, and where something else looks in it is not."""

from dataclasses import replace

import pytest
from attention_programs import AttentionProgram

from polystage.dialects import npu
from polystage.errors import PlanError
from polystage.mlir import ir
from polystage.planner.fusion.attention.bound import attention_bytes, attention_words
from polystage.planner.fusion.attention.matching import find_attention
from polystage.planner.fusion.attention.operator import Attention, check_attention_nest
from polystage.planner.fusion.decisions import Loop, Nest
from polystage.polyhedral import TensorProgram

FORMS = {  # has a maximum, has a sum, zeros for rows without scores
    "softmax": (True, True, False),
    "late": (True, True, False),
    "plain": (False, True, False),
    "guarded": (True, True, True),
    "none": (False, False, False),
}
MAXIMUM = "%r = arith.maximumf %a, %out : f32"


def found_in(text: str) -> tuple[Attention, ...]:
    context = ir.Context()
    npu.load(context)
    return find_attention(TensorProgram.from_module(ir.Module.parse(text, context)))


def only(program: AttentionProgram) -> Attention:
    (found,) = found_in(program.text())
    return found


def indices(operator: Attention) -> list[str]:
    accesses = (*operator.reads, *operator.writes)
    return [", ".join(str(e) for e in access.exprs or ()) for access in accesses]


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("form", FORMS)
def test_it_is_found_in_every_form(form, dtype):
    operator = only(AttentionProgram(form=form, dtype=dtype))
    flags = operator.has_maximum, operator.has_sum, operator.masked_rows_are_zero
    assert flags == FORMS[form]
    assert operator.extents == (2, 5, 7, 4, 3)
    assert operator.iterators == ("parallel", "parallel", "reduction", "reduction", "parallel")
    assert indices(operator) == ["d0, d1, d3", "d0, d2, d3", "d0, d2, d4", "d0, d1, d4"]
    assert [access.array for access in operator.reads] == ["q", "k", "v"]
    assert operator.macs == 2 * 5 * 7 * (4 + 3)
    assert operator.accumulator == (None if dtype == "f32" else 4)
    weights = ("weights",) if dtype == "bf16" else ()
    assert operator.scratch_names == ("scores", *weights, *operator.rows)


@pytest.mark.parametrize(("mask", "index"), [("k", "d2"), ("qk", "d1, d2"), ("hqk", "d0, d1, d2")])
def test_a_mask_is_read_over_the_common_dims(mask, index):
    assert indices(only(AttentionProgram(mask=mask)))[3] == index


def test_keys_may_lie_transposed():
    assert indices(only(AttentionProgram(transposed=True)))[1] == "d0, d3, d2"


def test_heads_of_a_batch_are_merged_by_views():
    text = AttentionProgram(heads=6).text()
    types = [("q", "6x5x4"), ("k", "6x7x4"), ("v", "6x7x3")]
    views = "".join(
        f"%{name} = memref.collapse_shape %{name}_ [[0, 1], [2], [3]] : "
        f"memref<2x3{shape[1:]}xf32> into memref<{shape}xf32>\n"
        for name, shape in types
    )
    head, body = text.split("{\n", 1)
    for name, shape in types:
        head = head.replace(f"%{name}: memref<{shape}", f"%{name}_: memref<2x3{shape[1:]}")
    (operator,) = found_in(head + "{\n" + views + body)
    assert operator.extents == (6, 5, 7, 4, 3)
    assert indices(operator)[0] == "d0 floordiv 3, d0 mod 3, d1, d3"


def test_everything_it_replaces_is_in_its_statements():
    operator = only(AttentionProgram())
    assert operator.statements[0].kind == "contraction"
    assert len(operator.statements) == 11  # 4 fills, 2 contractions, scale, 4 of the softmax
    assert operator.epilogue == ()


def with_lines(text: str, *lines: str) -> str:
    """Return a program with operations before its return."""
    return text.replace("\nreturn", "\n" + "\n".join(lines) + "\nreturn")


COPY = "memref.copy {}, {} : memref<{}xf32> to memref<{}xf32>"


@pytest.mark.parametrize(
    ("array", "shape"), [("scores", "2x5x7"), ("x", "2x5x7"), ("e", "2x5x7"), ("l", "2x5")]
)
def test_declined_where_something_else_reads_what_is_between(array, shape):
    text = AttentionProgram().text()
    assert found_in(text)
    read = COPY.format(f"%{array}", "%other", shape, shape)
    assert not found_in(with_lines(text, f"%other = memref.alloc() : memref<{shape}xf32>", read))


def test_declined_where_keys_change_before_the_values_are_read():
    text = AttentionProgram(values=4).text()
    change = COPY.format("%k", "%v", "2x7x4", "2x7x4")
    before = text.index("%o = memref.alloc")
    assert not found_in(text[:before] + change + "\n" + text[before:])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (MAXIMUM, "%r = arith.minimumf %a, %out : f32"),
        ("%m_start = arith.constant 0xFF800000", "%m_start = arith.constant 0.0"),
        ("%l_start = arith.constant 0.0", "%l_start = arith.constant 1.0"),
        ("%o_start = arith.constant 0.0", "%o_start = arith.constant 1.0"),
        ("%d = arith.subf %a, %b", "%d = arith.subf %b, %a"),
        ("math.exp", "math.exp2"),
        ("arith.divf %a, %b", "arith.divf %b, %a"),
        ("arith.addf %a, %out", "arith.subf %out, %a"),
    ],
)
def test_declined_where_it_is_no_softmax(old, new):
    text = AttentionProgram().text()
    assert old in text
    assert not found_in(text.replace(old, new))


def test_declined_where_rows_are_normalised_over_the_queries():
    text = AttentionProgram(queries=6, keys=6).text()
    rows = "affine_map<(h, q, k) -> (h, q)>"
    assert found_in(text)
    columns = text.replace(rows, "affine_map<(h, q, k) -> (h, k)>").replace(
        '"parallel", "parallel", "reduction"]}', '"parallel", "reduction", "parallel"]}'
    )
    assert not found_in(columns)


def test_declined_where_each_score_meets_the_maximum_of_another_row():
    text = AttentionProgram(heads=5).text()
    subtraction = text.index("%d = arith.subf")
    start = text.rindex("linalg.generic", 0, subtraction)
    other = text[start:subtraction].replace("(h, q, k) -> (h, q)>", "(h, q, k) -> (q, h)>")
    assert found_in(text)
    assert not found_in(text[:start] + other + text[subtraction:])


def test_two_layers_with_weights_are_no_attention():
    """A feed-forward block is two contractions with a relu between: no softmax, and weights."""
    text = AttentionProgram(form="none").text()
    assert found_in(text)
    weight = """memref.global "private" constant @w : memref<2x7x4xf32> = dense<1.0>\n"""
    head, body = text.split("{\n", 1)
    head = head.replace('%k: memref<2x7x4xf32> {npu.name = "k"}, ', "")
    body = "{\n%k = memref.get_global @w : memref<2x7x4xf32>\n" + body
    assert not found_in(f"module {{\n{weight}{head}{body}\n}}")


def test_two_contractions_with_nothing_between_are_no_attention():
    text = AttentionProgram(form="none").text()
    start, end = text.index("%x = memref.alloc"), text.index("%o = memref.alloc")
    assert not found_in(text[:start] + text[end:].replace("%x", "%scores"))


# --- nests ----------------------------------------------------------------------------------------

NESTS = [
    ((), "takes 2 iterations of head dim 0 at once, but a matmul has no batch", "of tile 1"),
    (((0, 1), (3, 2)), "takes 2 of 4 iterations of dim 3, but each score needs all", "loop over"),
    (((2, 2), (0, 1)), "has a loop over heads inside of the one over its keys, dim 2", "inwards"),
]


@pytest.mark.parametrize(("loops", "message", "help_"), NESTS)
def test_a_nest_that_one_pass_cannot_have_is_refused(loops, message, help_):
    operator = only(AttentionProgram())
    nest = Nest(tuple(Loop(*loop) for loop in loops))
    with pytest.raises(PlanError) as refused:
        check_attention_nest(operator, nest, operator.extents)
    assert message in refused.value.message
    assert help_ in (refused.value.help or "")


def test_a_nest_that_one_pass_has_is_taken():
    operator = only(AttentionProgram())
    nest = Nest((Loop(0, 1), Loop(1, 2), Loop(2, 3)))
    check_attention_nest(operator, nest, operator.extents)
    check_attention_nest(replace(operator), Nest(), (1, *operator.extents[1:]))


# --- bounds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [512, 4096, 16384])
@pytest.mark.parametrize("words", [2**16, 2**18])
def test_no_tiling_moves_less_than_the_bound(length, words):
    """One pass over the keys for each tile of queries, with the largest tile that could fit."""
    queries = words // (2 * 64)
    passes = -(-length // queries)
    moved = 12 * (2 * length * 64 + passes * 2 * length * 64)
    bound = attention_words(12, length, length, 64, 64, words)
    assert bound <= moved
    if passes > 8:
        assert moved < 2.7 * bound


def test_a_bound_is_never_below_what_crosses_once():
    operator = only(AttentionProgram())
    once = 2 * (5 * (4 + 3) + 7 * (4 + 3)) * 4
    assert attention_bytes(operator, 4, 2**20) == once
