"""A running trial among the study's others: whom it is compared with, and what comes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hpsearch.core.objectives import costs
from hpsearch.core.pruning import Peer, Verdict, should_prune
from hpsearch.core.trial import Curve, State, TrialRecord
from hpsearch.search.study import Study


def judge(study: Study, number: int, curve: Curve, cost: Mapping[str, float]) -> Verdict | None:
    """Asks the study's rule whether the trial is hopeless among its no-costlier peers."""
    rule, last = study.spec.pruning, study.spec.train.epochs
    if rule.pruner == "none" or len(curve) == last:
        return None  # without reading the other trials
    names = costs(study.objectives)
    known = {**cost, "train_seconds": curve[-1].train_seconds}
    return should_prune(
        [epoch.val_loss for epoch in curve],
        [known[name] for name in names],
        peers(study.records(), number, names),
        rule,
        epochs=last,
    )


def peers(records: Sequence[TrialRecord], number: int, names: Sequence[str]) -> list[Peer]:
    """Returns the other trials that have a curve, as the rules see them."""
    return [
        Peer(
            number=record.number,
            losses=tuple(epoch.val_loss for epoch in record.curve),
            cost=tuple(record.cost[name] for name in names),
            finished=record.state is State.COMPLETE,
        )
        for record in records
        if record.number != number and record.curve and record.state is not State.FAILED
    ]


def explain(verdict: Verdict) -> str:
    """Returns in words why a trial was stopped."""
    what = "forecast loss" if verdict.pruner == "forecast" else "loss"
    return (
        f"{what} {verdict.value:.4g} after epoch {verdict.epoch} is above {verdict.limit:.4g}"
        f" (trial {verdict.beaten_by})"
    )
