"""docs/timing.md names every timing rule of the machine, and tests that exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "timing.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(test_\w+\.py)::(\w+)`", PAGE)))


def test_the_page_names_tests() -> None:
    assert len(NAMED) > 25


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_named_test_exists(file: str, name: str) -> None:
    tree = ast.parse((ROOT / "test" / "unit" / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"`((?:test|python|benchmarks)/[^`]+)`", PAGE)))
)
def test_named_file_exists(path: str) -> None:
    assert (ROOT / path).exists()


def test_every_timing_test_is_named() -> None:
    """A rule that has a test in test_cost.py stands on the page; properties do not."""
    tree = ast.parse((ROOT / "test" / "unit" / "test_cost.py").read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    rules = {f.name for f in functions if f.name.startswith("test_") and not _is_property(f)}
    others = {"test_peak", "test_energy", "test_bounds", "test_area"}
    others |= {name for name in rules if "area" in name}
    assert rules - others <= {name for file, name in NAMED if file == "test_cost.py"}


def _is_property(function: ast.FunctionDef) -> bool:
    return any("given" in ast.unparse(decorator) for decorator in function.decorator_list)
