"""Training a trial again from its record, to see whether it comes out the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hpsearch.core.spec import resolve
from hpsearch.core.trial import Curve, Epoch, TrialRecord
from hpsearch.errors import StudyError
from hpsearch.nn.training.failures import build_net, epochs_of
from hpsearch.search.study.study import Study
from hpsearch.search.worker.launch import WorkerOptions, attach_worker

# Another processor, torch or thread count adds up in another order, and what training makes of that
# has no bound: of 60 reruns of random trials, with other threads or instructions, one ended at 10 %
# instead of 93 %. After one epoch the training losses were 1.3 % apart at most, in the median less
# than 0.001 %, where another seed makes 3.4 % (bench_rerun.py).
TOLERANCE = 0.02  # of the first epoch's training loss, in relative terms

_MEASURED = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rerun:
    """A trial's curve as it was and as it is now, both equally long.

    ``excuse`` is why they may differ: the first epochs by the tolerance, and where the training
    went from there is told and no more. None: any difference is a fault.
    """

    before: Curve
    now: Curve
    excuse: str | None

    @property
    def is_equal(self) -> bool:
        """Whether every loss and accuracy is the same, to the last bit."""
        return all(_same(a, b) for a, b in zip(self.before, self.now, strict=True))

    @property
    def apart(self) -> float:
        """How far apart the training losses of the first epoch are, relative to the record's."""
        old, new = self.before[0].train_loss, self.now[0].train_loss
        return abs(new - old) / max(abs(old), 1e-12)

    @property
    def holds(self) -> bool:
        """Whether the record can be trusted from here."""
        return self.is_equal if self.excuse is None else self.apart <= TOLERANCE


def _same(before: Epoch, now: Epoch) -> bool:
    return all(getattr(before, name) == getattr(now, name) for name in _MEASURED)


def rerun(
    study: Study,
    number: int,
    options: WorkerOptions,
    *,
    dataset: str | None,
    tell: Callable[[Epoch, Epoch], None],
) -> Rerun:
    """Trains the trial again, for as many epochs as its record has; changes nothing.

    Args:
        study: where the record is.
        number: the trial.
        options: where to train; the threads are the record's unless it names others.
        dataset: where the data lies here, if not where the study has it.
        tell: takes each epoch as it was and as it is now.

    Raises:
        StudyError: there is no such trial, or it was never trained.
        HpsearchError: the data or the device cannot be had.
    """
    record = study.record(number)
    if not record.curve:
        raise StudyError(
            f"trial {number} is {record.state.value} and has no epoch, expected one that was"
            " trained; choose it from `hpsearch front`"
        )
    origin = record.attributes["origin"]
    if options.threads is None:
        options = dataclasses.replace(options, threads=int(origin["threads"]))
    ready = attach_worker(
        study,
        dataclasses.replace(options, mixed_hardware=True),
        dataset=dataset,
    )
    from hpsearch.nn.training.loop import Diverged

    trial = resolve(study.spec, number=number, params=record.params)
    net = build_net(trial, ready.images)
    now: list[Epoch] = []
    training = epochs_of(trial, net, ready.images, ready.device, stop=lambda: False)
    try:
        for before, epoch in zip(record.curve, training, strict=False):
            now.append(epoch)
            tell(before, epoch)
    except Diverged as exc:
        raise StudyError(
            f"trial {number} diverged when it was trained again ({exc}), expected its"
            f" {len(record.curve)} epochs; its record does not hold here"
        ) from exc
    return Rerun(before=record.curve, now=tuple(now), excuse=excuse(record, ready.origin))


def excuse(record: TrialRecord, here: Mapping[str, Any]) -> str | None:
    """Returns why a training may differ from the record; None: it must not.

    ``here`` is where it is trained, in the words of a trial's ``origin``.
    """
    there = record.attributes["origin"]
    keys = ("device", "processor", "threads")
    alike = all(there.get(key) == here.get(key) for key in keys)
    if not alike or there["versions"]["torch"] != here["versions"]["torch"]:
        return "processor, threads or torch differ from the record's"
    if any(start["epochs"] for start in record.attributes.get("history", ())):
        return "its first epochs may have been trained elsewhere"
    if here["device"] != "cpu":
        return "a GPU adds up in another order each time"
    return None
