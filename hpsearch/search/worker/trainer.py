"""One trial from its spec to its outcome: build, measure, train, and stop if it is hopeless."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, astuple

import torch
from torch import nn

from hpsearch.core.objectives import costs
from hpsearch.core.pruning import Peer, Verdict, should_prune
from hpsearch.core.trial import Curve, Interrupted, Outcome, State, TrialRecord
from hpsearch.errors import StorageError
from hpsearch.nn.data.tensors import Tensors
from hpsearch.nn.models import build, measure_costs
from hpsearch.nn.runtime.device import free_memory, is_out_of_memory
from hpsearch.nn.training.checkpoint import Checkpoint, fits, pack, unpack
from hpsearch.nn.training.custom_loop import train
from hpsearch.nn.training.loop import Diverged, Progress
from hpsearch.nn.user_code import failing_user_code
from hpsearch.search.storage.records import DATA, curve_of
from hpsearch.search.study.leases import Lease, LeaseLost
from hpsearch.search.study.study import Study
from hpsearch.search.worker.work_loop import Observer, StopSignal

_log = logging.getLogger(__name__)

_FRESH_SECONDS = 5.0
_READ_RATIO = 50  # times the duration of a read until the next one
_WRITE_SHARE = 0.01  # of the time, at most, for writing checkpoints


class PeerTrials:
    """The study's other trials, which a running trial is compared with.

    They are read at most every five seconds, and for at most a fiftieth of the time: a read takes
    some 10 ms, as long as a short epoch, and a second while hundreds of trials run.

    ``on_read`` is called with the study's trials after each read.
    """

    def __init__(
        self,
        study: Study,
        number: int,
        *,
        on_read: Callable[[Sequence[TrialRecord]], None] = lambda _: None,
    ) -> None:
        self._study = study
        self._number = number
        self._on_read = on_read
        self._names = costs(study.objectives)
        self._peers: list[Peer] = []
        self._due = 0.0

    def judge(self, curve: Curve, cost: Mapping[str, float]) -> Verdict | None:
        """Returns why the trial is hopeless among peers of at most its cost; None if it is not."""
        rule, epochs = self._study.spec.pruning, self._study.spec.train.epochs
        if len(curve) == epochs:
            return None  # without reading the other trials
        began = time.monotonic()
        if began >= self._due:
            records = self._study.records()
            self._on_read(records)
            self._peers = peers(records, self._number, self._names)
            ended = time.monotonic()
            self._due = ended + max(_FRESH_SECONDS, _READ_RATIO * (ended - began))
        # The seconds of the whole training are not known yet.
        costs_so_far = {**cost, "train_seconds": curve[-1].train_seconds}
        return should_prune(
            [epoch.val_loss for epoch in curve],
            [costs_so_far[name] for name in self._names],
            self._peers,
            rule,
            epochs=epochs,
        )


def peers(records: Sequence[TrialRecord], number: int, names: Sequence[str]) -> list[Peer]:
    """Returns the other trials that have a curve, as the pruning rules take them."""
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
    loss = "forecast loss" if verdict.pruner == "forecast" else "loss"
    return (
        f"{loss} {verdict.value:.4g} after epoch {verdict.epoch} is above {verdict.limit:.4g}"
        f" (trial {verdict.beaten_by})"
    )


def _owner(study: Study, lease: Lease) -> str:
    """Returns the digest of everything that a trial's training follows from."""
    parts = [
        study.created.isoformat(),
        study.attributes.get(DATA),
        asdict(lease.spec),  # number and seed included
        dict(lease.params),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _exact(curve: Curve) -> str:
    """Returns the curve as text that is equal for equal numbers, NaN included."""
    return repr([[float(value) for value in astuple(epoch)] for epoch in curve])


class Checkpointer:
    """Writes the checkpoints of one trial to the study's artifacts.

    Writes after an epoch, but only so often that writing takes at most a hundredth of the time.
    ``clock`` returns monotonic seconds.
    """

    def __init__(
        self, study: Study, lease: Lease, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._artifacts = lease.storage.artifacts
        self._key = lease.checkpoint_key
        self._number = lease.number
        self._owner = _owner(study, lease)
        self._stored = curve_of(lease.attributes.get("curve"))
        self._clock = clock
        self._may_write_at = clock()

    def restore(self, model: nn.Module, *, device: torch.device) -> tuple[Progress, Curve]:
        """Loads the weights of an earlier start; returns its progress and curve, or empty ones.

        Logs why the trial starts over, if epochs are lost or a checkpoint was not used.
        """
        packed = self._artifacts.read(self._key) if self._artifacts is not None else None
        if packed is None:
            if self._stored:
                message = "trial %s starts over: no checkpoint of its %s epochs is available here"
                _log.info(message, self._number, len(self._stored))
            return Progress(), ()
        checkpoint = unpack(packed, device=device)
        problem = self._problem(checkpoint, model)
        if checkpoint is None or problem is not None:
            _log.warning("trial %s starts over: %s %s", self._number, self._key, problem)
            return Progress(), ()
        model.load_state_dict(checkpoint.weights)
        return checkpoint.progress, checkpoint.curve

    def _problem(self, checkpoint: Checkpoint | None, model: nn.Module) -> str | None:
        """Returns why the trial cannot resume from the checkpoint; None if it can."""
        if checkpoint is None:
            return "is damaged, or of another version of hpsearch"
        if checkpoint.owner != self._owner:
            return "is of another configuration (do two databases share --artifacts?)"
        # A copy of the database has the same study and trials. Measured seconds never repeat, so
        # epochs that both have show that the checkpoint continues what this database holds.
        common = min(len(checkpoint.curve), len(self._stored))
        if not common or _exact(checkpoint.curve[:common]) != _exact(self._stored[:common]):
            return "has epochs that this database lacks (does a copy of it share --artifacts?)"
        if not fits(checkpoint.weights, model):
            return "does not fit the network that its factory builds now"
        return None

    def keep(
        self, model: nn.Module, progress: Progress, curve: Curve, *, now: bool = False
    ) -> None:
        """Writes the state of the training after an epoch; ``now``: whatever time that takes."""
        began = self._clock()
        if self._artifacts is None or (began < self._may_write_at and not now):
            return
        self._artifacts.save(self._key, pack(model, progress, curve, owner=self._owner))
        ended = self._clock()
        self._may_write_at = ended + (ended - began) * (1 / _WRITE_SHARE - 1)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Trainer:
    """Trains the trials of a worker, which share the images on the device and the observer."""

    study: Study
    images: Tensors
    device: torch.device
    observer: Observer

    def __call__(self, lease: Lease, stop: StopSignal) -> Outcome:
        """Trains the trial until it is complete, pruned, diverged or failed.

        The one broad ``except`` of the search stands here: the exception is stored with its trial,
        and the search goes on.

        Raises:
            Interrupted: ``stop`` asked for it, and the epoch was finished and kept, or took too
                long.
            LeaseLost: the lease was lost to another worker.
            StorageError: the database is away.
        """
        try:
            return self._train(lease, stop)
        except (Interrupted, LeaseLost, StorageError):
            raise
        except Diverged as exc:
            failure = {"kind": "NaN"}
            reason = f"diverged: {exc}"
            return Outcome(state=State.PRUNED, reason=reason, details={"failure": failure})
        except (Exception, SystemExit) as exc:  # user code may call sys.exit
            kind = "out of memory" if is_out_of_memory(exc) else "bug"
            message = next(iter(str(exc).strip().splitlines()), "no message")
            reason = f"{type(exc).__name__}: {message[:300]}"
            culprit = failing_user_code(lease.spec, exc) if kind == "bug" else None
            if culprit is not None:
                function, location = culprit
                reason = f"{function}: {reason}{location}"
            reason = f"{kind}: {reason}"
            failure = {"kind": kind, "traceback": traceback.format_exc()}
        free_memory(self.device)  # outside the handler, whose traceback holds the tensors
        return Outcome(state=State.FAILED, reason=reason, details={"failure": failure})

    def _train(self, lease: Lease, stop: StopSignal) -> Outcome:
        spec, study, device = lease.spec, self.study, self.device
        with stop.interruptible():  # a custom factory may hang
            model = build(spec.model, self.images.input_shape, self.images.classes, seed=spec.seed)
        checkpointer = Checkpointer(study, lease)
        progress, curve = checkpointer.restore(model, device=device)
        cost: Mapping[str, float] | None = lease.attributes.get("cost") if curve else None
        if cost is None:  # a resumed trial keeps the costs by which it was judged before
            with stop.interruptible():
                cost = measure_costs(model, self.images.input_shape, device=device)
        lease.write_cost(cost, curve)
        self.observer.started(lease.number, lease.params, cost)
        for epoch in curve:
            self.observer.trained(lease.number, epoch)
        others = PeerTrials(study, lease.number, on_read=self.observer.sync)
        details: dict[str, object] = {}
        epochs = train(
            model, self.images, spec.train, device=device, stop=stop.overdue, progress=progress
        )
        # Store each epoch before the decision on it: a killed worker loses the current epoch only.
        for epoch in stop.drawing(epochs):
            curve = (*curve, epoch)
            lease.write_epoch(curve)
            self.observer.trained(lease.number, epoch)
            verdict = others.judge(curve, cost)
            if verdict is not None and not lease.control:
                details = {"pruning": asdict(verdict)}
                return Outcome(state=State.PRUNED, reason=explain(verdict), details=details)
            if verdict is not None:  # control trials are trained to their end
                details.setdefault("would_prune", asdict(verdict))
            if len(curve) < spec.train.epochs:
                if progress.epoch == len(curve):  # a custom training may leave it unchanged
                    checkpointer.keep(model, progress, curve, now=stop())
                if stop():
                    raise Interrupted
        values = measured({**cost, "train_seconds": curve[-1].train_seconds}, curve)
        chosen = {name: values[name] for name in study.objectives}
        return Outcome(state=State.COMPLETE, values=chosen, details=details)


def measured(cost: Mapping[str, float], curve: Curve) -> dict[str, float]:
    """Returns every objective's value at the end of a training."""
    last = curve[-1]
    return {**cost, "accuracy": last.val_accuracy, "val_loss": last.val_loss}
