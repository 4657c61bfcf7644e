"""Dominance, the Pareto front, its knee and its hypervolume.

Points are tuples of floats, one per objective, larger is better (see
:func:`hpsearch.core.objectives.merit` and :func:`hpsearch.core.objectives.utility`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpsearch.core.objectives import OBJECTIVES, costs_first, utility
from hpsearch.core.trial import State, TrialRecord

Point = Sequence[float]

# Share of the best accuracy. A trial below it is never a good trade-off, and as an end of the
# front it would stretch the scale until all good trials look alike.
WORTHY = 0.5


def dominates(a: Point, b: Point) -> bool:
    """Whether a is at least as good as b in every objective and better in one.

    >>> dominates((1.0, 0.5), (1.0, 0.4)), dominates((1.0, 0.5), (1.0, 0.5))
    (True, False)
    """
    return covers(a, b) and any(x > y for x, y in zip(a, b, strict=True))


def covers(a: Point, b: Point) -> bool:
    """Whether a is at least as good as b in every objective."""
    return all(x >= y for x, y in zip(a, b, strict=True))


def nondominated(points: Sequence[Point]) -> list[int]:
    """Returns the indices of the points that no other dominates; of equal points, the first.

    Points with a NaN are left out. O(n · front); O(n log n) for two coordinates.

    >>> nondominated([(0.9, 0.1), (0.5, 0.5), (0.5, 0.4), (0.9, 0.1)])
    [0, 1]
    """
    # A NaN compares false with everything, so its point would never be dominated.
    valid = [i for i, point in enumerate(points) if all(x == x for x in point)]
    front: list[int] = []
    # Best first coordinate first, so that no later point dominates an earlier one.
    for i in sorted(valid, key=lambda i: (tuple(-x for x in points[i]), i)):
        # Of two coordinates, the last point kept has the best second one.
        rivals = front[-1:] if len(points[i]) == 2 else front
        if not any(covers(points[j], points[i]) for j in rivals):
            front.append(i)
    return sorted(front)


class Staircase:
    """The area between the origin and a growing set of two-dimensional points.

    The area that a point adds is counted over the steps that it rises above, so the total is never
    recomputed. Coordinates below 0 count as 0; a point with a NaN adds nothing.

    >>> steps = Staircase([(0.5, 1.0), (1.0, 0.5)])
    >>> steps.area, steps.add((0.75, 0.75)), steps.add((0.7, 0.7)), steps.area
    (0.75, 0.0625, 0.0, 0.8125)
    """

    def __init__(self, points: Iterable[Point] = ()) -> None:
        self.area = 0.0
        self._across: list[float] = []  # first coordinates of the points on the front, ascending
        self._heights: list[float] = []  # their second coordinates, descending
        for point in points:
            self.add(point)

    def add(self, point: Point) -> float:
        """Adds a point and returns by how much the area grows, 0 or more."""
        x, y = point
        if not (x > 0 and y > 0):
            return 0.0
        across, heights = self._across, self._heights
        end = bisect_left(across, x)
        beyond = heights[end] if end < len(across) else 0.0  # the height at x before this point
        if beyond >= y:
            return 0.0
        # Steps start to end lie below the new point: they are replaced by it.
        start = end
        while start and heights[start - 1] <= y:
            start -= 1
        left, added = across[start - 1] if start else 0.0, 0.0
        for step in range(start, end):
            added += (across[step] - left) * (y - heights[step])
            left = across[step]
        added += (x - left) * (y - beyond)
        if end < len(across) and across[end] == x:
            end += 1  # a point at the same x is lower
        across[start:end], heights[start:end] = [x], [y]
        self.area += added
        return added


def hypervolume(points: Sequence[Point]) -> float:
    """Returns the volume between the origin and the points: the share of [0, 1]^d they dominate.

    Exact, by slicing along the last objective down to two. Coordinates below 0 count as 0.

    >>> hypervolume([(0.5, 1.0), (1.0, 0.5)])
    0.75
    >>> hypervolume([])
    0.0
    """
    front = [points[i] for i in nondominated(points)]
    if not front:
        return 0.0
    # In one dimension the volume is the length up to the best point.
    if len(front[0]) == 1:
        return max(0.0, max(point[0] for point in front))
    if len(front[0]) == 2:
        return Staircase(front).area
    # Slabs along the last objective: between two levels the same points contribute.
    volume, levels = 0.0, sorted({max(0.0, p[-1]) for p in front}, reverse=True)
    for top, bottom in zip(levels, [*levels[1:], 0.0], strict=True):
        if top > bottom:
            volume += (top - bottom) * hypervolume([p[:-1] for p in front if p[-1] >= top])
    return volume


def knee(points: Sequence[Point]) -> int:
    """Returns the index of the knee, the best trade-off among non-dominated points.

    Each objective is scaled to [0, 1] over the front; the knee is the point farthest beyond the
    line (with three objectives, the plane) between the ends, where the scaled merits sum to 1. Of
    one or two points, and if no point lies beyond the line, it is the one best in the first
    objective (Das 1999, "On characterizing the knee of the Pareto curve").

    >>> knee([(0.0, 1.0), (0.8, 0.7), (1.0, 0.0)])
    1
    """
    # -i prefers the earlier of equal points, so a repeated search names the same knee.
    best_first = max(range(len(points)), key=lambda i: (points[i][0], tuple(points[i][1:]), -i))
    if len(points) <= 2 or len(points[0]) == 1:
        return best_first
    # the sum of an end's scaled merits is 1: more lies beyond the line between the ends
    lows = [min(column) for column in zip(*points, strict=True)]
    spans = [max(c) - low for c, low in zip(zip(*points, strict=True), lows, strict=True)]
    beyond = [
        sum((x - low) / span for x, low, span in zip(point, lows, spans, strict=True) if span > 0)
        for point in points
    ]
    farthest = max(range(len(points)), key=lambda i: (beyond[i], points[i][0], -i))
    return farthest if beyond[farthest] > 1.0 + 1e-9 else best_first


@dataclass(frozen=True, slots=True, kw_only=True)
class ParetoFront:
    """The non-dominated complete trials, cheapest first.

    ``knee`` is the number of the trial with the best trade-off; None if no trial is complete.
    """

    trials: tuple[TrialRecord, ...] = ()
    knee: int | None = None

    @property
    def numbers(self) -> frozenset[int]:
        """The numbers of its trials."""
        return frozenset(record.number for record in self.trials)

    @property
    def knee_trial(self) -> TrialRecord | None:
        """The trial at the knee."""
        return next((record for record in self.trials if record.number == self.knee), None)


def front(records: Sequence[TrialRecord], objectives: Sequence[str]) -> ParetoFront:
    """Returns the front of the records' complete trials; its knee is one of the `worthy` trials."""
    complete = [
        r for r in records if r.state is State.COMPLETE and set(objectives) <= set(r.values)
    ]
    # The knee falls back to the best first coordinate, which must be the quality, not a cost.
    quality_first = sorted(objectives, key=lambda name: OBJECTIVES[name].is_cost)
    points = [tuple(utility(name, r.values[name]) for name in quality_first) for r in complete]
    kept = nondominated(points)
    if not kept:
        return ParetoFront()
    # the knee is sought among the worthy trials only, the front keeps the others
    good = [kept[i] for i in worthy([complete[i].values for i in kept])]
    best = complete[good[knee([points[i] for i in good])]].number
    trials = sorted(
        (complete[i] for i in kept),
        key=lambda r: (tuple(r.values[name] for name in costs_first(objectives)), r.number),
    )
    return ParetoFront(trials=tuple(trials), knee=best)


def worthy(values: Sequence[Mapping[str, float]]) -> list[int]:
    """Returns the indices of the trials with at least half of the best accuracy among them.

    All of them if accuracy is not measured.

    >>> worthy([{"accuracy": 0.2}, {"accuracy": 0.49}, {"accuracy": 0.98}])
    [1, 2]
    >>> worthy([{"val_loss": 0.1}])
    [0]
    """
    best = max((of.get("accuracy", 0.0) for of in values), default=0.0)
    return [i for i, of in enumerate(values) if of.get("accuracy", best) >= WORTHY * best]


def front_as_plain(found: ParetoFront) -> list[dict[str, Any]]:
    """Returns the front for JSON, in its order."""
    return [
        {
            "number": record.number,
            "values": dict(record.values),
            "params": dict(record.params),
            "knee": record.number == found.knee,
        }
        for record in found.trials
    ]
