"""The least that a program moves."""

from fusion_programs import Graph

from polystage.planner.fusion.bounds import compulsory_bytes, contraction_bytes


def test_rows_and_columns_that_a_stride_leaves_over_need_not_move() -> None:
    graph = Graph()
    program = graph.program(graph.conv(graph.input(3, 7, 8), 2, 3, stride=2))
    source, weights, result = 3 * 7 * 7, 2 * 3 * 3 * 3, 2 * 3 * 3
    assert compulsory_bytes(program) == 4 * (source + weights + result)


def test_what_a_stride_skips_need_not_move_alone() -> None:
    graph = Graph()
    program = graph.program(graph.conv(graph.input(3, 7, 8), 2, 1, stride=2))
    source, weights, result = 3 * 4 * 4, 2 * 3, 2 * 4 * 4
    least = contraction_bytes(program, program.operators[-1], 1 << 20)
    assert least == 4 * (source + weights + result)


def test_what_every_reader_hides_need_not_move() -> None:
    graph = Graph()
    shown, _ = graph.over(graph.input(4, 3, 5), graph.input(10, 3, 5))
    graph.shapes[shown] = (10, 3, 5)
    program = graph.program(graph.elementwise(shown))
    assert compulsory_bytes(program) == 4 * 2 * (10 * 3 * 5)
