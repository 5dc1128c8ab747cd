"""Reads problems in the format of MiniMalloc's benchmarks: one buffer per line of a CSV file."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from polystage.allocation.problem import AllocationError, Buffer, Memory, Problem

_COLUMNS = {
    "id": "id",
    "buffer": "id",
    "buffer_id": "id",
    "lower": "lower",
    "start": "lower",
    "begin": "lower",
    "upper": "upper",
    "end": "end",
    "size": "size",
    "alignment": "alignment",
    "gaps": "gaps",
    "hint": "hint",
    "offset": "offset",
}
_NEEDED = ("id", "lower", "size")


def read_problem(path: Path, capacity: int | None = None) -> Problem:
    """Return the problem of a file; its capacity is the number before `.csv` in its name, if there
    is one and no other is given.

    Columns: `id`, `lower` and `upper` (half-open; or `end`, the last position), `size`; and, where
    they are there, `alignment`, `gaps` ("3-5 8-9", half-open as the rest), `offset` (a fixed
    address), `hint`.

    Raises:
        AllocationError: the file is not of this format.
    """
    if capacity is None and path.stem.rpartition(".")[2].isdigit():
        capacity = int(path.stem.rpartition(".")[2])
    with path.open(newline="") as file:
        rows = csv.reader(line for line in file if line.strip())
        header = _header(path, next(rows, []))
        buffers = [
            _buffer(_fields(f"{path.name}:{number}", header, row), f"{path.name}:{number}")
            for number, row in enumerate(rows, 2)
        ]
    return Problem(buffers, (Memory(capacity=capacity),))


def _header(path: Path, names: list[str]) -> list[str]:
    for name in names:
        if name.strip() not in _COLUMNS:
            raise AllocationError(
                f"column '{name.strip()}' is not known",
                help=f"columns are {', '.join(_COLUMNS)}",
                location=f"{path.name}:1",
            )
    header = [_COLUMNS[name.strip()] for name in names]
    missing = [name for name in _NEEDED if name not in header]
    if not {"upper", "end"} & set(header):
        missing.append("upper")
    if missing or len(set(header)) < len(header):
        raise AllocationError(
            f"column '{missing[0]}' is missing" if missing else "a column is there twice",
            help="the first line names the columns, at least id,lower,upper,size",
            location=f"{path.name}:1",
        )
    return header


def _fields(place: str, header: list[str], row: list[str]) -> Mapping[str, str]:
    if len(row) != len(header):
        raise AllocationError(
            f"{len(row)} fields where the first line names {len(header)} columns", location=place
        )
    return {name: field.strip() for name, field in zip(header, row, strict=True)}


def _buffer(fields: Mapping[str, str], place: str) -> Buffer:
    after = 1 if "end" in fields else 0
    start = _integer("lower", fields["lower"], place)
    end = _integer("upper", fields["end" if after else "upper"], place) + after
    if end < start:
        raise AllocationError(f"buffer '{fields['id']}' ends before it starts", location=place)
    return Buffer(
        fields["id"],
        start,
        end,
        _integer("size", fields["size"], place),
        gaps=tuple(_gap(text, after, place) for text in fields.get("gaps", "").split()),
        alignment=_optional("alignment", fields, place) or 1,
        address=_optional("offset", fields, place),
        hint=_optional("hint", fields, place),
    )


def _gap(text: str, after: int, place: str) -> tuple[int, int]:
    if "@" in text:
        raise AllocationError(
            f"gap '{text}' keeps a part of the buffer, which is not supported",
            help="make two buffers of it, or leave the gap out",
            location=place,
        )
    start, dash, end = text.partition("-")
    if not dash:
        raise AllocationError(
            f"gap '{text}' is not a range", help="write it as 3-5", location=place
        )
    return _integer("gaps", start, place), _integer("gaps", end, place) + after


def _optional(column: str, fields: Mapping[str, str], place: str) -> int | None:
    return _integer(column, fields[column], place) if fields.get(column) else None


def _integer(column: str, text: str, place: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise AllocationError(
            f"'{text}' in column '{column}' is not an integer", location=place
        ) from None
