"""Training the front again with fresh seeds, each result kept with the study as it comes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from hpsearch.core.analysis.pareto import front
from hpsearch.core.analysis.recommendation import TrialSelection, select_trial
from hpsearch.core.analysis.replication import Repeat, Replication, replications
from hpsearch.core.plural import plural
from hpsearch.core.spec import derive_seed, reseeded, resolve
from hpsearch.core.trial import Epoch, TrialRecord
from hpsearch.errors import StudyError
from hpsearch.nn.runtime import cpu
from hpsearch.nn.training.failures import build_net, custom_factory, epochs_of, translate_failures
from hpsearch.search.storage.records import CONFIRMED
from hpsearch.search.study.study import Study
from hpsearch.search.worker.launch import PreparedStudy, WorkerOptions, attach_worker

_log = logging.getLogger(__name__)

SEEDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicationProgress:
    """How far a confirmation is: the training numbered ``number`` of ``total``, from 1."""

    number: int
    total: int
    record: TrialRecord
    repeat_index: int
    seeds: int


# Takes where the confirmation is, and an epoch of that training or what it came to.
Tell = Callable[[ReplicationProgress, Epoch | Repeat], None]


def confirm(
    study: Study,
    options: WorkerOptions,
    *,
    trials: Sequence[int] = (),
    seeds: int = SEEDS,
    dataset: str | None = None,
    stop: Callable[[], bool],
    tell: Tell,
) -> tuple[Replication, ...]:
    """Trains trials again until each has been trained with so many fresh seeds; returns their sums.

    One after the other and a seed of each in turn, so that nothing of ours disturbs the clock and
    what does hits all alike. Every training is kept with the study when it ends: the same call
    goes on. Trained and measured as in the search, on the same split: the spread is that of the
    weights, the order of the data and the shifts, and not that of the choice of images.

    Args:
        study: where the trials are.
        options: where to train; the threads are the study's unless it names others.
        trials: complete trials; none: those of the front.
        seeds: how many trainings of each there are in the end.
        dataset: where the data lies here, if not where the study has it.
        stop: asked before every step.
        tell: takes each epoch and each result.

    Raises:
        StudyError: there is no such trial, it is not complete, or there is no front.
        Interrupted: ``stop`` asked for it; what was trained to its end is kept.
        HpsearchError: the data or the device cannot be had, or the hardware differs.
    """
    records = study.records()
    chosen = _chosen(records, study.objectives, trials)
    known = {(repeat.trial, repeat.place) for repeat in _repeats(_attributes(study))}
    missing = [
        (record, number)
        for number in range(seeds)
        for record in chosen
        if (record.number, number) not in known
    ]
    if missing:
        _say_what_is_ahead(study, missing)
        ready = attach_worker(study, options, dataset=dataset)
        for done, (record, number) in enumerate(missing, start=1):
            where = ReplicationProgress(
                number=done, total=len(missing), record=record, repeat_index=number, seeds=seeds
            )
            repeat = _repeat(ready, where, stop=stop, tell=tell)
            _keep(study, repeat, ready.origin)
            tell(where, repeat)
    wanted = {record.number for record in chosen}
    told = confirmations(study, records, _attributes(study))
    return tuple(one for one in told if one.number in wanted)


def confirmations(
    study: Study, records: Sequence[TrialRecord], attributes: Mapping[str, Any]
) -> tuple[Replication, ...]:
    """Returns what the trials that were trained again come to; the front and knee are of them."""
    return replications(records, _repeats(attributes), study.objectives)


def _attributes(study: Study) -> Mapping[str, Any]:
    return study.storage.with_retry(lambda: study.handle.user_attrs)


def _repeats(attributes: Mapping[str, Any]) -> list[Repeat]:
    """The trainings with fresh seeds that the study's trials have had, by trial."""
    kept = [value for key, value in attributes.items() if key.startswith(f"{CONFIRMED}:")]
    return sorted(map(_read, kept), key=lambda repeat: (repeat.trial, repeat.place))


def _chosen(
    records: Sequence[TrialRecord], objectives: Sequence[str], numbers: Sequence[int]
) -> list[TrialRecord]:
    if numbers:
        picked = dict.fromkeys(numbers)  # each once, in the order given
        return [
            select_trial(records, objectives, TrialSelection(trial=number)) for number in picked
        ]
    chosen, _ = front(records, objectives)
    if not chosen:
        raise StudyError(
            f"found {len(records)} trials and none complete, expected a front to confirm; search on"
            " with `hpsearch run`"
        )
    return chosen


def _say_what_is_ahead(study: Study, missing: Sequence[tuple[TrialRecord, int]]) -> None:
    trials = len({record.number for record, _ in missing})
    _log.info(
        "%s of %s of study %r",
        plural(len(missing), "training"),
        plural(trials, "trial"),
        study.name,
    )
    if others := cpu.live_workers():
        _log.info(
            "%s of hpsearch run%s on this machine; times come out truest when nothing else does",
            plural(others, "worker"),
            "s" * (others == 1),
        )


def _repeat(
    ready: PreparedStudy, where: ReplicationProgress, *, stop: Callable[[], bool], tell: Tell
) -> Repeat:
    from hpsearch.nn.models.cost import measure
    from hpsearch.nn.training.loop import Diverged
    from hpsearch.search.worker.trainer import measured

    spec, images, number = ready.study.spec, ready.images, where.record.number
    seed = derive_seed(spec.search.seed, number, "confirm", where.repeat_index)
    trial = reseeded(resolve(spec, number=number, params=where.record.params), seed)
    values, reason = {}, None
    net = build_net(trial, images)
    with translate_failures(custom_factory(trial)):
        cost = measure(net, images.input_shape, device=ready.device)
    curve: list[Epoch] = []
    try:
        for epoch in epochs_of(trial, net, images, ready.device, stop=stop):
            curve.append(epoch)
            tell(where, epoch)
        values = measured({**cost, "train_seconds": curve[-1].train_seconds}, tuple(curve))
    except Diverged as exc:
        reason = f"diverged: {exc}"
    return Repeat(
        trial=number,
        place=where.repeat_index,
        seed=seed,
        values=values,
        reason=reason,
        elsewhere=bool(ready.origin.get("mixed_hardware")),
    )


def _keep(study: Study, repeat: Repeat, origin: Mapping[str, Any]) -> None:
    """Writes a training's result among the study's attributes: a trial that ended takes none."""
    kept = {
        "trial": repeat.trial,
        "place": repeat.place,
        "seed": repeat.seed,
        "values": dict(repeat.values),
        "reason": repeat.reason,
        "elsewhere": repeat.elsewhere,
        "at": datetime.now(UTC).isoformat(),
        "origin": dict(origin),
    }
    key = f"{CONFIRMED}:{repeat.trial}:{repeat.place}"
    study.storage.with_retry(lambda: study.handle.set_user_attr(key, kept))


def _read(kept: Mapping[str, Any]) -> Repeat:
    names = ("trial", "place", "seed", "values", "reason", "elsewhere")
    return Repeat(**{name: kept[name] for name in names})
