"""Programs of one operation, the accesses that they have, and what they compute."""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np

from polystage.dialects.npu.target import target_attribute
from polystage.machine import Target
from polystage.mlir import ir
from polystage.passes.lower.convert_linalg_to_npu import ConvertLinalgToNpuPass
from polystage.passes.placement.allocate_scratchpad import AllocateScratchpadPass
from polystage.passes.polyhedral.access_rewriting import plan_rewrite
from polystage.polyhedral import Statement, TensorProgram
from polystage.polyhedral.expressions import evaluate as evaluate_expr
from polystage.polyhedral.readings import Piece, Reading
from polystage.simulator import simulate

FILL = 7.0
Expr = ir.AffineExpr


ELEMENTWISE = """
linalg.generic {{indexing_maps = [affine_map<(a, b) -> (a, b)>, affine_map<(a, b) -> (b)>,
    affine_map<(a, b) -> (a, b)>], iterator_types = ["parallel", "parallel"]}}
    ins(%t, %w : memref<{t}xf32>, memref<{w}xf32>) outs(%o : memref<{o}xf32>) {{
^bb0(%x: f32, %y: f32, %old: f32):
  %i = linalg.index 0 : index
  %j = linalg.index 1 : index
  %k = arith.muli %i, %j : index
  %l = arith.index_cast %k : index to i32
  %m = arith.sitofp %l : i32 to f32
  %s = arith.addf %x, %y : f32
  %r = arith.addf %s, %m : f32
  linalg.yield %r : f32
}}"""

MATMUL = """
linalg.generic {{indexing_maps = [affine_map<(m, n, k) -> (m, k)>, affine_map<(m, n, k) -> (k, n)>,
    affine_map<(m, n, k) -> (m, n)>], iterator_types = ["parallel", "parallel", "reduction"]}}
    ins(%t, %w : memref<{t}xf32>, memref<{w}xf32>) outs(%o : memref<{o}xf32>) {{
^bb0(%x: f32, %y: f32, %old: f32):
  %p = arith.mulf %x, %y : f32
  %r = arith.addf %old, %p : f32
  linalg.yield %r : f32
}}"""

CONVOLUTION = """
linalg.generic {{indexing_maps = [affine_map<(h, c, k) -> (2 * h + k, c)>,
    affine_map<(h, c, k) -> (k, c)>, affine_map<(h, c, k) -> (h, c)>],
    iterator_types = ["parallel", "parallel", "reduction"]}}
    ins(%t, %w : memref<{t}xf32>, memref<{w}xf32>) outs(%o : memref<{o}xf32>) {{
^bb0(%x: f32, %y: f32, %old: f32):
  %p = arith.mulf %x, %y : f32
  %r = arith.addf %old, %p : f32
  linalg.yield %r : f32
}}"""

TIME_IN_BATCH = """
linalg.generic {{indexing_maps = [affine_map<(t, b, o, k, c) -> (t + k, b, c)>,
    affine_map<(t, b, o, k, c) -> (k, c, o)>, affine_map<(t, b, o, k, c) -> (t, b, o)>],
    iterator_types = ["parallel", "parallel", "parallel", "reduction", "reduction"]}}
    ins(%t, %w : memref<{t}xf32>, memref<{w}xf32>) outs(%o : memref<{o}xf32>) {{
^bb0(%x: f32, %y: f32, %old: f32):
  %p = arith.mulf %x, %y : f32
  %r = arith.addf %old, %p : f32
  linalg.yield %r : f32
}}"""

COPY = "memref.copy %t, %o : memref<{t}xf32> to memref<{o}xf32>"

PROGRAMS = {
    "elementwise": (ELEMENTWISE, (6, 4), (4,), (6, 4)),
    "matmul": (MATMUL, (4, 6), (6, 3), (4, 3)),
    "convolution": (CONVOLUTION, (12, 4), (3, 4), (5, 4)),
    "time_in_batch": (TIME_IN_BATCH, (5, 4, 2), (3, 2, 3), (3, 4, 3)),
    "copy": (COPY, (6, 4), (1,), (6, 4)),
}


def text_of(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def program_of(kind: str, more: dict[str, tuple[int, ...]]) -> ir.Module:
    """Return a function of one operation on %t, %w and %o; its other arguments are `more`."""
    body, *shapes = PROGRAMS[kind]
    names = {"t": shapes[0], "w": shapes[1], "o": shapes[2]}
    arguments = ", ".join(
        f'%{name}: memref<{text_of(shape)}xf32> {{npu.name = "{name}"}}'
        for name, shape in {**names, **more}.items()
    )
    text = body.format(**{name: text_of(shape) for name, shape in names.items()})
    return ir.Module.parse(f"func.func @main({arguments}) {{\n{text}\nreturn\n}}")


def only_statement(program: TensorProgram) -> Statement:
    (statement,) = program.statements
    return statement


def instances(statement: Statement) -> Iterator[tuple[int, ...]]:
    """Yield the instances of a statement in order of execution."""
    highs = [statement.domain.dim_max_val(d).to_python() for d in range(len(statement.dims))]
    yield from product(*(range(high + 1) for high in highs))


def ranges_of(statement: Statement) -> list[tuple[int, int]]:
    dims = range(len(statement.dims))
    return [(0, statement.domain.dim_max_val(d).to_python()) for d in dims]


def pieces_of(statement: Statement, operand: int) -> list[Piece]:
    """Return what an input operand reads, as extraction sees it."""
    pieces: list[Piece] = []
    for access in statement.reads:
        if access.operand == operand:
            assert access.exprs is not None, statement.reason
            pieces.append(Piece(access.array, access.exprs, access.where))
            if access.fill is not None:
                pieces.append(Piece(None, (), (), access.fill))
    return pieces


def rewrite(module: ir.Module, reads: dict[int, Reading], writes: dict[int, Piece]) -> Statement:
    """Rewrite the only statement of `module` and return it as it is read again."""
    program = TensorProgram.from_module(module)
    plan = plan_rewrite(only_statement(program), reads, writes, program.arrays)
    values = {name: array.value for name, array in program.arrays.items()}
    plan.emit({name: value for name, value in values.items() if value is not None})
    assert module.operation.verify()
    return only_statement(TensorProgram.from_module(module))


def random_arrays(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        name: generator.integers(-9, 9, shape).astype(np.float32) for name, shape in shapes.items()
    }


def constant(value: int) -> Expr:
    return ir.AffineConstantExpr.get(value)


def element(pieces: Sequence[Piece], point: Sequence[int]) -> tuple[Any, ...]:
    """Return the array element, or the constant, that the first piece that holds gives."""
    for piece in pieces:
        if all(b.low <= evaluate_expr(b.expr, point) <= b.high for b in piece.where):
            if piece.array is None:
                return ("fill", FILL)
            return (piece.array, *(int(evaluate_expr(e, point)) for e in piece.index))
    raise AssertionError(f"no piece holds at {point}")


def argument_types(module: ir.Module) -> dict[str, ir.Type]:
    """Return the types of the arguments of @main by name."""
    function = module.body.operations[0]
    names = [ir.StringAttr(ir.DictAttr(a)["npu.name"]).value for a in function.arg_attrs]
    return dict(zip(names, function.type.inputs, strict=True))


def simulated(module: ir.Module, values: dict[str, np.ndarray], name: str) -> np.ndarray:
    """Lower a module, run it in the simulator and return argument `name` as it is afterwards."""
    number = list(argument_types(module)).index(name)
    type_ = argument_types(module)[name]
    text = str(module).replace("}) {", f'}}) -> ({type_} {{npu.name = "result"}}) {{', 1)
    head, _, tail = text.rpartition("    return\n")
    lowered = ir.Module.parse(f"{head}    return %arg{number} : {type_}\n{tail}")
    lowered.operation.attributes["npu.target"] = target_attribute(Target.load("tiny"))
    ConvertLinalgToNpuPass().run(lowered)
    AllocateScratchpadPass().run(lowered)
    inputs = {name: array.copy() for name, array in values.items()}
    return simulate(lowered, inputs).outputs["result"]
