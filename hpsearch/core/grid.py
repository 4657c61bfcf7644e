"""Grids over a space: which values a dimension gives, and which combinations can exist."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from hpsearch.core.space import ChoiceDim, Dim, FloatDim, IntDim, Space, Value, draw


def grid_values(dim: Dim, points: int) -> tuple[Value, ...]:
    """Returns the values a grid takes from a dimension, lowest first.

    Choices and whole numbers on a linear scale give all they have; floats without a step, and
    whole numbers on a log scale, give ``points`` values, evenly spaced on their scale.

    >>> grid_values(FloatDim(low=0.001, high=0.1, log=True), 3)
    (0.001, 0.01, 0.1)
    >>> grid_values(IntDim(low=1, high=5), 3)
    (1, 2, 3, 4, 5)
    """
    if isinstance(dim, ChoiceDim):
        return dim.choices
    if isinstance(dim, IntDim) and not dim.log:
        return tuple(range(dim.low, dim.high + 1, dim.step or 1))
    if dim.step is not None:
        count = int((dim.high - dim.low) / dim.step + 1e-9) + 1
        return tuple(dim.low + i * dim.step for i in range(count))
    spaced = (_between(dim, i / (points - 1) if points > 1 else 0.5) for i in range(points))
    if isinstance(dim, IntDim):
        return tuple(dict.fromkeys(round(value) for value in spaced))
    return tuple(spaced)


def _between(dim: FloatDim | IntDim, share: float) -> float:
    if dim.log:
        value = math.exp(math.log(dim.low) * (1 - share) + math.log(dim.high) * share)
    else:
        value = dim.low * (1 - share) + dim.high * share
    return min(max(float(f"{value:.12g}"), dim.low), dim.high)


def cells(space: Space, names: Sequence[str], points: int) -> Iterator[dict[str, Value]]:
    """Yields the grid's cells: every combination of the named dimensions that can exist.

    A dimension that is not active in a combination is left out of it, so no configuration comes
    twice. The last name varies fastest.

    >>> space = {"n_blocks": IntDim(low=1, high=2), "optimizer": ChoiceDim(choices=("sgd", "adam"))}
    >>> [tuple(cell.values()) for cell in cells(space, ["n_blocks", "optimizer"], 3)]
    [(1, 'sgd'), (1, 'adam'), (2, 'sgd'), (2, 'adam')]
    """

    def expand(chosen: dict[str, Value]) -> Iterator[dict[str, Value]]:
        """Finds the first named dimension that the choices leave open, and tries all its values."""
        open_dims: dict[str, Dim] = {}

        def suggest(name: str, dim: Dim) -> Value:
            if name in chosen:
                return chosen[name]
            if name in names:
                open_dims.setdefault(name, dim)
            return grid_values(dim, points)[0]

        draw(space, suggest)
        if not open_dims:
            yield chosen
            return
        name, dim = next(iter(open_dims.items()))
        for value in grid_values(dim, points):
            yield from expand({**chosen, name: value})

    return expand({})
