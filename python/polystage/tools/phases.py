"""Seconds per phase of a run, shown while it goes on where somebody looks."""

import sys
import time
from collections.abc import Generator
from contextlib import contextmanager

from rich.console import Console
from rich.status import Status


class Phases:
    """The phases so far; on a terminal the present one is shown on standard error."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._console = Console(stderr=True)
        self._status: Status | None = None

    @contextmanager
    def phase(self, name: str) -> Generator[None]:
        """Add the time of the block to phase `name`."""
        start = time.perf_counter()
        if sys.stderr.isatty():
            self._status = self._console.status(name)
            self._status.start()
        try:
            yield
        finally:
            if self._status:
                self._status.stop()
                self._status = None
            elapsed = time.perf_counter() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + elapsed

    def detail(self, text: str) -> None:
        """Say what the present phase is at."""
        if self._status:
            self._status.update(text)
