"""The reference page of targets: the fields' docstrings, the presets' values and notes."""

import re
from typing import cast

from polystage.machine import area
from polystage.machine.schema import FieldInfo, describe, type_words
from polystage.machine.target import PRESETS, Target

_INTRODUCTION = """\
# Targets

A target is a TOML file with every number that the compiler and the simulator know about a machine.
Name a preset or the path of a file (`--target neuroncore_v2`, `--target my_npu.toml`), change
single values with `--set sbuf.bytes_per_partition=98304` (the last part of a key will do where it
is unique), and look at the result with `polystage targets`.

A value is checked when it is read: its type, its range, and that it goes together with the others.
To describe a machine, copy the preset nearest to it from `python/polystage/machine/presets/`. A
key, or a whole table, whose value is a guess belongs into `assumptions`; a † marks it below, and
reports repeat it.

This page is generated: `python -m polystage.tools.docs`.
"""


def describe_fields() -> tuple[FieldInfo, ...]:
    """Return every field of a target: dotted key, type, unit and range, docstring."""
    return describe(Target)


def preset_notes(name: str) -> dict[str, str]:
    """Return the source that stands beside every value of a preset, by dotted key."""
    notes: dict[str, str] = {}
    table = ""
    for line in (PRESETS / f"{name}.toml").read_text(encoding="utf-8").splitlines():
        if header := re.fullmatch(r"\[([\w.]+)\]", line.strip()):
            table = header[1] + "."
        elif note := re.fullmatch(r"(\w+) = .*?\s#\s(.+)", line):
            notes[table + note[1]] = note[2]
    return notes


def targets_page() -> str:
    """Return the text of docs/targets.md."""
    presets = {name: Target.load(name) for name in Target.presets()}
    lines = [_INTRODUCTION, "## Presets", ""]
    lines += [f"* `{name}`: {target.description}" for name, target in presets.items()]
    lines += ["", *_area_section(presets), "", "## Keys", *_keys_tables(presets), ""]
    for name in presets:
        lines += [f"## Sources of `{name}`", "", *_legend(name), "", *_sources_table(name), ""]
    return "\n".join(lines).rstrip() + "\n"


_AREA = """\
## Area

An estimate, to compare designs with (`polystage.machine.area`): the sizes in a target times the
figures of its table `[area]`, which the presets take from published 45 nm processes as those of
`[energy]`. It is no statement about a real chip: wires between the parts, instruction fetch and
host interface are left out, and many figures are assumptions.
"""


def _area_section(presets: dict[str, Target]) -> list[str]:
    found = {name: area.estimate(target) for name, target in presets.items()}
    parts = next(iter(found.values())).parts_mm2
    lines = [_AREA, _row(["mm2", *(f"`{name}`" for name in presets)])]
    lines.append(_row(["---"] * (1 + len(presets))))
    for part in parts:
        lines.append(_row([part, *(f"{e.parts_mm2[part]:.4g}" for e in found.values())]))
    lines.append(_row(["sum", *(f"{e.total_mm2:.4g}" for e in found.values())]))
    return lines


def _keys_tables(presets: dict[str, Target]) -> list[str]:
    lines: list[str] = []
    table = None
    for info in describe_fields():
        prefix, _, name = info.key.rpartition(".")
        if prefix != table:
            table = prefix
            heads = ["key", "meaning", "unit", "allowed", *(f"`{preset}`" for preset in presets)]
            title = f"### `[{prefix}]`" if prefix else "### At the top"
            lines += ["", title, "", _row(heads), _row(["---"] * len(heads))]
        values = [_value(target, info) for target in presets.values()]
        meaning = info.doc.replace("|", "\\|")
        allowed = info.quantity.allowed() or type_words(info.type)
        lines.append(_row([f"`{name}`", meaning, info.quantity.unit, allowed, *values]))
    return lines


def _value(target: Target, info: FieldInfo) -> str:
    if info.key in ("name", "description", "assumptions"):
        return ""
    value = target.values()[info.key]
    mark = "†" if target.is_assumed(info.key) else ""
    if isinstance(value, bool):
        return str(value).lower() + mark
    if isinstance(value, tuple):
        return (", ".join(cast(tuple[str, ...], value)) or "none") + mark
    return f"{value:.12g}{mark}" if isinstance(value, float) else f"{value}{mark}"


def _legend(name: str) -> list[str]:
    """Return the comment block at the head of a preset, indented as code to keep its lines."""
    lines: list[str] = []
    for line in (PRESETS / f"{name}.toml").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(f"    {line[2:]}".rstrip())
    return lines


def _sources_table(name: str) -> list[str]:
    notes = preset_notes(name)
    rows = [_row([f"`{key}`", note.replace("|", "\\|")]) for key, note in notes.items()]
    return [_row(["key", "source"]), _row(["---", "---"]), *rows]


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
