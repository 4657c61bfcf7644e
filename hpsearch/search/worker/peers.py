"""A running trial among the study's others: whom it is compared with, and what comes of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from hpsearch.core.objectives import costs
from hpsearch.core.pruning import Peer, Verdict, should_prune
from hpsearch.core.trial import Curve, State, TrialRecord
from hpsearch.search.study.study import Study

_FRESH_SECONDS = 5.0
_SHARE = 50  # of the time that a look may take


class PeerTrials:
    """The study's other trials, as one trial sees them while it runs.

    They are read anew at most every five seconds, and for at most a fiftieth of the time: a look
    costs some 10 ms, as much as a short epoch may, and a second where hundreds run.

    ``seen`` is shown the study's trials at each look.
    """

    def __init__(
        self,
        study: Study,
        number: int,
        *,
        seen: Callable[[Sequence[TrialRecord]], None] = lambda _: None,
    ) -> None:
        self._study = study
        self._number = number
        self._seen = seen
        self._names = costs(study.objectives)
        self._peers: list[Peer] = []
        self._due = 0.0

    def judge(self, curve: Curve, cost: Mapping[str, float]) -> Verdict | None:
        """Asks the study's rule whether the trial is hopeless among its no-costlier peers."""
        rule, epochs = self._study.spec.pruning, self._study.spec.train.epochs
        if len(curve) == epochs:
            return None  # without reading the other trials
        if time.monotonic() >= self._due:
            self._look()
        known = {**cost, "train_seconds": curve[-1].train_seconds}
        return should_prune(
            [epoch.val_loss for epoch in curve],
            [known[name] for name in self._names],
            self._peers,
            rule,
            epochs=epochs,
        )

    def _look(self) -> None:
        began = time.monotonic()
        records = self._study.records()
        self._seen(records)
        self._peers = peers(records, self._number, self._names)
        ended = time.monotonic()
        self._due = ended + max(_FRESH_SECONDS, _SHARE * (ended - began))


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
