"""Functions that numpy lacks; SciPy, which has them, takes long to import."""

from typing import Any


def erf(x: Any) -> Any:
    """Return the error function."""
    from scipy import special  # lazy: start-up time

    return special.erf(x)


def erfc(x: Any) -> Any:
    """Return 1 - erf(x), exact where that is small."""
    from scipy import special  # lazy: start-up time

    return special.erfc(x)


def logistic(x: Any) -> Any:
    """Return 1 / (1 + exp(-x))."""
    from scipy import special  # lazy: start-up time

    return special.expit(x)


def normal_distribution(x: Any) -> Any:
    """Return the part of a standard normal distribution below `x`."""
    from scipy import special  # lazy: start-up time

    return special.ndtr(x)
