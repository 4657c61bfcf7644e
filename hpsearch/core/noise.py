"""How far a measured accuracy can be trusted: the noise of having few validation images."""

from __future__ import annotations

import math

Z = 1.959964  # of a normal distribution's 95 % interval


def wilson(share: float, n: int) -> tuple[float, float]:
    """Returns the 95 % interval of a share that was counted on n cases (Wilson 1927).

    It stays inside [0, 1] and has a width at 0 and 1 too.

    >>> [round(bound, 3) for bound in wilson(0.9, 100)]
    [0.826, 0.945]
    >>> [round(bound, 3) for bound in wilson(1.0, 100)]
    [0.963, 1.0]
    """
    if n < 1:
        raise ValueError(f"found n = {n}, expected 1 or more cases")
    middle = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n)) / (1 + Z * Z / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def standard_error(share: float, n: int) -> float:
    """Returns the binomial standard error of a share that was counted on n cases.

    >>> round(standard_error(0.9, 100), 3)
    0.03
    """
    return math.sqrt(max(0.0, share * (1 - share)) / n)


def gain(better: float, worse: float, n: int) -> tuple[float, float]:
    """Returns the 95 % interval of better - worse, each counted on n cases (Newcombe 1998).

    As if the cases were not the same. Two nets err on much the same images, so that the true
    interval is narrower: what this one calls beyond the noise is.

    >>> [round(bound, 3) for bound in gain(0.95, 0.90, 750)]
    [0.023, 0.077]
    """
    low_better, high_better = wilson(better, n)
    low_worse, high_worse = wilson(worse, n)
    difference = better - worse
    return (
        difference - math.hypot(better - low_better, high_worse - worse),
        difference + math.hypot(high_better - better, worse - low_worse),
    )


def is_beyond_noise(better: float, worse: float, n: int) -> bool:
    """Whether the better accuracy is better for certain, as far as n images can tell.

    >>> is_beyond_noise(0.95, 0.90, 750), is_beyond_noise(0.95, 0.94, 750)
    (True, False)
    """
    return gain(better, worse, n)[0] > 0
