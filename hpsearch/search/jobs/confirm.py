"""Trains stored trials again: the front with fresh seeds, or one trial to reproduce it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from hpsearch.core.analysis.pareto import front
from hpsearch.core.analysis.recommendation import TrialSelection, refuse_imported, select_trial
from hpsearch.core.analysis.statistics import Repeat, Replication, replications
from hpsearch.core.spec import derive_seed, reseeded, resolve
from hpsearch.core.trial import Curve, Epoch, TrialRecord
from hpsearch.errors import StudyError, plural
from hpsearch.nn.runtime import cpu
from hpsearch.nn.training.failures import build_net, epochs_of, translate_failures
from hpsearch.search.storage.records import CONFIRMED, repeats_of
from hpsearch.search.study.study import Study
from hpsearch.search.worker.launch import PreparedStudy, WorkerOptions, attach_worker

_log = logging.getLogger(__name__)

SEEDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicationProgress:
    """The progress of a replication: training ``number`` of ``total``, counted from 1.

    ``repeat_index`` counts the trainings of one trial, from 0.
    """

    number: int
    total: int
    record: TrialRecord
    repeat_index: int
    seeds: int


# Called with the progress and either an epoch of the current training or its result.
OnResult = Callable[[ReplicationProgress, Epoch | Repeat], None]


def confirm(
    study: Study,
    options: WorkerOptions,
    *,
    trials: Sequence[int] = (),
    seeds: int = SEEDS,
    dataset: str | None = None,
    stop: Callable[[], bool],
    on_result: OnResult,
) -> tuple[Replication, ...]:
    """Trains trials again until each has ``seeds`` trainings with fresh seeds; returns the means.

    Runs one training at a time, so that times are comparable, and all trials with one seed before
    the next seed, so that disturbances affect all of them. Stores every finished training: the same
    call resumes. Trains as in the search and on the same split: the spread comes from the weights,
    the order of the data and the augmentation, not from the choice of images.

    Args:
        study: the study of the trials.
        options: where to train; by default with the study's number of threads.
        trials: numbers of complete trials; empty for those of the front.
        seeds: the number of trainings of each trial in the end.
        dataset: the location of the data on this machine, if not that of the study.
        stop: checked before every step.
        on_result: see :data:`OnResult`.

    Raises:
        StudyError: a trial does not exist or is not complete, or the front is empty.
        Interrupted: ``stop()`` was true; finished trainings are stored.
        HpsearchError: the data or the device is not available, or the hardware differs.
    """
    records = study.records()
    chosen = _chosen_trials(records, study.objectives, trials)
    stored = {(repeat.trial, repeat.place) for repeat in repeats_of(study.current_attributes())}
    missing = [
        (record, index)
        for index in range(seeds)
        for record in chosen
        if (record.number, index) not in stored
    ]
    if missing:
        study.storage.check_writable()  # else the first training would be lost
        prepared = attach_worker(study, options, dataset=dataset)
        _log_outlook(study, missing)
        for number, (record, index) in enumerate(missing, start=1):
            progress = ReplicationProgress(
                number=number, total=len(missing), record=record, repeat_index=index, seeds=seeds
            )
            repeat = _train(prepared, progress, stop=stop, on_result=on_result)
            at, origin = datetime.now(UTC).isoformat(), dict(prepared.origin)
            # As an attribute of the study: Optuna accepts none for a trial that has ended.
            key = f"{CONFIRMED}:{repeat.trial}:{repeat.place}"
            study.set_attribute(key, {**asdict(repeat), "at": at, "origin": origin})
            on_result(progress, repeat)
    wanted = {record.number for record in chosen}
    replicated = replications(records, repeats_of(study.current_attributes()), study.objectives)
    return tuple(each for each in replicated if each.number in wanted)


def _chosen_trials(
    records: Sequence[TrialRecord], objectives: Sequence[str], numbers: Sequence[int]
) -> list[TrialRecord]:
    if numbers:
        return [
            select_trial(records, objectives, TrialSelection(trial=number))
            for number in dict.fromkeys(numbers)  # each once, in the given order
        ]
    chosen = list(front(records, objectives).trials)
    if not chosen:
        raise StudyError(
            f"found {len(records)} trials and none complete, expected a front to confirm; continue"
            " the search with `hpsearch run`"
        )
    return chosen


def _log_outlook(study: Study, missing: Sequence[tuple[TrialRecord, int]]) -> None:
    trials = plural(len({record.number for record, _ in missing}), "trial")
    _log.info("%s of %s of study %r", plural(len(missing), "training"), trials, study.name)
    if others := cpu.live_workers():
        _log.info(
            "%s of hpsearch running on this machine; times are most accurate without other load",
            plural(others, "worker"),
        )


def _train(
    prepared: PreparedStudy,
    progress: ReplicationProgress,
    *,
    stop: Callable[[], bool],
    on_result: OnResult,
) -> Repeat:
    """Trains the trial with the seed of this repeat; a training that diverges has no values."""
    from hpsearch.nn.models import measure_costs
    from hpsearch.nn.training.loop import Diverged
    from hpsearch.search.worker.trainer import measured

    spec, images, device = prepared.study.spec, prepared.images, prepared.device
    number, params = progress.record.number, progress.record.params
    seed = derive_seed(spec.search.seed, number, "confirm", progress.repeat_index)
    trial = reseeded(resolve(spec, number=number, params=params), seed)
    values, reason = {}, None
    net = build_net(trial, images)
    with translate_failures(trial):
        cost = measure_costs(net, images.input_shape, device=device)
    curve: list[Epoch] = []
    try:
        for epoch in epochs_of(trial, net, images, device, stop=stop):
            curve.append(epoch)
            on_result(progress, epoch)
        values = measured({**cost, "train_seconds": curve[-1].train_seconds}, tuple(curve))
    except Diverged as exc:
        reason = f"diverged: {exc}"
    return Repeat(
        trial=number,
        place=progress.repeat_index,
        seed=seed,
        values=values,
        reason=reason,
        elsewhere=bool(prepared.origin.get("mixed_hardware")),
    )


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
    def tolerance(self) -> float:
        """How far apart the first training losses may be under other conditions, relative."""
        return TOLERANCE

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
    refuse_imported(record)
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
