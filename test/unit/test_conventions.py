"""The conventions of STYLE sections 1 and 3.2: names, registration, imports, generated docs."""

import ast
import doctest
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from polystage.dialects.npu import ops
from polystage.passes.registry import PASSES
from polystage.tools import docs

ROOT = Path(__file__).parents[2]
FOLDERS = {
    "polystage": ROOT / "python" / "polystage",
    "polystage.dialects": ROOT / "dialects",
    "polystage.passes": ROOT / "passes",
}

# A module imports from its own layer and those above it in this list.
LAYERS = (
    "errors mlir linear dtypes constants slices special_functions interface threads compiled "
    "evaluator machine allocation",
    "dialects polyhedral forms",
    "planner synchronisation simulator reference",
    "passes",
    "pipeline_syntax pipeline",
    "frontends report explore",
    "tools",
)
LAYER_OF = {name: rank for rank, names in enumerate(LAYERS) for name in names.split()}
OPTIONAL_EXTRAS = {"torch", "jax", "jaxlib", "transformers", "torch_mlir"}


def source_files() -> Iterator[tuple[str, Path]]:
    """Yield (module, file) of everything that goes into the package."""
    for package, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            yield ".".join([package, *parts]).removesuffix(".__init__"), path


MODULES = list(source_files())


def camel_case(words: str) -> str:
    return "".join(word.capitalize() for word in words.replace("_", "-").split("-"))


def short_name(pass_name: str) -> str:
    """Return a pass name without the prefix of its dialect or library."""
    return pass_name.removeprefix("npu-").removeprefix("poly-")


def imported_modules(tree: ast.AST) -> Iterator[tuple[str, ast.stmt]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from ((name, node) for name in names)


@pytest.mark.parametrize("pass_class", PASSES.values(), ids=PASSES.keys())
class TestPass:
    def test_class_and_module_are_called_like_it(self, pass_class):
        name = short_name(pass_class.name)
        assert pass_class.__name__ == camel_case(name) + "Pass"
        assert pass_class.__module__.split(".")[-1] == name.replace("-", "_")

    def test_has_a_lit_test_in_the_mirrored_place(self, pass_class):
        assert docs.test_of(pass_class, ROOT).is_file()

    def test_is_documented(self, pass_class):
        assert (pass_class.__doc__ or "").strip()
        assert all(option.doc for option in docs.pass_options(pass_class))


def test_every_pass_is_registered_by_importing_the_package():
    registered = {pass_class.__module__ for pass_class in PASSES.values()}
    for module, path in MODULES:
        defines_pass = "\n@register_pass\n" in path.read_text() and not module.endswith("registry")
        assert not defines_pass or module in registered, f"{module} is not in passes/__init__.py"


def test_operations_are_called_like_their_classes():
    for name, value in vars(ops).items():
        if hasattr(value, "OPERATION_NAME"):
            assert name == camel_case(value.OPERATION_NAME.removeprefix("npu.")) + "Op"


def test_no_module_has_a_name_that_says_nothing():
    for module, _ in MODULES:
        last = module.split(".")[-1]
        assert last not in ("utils", "util", "misc", "common", "helpers"), module
        assert not last.startswith("new_") and not last[-1].isdigit(), module


@pytest.mark.parametrize(("module", "path"), MODULES, ids=[m for m, _ in MODULES])
class TestImports:
    def test_point_down(self, module, path):
        own = module.split(".")[1] if "." in module else "tools"
        for name, node in imported_modules(ast.parse(path.read_text())):
            parts = name.split(".")
            if parts[0] == "polystage" and len(parts) > 1 and parts[1] in LAYER_OF:
                assert LAYER_OF[parts[1]] <= LAYER_OF[own], f"line {node.lineno}: {name}"

    def test_bindings_come_from_one_place(self, module, path):
        if module == "polystage.mlir" or module.startswith("polystage.frontends"):
            return
        for name, node in imported_modules(ast.parse(path.read_text())):
            assert name.split(".")[0] not in ("torch_mlir", "mlir"), f"line {node.lineno}: {name}"

    def test_stand_at_the_top(self, module, path):
        lines = path.read_text().splitlines()
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef):
                for name, node in imported_modules(function):
                    optional = name.split(".")[0] in OPTIONAL_EXTRAS
                    own_module_of_extra = name.startswith("polystage.frontends.")
                    lazy = "# lazy: " in lines[node.lineno - 1]  # with the reason
                    assert optional or own_module_of_extra or lazy, f"line {node.lineno}: {name}"


@pytest.mark.parametrize("module", [m for m, p in MODULES if ">>> " in p.read_text()])
def test_examples_in_docstrings_hold(module):
    failures, _ = doctest.testmod(importlib.import_module(module))
    assert failures == 0


def test_generated_docs_are_up_to_date():
    for path, text in docs.pages(ROOT).items():
        assert path.is_file() and path.read_text() == text, (
            f"{path.relative_to(ROOT)} is out of date: python -m polystage.tools.docs"
        )
