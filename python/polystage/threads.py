"""How many threads numpy's matrix products use."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

try:
    from threadpoolctl import threadpool_limits
except ImportError:  # slower on a busy machine, not wrong
    threadpool_limits = None


def one_blas_thread() -> AbstractContextManager[Any]:
    """Return a context in which BLAS works in the calling thread alone.

    Tiles are small: more threads gain little on an idle machine, and waiting for each other costs
    ten times the work on a busy one.
    """
    return nullcontext() if threadpool_limits is None else threadpool_limits(1, user_api="blas")
