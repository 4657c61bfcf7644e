"""The area below a front of two objectives, which grows point by point."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable


class Staircase:
    """The area between the origin and the points that came so far: steps that go down.

    What a point adds is counted over the steps that it rises above, so that the area is never
    computed anew. Coordinates below 0 count as 0; a point with a NaN adds nothing.

    >>> steps = Staircase([(0.5, 1.0), (1.0, 0.5)])
    >>> steps.area, steps.add((0.75, 0.75)), steps.add((0.7, 0.7)), steps.area
    (0.75, 0.0625, 0.0, 0.8125)
    """

    def __init__(self, points: Iterable[tuple[float, float]] = ()) -> None:
        self.area = 0.0
        self._across: list[float] = []  # first coordinates of the points on the front, ascending
        self._heights: list[float] = []  # their second coordinates, descending
        for point in points:
            self.add(point)

    def add(self, point: tuple[float, float]) -> float:
        """Takes a point in and returns the area that it adds, 0 or more."""
        x, y = point
        if not (x > 0 and y > 0):
            return 0.0
        across, heights = self._across, self._heights
        end = bisect_left(across, x)
        beyond = heights[end] if end < len(across) else 0.0  # the height at x, so far
        if beyond >= y:
            return 0.0
        start = end
        while start and heights[start - 1] <= y:
            start -= 1
        left, added = across[start - 1] if start else 0.0, 0.0
        for step in range(start, end):
            added += (across[step] - left) * (y - heights[step])
            left = across[step]
        added += (x - left) * (y - beyond)
        if end < len(across) and across[end] == x:
            end += 1  # it lies below the new point
        across[start:end], heights[start:end] = [x], [y]
        self.area += added
        return added
