"""Operators of a program: what joins, what does not, and which are equal."""

import pytest
from fusion_programs import Graph, memref, parse

from polystage.planner.fusion.operators import OperatorKind
from polystage.planner.fusion.program import Program
from polystage.planner.fusion.signatures import operator_signature, segment_signature


def names(program: Program) -> list[tuple[str, int]]:
    """Kind of every operator, and of how many statements it consists."""
    return [(str(operator.kind), len(operator.statements)) for operator in program.operators]


def exprs(access) -> list[str]:
    return [str(expr) for expr in access.exprs]


class TestClusters:
    def test_elementwise_work_joins_the_contraction_that_it_alone_reads(self):
        graph = Graph()
        x = graph.input(2, 6, 6)
        program = graph.program(graph.elementwise(graph.elementwise(graph.conv(x, 3, 3))))
        assert names(program) == [("contraction", 3)]
        (operator,) = program.operators
        assert operator.extents == (3, 4, 4, 2, 3, 3)
        assert str(operator.initial) == "0.000000e+00 : f32"
        assert operator.macs == 3 * 4 * 4 * 2 * 3 * 3
        assert operator.lane_operations == 2 * 3 * 4 * 4
        assert operator.accumulator is None
        assert exprs(operator.write) == ["d0", "d1", "d2"]
        assert set(program.arrays) == {"arg0", "arg1", operator.write.array}

    def test_the_last_producer_takes_an_addition(self):
        graph = Graph()
        x = graph.input(2, 6, 6)
        first, second = graph.conv(x, 3, 1), graph.conv(x, 3, 1)
        program = graph.program(graph.elementwise(first, second))
        assert names(program) == [("contraction", 1), ("contraction", 2)]
        taken = program.operators[1]
        (other,) = [access for access in taken.reads if taken.is_epilogue(access)]
        assert other.array == program.operators[0].write.array
        assert program.maps(taken).ends == (False, False, True)

    def test_a_result_with_two_readers_stays_an_array(self):
        graph = Graph()
        conv = graph.conv(graph.input(2, 6, 6), 2, 3)
        program = graph.program(graph.elementwise(conv), graph.elementwise(conv))
        assert names(program) == [("contraction", 1), ("lanes", 1), ("lanes", 1)]

    def test_a_result_that_leaves_the_program_stays_an_array(self):
        graph = Graph()
        conv = graph.conv(graph.input(2, 6, 6), 2, 3)
        program = graph.program(conv, graph.elementwise(conv))
        assert names(program) == [("contraction", 1), ("lanes", 1)]

    def test_a_reader_of_other_elements_stays_apart(self):
        graph = Graph()
        conv = graph.conv(graph.input(1, 6, 6), 1, 3)
        program = graph.program(graph.pool(conv, 2, 1))
        assert names(program) == [("contraction", 1), ("lanes", 1)]

    def test_elementwise_work_alone_joins_nothing(self):
        graph = Graph()
        program = graph.program(graph.elementwise(graph.elementwise(graph.input(2, 3, 3))))
        assert names(program) == [("lanes", 1), ("lanes", 1)]

    def test_what_is_read_must_not_change_in_between(self):
        graph = Graph()
        x = graph.input(1, 4, 4)
        source = graph.elementwise(x)
        conv = graph.conv(source, 1, 1)
        graph.elementwise(x, target=(source, memref((1, 4, 4)), source))
        program = graph.program(graph.elementwise(conv, source), source)
        assert ("contraction", 2) not in names(program)


class TestFills:
    def test_a_fill_of_a_part_goes_with_the_operation_that_accumulates_there(self):
        graph = Graph()
        x = graph.input(1, 4, 4)
        target = graph.alloc(3, 4, 4)
        for start in (0, 2):
            window = (*graph.window(target, start, 1 + (start == 0)), target)
            graph.conv(x, 1 + (start == 0), 1, target=window)
        program = graph.program(target)
        assert names(program) == [("contraction", 1), ("contraction", 1)]
        assert exprs(program.operators[1].write) == ["d0 + 2", "d1", "d2"]

    def test_a_fill_that_somebody_reads_is_an_operator(self):
        graph = Graph()
        target = graph.alloc(1, 4, 4)
        graph.fill(target, memref((1, 4, 4)), 3, "1.0")
        program = graph.program(graph.elementwise(graph.input(1, 4, 4), target))
        assert names(program) == [("lanes", 1), ("lanes", 1)]
        assert program.operators[0].reads == ()


SUM = """
func.func @main(%a: memref<4x8x{0}>, %b: memref<4x{0}>) -> memref<4x{0}> {{
  %s = memref.alloc() : memref<4x{0}>
  linalg.generic {{indexing_maps = [affine_map<(d0) -> (d0)>], iterator_types = ["parallel"]}}
      outs(%s : memref<4x{0}>) {{
  ^bb0(%old: {0}):
    %zero = arith.constant 0.0 : {0}
    linalg.yield %zero : {0}
  }}
  linalg.generic {{indexing_maps = [affine_map<(d0, d1) -> (d0, d1)>,
      affine_map<(d0, d1) -> (d0)>], iterator_types = ["parallel", "reduction"]}}
      ins(%a : memref<4x8x{0}>) outs(%s : memref<4x{0}>) {{
  ^bb0(%x: {0}, %old: {0}):
    {1}
  }}
  return %s : memref<4x{0}>
}}"""
NARROW = """%wide = arith.extf %x : bf16 to f32
    %sum = arith.extf %old : bf16 to f32
    %new = arith.{0} %sum, %wide : f32
    %out = arith.truncf %new : f32 to bf16
    linalg.yield %out : bf16"""


class TestAccumulators:
    @pytest.mark.parametrize(
        ("dtype", "body", "wanted"),
        [
            ("f32", "%n = arith.addf %old, %x : f32\n linalg.yield %n : f32", None),
            ("bf16", NARROW.format("addf"), 4),
            ("bf16", NARROW.format("maximumf"), None),
        ],
    )
    def test_sums_of_narrow_results_are_wide(self, dtype, body, wanted):
        (operator,) = parse(SUM.format(dtype, body)).operators
        assert operator.kind is OperatorKind.LANES
        assert operator.accumulator == wanted

    def test_an_epilogue_that_reads_what_the_output_held_needs_room(self):
        graph = Graph()
        x = graph.input(1, 4, 4)
        target = graph.elementwise(x)
        conv = graph.conv(x, 1, 1)
        graph.elementwise(conv, target, target=(target, memref((1, 4, 4)), target))
        program = graph.program(target)
        assert names(program) == [("lanes", 1), ("contraction", 2)]
        assert program.operators[1].accumulator == 4


class TestOpaque:
    def test_a_loop_nest_is_one_operator(self):
        program = parse("""
        func.func @main(%a: memref<4x4xf32>) -> memref<4x4xf32> {
          %o = memref.alloc() : memref<4x4xf32>
          affine.for %i = 0 to 4 {
            affine.for %j = 0 to 4 {
              %x = affine.load %a[%i, %j] : memref<4x4xf32>
              affine.store %x, %o[%i, %j] : memref<4x4xf32>
              affine.store %x, %o[%j, %i] : memref<4x4xf32>
            }
          }
          return %o : memref<4x4xf32>
        }""")
        (operator,) = program.operators
        assert operator.kind is OperatorKind.OPAQUE
        assert operator.reason == "it is a loop nest"
        assert len(operator.reads) == len(operator.writes) == 1

    def test_a_shift_in_place_is_not_modelled(self):
        program = parse("""
        func.func @main(%a: memref<5xf32>) {
          %x = memref.subview %a[0] [4] [1] : memref<5xf32> to memref<4xf32>
          %y = memref.subview %a[1] [4] [1]
              : memref<5xf32> to memref<4xf32, strided<[1], offset: 1>>
          linalg.generic {indexing_maps = [affine_map<(d0) -> (d0)>, affine_map<(d0) -> (d0)>],
              iterator_types = ["parallel"]}
              ins(%x : memref<4xf32>) outs(%y : memref<4xf32, strided<[1], offset: 1>>) {
          ^bb0(%p: f32, %q: f32):
            %s = arith.addf %p, %p : f32
            linalg.yield %s : f32
          }
          return
        }""")
        (operator,) = program.operators
        assert operator.kind is OperatorKind.OPAQUE
        assert operator.reason == "it reads other elements of 'arg0' than those it replaces"


class TestSignatures:
    @staticmethod
    def blocks(widths: list[int]) -> Program:
        graph = Graph()
        value = graph.input(2, 6, 6)
        for width in widths:
            inner = graph.conv(value, width, 3, padding=1)
            value = graph.elementwise(value, graph.conv(inner, 2, 1))
        return graph.program(value)

    def test_equal_layers_are_equal_whatever_the_names(self):
        program = self.blocks([3, 3, 3, 4])
        signatures = [operator_signature(program, index) for index in range(8)]
        assert signatures[2] == signatures[4] != signatures[6]
        assert signatures[3] == signatures[5] != signatures[7]
        assert signatures[0] != signatures[2]  # reads an input of the program

    def test_a_segment_is_another_where_its_arrays_are_used_elsewhere(self):
        program = self.blocks([3, 3, 3, 3])
        assert segment_signature(program, 2, 4) == segment_signature(program, 4, 6)
        assert segment_signature(program, 2, 4) != segment_signature(program, 3, 5)
        first, last = segment_signature(program, 0, 2), segment_signature(program, 6, 8)
        middle = segment_signature(program, 2, 4)
        assert len({first, middle, last}) == 3
