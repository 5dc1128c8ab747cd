"""Bounds are bounds: over models, targets and types, nothing achieved is better than its bound.

All models, PyTorch's large ones included: benchmarks/bounds.py.
"""

from functools import cache

import numpy as np
import pytest
from bounds import violations
from models import load, small_cases

import polystage as ps
from polystage.frontends import ImportedModel, load_mlir
from polystage.machine import Target
from polystage.simulator import simulate

FLOATS = ("f32", "bf16", "f16")
PRODUCT = """
func.func @main(%a: tensor<70x90x{a}>, %b: tensor<90x50x{a}>) -> tensor<70x50x{c}> {{
  %zero = arith.constant {zero} : {c}
  %empty = tensor.empty() : tensor<70x50x{c}>
  %start = linalg.fill ins(%zero : {c}) outs(%empty : tensor<70x50x{c}>) -> tensor<70x50x{c}>
  %sum = linalg.matmul ins(%a, %b : tensor<70x90x{a}>, tensor<90x50x{a}>)
    outs(%start : tensor<70x50x{c}>) -> tensor<70x50x{c}>
  return %sum : tensor<70x50x{c}>
}}
"""
PRODUCTS = {"i8": ("i8", "i32", "0"), "f16": ("f16", "f32", "0.0"), "f32": ("f32", "f32", "0.0")}
LIGHT = ("squeezenet", "shufflenet")


@cache
def model(name: str) -> ImportedModel:
    group, _, key = name.partition("/")
    if group == "product":
        a, c, zero = PRODUCTS[key]
        return load_mlir(PRODUCT.format(a=a, c=c, zero=zero).encode(), name)
    return load(name)


def check(name: str, target: str, dtype: str, **options: object) -> None:
    program = ps.compile(model(name).module, target=target, dtype=dtype)
    result = simulate(program, timing_only=True, **options)
    assert result.totals.latency_ns > 0
    assert violations(result) == []


@pytest.mark.parametrize("target", Target.presets())
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", small_cases.CASES)
def test_small_cases(name: str, target: str, dtype: str) -> None:
    check(f"small/{name}", target, dtype)


@pytest.mark.parametrize("target", Target.presets())
@pytest.mark.parametrize("dtype", PRODUCTS)
def test_products(dtype: str, target: str) -> None:
    """Types that no model here has, i8 with its own rate among them."""
    check(f"product/{dtype}", target, "f32")


@pytest.mark.parametrize("order", ["interlocked", "sequential"])
@pytest.mark.parametrize("name", small_cases.CASES)
def test_orders(name: str, order: str) -> None:
    check(f"small/{name}", "neuroncore_v2", "bf16", order=order)


@pytest.mark.parametrize("name", small_cases.CASES)
def test_several_inferences(name: str) -> None:
    check(f"small/{name}", "neuroncore_v2", "bf16", inferences=3)


@pytest.mark.parametrize("target", ["inferentia1", "neuroncore_v2", "scalesim_ws"])
@pytest.mark.parametrize("name", LIGHT)
def test_light_models(name: str, target: str) -> None:
    check(f"light/{name}", target, "bf16")


def test_a_violation_is_found() -> None:
    """Were an instruction free, the check would say so."""
    program = ps.compile(model("product/f32").module, target="neuroncore_v2", dtype="f32")
    result = simulate(program, timing_only=True)
    faster = np.float64(result.totals.latency_ns / 1e6)
    totals = vars(result.totals) | {"latency_ns": faster}
    broken = vars(result) | {"totals": type(result.totals)(**totals)}
    found = violations(type(result)(**{k: v for k, v in broken.items() if k != "residences"}))
    assert any("total: latency" in text for text in found)
    assert any("is busy for" in text for text in found)
