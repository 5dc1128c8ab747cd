"""Why an access cannot be written in the IR."""


class CannotRewriteError(Exception):
    """The accesses asked for cannot be expressed; `str()` is the reason, in words of a remark."""
