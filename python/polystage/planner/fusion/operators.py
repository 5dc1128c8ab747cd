"""What a planner knows of the operators of a program: boxes of iterations, accesses, work."""

from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

from polystage.mlir import ir
from polystage.polyhedral import Access, Statement


class OperatorKind(StrEnum):
    """What carries an operator out."""

    CONTRACTION = "contraction"
    """Sums of products: the array of multipliers."""
    LANES = "lanes"
    """Elementwise work and other reductions: the vector engine."""
    GATHER = "gather"
    """Reads go where the data says, over all of an array."""
    ATTENTION = "attention"
    """Two contractions with a softmax between them, in one pass over the keys."""
    COPY = "copy"
    """Moves elements without arithmetic."""
    OPAQUE = "opaque"
    """Not modelled; touches all of every array that it names, alone in its group."""


@dataclass(frozen=True)
class Scratch:
    """A buffer that an operator needs beside its operands while it computes a chunk."""

    dims: tuple[int, ...]
    """Its axes: the chunk's extents along these dims of the operator."""
    element_bytes: int
    is_kept: bool = False
    """It lives while the reduction dims run, with the extents of what is accumulated at once."""


@dataclass(frozen=True)
class Operator:
    """Statements that run as one: an anchor, and elementwise statements that alone read its result.

    What lies between anchor and epilogue exists only chunk by chunk and is no array of the program.
    """

    name: str
    kind: OperatorKind
    statements: tuple[Statement, ...] = field(repr=False)
    """The anchor, then its epilogue in program order."""
    extents: tuple[int, ...]
    """Of the anchor's dims; an iteration of an operator is one of its anchor."""
    iterators: tuple[str, ...]
    """`parallel` or `reduction`, per dim."""
    reads: tuple[Access, ...]
    """Over the anchor's dims; the epilogue's depend on parallel dims only. What accumulation reads
    of its own result is not among them where `initial` says what it starts from."""
    writes: tuple[Access, ...]
    """Over the anchor's dims: where the last statement writes, one but for several outputs."""
    initial: ir.Attribute | None = None
    """What every element of the running result starts from; the fill that says so is no operator
    of its own."""
    macs: int = 0
    """Multiply-accumulates, of a contraction."""
    lane_operations: int = 0
    """Scalar operations of the bodies that the vector engine evaluates, over all iterations."""
    accumulator: int | None = None
    """Bytes per element of a running result beside the output; None where the output serves."""
    scratch: tuple[Scratch, ...] = ()
    reason: str = ""
    """Why an operator is opaque."""

    @property
    def write(self) -> Access:
        """The only write, or the first of several."""
        return self.writes[0]

    @property
    def layer(self) -> str:
        """The layer of the model that the anchor comes from."""
        return self.statements[0].location

    @property
    def epilogue(self) -> tuple[Statement, ...]:
        """The statements after the anchor."""
        return self.statements[1:]

    def is_epilogue(self, access: Access) -> bool:
        """Tell whether an access belongs to the epilogue: it happens when sums are complete."""
        return access.op is not None and any(s.op == access.op for s in self.epilogue)

    @cached_property
    def reductions(self) -> tuple[int, ...]:
        """The dims over which the operator accumulates."""
        return tuple(dim for dim, kind in enumerate(self.iterators) if kind == "reduction")

    @cached_property
    def parallels(self) -> tuple[int, ...]:
        """All other dims."""
        return tuple(dim for dim, kind in enumerate(self.iterators) if kind != "reduction")

    @cached_property
    def arrays(self) -> tuple[str, ...]:
        """The arrays that the operator reads or writes, each once, reads first."""
        return tuple(dict.fromkeys(access.array for access in (*self.reads, *self.writes)))
