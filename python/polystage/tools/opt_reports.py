"""The timing and statistics reports of polystage-opt, in mlir-opt's layout."""

from collections.abc import Sequence

from polystage.pipeline import PassRecord

_RULE = f"===-{'-' * 71}-===\n"


def timing_report(records: Sequence[PassRecord]) -> str:
    """Return the wall time of each element of the pipeline, and the total."""
    total = sum(record.seconds for record in records)
    lines = [
        f"  Total Execution Time: {total:.4f} seconds\n\n",
        "  ----Wall Time----  ----Name----\n",
    ]
    for record in records:
        lines.append(f"  {_time(record.seconds, total)}  {record.name}\n")
    lines.append(f"  {_time(total, total)}  Total\n")
    return _titled("Execution time report", lines)


def statistics_report(records: Sequence[PassRecord]) -> str:
    """Return what each pass counted; a pass that counts nothing is left out."""
    lines: list[str] = []
    for record in records:
        if record.statistics:
            lines.append(f"'{record.name}'\n")
            lines += [f"  (S) {count:8} {what}\n" for what, count in record.statistics.items()]
    return _titled("Pass statistics report", lines)


def _titled(title: str, lines: Sequence[str]) -> str:
    return f"{_RULE}{'... ' + title + ' ...':^79}\n{_RULE}{''.join(lines)}"


def _time(seconds: float, total: float) -> str:
    return f"{seconds:8.4f} ({100 * seconds / total if total else 0:5.1f}%)"
