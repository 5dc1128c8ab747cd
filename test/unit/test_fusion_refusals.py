"""What cannot be carried out is refused, with the way out."""

import pytest
from attention_programs import AttentionProgram
from fusion_programs import PRODUCT, Graph, memref, parse, placed, together
from fusion_replay import replayed

from polystage.errors import PlanError
from polystage.planner.fusion.decisions import Group, Loop, Nest, Place
from polystage.planner.fusion.program import Program
from polystage.planner.fusion.schedule import schedule

EVERY_SECOND = """
func.func @main(%a: memref<3xf32>) -> memref<6xf32> {
  %o = memref.alloc() : memref<6xf32>
  %x = memref.subview %o[0] [3] [2] : memref<6xf32> to memref<3xf32, strided<[2]>>
  %y = memref.subview %o[1] [3] [2] : memref<6xf32> to memref<3xf32, strided<[2], offset: 1>>
  linalg.generic {indexing_maps = [affine_map<(d0) -> (d0)>, affine_map<(d0) -> (d0)>],
      iterator_types = ["parallel"]}
      ins(%a : memref<3xf32>) outs(%x : memref<3xf32, strided<[2]>>) {
  ^bb0(%p: f32, %old: f32):
    %s = arith.addf %p, %p : f32
    linalg.yield %s : f32
  }
  linalg.generic {indexing_maps = [affine_map<(d0) -> (d0)>, affine_map<(d0) -> (d0)>],
      iterator_types = ["parallel"]}
      ins(%a : memref<3xf32>) outs(%y : memref<3xf32, strided<[2], offset: 1>>) {
  ^bb0(%p: f32, %old: f32):
    %s = arith.mulf %p, %p : f32
    linalg.yield %s : f32
  }
  return %o : memref<6xf32>
}"""


class TestRefusals:
    @pytest.fixture
    def program(self) -> Program:
        graph = Graph()
        first = graph.conv(graph.input(1, 6, 6), 2, 1)
        return graph.program(graph.conv(first, 2, 1))

    def refusal(self, program: Program, group: Group) -> str:
        with pytest.raises(PlanError) as error:
            schedule(program, group)
        return str(error.value)

    def test_a_place_for_every_array(self, program):
        group = together(program)
        places = {name: place for name, place in group.places.items() if name != "arg0"}
        assert self.refusal(program, Group((0, 1), (), (), places)) == (
            "the group of 'contraction_1' touches 'arg0', but has no place for it\n"
            "help: add it to the group's places"
        )

    def test_what_is_made_and_read_in_a_group_is_not_streamed(self, program):
        middle = program.operators[0].write.array
        group = together(program, **{middle: Place.STREAMED})
        assert self.refusal(program, group) == (
            f"'{middle}' is streamed, but 'contraction_1' reads it in the group in which "
            "'contraction' makes it\nhelp: make it a window, or separate the two groups"
        )

    def test_loops_are_over_dims_of_the_sink(self, program):
        assert self.refusal(program, together(program, Loop(6, 1))) == (
            "the loops of a group run over dims [6] of its sink 'contraction_1', which has dims 0 "
            "to 5\nhelp: give each loop a dim of its own"
        )
        assert self.refusal(program, together(program, Loop(1, 0))) == (
            "a loop of the group of 'contraction_1' has a tile below 1\n"
            "help: choose a tile of at least 1"
        )

    def test_every_operator_has_a_nest(self, program):
        group = Group((0, 1), (), (Nest(),), placed(program))
        assert self.refusal(program, group) == (
            "the group of 'contraction_1' has 2 operators, but 1 nests\n"
            "help: give every operator a nest, which may be empty"
        )

    def test_chunk_loops_are_over_dims_of_the_operator(self, program):
        for loops, message in (
            (
                (Loop(1, 2), Loop(1, 2)),
                "'contraction' has dims 0 to 5, but its chunk loops run over [1, 1]\n"
                "help: give each chunk loop a dim of its own",
            ),
            (
                (Loop(1, 0),),
                "a chunk of 'contraction' has 0 iterations of dim 1\n"
                "help: choose a tile of at least 1",
            ),
        ):
            group = Group((0, 1), (), (Nest(loops), Nest()), placed(program))
            assert self.refusal(program, group) == message

    def test_an_element_is_not_replaced_in_the_group_that_reads_it(self):
        graph = Graph()
        x = graph.input(1, 4, 4)
        first = graph.elementwise(x)
        second = graph.pool(first, 2, 1)
        graph.elementwise(x, target=(first, memref((1, 4, 4)), first))
        program = graph.program(second, first)
        assert self.refusal(program, together(program)) == (
            "'elementwise_1' writes elements of 't' that 'elementwise' touches before it in the "
            "same group\nhelp: separate the two by a group boundary"
        )

    def test_an_array_becomes_resident_where_it_is_begun(self):
        graph = Graph()
        x = graph.input(1, 4, 4)
        target = graph.alloc(2, 4, 4)
        for start in (0, 1):
            graph.elementwise(x, target=(*graph.window(target, start, 1), target))
        program = graph.program(graph.elementwise(target))
        name = program.operators[0].write.array
        group = Group((1, 2), (), (), placed(program, **{name: Place.RESIDENT}))
        assert self.refusal(program, group) == (
            f"'{name}' becomes resident in a group that makes only a part of it\n"
            "help: make it resident from the first group on that writes it"
        )

    def test_what_comes_from_before_is_a_box(self):
        graph = Graph()
        x = graph.input(1, 4, 4)
        target = graph.alloc(3, 4, 4)
        for start in (0, 2, 1):
            graph.elementwise(x, target=(*graph.window(target, start, 1), target))
        program = graph.program(graph.elementwise(target))
        name = program.operators[0].write.array
        assert self.refusal(program, Group((2, 3), (), (), placed(program))) == (
            f"'elementwise_3' reads a part of '{name}' that its group makes and another that comes "
            "from before, and the latter is no box\n"
            "help: put the operators that make the array into another group"
        )

    def test_every_second_element_is_not_a_box(self):
        program = parse(EVERY_SECOND)
        name = program.operators[0].write.array
        assert self.refusal(program, Group((0,), (), (), placed(program))) == (
            f"the group of 'elementwise' makes 3 of 6 elements of '{name}', with others between "
            "them\nhelp: stream the array, or put all operators that write it into one group"
        )
        found = replayed(program, together(program, Loop(0, 1)))
        assert found.write_bytes == {name: 6 * 4}

    def test_a_step_has_whole_rows_of_scores(self):
        program = parse(AttentionProgram().text())
        group = Group((0,), (Loop(2, 2),), (Nest(),), placed(program))
        name = program.operators[0].name
        assert self.refusal(program, group) == (
            f"a group loops over dim 2 of the attention '{name}', but its rows of scores must be "
            "complete in each step\nhelp: loop over the dims 0, 1 only: heads and queries"
        )

    def test_what_cannot_be_modelled_runs_alone(self):
        program = parse(
            PRODUCT.replace(
                "  return",
                """  affine.for %i = 0 to 4 {
                  %v = affine.load %c[%i, %i] : memref<6x4xf32>
                  affine.store %v, %c[0, %i] : memref<6x4xf32>
                }
                return""",
            )
        )
        assert self.refusal(program, together(program)) == (
            "'copy' cannot run tile by tile with others: it is a loop nest\n"
            "help: give it a group of its own, without loops"
        )
