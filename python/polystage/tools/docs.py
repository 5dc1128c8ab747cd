"""Write the reference pages from the code: `python -m polystage.tools.docs [--check]`."""

import inspect
import re
import sys
from pathlib import Path

from polystage.dialects.npu import ops
from polystage.machine.reference import targets_page
from polystage.passes.registry import Pass, field_types, pass_options, type_text
from polystage.pipeline import passes_in_order

_GENERATED = "<!-- Made by `python -m polystage.tools.docs`: change the code instead. -->\n\n"


def pages(root: Path) -> dict[Path, str]:
    """Return the text of every generated page by its path."""
    return {
        root / "docs" / "reference" / "dialect.md": dialect_page(),
        root / "docs" / "reference" / "passes.md": passes_page(root),
        root / "docs" / "targets.md": targets_page(),
    }


def dialect_page() -> str:
    """Return the reference of the npu dialect: meaning, fields and legality of every operation."""
    classes = [c for c in vars(ops).values() if inspect.isclass(c) and issubclass(c, ops.NpuOp)]
    sections = [_operation(c) for c in classes if "OPERATION_NAME" in vars(c)]
    module_doc = inspect.getdoc(ops) or ""
    return f"# The npu dialect\n\n{_GENERATED}{_about(module_doc)}\n" + "".join(sections)


def _about(doc: str) -> str:
    """Return the paragraphs of a module's docstring that are for readers of the page."""
    paragraphs = [p for p in doc.split("\n\n")[1:] if not p.startswith("This module")]
    return "\n\n".join(paragraphs).rstrip() + "\n"


def _operation(op_class: type[ops.NpuOp]) -> str:
    fields = "".join(f"| `{n}` | {_kind(kind)} |\n" for n, kind in field_types(op_class).items())
    rules = [*op_class.RULES, *op_class.TARGET_RULES]
    legality = "".join(f"* {_first_paragraph(rule)}\n" for rule in rules)
    return (
        f"\n## `{op_class.OPERATION_NAME}`\n\n{inspect.getdoc(op_class)}\n\n"
        f"| field | is |\n|---|---|\n{fields}\nLegal where:\n\n{legality}"
    )


def _kind(annotation: str) -> str:
    """Return the annotation of a field in words.

    >>> _kind("Sequence[MemRef]"), _kind("ir.FloatAttr | ir.IntegerAttr")
    ('any number of memref operands', 'FloatAttr or IntegerAttr')
    """
    words = {
        "MemRef": "memref operand",
        "MemRef | None": "memref operand, or absent",
        "Sequence[MemRef]": "any number of memref operands",
        "ext.Result[ir.MemRefType]": "memref result",
        "Any": "attribute",
    }
    plain = annotation.replace("ir.", "").replace("ext.", "").replace(" | ", " or ")
    return words.get(annotation, plain)


def _first_paragraph(item: object) -> str:
    return " ".join((inspect.getdoc(item) or "").partition("\n\n")[0].split())


def passes_page(root: Path) -> str:
    """Return the reference of our passes, each with the first case of its lit test."""
    ours = [p for p in passes_in_order() if p.__module__.startswith("polystage.")]
    sections = "".join(_pass(pass_class, root) for pass_class in ours)
    lead = "Any upstream pass may stand beside these in a pipeline.\n"
    return f"# Passes\n\n{_GENERATED}{lead}{sections}"


def _pass(pass_class: type[Pass], root: Path) -> str:
    text = f"\n## `{pass_class.name}`\n\n"
    text += f"Takes `{pass_class.input_form}`, gives `{pass_class.output_form}` form.\n\n"
    text += f"{inspect.getdoc(pass_class)}\n"
    options = pass_options(pass_class)
    if options:
        text += "\n| option | takes | default | |\n|---|---|---|---|\n"
    for option in options:
        default = f"`{option.default}`" if option.default not in ("", None, ()) else ""
        doc = " ".join(option.doc.split())
        text += f"| `{option.name}` | {type_text(option.type)} | {default} | {doc} |\n"
    example = first_case(test_of(pass_class, root))
    return text + (f"\nExample:\n\n{example}" if example else "")


def test_of(pass_class: type[Pass], root: Path) -> Path:
    """Return where the lit test of a pass is: its module's path under test/, with hyphens."""
    parts = pass_class.__module__.removeprefix("polystage.").split(".")
    name = parts[-1].replace("_", "-")
    return root.joinpath("test", *parts[:-1], f"{name}.mlir")


def first_case(path: Path) -> str:
    """Return the first case of a lit test as a block of MLIR, with the command that runs it."""
    if not path.is_file():
        return ""
    case = re.split(r"^// -----.*\n", path.read_text(), maxsplit=1, flags=re.MULTILINE)[0]
    command = re.search(r"^// RUN: *%?([^|\n\\]*)", case, re.MULTILINE)
    lines = [line for line in case.splitlines() if not re.match(r"\s*// *(RUN|CHECK)", line)]
    shell = command.group(1).replace("%s", path.name) if command else ""
    shell = shell.replace("2>&1", "").strip()
    body = "\n".join(lines).strip()
    return f"    {shell}\n\n```mlir\n{body}\n```\n"


def main(arguments: list[str] | None = None) -> int:
    """Write the pages, or with `--check` say which are out of date; return the exit code."""
    check = "--check" in (sys.argv[1:] if arguments is None else arguments)
    outdated = [
        path
        for path, text in pages(Path.cwd()).items()
        if not path.is_file() or path.read_text() != text
    ]
    for path in outdated:
        if check:
            print(f"{path}: out of date, run python -m polystage.tools.docs", file=sys.stderr)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(pages(Path.cwd())[path])
            print(path)
    return 1 if check and outdated else 0


if __name__ == "__main__":
    sys.exit(main())
