"""Plain text tables of models, and the choice of models on the command line."""

import argparse
from collections.abc import Sequence

import models
from rich.box import SIMPLE_HEAD
from rich.table import Table


def model_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with the option `--model`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--model", action="append", default=[], help="only this one; may be repeated"
    )
    return parser


def selected(wanted: Sequence[str]) -> list[str]:
    """Return the models of these names, with or without their group, or all for none."""
    for name in wanted:
        if not models.matching(name):
            raise SystemExit(f"no model '{name}', only: {', '.join(models.MODELS)}")
    return [m for name in wanted for m in models.matching(name)] or list(models.MODELS)


def new_table(title: str, texts: Sequence[str], numbers: Sequence[str]) -> Table:
    """Return an empty table with columns of text, then of figures."""
    table = Table(
        title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False
    )
    for column in texts:
        table.add_column(column, no_wrap=True)
    for column in numbers:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def megabytes(count: int | None) -> str:
    return "-" if count is None else f"{count / 1e6:.3f}"
