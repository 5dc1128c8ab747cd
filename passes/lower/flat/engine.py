"""What carries an operator out, chunk by chunk."""

from __future__ import annotations

from typing import Protocol

from polystage.passes.lower.flat.chunk import Chunk


class Engine(Protocol):
    """Writes the instructions of one operator; `NestWriter` says for which chunks, and moves what
    is streamed."""

    def begin(self, chunk: Chunk) -> None:
        """Prepare a region: a chunk of the loops outside of all reduction loops."""
        ...

    def contribute(self, chunk: Chunk) -> None:
        """Compute a chunk, or add what it contributes to the running result."""
        ...

    def finish(self, chunk: Chunk) -> None:
        """Make the output of a chunk of the parallel loops, after all that contributes."""
        ...
