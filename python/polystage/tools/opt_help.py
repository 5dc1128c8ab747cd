"""What `polystage-opt --help`, `--version` and `--show-dialects` print."""

import textwrap
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

from polystage.dialects import npu
from polystage.mlir import ir
from polystage.passes.registry import Pass, field_docs, pass_options, type_text
from polystage.pipeline import passes_in_order

_UPSTREAM_DIALECTS = (
    "affine arith bufferization builtin cf complex func irdl linalg llvm math memref ml_program "
    "quant scf shape sparse_tensor stablehlo tensor tm_tensor torch torch_c tosa transform ub "
    "vector"
)


def help_text(options_class: type[Any]) -> str:
    """Return usage, options and our passes with their options."""
    lines = [
        "usage: polystage-opt [options] [file]",
        "",
        "Reads MLIR text or bytecode, runs passes in the order given, prints the result. Passes",
        "are our own, below, and all upstream ones (see torch-mlir-opt --help): as flags,",
        "--canonicalize --npu-attach-target=target=tiny, or in --pass-pipeline.",
        "",
        "options:",
    ]
    for name, doc in field_docs(options_class).items():
        if name != "input":
            lines += _entry("-" * (1 + (len(name) > 1)) + name.replace("_", "-"), doc, 2)
    lines += ["", "passes:"]
    for pass_class in passes_in_order():
        lines += _pass_entry(pass_class)
    return "\n".join(lines) + "\n"


def _pass_entry(pass_class: type[Pass]) -> Iterator[str]:
    summary = (pass_class.__doc__ or "").strip().partition("\n")[0]
    yield from _entry(f"--{pass_class.name}", summary, 2)
    for option in pass_options(pass_class):
        default = "" if option.default in (None, "", ()) else f" (default {option.default})"
        doc = " ".join((option.doc or type_text(option.type)).split())
        yield from _entry(f"{option.name}=", doc + default, 6)


def _entry(name: str, doc: str, indent: int) -> list[str]:
    head = f"{' ' * indent}{name}"
    body = textwrap.wrap(" ".join(doc.split()), width=62) or [""]
    first = f"{head:<36} {body[0]}" if len(head) < 36 else f"{head}\n{'':36} {body[0]}"
    return [first, *(f"{'':36} {line}" for line in body[1:])]


def version_text() -> str:
    """Return the versions that matter for a bug report."""
    return f"polystage {version('polystage')}, torch-mlir {version('torch-mlir')}\n"


def dialects_text() -> str:
    """Return the names of the dialects that can be read."""
    names = ["npu"]
    with ir.Context() as context:
        npu.load(context)
        for name in _UPSTREAM_DIALECTS.split():
            try:
                context.get_dialect_descriptor(name)
            except ValueError:
                continue
            names.append(name)
    return f"Available Dialects: {', '.join(sorted(names))}\n"
