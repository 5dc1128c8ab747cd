"""The errors that a user sees: what was found, what is allowed, what to do."""


class PolystageError(Exception):
    """A mistake in the input, told in one sentence with the way out.

    `message` says what was found and what is allowed, lower case, no final period. `help` says what
    to change. `op` is an MLIR operation (or anything with a `location`) that the message is about;
    `location` is the place as `file:line:col`, taken from `op` where it is not given.
    """

    def __init__(
        self, message: str, *, help: str = "", op: object = None, location: str = ""
    ) -> None:
        super().__init__(message)
        self.message = message
        self.help = help
        self.location = location or location_text(getattr(op, "location", None))

    def __str__(self) -> str:
        place = f"{self.location}: " if self.location else ""
        remedy = f"\nhelp: {self.help}" if self.help else ""
        return f"{place}{self.message}{remedy}"


class PassError(PolystageError):
    """A pass met IR that it cannot handle."""


class PlanError(PassError):
    """A plan of fused groups asks for what cannot be carried out."""


class PipelineError(PolystageError):
    """A textual pipeline is malformed, or names a pass or option that does not exist."""


class FormError(PolystageError):
    """The IR is not in the form that the next stage takes."""


class FrontendError(PolystageError):
    """A model file cannot be read or imported."""


class TargetError(PolystageError):
    """A target description is wrong, or does not exist."""


class SimulationError(PolystageError):
    """An npu program did something that the machine cannot do."""


def location_text(location: object) -> str:
    """Return an MLIR location as `file:line:col`, or as its bare name, or empty if it is unknown.

    >>> location_text('loc("model.mlir":3:5)')
    'model.mlir:3:5'
    >>> location_text('loc("/conv1/Conv"("model.mlir":3:5))')
    'model.mlir:3:5'
    >>> location_text("loc(unknown)")
    ''
    """
    text = "" if location is None else str(location)
    pieces = text.split('"')  # odd pieces are quoted strings
    for quoted, after in zip(pieces[1::2], pieces[2::2], strict=True):
        position = after.partition(")")[0].partition(" to ")[0].strip()
        if position.startswith(":"):
            return f"{quoted}{position}"
    return pieces[1] if len(pieces) > 1 else ""
