"""The polyhedral models that docs/data-movement.md shows are what the tool prints."""

import textwrap
from pathlib import Path

import pytest

from polystage.mlir import ir
from polystage.pipeline import run_pipeline
from polystage.polyhedral import TensorProgram, print_program

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/data-movement.md").read_text()
INPUTS = ROOT / "test/passes/polyhedral/Inputs"


@pytest.mark.parametrize("eliminate", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("name", ["channel-shuffle", "concat"])
def test_page_shows_what_the_tool_prints(name: str, eliminate: bool) -> None:
    with ir.Context():
        module = ir.Module.parse((INPUTS / f"{name}.mlir").read_text())
    if eliminate:
        run_pipeline(module, "builtin.module(poly-eliminate-copies)")
    printed = print_program(TensorProgram.from_module(module)).rstrip()
    assert textwrap.indent(printed, "    ") in PAGE
