"""Elementwise operations with more operands than one instruction reads."""

import numpy as np

import polystage as ps
from polystage.mlir import ir
from polystage.passes.polyhedral.split_wide_bodies import split_wide_bodies


def sum_of(count: int) -> ir.Module:
    """Return `out = relu(a0 + .. ) + b` over 6x5, where every second array is a row."""
    names = [f"a{n}" for n in range(count)]
    types = ["memref<5xf32>" if n % 2 else "memref<6x5xf32>" for n in range(count)]
    maps = ["affine_map<(m, n) -> (n)>" if n % 2 else "#id" for n in range(count)]
    sums = [f"%s0 = arith.addf %x0, %x{count - 1} : f32"]
    sums += [f"%s{n} = arith.addf %s{n - 1}, %x{n} : f32" for n in range(1, count - 1)]
    arguments = ", ".join(f"%{name}: {type_}" for name, type_ in zip(names, types, strict=True))
    body = "\n".join(sums)
    context = ir.Context()
    return ir.Module.parse(
        f"""
        #id = affine_map<(m, n) -> (m, n)>
        func.func @main({arguments}) -> memref<6x5xf32> {{
          %zero = arith.constant 0.0 : f32
          %out = memref.alloc() : memref<6x5xf32>
          linalg.generic {{indexing_maps = [{", ".join(maps)}, #id],
                           iterator_types = ["parallel", "parallel"]}}
            ins({", ".join(f"%{n}" for n in names)} : {", ".join(types)})
            outs(%out : memref<6x5xf32>) {{
          ^bb0({", ".join(f"%x{n}: f32" for n in range(count))}, %old: f32):
            {body}
            %r = arith.maximumf %s{count - 2}, %zero : f32
            linalg.yield %r : f32
          }}
          return %out : memref<6x5xf32>
        }}""",
        context,
    )


def widths(module: ir.Module) -> list[int]:
    (function,) = module.body.operations
    block = function.regions[0].blocks[0]
    generics = [op for op in block.operations if op.operation.name == "linalg.generic"]
    return [len(op.operation.operands) for op in generics]


def test_wide_body_is_taken_apart() -> None:
    module = sum_of(25)
    with module.context, ir.Location.unknown():
        assert split_wide_bodies(module) == 2
        assert module.operation.verify()
    assert widths(module) == [12, 12, 6]


def test_body_that_fits_stays() -> None:
    module = sum_of(11)
    before = str(module)
    with module.context, ir.Location.unknown():
        assert split_wide_bodies(module) == 0
    assert str(module) == before


def test_wide_body_computes_the_same() -> None:
    generator = np.random.default_rng(0)
    inputs = {
        f"arg{n}": generator.standard_normal(5 if n % 2 else (6, 5)).astype(np.float32)
        for n in range(25)
    }
    program = ps.compile(
        sum_of(25), target="flat", settings=("scratchpad_bytes=65536",), dtype="f32"
    )
    (found,) = ps.simulate(program, inputs).outputs.values()
    expected = np.maximum(sum(inputs.values()), 0)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
