"""One trial from its spec to its outcome: build, measure, train, and ask whether to go on."""

from __future__ import annotations

import dataclasses
import logging
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

import torch
from torch import nn

from hpsearch.core.objectives import costs
from hpsearch.core.pruning import Peer, Verdict, should_prune
from hpsearch.core.trial import Curve, Outcome, State, TrialRecord
from hpsearch.errors import StorageError
from hpsearch.nn.data.tensors import Tensors
from hpsearch.nn.models.cnn import build
from hpsearch.nn.models.cost import measure
from hpsearch.nn.runtime.device import free_memory, is_out_of_memory
from hpsearch.nn.training.checkpoint import pack, unpack
from hpsearch.nn.training.custom_loop import train
from hpsearch.nn.training.interrupt import Interrupted
from hpsearch.nn.training.loop import Diverged, Progress
from hpsearch.nn.user_code import failing_user_code
from hpsearch.search.storage.records import curve_of
from hpsearch.search.study.leases import Lease, LeaseLost
from hpsearch.search.study.study import Study
from hpsearch.search.worker.observer import Observer
from hpsearch.search.worker.work_loop import StopSignal

_log = logging.getLogger(__name__)

_FRESH_SECONDS = 5.0
_LOOK_SHARE = 50  # of the time that a look may take


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
        self._due = ended + max(_FRESH_SECONDS, _LOOK_SHARE * (ended - began))


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


_WRITE_SHARE = 0.01  # of the time, at most, that writing may take


class Checkpointer:
    """Keeps one trial's training among the study's artifacts.

    It writes after an epoch, but only so often that writing takes at most a hundredth of the
    time. ``clock`` returns monotonic seconds.
    """

    def __init__(
        self, study: Study, claim: Lease, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._artifacts = study.storage.artifacts
        self._key = study.checkpoint_key(claim.number)
        # An artifact may outlive its database: number and seed alone could be another study's.
        self._owner = f"{study.created.isoformat()} {claim.number} {claim.spec.seed}"
        self._clock = clock
        self._may_write_at = clock()

    def restore(self, model: nn.Module, *, device: torch.device) -> tuple[Progress, Curve]:
        """Loads the weights that an earlier start has left; returns how far it had come."""
        packed = self._artifacts.read(self._key) if self._artifacts is not None else None
        found = unpack(packed, device=device) if packed is not None else None
        if found is None or found.owner != self._owner:
            return Progress(), ()
        model.load_state_dict(found.weights)
        return found.progress, found.curve

    def keep(
        self, model: nn.Module, progress: Progress, curve: Curve, *, now: bool = False
    ) -> None:
        """Writes the training as it stands after an epoch; ``now``: however long that takes."""
        began = self._clock()
        if self._artifacts is None or (began < self._may_write_at and not now):
            return
        self._artifacts.save(self._key, pack(model, progress, curve, owner=self._owner))
        ended = self._clock()
        self._may_write_at = ended + (ended - began) * (1 / _WRITE_SHARE - 1)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Trainer:
    """What all trials of a worker share: the images on the device, and whom to tell."""

    study: Study
    images: Tensors
    device: torch.device
    observer: Observer

    def __call__(self, claim: Lease, stop: StopSignal) -> Outcome:
        """Trains the trial until it is complete, hopeless, diverged or broken.

        The one broad ``except`` of the search stands here: whatever breaks a trial is kept with
        it, and the search goes on.

        Raises:
            Interrupted: ``stop`` asked for it; the epoch was finished and kept, unless it took
                too long.
            LeaseLost: the lease was lost to another worker.
            StorageError: the database is away.
        """
        try:
            return self._train(claim, stop)
        except (Interrupted, LeaseLost, StorageError):
            raise
        except Diverged as exc:
            failure = {"kind": "NaN"}
            reason = f"diverged: {exc}"
            return Outcome(state=State.PRUNED, reason=reason, details={"failure": failure})
        except (Exception, SystemExit) as exc:  # a person's own code may end the process
            kind = "out of memory" if is_out_of_memory(exc) else "bug"
            culprit = failing_user_code(claim.spec, exc) if kind == "bug" else None
            reason = f"{kind}: {_told(exc, culprit)}"
            failure = {"kind": kind, "traceback": traceback.format_exc()}
        free_memory(self.device)  # outside the handler, whose traceback holds the tensors
        return Outcome(state=State.FAILED, reason=reason, details={"failure": failure})

    def _train(self, claim: Lease, stop: StopSignal) -> Outcome:
        spec, study, device = claim.spec, self.study, self.device
        model = build(spec.model, self.images.input_shape, self.images.classes, seed=spec.seed)
        keeper = Checkpointer(study, claim)
        progress, curve = keeper.restore(model, device=device)
        cost = self._cost(claim, model, resumed=bool(curve))
        study.record_cost(claim, cost, curve)
        self.observer.started(claim.number, claim.params, cost)
        self._tell_of_earlier(claim, curve)
        others = PeerTrials(study, claim.number, seen=self.observer.sync)
        details: dict[str, object] = {}
        going = train(
            model, self.images, spec.train, device=device, stop=stop.overdue, progress=progress
        )
        for epoch in going:
            curve = (*curve, epoch)
            study.record_epoch(claim, curve)
            self.observer.trained(claim.number, epoch)
            verdict = others.judge(curve, cost)
            if verdict is not None and not claim.control:
                reason = explain(verdict)
                return Outcome(
                    state=State.PRUNED, reason=reason, details={"pruning": asdict(verdict)}
                )
            if verdict is not None:
                details.setdefault("would_prune", asdict(verdict))
            if len(curve) < spec.train.epochs:
                if progress.epoch == len(curve):  # a training of one's own may leave it alone
                    keeper.keep(model, progress, curve, now=stop())
                if stop():
                    raise Interrupted
        values = measured({**cost, "train_seconds": curve[-1].train_seconds}, curve)
        chosen = {name: values[name] for name in study.objectives}
        return Outcome(state=State.COMPLETE, values=chosen, details=details)

    def _cost(self, claim: Lease, model: nn.Module, *, resumed: bool) -> Mapping[str, float]:
        """The trial's costs; one that goes on keeps those it was judged by so far."""
        known: Mapping[str, float] | None = claim.attributes.get("cost")
        if resumed and known is not None:
            return known
        return measure(model, self.images.input_shape, device=self.device)

    def _tell_of_earlier(self, claim: Lease, curve: Curve) -> None:
        """Shows the epochs that the trial goes on from, or says that it has to start over."""
        for epoch in curve:
            self.observer.trained(claim.number, epoch)
        lost = curve_of(claim.attributes.get("curve"))
        if lost and not curve:
            _log.info(
                "trial %s starts over: the checkpoint of its %s epochs is not to be had here",
                claim.number,
                len(lost),
            )


def _told(exc: BaseException, culprit: tuple[str, str] | None) -> str:
    """The exception in a line; one of the person's own code with its function and its place."""
    said = next(iter(str(exc).strip().splitlines()), "no message")
    text = f"{type(exc).__name__}: {said[:300]}"
    return text if culprit is None else f"{culprit[0]}: {text}{culprit[1]}"


def measured(cost: Mapping[str, float], curve: Curve) -> dict[str, float]:
    """Returns every objective's value at the end of a training."""
    last = curve[-1]
    return {**cost, "accuracy": last.val_accuracy, "val_loss": last.val_loss}
