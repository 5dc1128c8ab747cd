"""What the documents name is there: files, folders, modules, links between pages."""

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from pkgutil import resolve_name

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
SOURCES = ("benchmarks", "core", "dialects", "docs", "examples", "passes", "python", "test")
READERS_OWN = ("model.*", "my_*", ".py", ".mlir", ".test", ".csv")
"""Files that a reader has, and suffixes of files."""
ELSEWHERE = ("release-notes/*", "about-neuron/*", "onnx/*")
"""Paths in repositories of others, which the text names beside them."""

PATH = re.compile(r"[\w.*<>-]*(?:/[\w.*<>-]+)*/?")
SUFFIX = re.compile(r".*\.(py|mlir|md|toml|cpp|h|svg|csv|test)")


def words(text: str) -> Iterator[str]:
    """Yield what stands in backticks or in a block of commands, word by word."""
    fences = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    spans = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)
    for code in (*fences, *spans):
        yield from code.split()


def named_paths(text: str) -> set[str]:
    """Return the words of a page that are paths in this repository."""
    found = {word for word in words(text) if PATH.fullmatch(word)}
    return {
        path
        for path in found
        if (SUFFIX.fullmatch(path) or (path.partition("/")[0] in SOURCES and "/" in path))
        and not any(fnmatchcase(path, other) for other in (*READERS_OWN, *ELSEWHERE))
    }


def paths_of_repository() -> list[str]:
    """Return `/path` of every file and folder that is source."""
    paths = [*ROOT.glob("*"), *(p for folder in SOURCES for p in (ROOT / folder).rglob("*"))]
    return [f"/{p.relative_to(ROOT).as_posix()}" for p in paths if "__pycache__" not in p.parts]


EXISTING = paths_of_repository()


def exists(path: str) -> bool:
    """Return whether a file or folder ends in `path`, where `*` and `<what>` stand for any name.

    A page names files from the folder that it is about.
    """
    plain = path.rstrip("/")
    if not re.search(r"[*<]", plain):
        return any(known.endswith(f"/{plain}") for known in EXISTING)
    pattern = re.sub(r"<\w+>", "*", plain)
    if "<" in plain:  # the name after a placeholder is the reader's choice
        pattern = pattern.partition("*")[0].rstrip("/")
    return any(fnmatchcase(known, f"*/{pattern}") for known in EXISTING)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
class TestPage:
    def test_paths_exist(self, page):
        missing = [path for path in sorted(named_paths(page.read_text())) if not exists(path)]
        assert not missing

    def test_links_lead_to_pages(self, page):
        links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
        own = [link for link in links if not link.startswith(("http://", "https://"))]
        assert not [link for link in own if not (page.parent / link).exists()]

    def test_modules_exist(self, page):
        spans = re.findall(r"`(polystage(?:\.\w+)+)", page.read_text())
        assert not [name for name in spans if not is_known(name)]


def is_known(name: str) -> bool:
    """Return whether a dotted name is a module or something in one."""
    try:
        resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


def test_a_module_that_is_not_there_is_found_missing():
    assert is_known("polystage.allocation.allocate")
    assert not is_known("polystage.allocation.nothing")
    assert not is_known("polystage.nowhere.nothing")


@pytest.mark.parametrize("path", ["passes/lower/tile.py", "planner/nobody.py", "no_such_*.mlir"])
def test_a_file_that_is_not_there_is_found_missing(path):
    assert named_paths(f"see `{path}`") == {path}
    assert not exists(path)


def test_placeholders_and_globs_stand_for_names():
    assert exists("passes/<stage>/map_banks.py")
    assert exists("test_*.py")
    assert not exists("no_folder/<stage>/map_banks.py")


def test_what_a_reader_has_is_no_path_of_ours():
    assert not named_paths("`polystage run model.mlir` on a `.py`, see `release-notes/README.md`")
