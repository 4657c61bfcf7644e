"""Early stopping of trials with any number of objectives: pure functions of numbers.

A rule that compares loss alone prunes the cheap end of the front, as small nets have larger losses
than large ones throughout training. So a trial is compared with its *rivals*: the trials that cost
no more than it does, in every objective that is a cost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from hpsearch.errors import expect, expect_known


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """The pruning rule and its settings.

    ``risk`` (forecast): the quantile of past improvements that still counts as possible.
    ``margin`` (margin): the slack over the best loss at the start of training, as a fraction.
    ``percentile`` (percentile): the best share of the rivals, in per cent, that a trial must match.
    ``rungs`` and ``reduction`` (asha): the epochs at which only one in ``reduction`` continues; no
    rungs: 1, 3, 9, … in powers of the reduction.
    ``control``: the share of trials that are never pruned, to measure what pruning loses.
    ``min_finished``: the number of trials that must have finished before any is pruned.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = {"extra": "forbid"}
    pruner: str = "forecast"
    risk: float = 0.05
    margin: float = 0.3
    percentile: float = 25.0
    rungs: tuple[int, ...] = ()
    reduction: int = 3
    control: float = 0.05
    min_finished: int = 5

    def __post_init__(self) -> None:
        expect_known("pruning.pruner", self.pruner, PRUNERS)
        limits = {"risk": (0, 1), "margin": (0, 100), "percentile": (0, 100), "control": (0, 1)}
        for key, (low, high) in limits.items():
            value = getattr(self, key)
            expect(low <= value <= high, f"pruning.{key}", value, f"{low} to {high}")
        expect(self.reduction >= 2, "pruning.reduction", self.reduction, "2 or more")
        expect(self.min_finished >= 1, "pruning.min_finished", self.min_finished, "1 or more")
        positive = all(rung >= 1 for rung in self.rungs)
        expect(positive, "pruning.rungs", list(self.rungs), "epochs from 1 on")


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Another trial of the study: its validation losses by epoch and its costs in order."""

    number: int
    losses: tuple[float, ...]
    cost: tuple[float, ...]
    finished: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Why a trial is pruned: at that epoch its ``value`` (a loss) was above the ``limit``.

    ``beaten_by`` is the number of the best trial that it was compared with.
    """

    pruner: str
    epoch: int
    value: float
    limit: float
    beaten_by: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """The input of a rule: a trial, and the trials that it is compared with.

    ``finished`` holds the peers with a finite final loss, ``rivals`` those of them that cost no
    more than the trial.
    """

    losses: Sequence[float]
    cost: Sequence[float]
    peers: Sequence[Peer]
    finished: Sequence[Peer]
    rivals: Sequence[Peer]
    rule: Rule
    epochs: int

    @property
    def epoch(self) -> int:
        """The number of epochs trained so far."""
        return len(self.losses)

    @property
    def loss(self) -> float:
        """The trial's current loss."""
        return self.losses[-1]

    def loss_of(self, peer: Peer) -> float:
        """Returns the peer's loss at the trial's current epoch."""
        return peer.losses[self.epoch - 1]

    def reached(self, peers: Sequence[Peer]) -> list[Peer]:
        """Returns the peers that have a finite loss at the trial's current epoch."""
        index = self.epoch - 1
        return [p for p in peers if len(p.losses) > index and math.isfinite(p.losses[index])]

    def verdict(self, value: float, limit: float, best: Peer) -> Verdict | None:
        """Returns why the trial is pruned; None if the value is not above the limit."""
        if not value > limit:  # nor if either is NaN
            return None
        rule, epoch = self.rule.pruner, self.epoch
        return Verdict(pruner=rule, epoch=epoch, value=value, limit=limit, beaten_by=best.number)


def should_prune(
    losses: Sequence[float],
    cost: Sequence[float],
    peers: Sequence[Peer],
    rule: Rule,
    *,
    epochs: int,
) -> Verdict | None:
    """Returns why the trial should be pruned now, or None if it should continue.

    Args:
        losses: the trial's validation losses so far, one per epoch, the first at index 0.
        cost: its costs (seconds, parameters, …), lower is better; empty if no objective is one.
        peers: the study's other trials in any state; NaN losses are ignored.
        rule: the rule and its settings.
        epochs: the epochs of a full training; no trial is pruned at the last one.

    A trial is never pruned before ``rule.min_finished`` others have finished, nor if it is strictly
    cheaper than each of those (except by ``median``, which compares loss alone).

    >>> rule = Rule(min_finished=1)
    >>> done = Peer(number=0, losses=(1.0, 0.5, 0.4), cost=(2.0,), finished=True)
    >>> should_prune([1.5], [3.0], [done], rule, epochs=3).limit
    0.4
    >>> should_prune([1.5], [1.0], [done], rule, epochs=3) is None
    True
    """
    epoch = len(losses)
    # a trial that diverged at its end has no final loss to compare with
    finished = [peer for peer in peers if peer.finished and math.isfinite(peer.losses[-1])]
    # At the last epoch there is nothing left to save, and the trial is worth its values.
    if not 1 <= epoch < epochs or len(finished) < rule.min_finished:
        return None
    case = Case(
        losses=losses,
        cost=cost,
        peers=peers,
        finished=finished,
        rivals=no_costlier(cost, finished),
        rule=rule,
        epochs=epochs,
    )
    return PRUNERS[rule.pruner](case)


def no_costlier(cost: Sequence[float], peers: Sequence[Peer]) -> list[Peer]:
    """Returns the peers that cost no more, in each cost; without costs, every peer."""
    return [p for p in peers if all(a <= b for a, b in zip(p.cost, cost, strict=True))]


def quantile(values: Sequence[float], q: float) -> float:
    """Returns the q-quantile, q in [0, 1], interpolated linearly between the nearest values.

    >>> quantile([3.0, 1.0, 2.0], 0.25)
    1.5
    """
    # The definition of numpy's default ("linear"), without converting short lists to arrays.
    ordered = sorted(values)
    position = q * (len(ordered) - 1)
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def _forecast(case: Case) -> Verdict | None:
    """Prunes if even an optimistic forecast of the final loss is worse than a rival's final loss.

    The forecast is the current loss times the ``risk``-quantile of final loss ÷ loss at this epoch
    over the finished trials.
    """
    pairs = [(peer.losses[-1], case.loss_of(peer)) for peer in case.finished]
    # a quotient needs two finite losses above 0
    ratios = [a / b for a, b in pairs if 0 < a < math.inf and 0 < b < math.inf]
    if not case.rivals or not ratios:
        return None
    # Final against final: a rival that was slower at this epoch may still have ended lower.
    best = min(case.rivals, key=lambda peer: peer.losses[-1])
    forecast = case.loss * quantile(ratios, case.rule.risk)
    return case.verdict(forecast, best.losses[-1], best)


def _margin(case: Case) -> Verdict | None:
    """Prunes above the rivals' best loss at this epoch plus a slack that shrinks to 0."""
    # Running trials count as well: early in a search they are most of the evidence.
    peers = case.reached(no_costlier(case.cost, case.peers))
    if not case.rivals or not peers:
        return None
    best = min(peers, key=case.loss_of)
    # Early losses say little about the end, so the slack falls linearly to 0 at the last epoch.
    slack = case.rule.margin * (1 - case.epoch / case.epochs)
    return case.verdict(case.loss, (1 + slack) * case.loss_of(best), best)


def _above_quantile(case: Case, rivals: Sequence[Peer], q: float) -> Verdict | None:
    """Prunes above the q-quantile of the rivals' losses at this epoch."""
    reached = case.reached(rivals)
    if not reached:
        return None
    limit = quantile([case.loss_of(peer) for peer in reached], q)
    return case.verdict(case.loss, limit, min(reached, key=case.loss_of))


def _asha(case: Case) -> Verdict | None:
    """Asynchronous successive halving among the rivals (Li et al. 2018, arXiv 1810.05934).

    At a rung a trial continues if it is in the best 1 / ``reduction`` of the trials that cost no
    more and have reached the rung so far, itself included.
    """
    eta = case.rule.reduction
    rungs = case.rule.rungs or tuple(eta**k for k in range(case.epochs.bit_length()))
    # Asynchronous: the rung is judged by whichever trials have reached it, nobody waits for it.
    peers = case.reached(no_costlier(case.cost, case.peers))
    if case.epoch not in rungs or not case.rivals or not peers:
        return None
    ordered = sorted([case.loss, *map(case.loss_of, peers)])
    # With fewer than ``reduction`` trials at the rung, only the best one continues.
    limit = ordered[max(1, len(ordered) // eta) - 1]
    return case.verdict(case.loss, limit, min(peers, key=case.loss_of))


PRUNERS: Mapping[str, Callable[[Case], Verdict | None]] = {
    "forecast": _forecast,
    "margin": _margin,
    # The classic rule of single-objective search (Golovin et al. 2017, Vizier) ignores cost: with
    # one among the objectives it prunes the cheap end of the front.
    "median": lambda case: _above_quantile(case, case.finished, 0.5),
    "percentile": lambda case: _above_quantile(case, case.rivals, case.rule.percentile / 100),
    "asha": _asha,
    "none": lambda case: None,
}
