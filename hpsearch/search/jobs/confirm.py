"""Trains the front again with fresh seeds and stores each result with the study."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from hpsearch.core.analysis.pareto import front
from hpsearch.core.analysis.replication import Repeat, Replication, replications
from hpsearch.core.analysis.selection import TrialSelection, select_trial
from hpsearch.core.plural import plural
from hpsearch.core.spec import derive_seed, reseeded, resolve
from hpsearch.core.trial import Epoch, TrialRecord
from hpsearch.errors import StudyError
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
        _log_outlook(study, missing)
        prepared = attach_worker(study, options, dataset=dataset)
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
    from hpsearch.nn.models.cost import measure
    from hpsearch.nn.training.loop import Diverged
    from hpsearch.search.worker.trainer import measured

    spec, images, device = prepared.study.spec, prepared.images, prepared.device
    number, params = progress.record.number, progress.record.params
    seed = derive_seed(spec.search.seed, number, "confirm", progress.repeat_index)
    trial = reseeded(resolve(spec, number=number, params=params), seed)
    values, reason = {}, None
    net = build_net(trial, images)
    with translate_failures(trial):
        cost = measure(net, images.input_shape, device=device)
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
