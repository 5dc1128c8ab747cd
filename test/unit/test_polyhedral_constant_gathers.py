"""Gathers whose indices are constants: quasi-affine functions through them, and exact accesses."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polystage.mlir import ir
from polystage.polyhedral import Kind, TensorProgram, print_program
from polystage.polyhedral.expressions import evaluate
from polystage.polyhedral.model import Access, Statement
from polystage.polyhedral.quasi_affine_fit import Run, fit_box, fit_runs

CONTEXT = ir.Context()


def holds(where: Sequence, dims: Sequence[np.ndarray]) -> np.ndarray:
    found = np.array(True)
    for bound in where:
        value = evaluate(bound.expr, dims)
        found = found & (bound.low <= value) & (value <= bound.high)
    return found


def values_of(runs: Sequence[Run], shape: tuple[int, ...]) -> np.ndarray:
    """Return what runs say; every point lies in one of them."""
    dims = list(np.indices(shape))
    total, count = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for run in runs:
        inside = holds(run.where, dims)
        total += np.where(inside, evaluate(run.expr, dims), 0)
        count += inside
    assert (count == 1).all()
    return total


# -- fitting -----------------------------------------------------------------------------------


def structured() -> st.SearchStrategy[np.ndarray]:
    """Draw vectors as frontends write them: lines, blocks of blocks, a few lines in a row."""
    line = st.tuples(st.integers(1, 5), st.integers(-4, 4), st.integers(-3, 3)).map(
        lambda t: t[1] * np.arange(t[0]) + t[2]
    )
    blocks = st.tuples(line, line).map(lambda t: (t[0][:, None] + t[1]).reshape(-1))
    nested = st.tuples(blocks, line).map(lambda t: (t[0][:, None] + t[1]).reshape(-1))
    runs = st.lists(line, min_size=1, max_size=4).map(np.concatenate)
    return st.one_of(line, blocks, nested, runs)


@settings(max_examples=300, deadline=None)
@given(structured())
def test_structured_vectors_are_found(values: np.ndarray) -> None:
    with CONTEXT:
        runs = fit_runs(values, ir.AffineExpr.get_dim(0))
        assert runs is not None
        np.testing.assert_array_equal(values_of(runs, values.shape), values)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=24))
def test_whatever_is_found_is_right(values: list[int]) -> None:
    with CONTEXT:
        runs = fit_runs(np.array(values), ir.AffineExpr.get_dim(0))
        if runs is not None:
            np.testing.assert_array_equal(values_of(runs, (len(values),)), values)


@settings(max_examples=100, deadline=None)
@given(structured(), structured(), st.sampled_from(["sum", "row-major"]))
def test_vectors_of_several_dims(left: np.ndarray, right: np.ndarray, how: str) -> None:
    sums = left[:, None, None] + right
    if how == "row-major":
        sums = sums.reshape(-1).reshape(sums.shape[2], 1, sums.shape[0])
    with CONTEXT:
        runs = fit_box(sums)
        if runs is not None:
            np.testing.assert_array_equal(values_of(runs, sums.shape), sums)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([4], "4"),
        ([3, 3, 3], "3"),
        ([7, 5, 3, 1], "d0 * -2 + 7"),
        ([0, 4, 1, 5, 2, 6, 3, 7], "d0 floordiv 2 + (d0 mod 2) * 4"),
        ([2, 1, 0, 5, 4, 3], "(d0 floordiv 3) * 3 - d0 mod 3 + 2"),
        ([0, 1, 0, 1, 0, 1], "d0 mod 2"),
    ],
)
def test_simple_vectors(values: list[int], text: str) -> None:
    with CONTEXT:
        (run,) = fit_runs(np.array(values), ir.AffineExpr.get_dim(0)) or []
    assert (str(run.expr), run.where) == (text, ())


def test_a_rotation_is_two_runs_and_a_permutation_none() -> None:
    with CONTEXT:
        runs = fit_runs(np.roll(np.arange(9), 4), ir.AffineExpr.get_dim(0)) or []
        assert [str(run.expr) for run in runs] == ["d0 + 5", "d0 - 4"]
        shuffled = np.random.default_rng(0).permutation(100)
        assert fit_runs(shuffled, ir.AffineExpr.get_dim(0)) is None


# -- extraction --------------------------------------------------------------------------------


def gather(
    values: Sequence[int], extent: int, wraps: bool = False, constant: str = "constant"
) -> str:
    """Return the text of `y[i, j, k] = x[i, values[j], k]`."""
    count = len(values)
    wrap = """
        %isneg = arith.cmpi slt, %in, %zero : i64
        %wrapped = arith.addi %in, %extent : i64
        %index = arith.select %isneg, %wrapped, %in : i64"""
    name = "%index" if wraps else "%in"
    return f"""
    memref.global "private" {constant} @index : memref<{count}xi64> = dense<{list(values)}>
    func.func @main(%x: memref<2x{extent}x3xf32> loc("x"), %y: memref<2x{count}x3xf32> loc("y")) {{
      %zero = arith.constant 0 : i64
      %extent = arith.constant {extent} : i64
      %0 = memref.get_global @index : memref<{count}xi64>
      linalg.generic {{indexing_maps = [affine_map<(i, j, k) -> (j)>,
          affine_map<(i, j, k) -> (i, j, k)>],
          iterator_types = ["parallel", "parallel", "parallel"]}}
        ins(%0 : memref<{count}xi64>) outs(%y : memref<2x{count}x3xf32>) {{
      ^bb0(%in: i64, %out: f32):
        {wrap if wraps else ""}
        %1 = arith.index_cast {name} : i64 to index
        %2 = linalg.index 0 : index
        %3 = linalg.index 2 : index
        %4 = memref.load %x[%2, %1, %3] : memref<2x{extent}x3xf32>
        linalg.yield %4 : f32
      }}
      return
    }}"""


def read(text: str) -> tuple[TensorProgram, Statement]:
    with CONTEXT, ir.Location.unknown():
        program = TensorProgram.from_module(ir.Module.parse(text))
    (statement,) = program.statements
    return program, statement


def gathered(reads: Sequence[Access], extents: tuple[int, ...], table: np.ndarray) -> np.ndarray:
    dims = list(np.indices(extents))
    found = np.full(extents, -1)
    for access in reversed(reads):
        index = [np.broadcast_to(evaluate(e, dims), extents) for e in access.exprs]
        inside = holds(access.where, dims)
        safe = [np.where(inside, i, 0) for i in index]
        found = np.where(inside, table[tuple(safe)], found)
    return found


@settings(max_examples=100, deadline=None)
@given(structured(), st.booleans())
def test_constant_gathers_are_copies(values: np.ndarray, wraps: bool) -> None:
    extent = int(np.ptp(values)) + 1
    values = values - values.min()
    written = np.where(np.arange(len(values)) % 2, values - extent, values) if wraps else values
    _, statement = read(gather(written.tolist(), extent, wraps))
    assert (statement.kind, statement.reason) == (Kind.COPY, "")
    assert {access.array for access in statement.reads} == {"x"}
    assert all(access.operand is None for access in statement.reads)
    table = np.arange(2 * extent * 3).reshape(2, extent, 3)
    with CONTEXT:
        found = gathered(statement.reads, (2, len(values), 3), table)
    np.testing.assert_array_equal(found, table[:, values])
    union = statement.reads[0].map
    for access in statement.reads[1:]:
        assert union.domain().is_disjoint(access.map.domain())
        union = union.union(access.map)
    assert union.domain().is_equal(statement.domain)


def test_runs_are_printed_as_pieces() -> None:
    program, _ = read(gather([6, 7, 0, 1, 2], 8))
    text = print_program(program)
    assert "    read    x[d0, d1 + 6, d2]  where d1 < 2\n" in text
    assert "    else    x[d0, d1 - 2, d2]  where 2 <= d1\n" in text


@pytest.mark.parametrize(
    "text",
    [
        gather([3, 0, 2, 7, 1, 4, 9, 9, 0, 3, 8, 1, 4, 2, 6, 6, 1, 7, 7, 2, 9], 10),  # in no order
        gather([0, 1, 8], 8),  # outside of the table
        gather([0, 1, -1], 8),  # as well, for nothing wraps it
        gather([0, 1, 2], 8, constant=""),  # may be written
    ],
)
def test_other_gathers_stay(text: str) -> None:
    _, statement = read(text)
    assert statement.kind == Kind.GATHER
    assert statement.reason
    assert {access.array for access in statement.reads} == {"x", "index"}


def test_a_gather_with_arithmetic_is_elementwise() -> None:
    text = gather([2, 1, 0], 4).replace(
        "linalg.yield %4 : f32", "%5 = arith.negf %4 : f32 linalg.yield %5 : f32"
    )
    _, statement = read(text)
    assert (statement.kind, statement.reason) == (Kind.ELEMENTWISE, "")
    assert [str(access.exprs[1]) for access in statement.reads] == ["-d1 + 2"]


def test_indices_that_are_also_values_are_read() -> None:
    text = gather([2, 1, 0], 4).replace(
        "linalg.yield %4 : f32",
        "%5 = arith.sitofp %in : i64 to f32 %6 = arith.addf %4, %5 : f32 linalg.yield %6 : f32",
    )
    _, statement = read(text)
    assert statement.kind == Kind.ELEMENTWISE
    assert [access.array for access in statement.reads] == ["index", "x"]
    assert all(access.is_exact for access in statement.reads)
