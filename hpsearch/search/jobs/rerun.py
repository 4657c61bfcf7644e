"""Trains a trial again from its record and compares the two curves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from hpsearch.core.plural import plural
from hpsearch.core.spec import resolve
from hpsearch.core.trial import Curve, Epoch, TrialRecord
from hpsearch.errors import StudyError
from hpsearch.nn.training.failures import build_net, epochs_of
from hpsearch.search.study.study import Study
from hpsearch.search.worker.launch import WorkerOptions, attach_worker

# Another processor, torch version or thread count sums numbers in another order, and training can
# amplify the difference without bound: of 60 reruns of random trials with other threads or
# instructions, one ended at 10 % instead of 93 %. After one epoch the training losses differed by
# 1.3 % at most (median below 0.001 %); another seed makes 3.4 % (bench_rerun.py).
TOLERANCE = 0.02  # relative, of the first epoch's training loss

_MEASURED = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rerun:
    """A trial's recorded curve and its new one, equally long.

    ``excuse`` is the reason why they may differ: in the first epoch by the tolerance, after it
    without limit. None if they must be equal.
    """

    before: Curve
    now: Curve
    excuse: str | None

    @property
    def is_equal(self) -> bool:
        """Whether every loss and accuracy is the same, to the last bit."""
        return all(
            getattr(before, name) == getattr(now, name)
            for before, now in zip(self.before, self.now, strict=True)
            for name in _MEASURED
        )

    @property
    def apart(self) -> float:
        """The difference of the first epoch's training losses, relative to the recorded one."""
        old, new = self.before[0].train_loss, self.now[0].train_loss
        return abs(new - old) / max(abs(old), 1e-12)

    @property
    def holds(self) -> bool:
        """Whether this rerun confirms the record."""
        return self.is_equal if self.excuse is None else self.apart <= TOLERANCE


def rerun(
    study: Study,
    number: int,
    options: WorkerOptions,
    *,
    dataset: str | None,
    on_epoch: Callable[[Epoch, Epoch], None],
) -> Rerun:
    """Trains the trial again for as many epochs as its record has; writes nothing.

    Uses the recorded number of threads unless ``options`` name another. ``dataset`` is the location
    of the data on this machine, if not that of the study. ``on_epoch`` is called with each recorded
    epoch and its repetition.

    Raises:
        StudyError: the trial does not exist, was never trained, or diverges here.
        HpsearchError: the data or the device is not available.
    """
    record = study.record(number)
    if not record.curve:
        raise StudyError(
            f"trial {number} is {record.state.value} and has no epoch, expected a trained trial;"
            " choose one from `hpsearch front`"
        )
    origin = record.attributes["origin"]
    threads = int(origin["threads"]) if options.threads is None else options.threads
    # Other hardware is allowed: then the comparison is less strict, see `excuse`.
    options = replace(options, threads=threads, mixed_hardware=True)
    prepared = attach_worker(study, options, dataset=dataset)
    from hpsearch.nn.training.loop import Diverged

    trial = resolve(study.spec, number=number, params=record.params)
    net = build_net(trial, prepared.images)
    now: list[Epoch] = []
    training = epochs_of(trial, net, prepared.images, prepared.device, stop=lambda: False)
    try:
        for before, epoch in zip(record.curve, training, strict=False):
            now.append(epoch)
            on_epoch(before, epoch)
    except Diverged as exc:
        raise StudyError(
            f"trial {number} diverged when it was trained again ({exc}), expected"
            f" {plural(len(record.curve), 'epoch')} as recorded; its record does not hold on this"
            " machine: rerun it on the hardware that it was trained on"
        ) from exc
    return Rerun(before=record.curve, now=tuple(now), excuse=excuse(record, prepared.origin))


def excuse(record: TrialRecord, here: Mapping[str, Any]) -> str | None:
    """Returns the reason why a training may differ from the record; None if it must not.

    ``here`` describes the machine, with the keys of a trial's ``origin``.
    """
    there = record.attributes["origin"]
    keys = ("device", "processor", "threads")
    is_same = all(there.get(key) == here.get(key) for key in keys)
    if not is_same or there["versions"]["torch"] != here["versions"]["torch"]:
        return "processor, threads or torch differ from the record's"
    if any(start["epochs"] for start in record.attributes.get("history", ())):
        return "its first epochs may have been trained on another machine"
    if here["device"] != "cpu":
        return "a GPU sums numbers in another order each time"
    return None
