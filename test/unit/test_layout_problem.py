"""What a layout problem is made of: strides, charges, variants; and what is chosen."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polystage.machine import cost
from polystage.machine.target import Target
from polystage.mlir import ir
from polystage.planner.layouts import build_problem, map_globally, map_locally
from polystage.planner.layouts.charges import access_charge, copy_charge
from polystage.planner.layouts.integer_program import minimise_exactly
from polystage.planner.layouts.problem import ROW_MAJOR_NS, ROW_MAJOR_SHARE, Layout
from polystage.planner.layouts.strides import IndexForm, strides_with_outermost, walk
from polystage.planner.layouts.variants import filled_lanes
from polystage.polyhedral import TensorProgram
from polystage.polyhedral.model import Array, Role

TARGET = Target.load("neuroncore_v2")

SUM = "arith.addf %in, %out : f32"
SQUARE = "arith.mulf %in, %in : f32"


def array(*shape):
    return Array("a", shape, "f32", Role.INTERMEDIATE, 4, is_initialized=False)


def generic(source, result, loops, maps, reductions, body):
    """Return the text of a linalg.generic of one input."""
    kinds = ["reduction" if d in reductions else "parallel" for d in loops]
    quoted = ", ".join(f'"{kind}"' for kind in kinds)
    listed = ", ".join(f"affine_map<({', '.join(loops)}) -> ({m})>" for m in maps)
    names = [operand.split(" : ") for operand in (source, result)]
    return (
        f"linalg.generic {{indexing_maps = [{listed}], iterator_types = [{quoted}]}} "
        f"ins({names[0][0]} : {names[0][1]}) outs({names[1][0]} : {names[1][1]}) {{\n"
        f"^bb0(%in: f32, %out: f32):\n%v = {body}\nlinalg.yield %v : f32\n}}\n"
    )


def program_of(text):
    return TensorProgram.from_module(ir.Module.parse(text, ir.Context()))


def readers_of_an_input(count):
    """Return a program in which `count` sums along dimension 0 read the same argument."""
    arguments = ", ".join(f"%y{i}: memref<1024xf32>" for i in range(count))
    sums = (
        generic(
            "%x : memref<1024x1024xf32>", f"%y{i} : memref<1024xf32>", "ji", ["i, j", "j"], "i", SUM
        )
        for i in range(count)
    )
    return program_of(
        f"func.func @main(%x: memref<1024x1024xf32>, {arguments}) {{\n{''.join(sums)}return\n}}"
    )


class TestStrides:
    def test_the_home_dimension_is_outermost(self):
        assert strides_with_outermost([2, 3, 5], 0) == [15, 5, 1]
        assert strides_with_outermost([2, 3, 5], 2) == [3, 1, 6]

    def test_a_run_ends_where_the_partition_interrupts_it(self):
        forms = [IndexForm({d: 1}, n) for d, n in enumerate((4, 6, 8))]
        assert walk(forms, (4, 6, 8), (4, 6, 8), 0, 0).run_elements == 48
        assert walk(forms, (4, 6, 8), (4, 6, 8), 0, 1).run_elements == 8
        assert walk(forms, (4, 6, 8), (4, 6, 8), 0, 2).run_elements == 1
        assert walk(forms, (4, 6, 8), (4, 6, 8), 2, 2).run_elements == 24

    def test_heads_and_their_elements_share_a_dimension(self):
        forms = [IndexForm({0: 1}, 64), IndexForm({1: 16, 2: 1}, 96)]  # a[t, 16 * head + e]
        found = walk(forms, (64, 6, 16), (64, 96), 0, 1)
        assert (found.partition_stride, found.run_elements, found.wide_dims) == (16, 16, 2)


class TestCharges:
    def charge(self, home, loop, kernel="array load"):
        shape = (256, 768)
        forms = [IndexForm({d: 1}, n) for d, n in enumerate(shape)]
        way = walk(forms, shape, shape, home, loop)
        return access_charge(TARGET, array(*shape), 256 * 768, shape[loop], way, kernel)

    def test_what_lies_as_wanted_is_free(self):
        assert self.charge(0, 0).way == self.charge(1, 1).way == "aligned"

    def test_a_contraction_turns_its_operand(self):
        charge = self.charge(0, 1)
        assert (charge.way, charge.onchip_bytes) == ("turned", 256 * 768 * 4)

    def test_a_contraction_cannot_turn_its_result(self):
        charge = self.charge(0, 1, "array store")
        assert (charge.way, charge.onchip_bytes) == ("strided", 0)
        assert charge.ns > self.charge(0, 1).ns

    def test_a_copy_that_turns_moves_bytes_on_chip_and_off(self):
        plain = copy_charge(TARGET, array(64, 64, 64), [64, 64], turns=False)
        turned = copy_charge(TARGET, array(512, 512), [1, 1], turns=True)
        assert (plain.onchip_bytes, plain.offchip_bytes) == (0, 2 * 64**3 * 4)
        assert (turned.onchip_bytes, turned.offchip_bytes) == (512**2 * 4, 2 * 512**2 * 4)

    def test_lanes_are_filled_in_rounds(self):
        assert [filled_lanes(n, TARGET) for n in (64, 128, 129, 384)] == [64, 128, 64.5, 128]


class TestChoice:
    def test_two_readers_turn_for_themselves_and_many_share_a_copy(self):
        few = map_globally(build_problem(readers_of_an_input(2), TARGET))
        many = map_globally(build_problem(readers_of_an_input(12), TARGET))
        assert [r.charge.way for r in few.reshuffles] == ["turned"] * 2
        assert [r.charge.way for r in many.reshuffles] == ["copied"]
        (wide,) = (name for name in many.layouts if many.layouts[name].copy is not None)
        assert many.layouts[wide] == Layout(home=0, copy=1)

    def test_arguments_stay_row_major(self):
        problem = build_problem(readers_of_an_input(2), TARGET)
        assert {layout.home for found in problem.layouts.values() for layout in found} == {0}

    def test_windows_keep_their_loop_off_the_partitions(self):
        pool = generic(
            "%x : memref<8x30xf32>", "%y : memref<8x28xf32>", "chk", ["c, h + k", "c, h"], "k", SUM
        )
        window = "memref<3xf32>"
        text = (
            f"func.func @main(%x: memref<8x30xf32>, %y: memref<8x28xf32>, %w: {window}) {{\n"
            + pool.replace("(c, h)>]", "(k)>, affine_map<(c, h, k) -> (c, h)>]")
            .replace("ins(%x : memref<8x30xf32>)", f"ins(%x, %w : memref<8x30xf32>, {window})")
            .replace("%in: f32, %out", "%in: f32, %tap: f32, %out")
            + "return\n}"
        )
        problem = build_problem(program_of(text), TARGET)
        (variants,) = problem.variants.values()
        assert [v.partition for v in variants] == [0]

    def test_only_allowed_dimensions_are_considered(self):
        program = random_program([(0, 1), (1, 0), (1, 0)])
        free = build_problem(program, TARGET)
        held = build_problem(program, TARGET, {name: [] for name in program.arrays})
        assert any(len(found) > 1 for found in free.layouts.values())
        assert all(layout.home == 0 for found in held.layouts.values() for layout in found)


def random_program(steps):
    """Return a chain of squares with a sum after each, along the dimension that is not kept.

    `steps[i]` is (whether the square turns its operand, the dimension that the sum keeps).
    """
    shape = (96, 512)
    lines, arguments = [], [f"%x: memref<{shape[0]}x{shape[1]}xf32>"]
    last, lengths = "%x", shape
    for i, (turns, keeps) in enumerate(steps):
        result = lengths[::-1] if turns else lengths
        here, there = (f"memref<{a}x{b}xf32>" for a, b in (lengths, result))
        lines.append(f"%a{i} = memref.alloc() : {there}\n")
        maps = ["j, i" if turns else "i, j", "i, j"]
        lines.append(generic(f"{last} : {here}", f"%a{i} : {there}", "ij", maps, "", SQUARE))
        sums = f"memref<{result[keeps]}xf32>"
        arguments.append(f"%y{i}: {sums}")
        maps = ["i, j" if keeps == 0 else "j, i", "i"]
        lines.append(generic(f"%a{i} : {there}", f"%y{i} : {sums}", "ij", maps, "j", SUM))
        last, lengths = f"%a{i}", result
    return program_of(f"func.func @main({', '.join(arguments)}) {{\n{''.join(lines)}return\n}}")


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=4))
@settings(max_examples=25, deadline=None)
def test_global_mapping_is_the_best_of_all(steps):
    problem = build_problem(random_program(steps), TARGET)
    graph = problem.graph
    found = map_globally(problem)
    every = itertools.product(*(range(len(costs)) for costs in graph.own))
    assert found.is_exact
    assert found.cost_ns == pytest.approx(min(graph.cost(choices) for choices in every))
    assert found.cost_ns == pytest.approx(minimise_exactly(graph).cost)
    assert found.cost_ns <= map_locally(problem).cost_ns


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=4))
@settings(max_examples=25, deadline=None)
def test_the_cost_is_what_its_parts_add_up_to(steps):
    problem = build_problem(random_program(steps), TARGET)
    for mapping in (map_globally(problem), map_locally(problem)):
        penalties = sum(
            variant.engine_ns - min(v.engine_ns for v in problem.variants[name])
            for name, variant in mapping.variants.items()
        )
        charges = sum(r.charge.ns for r in mapping.reshuffles)
        turned = [name for name, layout in mapping.layouts.items() if layout.home != 0]
        orders = sum(problem.order_ns(name) for name in turned)
        assert mapping.cost_ns == pytest.approx(penalties + charges + orders)


def test_large_arrays_must_save_a_share_of_their_transfer():
    problem = build_problem(readers_of_an_input(1), TARGET)
    arrays = {a.size_bytes: name for name, a in problem.program.arrays.items()}
    transfer = cost.dma(TARGET, 2**22, 2**22, 2**22).busy_ns
    assert problem.order_ns(arrays[4096]) == ROW_MAJOR_NS
    assert problem.order_ns(arrays[2**22]) == pytest.approx(ROW_MAJOR_SHARE * transfer)
    assert ROW_MAJOR_SHARE * transfer > ROW_MAJOR_NS
