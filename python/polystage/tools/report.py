"""polystage report: pages and tables of runs that were written as JSON."""

from __future__ import annotations

from collections.abc import Sequence

from polystage.errors import PolystageError
from polystage.report.comparison import print_comparison
from polystage.report.html import report_page
from polystage.report.load import load_report
from polystage.report.table import print_report
from polystage.tools.output import write_atomically

MOST_REPORTS = 2
"""A page shows one run, or compares two."""


def report(paths: Sequence[str], html: str) -> None:
    """Show one report, or the second beside the first; as a page where a file is named.

    Raises: PolystageError for a file that is no report, or a page that cannot be written.
    """
    if len(paths) > MOST_REPORTS:
        raise PolystageError(
            f"{len(paths)} reports were given, but at most {MOST_REPORTS} are compared",
            help="name the run before and the run after",
        )
    documents = [load_report(path) for path in paths]
    if html:
        write_atomically(html, report_page(documents))
    if len(documents) == 1:
        print_report(documents[0])
    else:
        print_comparison(documents[0], documents[1])
