"""The programs that docs/synchronisation.md shows are what the tool prints."""

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from polystage.dialects import npu
from polystage.mlir import func, ir
from polystage.pipeline import run_pipeline

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/synchronisation.md").read_text()
EXAMPLE = ROOT / "test/passes/placement/Inputs/scaled-rows.mlir"


def shown(module: ir.Module) -> Iterator[str]:
    """Yield every function as the page shows it: without types, constants and views."""
    for function in module.body.operations:
        if isinstance(function, func.FuncOp):
            lines = str(function).splitlines()
            kept = [
                line for line in lines if not re.search(r"arith\.constant|memref\.subview", line)
            ]
            yield "\n".join(re.sub(r" : \(?(memref|\(\)).*$", "", line) for line in kept)


@pytest.mark.parametrize("synchronise", [False, True], ids=["before", "after"])
def test_page_shows_what_the_tool_prints(synchronise: bool) -> None:
    context = ir.Context()
    npu.load(context)
    module = ir.Module.parse(EXAMPLE.read_text(), context)
    if synchronise:
        passes = "npu-attach-target{target=tiny},npu-insert-sync"
        run_pipeline(module, f"builtin.module({passes})")
        attribute = module.operation.attributes["npu.semaphores"]
        assert f"npu.semaphores = {attribute}" in PAGE
    for function in list(shown(module))[: 2 if synchronise else 1]:
        assert textwrap.indent(function, "    ") in PAGE
