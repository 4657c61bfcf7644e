"""All that a report tells of a study, as numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from hpsearch.core.analysis.effects import (
    DepthEffect,
    OptimizerEffect,
    depth_effect,
    optimizer_effect,
)
from hpsearch.core.analysis.hypervolume_history import (
    HypervolumePoint,
    RecentGain,
    first_reaching,
    hypervolume_history,
    recent_gain,
)
from hpsearch.core.analysis.pareto import front
from hpsearch.core.analysis.pruning_stats import (
    Audit,
    Bounds,
    Savings,
    audit,
    counts,
    savings,
    study_hypervolume,
)
from hpsearch.core.analysis.recommendation import Pick, Recommendation, pick, recommend
from hpsearch.core.analysis.replication import Replication, mean_optimism
from hpsearch.core.analysis.timeline import Presence, Span, presence, timeline
from hpsearch.core.spec import StudySpec
from hpsearch.core.trial import State, TrialRecord

# Trials in the best tenth, so that what is named as important is. Of the first three of 12
# dimensions, 3 of which mattered, 0.9 did not matter with 4 such trials, 0.6 with 6, 0.3 with 10
# and 0.1 with 20 (means of 40 simulated random searches, Optuna 5.0).
FEW = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedTrial:
    """A trial beside the front: on it or not, complete or stopped with what it had reached."""

    record: TrialRecord
    pick: Pick
    is_front: bool
    is_knee: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Importance:
    """How much of reaching ``target`` each hyperparameter decides; the shares sum to 1.

    ``target`` is the objective's name, or ``front`` for being on the front. ``trials`` complete
    trials went into it. What cannot change the target is left out.
    """

    target: str
    trials: int
    shares: Mapping[str, float]

    @property
    def best_trials(self) -> int:
        """How many trials the best tenth is, which the shares rest on."""
        return math.ceil(self.trials / 10)

    @property
    def is_weak(self) -> bool:
        """Whether that is too few to rely on the order of the shares."""
        return self.best_trials < FEW


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One kind of machine and set of versions that ran ``trials`` of the study's trials."""

    processor: str
    threads: int | None
    versions: Mapping[str, str]
    trials: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What another person needs to run the study again.

    ``data`` is the fingerprint of the images and their split (empty before the first worker),
    ``reference`` the hardware that seconds are measured on, ``changes`` the log of what was
    changed while the study went on.
    """

    spec: StudySpec
    data: Mapping[str, Any]
    reference: Mapping[str, Any]
    settings: tuple[Setting, ...]
    changes: Sequence[Mapping[str, Any]]
    created: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyAnalysis:
    """A study, reduced to what a report shows: ``front`` cheapest first, ``trials`` by number.

    ``confirmed`` holds what trials came to that were trained again with fresh seeds, ``flattery``
    how much better the search saw the front's accuracies than that (0-1; None: not known).
    ``nearly`` is where the search first had 99 % of the hypervolume that it ended with, ``lately``
    what the last quarter of its trials brought (None: too few).
    """

    study: str
    counts: Mapping[str, int]
    answer: Recommendation
    front: tuple[RankedTrial, ...]
    trials: tuple[RankedTrial, ...]
    confirmed: tuple[Replication, ...]
    flattery: float | None
    depth: DepthEffect
    optimizers: OptimizerEffect
    importance: tuple[Importance, ...]
    hypervolume: float
    attainment: tuple[HypervolumePoint, ...]
    nearly: HypervolumePoint | None
    lately: RecentGain | None
    timeline: tuple[Span, ...]
    presence: Presence
    savings: Savings
    audit: Audit
    environment: Environment
    failures: Mapping[str, int]

    @property
    def objectives(self) -> tuple[str, ...]:
        """The names of what is optimised."""
        return self.answer.objectives


def analyse(
    name: str,
    records: Sequence[TrialRecord],
    *,
    bounds: Bounds,
    environment: Environment,
    importance: Sequence[Importance] = (),
    confirmed: Sequence[Replication] = (),
) -> StudyAnalysis:
    """Reduces a study to what a report shows."""
    spec = environment.spec
    objectives, epochs = spec.search.objectives, spec.train.epochs
    val_images = environment.data.get("val")
    trials = ranked_trials(records, objectives=objectives, val_images=val_images)
    by_number = {standing.record.number: standing for standing in trials}
    attained = hypervolume_history(records, bounds=bounds, epochs=epochs)
    spans = timeline(records)
    chosen = front(records, objectives)[0]
    on_front = {record.number for record in chosen}
    return StudyAnalysis(
        study=name,
        counts=counts(records),
        answer=recommend(
            records,
            objectives=objectives,
            val_images=val_images,
            chance=bounds["accuracy"][0] if "accuracy" in bounds else None,
        ),
        front=tuple(by_number[r.number] for r in chosen),
        trials=trials,
        confirmed=tuple(confirmed),
        flattery=mean_optimism([one for one in confirmed if one.number in on_front]),
        depth=depth_effect(records, val_images=val_images),
        optimizers=optimizer_effect(records),
        importance=tuple(importance),
        hypervolume=study_hypervolume(records, bounds) if bounds else 0.0,
        attainment=attained,
        nearly=first_reaching(attained, 0.99),
        lately=recent_gain(attained, on_front),
        timeline=spans,
        presence=presence(spans),
        savings=savings(records, epochs=epochs),
        audit=audit(records, objectives),
        environment=environment,
        failures=failures(records),
    )


def ranked_trials(
    records: Sequence[TrialRecord], *, objectives: Sequence[str], val_images: int | None
) -> tuple[RankedTrial, ...]:
    """Returns the trials that count, by number, each beside the front."""
    chosen, knee = front(records, objectives)
    on_front = {record.number for record in chosen}
    return tuple(
        RankedTrial(
            record=record,
            pick=pick(record, val_images=val_images),
            is_front=record.number in on_front,
            is_knee=record.number == knee,
        )
        for record in records
        if record.state.counts
    )


def failures(records: Sequence[TrialRecord]) -> dict[str, int]:
    """Returns how many trials failed for each reason, the most frequent first."""
    told: dict[str, int] = {}
    for record in records:
        if record.state is State.FAILED:
            reason = record.reason or "not known"
            told[reason] = told.get(reason, 0) + 1
    return dict(sorted(told.items(), key=lambda item: -item[1]))


def settings(records: Sequence[TrialRecord]) -> tuple[Setting, ...]:
    """Returns the machines and versions that ran the trials, the most used first."""
    found: dict[tuple[Any, ...], int] = {}
    for record in records:
        origin = record.attributes.get("origin", {})
        if "processor" in origin or "versions" in origin:
            versions = tuple(sorted(origin.get("versions", {}).items()))
            key = (origin.get("processor", "not known"), origin.get("threads"), versions)
            found[key] = found.get(key, 0) + 1
    return tuple(
        Setting(processor=processor, threads=threads, versions=dict(versions), trials=trials)
        for (processor, threads, versions), trials in sorted(
            found.items(), key=lambda item: -item[1]
        )
    )


def as_plain(value: Any) -> Any:
    """Returns findings, or any part of them, as JSON can hold it; what is not finite as None.

    >>> as_plain({"state": State.PRUNED, "loss": float("nan"), "rungs": (1, 3)})
    {'state': 'pruned', 'loss': None, 'rungs': [1, 3]}
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, RankedTrial):
        return _plain_standing(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):  # of a trial local and without a zone, as Optuna reads them
        return (value if value.tzinfo else value.astimezone()).isoformat()
    if isinstance(value, Mapping):
        return {str(key): as_plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_plain(inner) for inner in value]
    if hasattr(value, "__dataclass_fields__"):
        return {name: as_plain(getattr(value, name)) for name in value.__dataclass_fields__}
    return value


def _plain_standing(standing: RankedTrial) -> dict[str, Any]:
    record, named = standing.record, standing.pick
    return {
        "number": record.number,
        "state": record.state.value,
        "is_front": standing.is_front,
        "is_knee": standing.is_knee,
        "params": as_plain(record.params),
        "values": as_plain(record.values),
        "measured": as_plain(named.measured),
        "accuracy_interval": as_plain((named.low, named.high)),
        "seed": record.seed,
        "curve": [as_plain(asdict(epoch)) for epoch in record.curve],
    }
