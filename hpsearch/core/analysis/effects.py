"""What depth and the optimizer do to accuracy, loss and time, over the trials of a study."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from hpsearch.core.analysis.metrics import Z, gain
from hpsearch.core.pruning import quantile
from hpsearch.core.trial import State, TrialRecord, depth, reached

MEDIAN_OF = 3  # trials, at least, before a median is compared


@dataclass(frozen=True, slots=True, kw_only=True)
class Quartiles:
    """The quartiles of n values, the least and the largest."""

    n: int
    low: float
    quarter: float
    median: float
    three_quarters: float
    high: float

    @property
    def error(self) -> float:
        """The standard error of the median, from the quartiles' distance (normal: 0.93 / √n)."""
        return 0.93 * (self.three_quarters - self.quarter) / math.sqrt(self.n)


def quartiles(values: Iterable[float]) -> Quartiles | None:
    """Returns the spread of those of the values that are finite; None where there is none.

    >>> quartiles([3.0, 1.0, 2.0, float("nan")]).median
    2.0
    """
    finite = sorted(value for value in values if math.isfinite(value))
    if not finite:
        return None
    quarter, median, three_quarters = (quantile(finite, q) for q in (0.25, 0.5, 0.75))
    return Quartiles(
        n=len(finite),
        low=finite[0],
        quarter=quarter,
        median=median,
        three_quarters=three_quarters,
        high=finite[-1],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The trials that share a depth or an optimizer.

    The spreads are those of the complete trials (``complete`` of them; ``pruned`` were stopped
    early). ``gap`` is validation loss minus training loss at the end: how much better the net
    knows its training images. ``best`` is the number of the most accurate complete trial.
    """

    key: int | str
    complete: int
    pruned: int
    accuracy: Quartiles | None
    val_loss: Quartiles | None
    train_seconds: Quartiles | None
    gap: Quartiles | None
    best: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SufficientDepth:
    """The depth after which more stops paying.

    ``here`` is the accuracy at ``n_blocks``, ``deeper`` the highest of the deeper nets (None:
    nothing deeper was tried, so more may yet pay), ``noise`` how much higher that might have come
    out by chance.
    """

    n_blocks: int
    here: float
    deeper: float | None
    noise: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthEffect:
    """The trials by their number of conv blocks, shallow first, and which number is enough.

    ``by_best`` compares the best trial of each depth, ``by_median`` the median one; None where
    fewer than two depths can be compared.
    """

    groups: tuple[Group, ...]
    by_best: SufficientDepth | None
    by_median: SufficientDepth | None


def depth_effect(records: Sequence[TrialRecord], *, val_images: int | None) -> DepthEffect:
    """Returns the effect of the number of conv blocks.

    A depth is enough when no deeper one is better beyond the noise: for the best trials, when the
    95 % interval of the difference of two accuracies counted on ``val_images`` images reaches 0;
    for the medians of at least 3 trials, when they differ by less than 1.96 standard errors of
    that difference. The smallest such depth counts.
    """
    groups = _groups(records, depth)
    return DepthEffect(
        groups=groups,
        by_best=_enough_by_best(groups, val_images) if val_images else None,
        by_median=_enough_by_median(groups),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerEffect:
    """The trials by optimizer, in the order of their names.

    ``leader`` has the highest median accuracy of those with at least 3 complete trials, ``is_sure``
    tells whether it leads every other one by more than 1.96 standard errors of the difference.
    ``tightest`` has the lowest median gap. None where fewer than two can be compared.
    """

    groups: tuple[Group, ...]
    leader: str | None = None
    is_sure: bool | None = None
    tightest: str | None = None


def optimizer_effect(records: Sequence[TrialRecord]) -> OptimizerEffect:
    """Returns the effect of the optimizer on accuracy and on the over-fitting gap."""
    groups = _groups(records, lambda record: record.params.get("optimizer"))
    accuracies = {str(g.key): g.accuracy for g in groups if g.accuracy}
    gaps = {str(g.key): g.gap for g in groups if g.gap}
    accuracies = {key: of for key, of in accuracies.items() if of.n >= MEDIAN_OF}
    gaps = {key: of for key, of in gaps.items() if of.n >= MEDIAN_OF}
    if len(accuracies) < 2:
        return OptimizerEffect(groups=groups)
    leader = max(accuracies, key=lambda key: accuracies[key].median)
    ahead = [
        accuracies[leader].median - other.median > _noise(accuracies[leader], other)
        for key, other in accuracies.items()
        if key != leader
    ]
    return OptimizerEffect(
        groups=groups,
        leader=leader,
        is_sure=all(ahead),
        tightest=min(gaps, key=lambda key: gaps[key].median) if len(gaps) > 1 else None,
    )


def _noise(a: Quartiles, b: Quartiles) -> float:
    """How far two medians may lie apart by chance."""
    return Z * math.hypot(a.error, b.error)


def _groups(
    records: Sequence[TrialRecord], key_of: Callable[[TrialRecord], int | str | None]
) -> tuple[Group, ...]:
    members: dict[int | str, list[TrialRecord]] = {}
    for record in records:
        key = key_of(record)
        if key is not None and record.state.counts:
            members.setdefault(key, []).append(record)
    return tuple(
        _group(key, members[key]) for key in sorted(members, key=lambda k: (str(type(k)), k))
    )


def _group(key: int | str, members: Sequence[TrialRecord]) -> Group:
    done = [record for record in members if record.state is State.COMPLETE]
    found = [reached(record) for record in done]
    accuracies = [
        (known["accuracy"], -r.number)
        for r, known in zip(done, found, strict=True)
        if "accuracy" in known
    ]
    return Group(
        key=key,
        complete=len(done),
        pruned=len(members) - len(done),
        accuracy=_spread_of("accuracy", found),
        val_loss=_spread_of("val_loss", found),
        train_seconds=_spread_of("train_seconds", found),
        gap=quartiles(gap for r in done if (gap := overfitting_gap(r)) is not None),
        best=-max(accuracies)[1] if accuracies else None,
    )


def _spread_of(name: str, found: Sequence[Mapping[str, float]]) -> Quartiles | None:
    return quartiles(known[name] for known in found if name in known)


def overfitting_gap(record: TrialRecord) -> float | None:
    """Returns validation loss minus training loss after the last epoch; None without a curve."""
    if not record.curve:
        return None
    return record.curve[-1].val_loss - record.curve[-1].train_loss


def _enough_by_best(groups: Sequence[Group], n: int) -> SufficientDepth | None:
    found = [(int(g.key), g.accuracy.high) for g in groups if g.accuracy is not None]
    if len(found) < 2:
        return None
    for i, (blocks, here) in enumerate(found[:-1]):
        deeper = max(best for _, best in found[i + 1 :])
        low, _ = gain(deeper, here, n)
        if low <= 0:
            return SufficientDepth(
                n_blocks=blocks, here=here, deeper=deeper, noise=deeper - here - low
            )
    return SufficientDepth(n_blocks=found[-1][0], here=found[-1][1], deeper=None, noise=None)


def _enough_by_median(groups: Sequence[Group]) -> SufficientDepth | None:
    found = [(int(g.key), g.accuracy) for g in groups if g.accuracy and g.accuracy.n >= MEDIAN_OF]
    if len(found) < 2:
        return None
    for i, (blocks, here) in enumerate(found[:-1]):
        rest = [accuracy for _, accuracy in found[i + 1 :]]
        noises = [_noise(here, other) for other in rest]
        above = [r.median - here.median > noise for r, noise in zip(rest, noises, strict=True)]
        if not any(above):
            best = max(range(len(rest)), key=lambda j: rest[j].median)
            return SufficientDepth(
                n_blocks=blocks, here=here.median, deeper=rest[best].median, noise=noises[best]
            )
    return SufficientDepth(n_blocks=found[-1][0], here=found[-1][1].median, deeper=None, noise=None)
