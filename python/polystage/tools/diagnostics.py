"""Diagnostics as mlir-opt prints them, and their comparison with `expected-error` comments."""

import re
from dataclasses import dataclass, field
from typing import Any

from polystage.errors import PolystageError, location_text
from polystage.mlir import ir


@dataclass(frozen=True)
class Diagnostic:
    """One message; `line` and `column` count from 1 and are 0 where the place is unknown."""

    severity: str
    message: str
    file: str = ""
    line: int = 0
    column: int = 0
    help: str = ""

    def render(self, default_file: str) -> str:
        """Return the message as `file:line:col: severity: text`, with its help below."""
        file = self.file if self.file not in ("", "-") else default_file
        place = f"{file}:{self.line}:{self.column}" if self.line else file
        remedy = f"\nhelp: {self.help}" if self.help else ""
        return f"{place}: {self.severity}: {self.message}{remedy}"

    @property
    def text(self) -> str:
        """Return the message with its help, as `expected-error` compares it."""
        return f"{self.message}\nhelp: {self.help}" if self.help else self.message


@dataclass
class Collector:
    """Gathers what a context emits, in order; errors too, so that none is lost."""

    diagnostics: list[Diagnostic] = field(default_factory=list[Diagnostic])

    def attach(self, context: ir.Context) -> None:
        """Receive every diagnostic of `context` from now on."""
        context.emit_error_diagnostics = True
        context.attach_diagnostic_handler(self._handle)

    def _handle(self, diagnostic: Any) -> bool:
        severity = diagnostic.severity.name.lower()
        self.add(severity, diagnostic.message, location_text(diagnostic.location))
        for note in diagnostic.notes:
            if not note.message.startswith("see current operation"):
                self.add("note", note.message, location_text(note.location))
        return True

    def add(self, severity: str, message: str, location: str, help: str = "") -> None:
        """Append a diagnostic whose place is `file:line:col`, a bare name, or empty."""
        match = re.fullmatch(r"(.*):(\d+):(\d+)", location)
        file, line, column = match.groups() if match else (location, "0", "0")
        self.diagnostics.append(Diagnostic(severity, message, file, int(line), int(column), help))

    def add_error(self, error: PolystageError) -> None:
        """Append one of our errors, unless upstream has already emitted it."""
        if not isinstance(error.__cause__, ir.MLIRError) or not self.has_errors():
            self.add("error", error.message, error.location, error.help)

    def has_errors(self) -> bool:
        """Return whether an error is among the diagnostics."""
        return any(d.severity == "error" for d in self.diagnostics)


@dataclass(frozen=True)
class Expectation:
    """An `expected-error {{text}}` comment; `line` is where it must be, 0 for unknown."""

    severity: str
    text: str
    line: int
    comment_line: int
    is_regex: bool

    def matches(self, diagnostic: Diagnostic) -> bool:
        """Return whether a diagnostic is the expected one."""
        if diagnostic.severity != self.severity or diagnostic.line != self.line:
            return False
        if self.is_regex:
            return re.search(self.text, diagnostic.text) is not None
        return self.text in diagnostic.text


_EXPECTATION = re.compile(
    r"expected-(error|warning|remark|note)(-re)?"
    r" *(?:@([+-]\d+|above|below|unknown))? *\{\{(.*?)\}\}"
)


def find_expectations(source: str) -> list[Expectation]:
    """Return the expectations in the comments of `source`."""
    found: list[Expectation] = []
    for number, line in enumerate(source.splitlines(), start=1):
        for match in _EXPECTATION.finditer(line):
            severity, regex, place, text = match.groups()
            found.append(
                Expectation(severity, text, _expected_line(place, number), number, bool(regex))
            )
    return found


def _expected_line(place: str | None, comment_line: int) -> int:
    offsets = {None: 0, "above": -1, "below": 1}
    if place == "unknown":
        return 0
    return comment_line + (offsets[place] if place in offsets else int(place or 0))


def mismatches(source: str, diagnostics: list[Diagnostic]) -> list[Diagnostic]:
    """Return an error for each diagnostic that is unexpected and each expectation not met."""
    missing = find_expectations(source)
    problems: list[Diagnostic] = []
    for diagnostic in diagnostics:
        expectation = next((e for e in missing if e.matches(diagnostic)), None)
        if expectation is not None:
            missing.remove(expectation)
        elif diagnostic.severity != "note":
            text = f"unexpected {diagnostic.severity}: {diagnostic.text}"
            problems.append(
                Diagnostic("error", text, diagnostic.file, diagnostic.line, diagnostic.column)
            )
    return problems + [
        Diagnostic(
            "error", f'expected {e.severity} "{e.text}" was not produced', "", e.comment_line, 1
        )
        for e in missing
    ]


def source_excerpt(diagnostic: Diagnostic, source: str) -> str:
    """Return the line that a diagnostic is about with a caret below, or nothing."""
    lines = source.splitlines()
    if not 0 < diagnostic.line <= len(lines) or len(lines[diagnostic.line - 1]) > 400:
        return ""
    return f"{lines[diagnostic.line - 1]}\n{' ' * (diagnostic.column - 1)}^"
