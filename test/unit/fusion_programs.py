"""Small programs in `buffers` form for tests of the planner: maps of channels, rows, columns."""

from dataclasses import dataclass, field

from polystage.dialects import npu
from polystage.mlir import ir
from polystage.planner.fusion.decisions import Group, Loop, Nest, Place
from polystage.planner.fusion.program import Program


@dataclass
class Graph:
    """Writes operations one after the other; values are named with their shapes."""

    inputs: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    count: int = 0

    def name(self) -> str:
        self.count += 1
        return f"%v{self.count}"

    def input(self, *shape: int) -> str:
        name = self.name()
        self.inputs.append((name, shape))
        self.shapes[name] = shape
        return name

    def alloc(self, *shape: int) -> str:
        name = self.name()
        self.shapes[name] = shape
        self.lines.append(f"{name} = memref.alloc() : {memref(shape)}")
        return name

    def window(self, source: str, start: int, rows: int) -> tuple[str, str]:
        """A view of channels; return its name and type."""
        name, (_, height, width) = self.name(), self.shapes[source]
        layout = f"strided<[{height * width}, {width}, 1], offset: {start * height * width}>"
        type_ = f"memref<{rows}x{height}x{width}xf32, {layout}>"
        self.lines.append(
            f"{name} = memref.subview {source}[{start}, 0, 0] [{rows}, {height}, {width}] [1, 1, 1]"
            f" : {memref(self.shapes[source])} to {type_}"
        )
        return name, type_

    def generic(self, maps, iterators, ins, outs, body) -> None:
        """`ins` and `outs` are pairs of name and type."""
        iterator_text = ", ".join(f'"{kind}"' for kind in iterators)
        map_text = ", ".join(f"affine_map<{map_}>" for map_ in maps)
        groups = []
        for word, operands in (("ins", ins), ("outs", outs)):
            if operands:
                names = ", ".join(name for name, _ in operands)
                groups.append(f"{word}({names} : {', '.join(type_ for _, type_ in operands)})")
        arguments = ", ".join(f"%a{i}: f32" for i in range(len(ins) + len(outs)))
        self.lines.append(
            f"linalg.generic {{indexing_maps = [{map_text}], iterator_types = [{iterator_text}]}} "
            f"{' '.join(groups)} {{\n^bb0({arguments}):\n{body}\n}}"
        )

    def fill(self, target: str, type_: str, rank: int, value: str = "0.0") -> None:
        dims = ", ".join(f"d{i}" for i in range(rank))
        body = f"%c = arith.constant {value} : f32\nlinalg.yield %c : f32"
        self.generic([f"({dims}) -> ({dims})"], ["parallel"] * rank, [], [(target, type_)], body)

    def conv(self, source, channels, kernel, stride=1, dilation=1, padding=0, target=None) -> str:
        """A convolution over rows and columns; `target` is a view (name, type, name of array)."""
        depth, height, width = self.shapes[source]
        weights = self.input(channels, depth, kernel, kernel)
        shown, shown_type = self.padded(source, padding)
        reach = dilation * (kernel - 1) + 1
        out = tuple((n + 2 * padding - reach) // stride + 1 for n in (height, width))
        if target is None:
            result = self.alloc(channels, *out)
            target, type_ = result, memref((channels, *out))
        else:
            target, type_, result = target
        self.fill(target, type_, 3)
        row, column = (f"d{i + 1} * {stride} + d{i + 4} * {dilation}" for i in range(2))
        dims = "(d0, d1, d2, d3, d4, d5)"
        self.generic(
            [
                f"{dims} -> (d3, {row}, {column})",
                f"{dims} -> (d0, d3, d4, d5)",
                f"{dims} -> (d0, d1, d2)",
            ],
            ["parallel"] * 3 + ["reduction"] * 3,
            [(shown, shown_type), (weights, memref(self.shapes[weights]))],
            [(target, type_)],
            "%p = arith.mulf %a0, %a1 : f32\n%s = arith.addf %a2, %p : f32\nlinalg.yield %s : f32",
        )
        return result

    def padded(self, source: str, padding: int) -> tuple[str, str]:
        shape = self.shapes[source]
        if not padding:
            return source, memref(shape)
        name = self.name()
        wide = (shape[0], shape[1] + 2 * padding, shape[2] + 2 * padding)
        self.lines.append(
            f'{name} = "npu.overlay"({source}) {{fill = 0.0 : f32, offsets = array<i64: 0, '
            f"{padding}, {padding}>}} : ({memref(shape)}) -> {memref(wide)}"
        )
        return name, memref(wide)

    def joined(self, first: str, second: str) -> tuple[str, str]:
        """Two maps seen as one with the channels of both."""
        a, b = self.shapes[first], self.shapes[second]
        base, name = self.name(), self.name()
        total = (a[0] + b[0], *a[1:])
        self.lines.append(
            f'{base} = "npu.overlay"({second}) {{offsets = array<i64: {a[0]}, 0, 0>}} : '
            f"({memref(b)}) -> {memref(total)}"
        )
        self.lines.append(
            f'{name} = "npu.overlay"({first}, {base}) {{offsets = array<i64: 0, 0, 0>}} : '
            f"({memref(a)}, {memref(total)}) -> {memref(total)}"
        )
        return name, memref(total)

    def over(self, top: str, below: str) -> tuple[str, str]:
        """The map `below`, whose first channels are hidden by those of `top`."""
        a, b = self.shapes[top], self.shapes[below]
        name = self.name()
        self.lines.append(
            f'{name} = "npu.overlay"({top}, {below}) {{offsets = array<i64: 0, 0, 0>}} : '
            f"({memref(a)}, {memref(b)}) -> {memref(b)}"
        )
        return name, memref(b)

    def elementwise(self, *sources: str, target=None) -> str:
        shape = self.shapes[sources[0]]
        if target is None:
            result = self.alloc(*shape)
            target, type_ = result, memref(shape)
        else:
            target, type_, result = target
        identity = "(d0, d1, d2) -> (d0, d1, d2)"
        body = "%s0 = arith.addf %a0, %a0 : f32\n"
        for i in range(1, len(sources)):
            body += f"%s{i} = arith.addf %s{i - 1}, %a{i} : f32\n"
        body += f"linalg.yield %s{len(sources) - 1} : f32"
        self.generic(
            [identity] * (len(sources) + 1),
            ["parallel"] * 3,
            [(source, memref(self.shapes[source])) for source in sources],
            [(target, type_)],
            body,
        )
        return result

    def twice(self, first: str, second: str) -> str:
        """Elementwise work on two maps that are read as one."""
        name, type_ = self.joined(first, second)
        depth = self.shapes[first][0] + self.shapes[second][0]
        result = self.alloc(depth, *self.shapes[first][1:])
        identity = "(d0, d1, d2) -> (d0, d1, d2)"
        self.generic(
            [identity, identity],
            ["parallel"] * 3,
            [(name, type_)],
            [(result, memref(self.shapes[result]))],
            "%s = arith.addf %a0, %a0 : f32\nlinalg.yield %s : f32",
        )
        return result

    def pool(self, source: str, kernel: int, stride: int) -> str:
        depth, height, width = self.shapes[source]
        out = tuple((n - kernel) // stride + 1 for n in (height, width))
        result = self.alloc(depth, *out)
        self.fill(result, memref(self.shapes[result]), 3, "0xFF800000")
        window = self.alloc(kernel, kernel)
        dims = "(d0, d1, d2, d3, d4)"
        self.generic(
            [
                f"{dims} -> (d0, d1 * {stride} + d3, d2 * {stride} + d4)",
                f"{dims} -> (d3, d4)",
                f"{dims} -> (d0, d1, d2)",
            ],
            ["parallel"] * 3 + ["reduction"] * 2,
            [(source, memref(self.shapes[source])), (window, memref((kernel, kernel)))],
            [(result, memref(self.shapes[result]))],
            "%s = arith.maximumf %a2, %a0 : f32\nlinalg.yield %s : f32",
        )
        return result

    def flattened(self, source: str, columns: int) -> str:
        """A matrix product of the rows and columns of a map, seen as one axis, by new weights."""
        depth, height, width = self.shapes[source]
        view = self.name()
        self.lines.append(
            f"{view} = memref.collapse_shape {source} [[0], [1, 2]] : {memref(self.shapes[source])}"
            f" into {memref((depth, height * width))}"
        )
        weights = self.input(depth, columns)
        result = self.alloc(height * width, columns)
        self.fill(result, memref(self.shapes[result]), 2)
        dims = "(d0, d1, d2)"
        self.generic(
            [f"{dims} -> (d2, d0)", f"{dims} -> (d2, d1)", f"{dims} -> (d0, d1)"],
            ["parallel", "parallel", "reduction"],
            [(view, memref((depth, height * width))), (weights, memref((depth, columns)))],
            [(result, memref(self.shapes[result]))],
            "%p = arith.mulf %a0, %a1 : f32\n%s = arith.addf %a2, %p : f32\nlinalg.yield %s : f32",
        )
        return result

    def unflattened(self, source: str, width: int) -> str:
        """Elementwise work on the rows of a matrix, taken as the rows and columns of a map."""
        rows, depth = self.shapes[source]
        result = self.alloc(depth, rows // width, width)
        self.generic(
            [f"(d0, d1, d2) -> (d1 * {width} + d2, d0)", "(d0, d1, d2) -> (d0, d1, d2)"],
            ["parallel"] * 3,
            [(source, memref((rows, depth)))],
            [(result, memref(self.shapes[result]))],
            "%s = arith.addf %a0, %a0 : f32\nlinalg.yield %s : f32",
        )
        return result

    def program(self, *results: str) -> Program:
        arguments = ", ".join(f"{name}: {memref(shape)}" for name, shape in self.inputs)
        types = ", ".join(memref(self.shapes[result]) for result in results)
        body = "\n".join(self.lines)
        text = (
            f"func.func @main({arguments}) -> ({types}) {{\n{body}\n"
            f"return {', '.join(results)} : {types}\n}}"
        )
        return parse(text)


def memref(shape) -> str:
    return f"memref<{'x'.join(map(str, shape))}xf32>"


def parse(text: str) -> Program:
    """Return the program of a module given as text."""
    with ir.Context() as context, ir.Location.unknown():
        npu.load(context)
        return Program.from_module(ir.Module.parse(text))


def placed(program: Program, place: Place = Place.WINDOW, **others: Place) -> dict[str, Place]:
    return {name: others.get(name, place) for name in program.arrays}


def together(program: Program, *loops: Loop, **others: Place) -> Group:
    """All operators of a program in one group, with windows."""
    count = len(program.operators)
    return Group(tuple(range(count)), loops, (Nest(),) * count, placed(program, **others))


PRODUCT = """
func.func @main(%a: memref<6x7xf32>, %b: memref<7x4xf32>) -> memref<6x4xf32> {
  %c = memref.alloc() : memref<6x4xf32>
  linalg.generic {indexing_maps = [affine_map<(d0, d1) -> (d0, d1)>],
      iterator_types = ["parallel", "parallel"]} outs(%c : memref<6x4xf32>) {
  ^bb0(%old: f32):
    %zero = arith.constant 0.0 : f32
    linalg.yield %zero : f32
  }
  linalg.generic {indexing_maps = [affine_map<(d0, d1, d2) -> (d0, d2)>,
      affine_map<(d0, d1, d2) -> (d2, d1)>, affine_map<(d0, d1, d2) -> (d0, d1)>],
      iterator_types = ["parallel", "parallel", "reduction"]}
      ins(%a, %b : memref<6x7xf32>, memref<7x4xf32>) outs(%c : memref<6x4xf32>) {
  ^bb0(%x: f32, %y: f32, %old: f32):
    %p = arith.mulf %x, %y : f32
    %s = arith.addf %old, %p : f32
    linalg.yield %s : f32
  }
  return %c : memref<6x4xf32>
}"""
