"""The effects of depth and optimizer on accuracy, loss and time, over the trials of a study."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from hpsearch.core.analysis.statistics import Z, gain
from hpsearch.core.pruning import quantile
from hpsearch.core.trial import State, TrialRecord, depth, reached

MEDIAN_OF = 3  # trials, at least, for a median to be compared


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
        """The standard error of the median, from the interquartile range (normal: 0.93 / √n)."""
        # The median of n normal values deviates by 1.253 σ / √n, and σ is the range / 1.349.
        return 0.93 * (self.three_quarters - self.quarter) / math.sqrt(self.n)


def quartiles(values: Iterable[float]) -> Quartiles | None:
    """Returns the quartiles of the finite values; None if there are no finite values.

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

    The quartiles are those of the ``complete`` trials; ``pruned`` counts the others. ``gap`` is
    validation loss minus training loss at the end, a measure of over-fitting. ``best`` is the
    number of the most accurate complete trial.
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
    """The smallest depth that no deeper net significantly beats.

    ``here`` is the accuracy at ``n_blocks``, ``deeper`` the highest of the deeper nets (None: it is
    the deepest that can be compared, so more may still help), ``noise`` the difference that chance
    alone may cause.
    """

    n_blocks: int
    here: float
    deeper: float | None
    noise: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthEffect:
    """The trials by their number of conv blocks, shallow first, and the sufficient number.

    ``by_best`` compares the best trial of each depth, ``by_median`` the median one; None if fewer
    than two depths can be compared.
    """

    groups: tuple[Group, ...]
    by_best: SufficientDepth | None
    by_median: SufficientDepth | None


def depth_effect(records: Sequence[TrialRecord], *, val_images: int | None) -> DepthEffect:
    """Returns the effect of the number of conv blocks.

    A depth is sufficient if no deeper one is significantly better: for the best trials, if the
    95 % interval of the difference of two accuracies counted on ``val_images`` images includes 0;
    for the medians of at least 3 trials, if they differ by less than 1.96 standard errors of the
    difference. The smallest such depth is returned.
    """
    groups = _groups(records, depth)
    return DepthEffect(
        groups=groups,
        by_best=_sufficient_by_best(groups, val_images) if val_images else None,
        by_median=_sufficient_by_median(groups),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerEffect:
    """The trials by optimizer, in the order of their names.

    ``leader`` has the highest median accuracy of those with at least 3 complete trials, and
    ``is_sure`` if it leads every other one by more than 1.96 standard errors of the difference.
    ``tightest`` has the lowest median gap. None if fewer than two can be compared.
    """

    groups: tuple[Group, ...]
    leader: str | None = None
    is_sure: bool | None = None
    tightest: str | None = None


def optimizer_effect(records: Sequence[TrialRecord]) -> OptimizerEffect:
    """Returns the effect of the optimizer on accuracy and on the over-fitting gap."""
    groups = _groups(records, lambda record: record.params.get("optimizer"))
    accuracies = {
        str(g.key): g.accuracy for g in groups if g.accuracy and g.accuracy.n >= MEDIAN_OF
    }
    gaps = {str(g.key): g.gap for g in groups if g.gap and g.gap.n >= MEDIAN_OF}
    if len(accuracies) < 2:
        return OptimizerEffect(groups=groups)
    # Medians, not bests: an optimizer with more trials has the luckier best.
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
    """The difference of two medians that chance alone may cause."""
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
    complete = {r.number: r for r in members if r.state is State.COMPLETE}
    measured = {number: reached(record) for number, record in complete.items()}
    accuracies = {n: known["accuracy"] for n, known in measured.items() if "accuracy" in known}

    def spread(name: str) -> Quartiles | None:
        return quartiles(known[name] for known in measured.values() if name in known)

    return Group(
        key=key,
        complete=len(complete),
        pruned=len(members) - len(complete),
        accuracy=spread("accuracy"),
        val_loss=spread("val_loss"),
        train_seconds=spread("train_seconds"),
        gap=quartiles(g for r in complete.values() if (g := overfitting_gap(r)) is not None),
        # Of equals the earliest trial, so that the same records always name the same one.
        best=max(accuracies, key=lambda n: (accuracies[n], -n), default=None),
    )


def overfitting_gap(record: TrialRecord) -> float | None:
    """Returns validation loss minus training loss after the last epoch; None without a curve."""
    if not record.curve:
        return None
    return record.curve[-1].val_loss - record.curve[-1].train_loss


def _sufficient_by_best(groups: Sequence[Group], n: int) -> SufficientDepth | None:
    depths = [(int(g.key), g.accuracy.high) for g in groups if g.accuracy is not None]
    if len(depths) < 2:
        return None
    # From the shallowest on: the first depth that no deeper one significantly beats.
    for i, (blocks, here) in enumerate(depths[:-1]):
        deeper = max(best for _, best in depths[i + 1 :])
        low, _ = gain(deeper, here, n)
        if low <= 0:
            return SufficientDepth(
                n_blocks=blocks, here=here, deeper=deeper, noise=deeper - here - low
            )
    return SufficientDepth(n_blocks=depths[-1][0], here=depths[-1][1], deeper=None, noise=None)


def _sufficient_by_median(groups: Sequence[Group]) -> SufficientDepth | None:
    depths = [(int(g.key), g.accuracy) for g in groups if g.accuracy and g.accuracy.n >= MEDIAN_OF]
    if len(depths) < 2:
        return None
    # Every deeper depth is tested by its own noise: a deep group may be small and scattered.
    for i, (blocks, here) in enumerate(depths[:-1]):
        rest = [accuracy for _, accuracy in depths[i + 1 :]]
        noises = [_noise(here, other) for other in rest]
        above = [r.median - here.median > noise for r, noise in zip(rest, noises, strict=True)]
        if not any(above):
            best = max(range(len(rest)), key=lambda j: rest[j].median)
            return SufficientDepth(
                n_blocks=blocks, here=here.median, deeper=rest[best].median, noise=noises[best]
            )
    blocks, last = depths[-1]
    return SufficientDepth(n_blocks=blocks, here=last.median, deeper=None, noise=None)
