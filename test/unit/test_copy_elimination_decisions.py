"""What copy elimination finds out about a program before it decides: contents, order, liveness."""

from collections.abc import Iterator

import pytest

from polystage.mlir import ir
from polystage.passes.polyhedral.copy_elimination import legality
from polystage.passes.polyhedral.copy_elimination.content import (
    Content,
    Viewpoint,
    content,
    end_of_program,
)
from polystage.passes.polyhedral.copy_elimination.liveness import remove_dead
from polystage.passes.polyhedral.copy_elimination.working_program import (
    Node,
    WorkingProgram,
    shared_depth,
)
from polystage.polyhedral import TensorProgram

ID = "affine_map<(i) -> (i)>"


@pytest.fixture(autouse=True)
def context() -> Iterator[None]:
    with ir.Context(), ir.Location.unknown():
        yield


def program(body: str) -> WorkingProgram:
    """Return a function with arrays x, y of 8 elements as arguments and t of its own."""
    text = f"""
      func.func @main(%x: memref<8xf32> {{npu.name = "x"}}, %y: memref<8xf32> {{npu.name = "y"}}) {{
        %zero = arith.constant 0.0 : f32
        %c0 = arith.constant 0 : index
        %c1 = arith.constant 1 : index
        %c4 = arith.constant 4 : index
        %t = memref.alloc() : memref<8xf32>
        {body}
        return
      }}"""
    module = ir.Module.parse(text)
    return WorkingProgram(TensorProgram.from_module(module))


def window(name: str, array: str, start: int, size: int) -> str:
    layout = f"strided<[1], offset: {start}>" if start else "strided<[1]>"
    return (
        f"%{name} = memref.subview %{array}[{start}] [{size}] [1] "
        f": memref<8xf32> to memref<{size}xf32, {layout}>\n"
    )


def type_of(start: int, size: int) -> str:
    layout = f"strided<[1], offset: {start}>" if start else "strided<[1]>"
    return f"memref<{size}xf32, {layout}>"


def copy(source: str, start: int, target: str, to: int, size: int, name: str) -> str:
    return (
        window(f"{name}_from", source, start, size)
        + window(f"{name}_to", target, to, size)
        + f"memref.copy %{name}_from, %{name}_to : {type_of(start, size)} to {type_of(to, size)}"
        + f' loc("{name}")\n'
    )


def fill(array: str, name: str) -> str:
    return (
        f'linalg.generic {{indexing_maps = [{ID}], iterator_types = ["parallel"]}}'
        f" outs(%{array} : memref<8xf32>) {{\n^bb0(%out: f32):\n linalg.yield %zero : f32\n}}"
        f' loc("{name}")\n'
    )


def compute(source: str, target: str, name: str, index: str = ID) -> str:
    return (
        f'linalg.generic {{indexing_maps = [{index}, {ID}], iterator_types = ["parallel"]}}'
        f" ins(%{source} : memref<8xf32>) outs(%{target} : memref<8xf32>) {{\n"
        "^bb0(%in: f32, %out: f32):\n %0 = math.exp %in : f32\n linalg.yield %0 : f32\n}"
        f' loc("{name}")\n'
    )


def seen_by(working: WorkingProgram, reader: str, array: str, with_fills: bool = True) -> Content:
    node = working.nodes[reader]
    (_, piece), *_ = node.pieces_of(array)
    pairs = [other for other in working.nodes.values() if other.is_pair]
    return content(working, Viewpoint(node, piece, node.ranges), pairs, with_fills)


def names(nodes: frozenset[Node]) -> set[str]:
    return {node.name for node in nodes}


def test_two_copies_that_fill_an_array_are_two_pieces():
    working = program(
        copy("x", 0, "t", 4, 4, "a") + copy("x", 4, "t", 0, 4, "b") + compute("t", "y", "use")
    )
    found = seen_by(working, "use", "t")
    texts = [[str(e) for e in source.piece.index] for source in found.sources]
    assert texts == [["d0 + 4"], ["d0 - 4"]]
    assert [s.piece.where[0].low for s in found.sources] == [0, 4]
    assert names(found.needed) == {"a_copy", "b_copy"}


def test_later_writers_hide_earlier_ones():
    working = program(
        copy("x", 0, "t", 0, 8, "old") + copy("y", 0, "t", 0, 8, "new") + compute("t", "y", "use")
    )
    found = seen_by(working, "use", "t")
    assert [source.piece.array for source in found.sources] == ["y"]
    assert names(found.needed) == {"new_copy"}


def test_a_fill_shows_where_nothing_was_copied():
    working = program(fill("t", "f") + copy("x", 0, "t", 2, 4, "a") + compute("t", "y", "use"))
    found = seen_by(working, "use", "t")
    assert [source.piece.array for source in found.sources] == ["x", None]
    own = seen_by(working, "use", "t", with_fills=False)
    assert [(s.piece.array, s.is_own) for s in own.sources] == [("x", False), ("t", True)]


def test_what_nobody_wrote_has_no_piece():
    working = program(copy("x", 0, "t", 2, 4, "a") + compute("t", "y", "use"))
    assert len(seen_by(working, "use", "t").sources) == 1


def test_a_loop_of_several_writers_hides_their_order():
    working = program(
        "scf.for %i = %c0 to %c4 step %c1 {\n"
        + copy("x", 0, "t", 0, 8, "a")
        + copy("y", 0, "t", 2, 4, "b")
        + "}\n"
        + compute("t", "y", "use")
    )
    found = seen_by(working, "use", "t")
    assert [source.is_own for source in found.sources] == [True]
    assert names(found.needed) == {"a_copy", "b_copy"}


def test_the_caller_sees_the_last_writers():
    working = program(copy("x", 0, "y", 0, 8, "old") + copy("x", 4, "y", 0, 4, "new"))
    found = content(working, end_of_program(working, "y"), (), with_fills=False)
    assert names(found.needed) == {"old_copy", "new_copy"}


def test_dead_writes_go_with_what_they_alone_read():
    working = program(
        compute("x", "t", "unread") + fill("y", "hidden") + copy("x", 0, "y", 0, 8, "hides")
    )
    removed = remove_dead(working, list(working.arrays))
    assert {node.name for node in removed} == {"unread", "hidden_fill"}


def test_an_operation_that_reads_and_writes_the_same_elements_is_no_obstacle():
    working = program(
        compute("x", "x", "same") + compute("x", "x", "turned", "affine_map<(i) -> (7 - i)>")
    )
    for name, holds in (("same", True), ("turned", False)):
        node = working.nodes[name]
        (_, piece), *_ = node.pieces_of("x")
        assert legality.reads_before_it_writes(node, piece, 0) == holds


def test_windows_that_interleave_do_not_overlap():
    even = "%even = memref.subview %t[0] [4] [2] : memref<8xf32> to memref<4xf32, strided<[2]>>\n"
    odd = (
        "%odd = memref.subview %t[1] [4] [2] "
        ": memref<8xf32> to memref<4xf32, strided<[2], offset: 1>>\n"
    )
    working = program(
        even
        + odd
        + "memref.copy %even, %odd : memref<4xf32, strided<[2]>> "
        + 'to memref<4xf32, strided<[2], offset: 1>> loc("a")\n'
    )
    node = working.nodes["a_copy"]
    (_, piece), *_ = node.pieces_of("t")
    assert not legality.may_overlap(node, piece, node, node.target)


def test_loops_in_common_count_by_their_places():
    working = program(
        "scf.for %i = %c0 to %c4 step %c1 {\n"
        + copy("x", 0, "t", 0, 8, "a")
        + compute("t", "y", "b")
        + "}\n"
        + compute("t", "y", "c")
    )
    inner = [working.nodes["a_copy"], working.nodes["b"]]
    assert shared_depth(inner) == 1
    assert shared_depth([*inner, working.nodes["c"]]) == 0


def test_a_place_before_another_is_free():
    working = program(copy("x", 0, "t", 0, 8, "a") + compute("t", "y", "b"))
    first, second = working.nodes["a_copy"], working.nodes["b"]
    between = working.place_before(second.place)
    assert first.place < between < second.place
    assert working.place_before(first.place) < first.place
