# pyright: reportIncompleteStub=false
"""The bindings carry no types that a checker can read: all that comes from them is unknown."""

from typing import Any

HAS_IMPORTERS: bool

def __getattr__(name: str) -> Any: ...
