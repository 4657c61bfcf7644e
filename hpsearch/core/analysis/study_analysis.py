"""The analysis of a study: all numbers that its report and its summaries show."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from hpsearch.core.analysis.effects import (
    DepthEffect,
    OptimizerEffect,
    depth_effect,
    optimizer_effect,
)
from hpsearch.core.analysis.history import (
    HypervolumePoint,
    Presence,
    RecentGain,
    Span,
    first_reaching,
    hypervolume_history,
    presence,
    recent_gain,
    timeline,
)
from hpsearch.core.analysis.pareto import ParetoFront, front
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
from hpsearch.core.analysis.statistics import Replication, mean_optimism
from hpsearch.core.spec import StudySpec
from hpsearch.core.trial import State, TrialRecord

# Trials that the best tenth needs before the order of importances can be trusted. Of the first
# three of 12 dimensions, 3 of which mattered, 0.9 did not matter with 4 such trials, 0.6 with 6,
# 0.3 with 10 and 0.1 with 20 (means of 40 simulated random searches, Optuna 5.0).
ENOUGH_BEST_TRIALS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedTrial:
    """A complete or pruned trial, its last measurements, and whether it is on the front."""

    record: TrialRecord
    pick: Pick
    is_front: bool
    is_knee: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Importance:
    """The share of each hyperparameter in reaching ``target``; the shares sum to 1.

    ``target`` is the objective's name, or ``front`` for being on the front. ``trials`` is the
    number of complete trials used. Hyperparameters that cannot change the target are left out.
    """

    target: str
    trials: int
    shares: Mapping[str, float]

    @property
    def best_trials(self) -> int:
        """The number of trials in the best tenth, which the shares are computed from."""
        return math.ceil(self.trials / 10)

    @property
    def is_weak(self) -> bool:
        """Whether these are too few to trust the order of the shares."""
        return self.best_trials < ENOUGH_BEST_TRIALS


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One kind of machine and set of versions that ran ``trials`` of the study's trials."""

    processor: str
    threads: int | None
    versions: Mapping[str, str]
    trials: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """The facts that reproduce the study.

    ``data`` is the fingerprint of the images and their split (empty before the first worker),
    ``reference`` the hardware that seconds are measured on, ``changes`` the log of changes to the
    spec during the study.
    """

    spec: StudySpec
    data: Mapping[str, Any]
    reference: Mapping[str, Any]
    settings: tuple[Setting, ...]
    changes: Sequence[Mapping[str, Any]]
    created: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyAnalysis:
    """All numbers of a study, computed once: ``front`` cheapest first, ``trials`` by number.

    ``confirmed`` holds the replications with fresh seeds, ``flattery`` by how much the search
    overestimated the front's accuracies (0-1; None: not known). ``nearly`` is where the search
    first had 99 % of its final hypervolume, ``lately`` the gain of the last quarter of its trials
    (None: too few). The field names are keys of the report's JSON.
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
        """The names of the objectives."""
        return self.answer.objectives

    @property
    def knee(self) -> RankedTrial | None:
        """The knee of the front; None if no trial is complete."""
        return next((trial for trial in self.front if trial.is_knee), None)


def analyse(
    name: str,
    records: Sequence[TrialRecord],
    *,
    bounds: Bounds,
    environment: Environment,
    importance: Sequence[Importance] = (),
    confirmed: Sequence[Replication] = (),
) -> StudyAnalysis:
    """Returns the analysis of a study.

    Args:
        name: the study's name.
        records: its trials, by number.
        bounds: each objective's range, which the hypervolume is measured in; empty: not known.
        environment: its spec, data and hardware.
        importance: one per target.
        confirmed: the replications with fresh seeds.
    """
    spec = environment.spec
    objectives, epochs = spec.search.objectives, spec.train.epochs
    val_images = environment.data.get("val")
    # The one computation of the front: all that needs it takes it from here.
    found = front(records, objectives)
    trials = ranked_trials(records, found, val_images=val_images)
    by_number = {trial.record.number: trial for trial in trials}
    history = hypervolume_history(records, bounds=bounds, epochs=epochs)
    spans = timeline(records)
    return StudyAnalysis(
        study=name,
        counts=counts(records),
        answer=recommend(
            found,
            objectives=objectives,
            val_images=val_images,
            chance=bounds["accuracy"][0] if "accuracy" in bounds else None,
        ),
        front=tuple(by_number[record.number] for record in found.trials),
        trials=trials,
        confirmed=tuple(confirmed),
        flattery=mean_optimism([again for again in confirmed if again.number in found.numbers]),
        depth=depth_effect(records, val_images=val_images),
        optimizers=optimizer_effect(records),
        importance=tuple(importance),
        hypervolume=study_hypervolume(records, bounds) if bounds else 0.0,
        attainment=history,
        nearly=first_reaching(history, 0.99),
        lately=recent_gain(history, found.numbers),
        timeline=spans,
        presence=presence(spans),
        savings=savings(records, epochs=epochs),
        audit=audit(records, found),
        environment=environment,
        failures=failures(records),
    )


def ranked_trials(
    records: Sequence[TrialRecord], front: ParetoFront, *, val_images: int | None
) -> tuple[RankedTrial, ...]:
    """Returns the trials that count toward the budget, by number."""
    return tuple(
        RankedTrial(
            record=record,
            pick=pick(record, val_images=val_images),
            is_front=record.number in front.numbers,
            is_knee=record.number == front.knee,
        )
        for record in records
        if record.state.counts
    )


def failures(records: Sequence[TrialRecord]) -> dict[str, int]:
    """Returns how many trials failed for each reason, the most frequent first."""
    reasons = Counter(r.reason or "not known" for r in records if r.state is State.FAILED)
    return dict(reasons.most_common())


def settings(records: Sequence[TrialRecord]) -> tuple[Setting, ...]:
    """Returns the machines and versions that ran the trials, the most used first."""
    found: Counter[tuple[Any, ...]] = Counter()
    for record in records:
        origin = record.attributes.get("origin", {})
        if "processor" in origin or "versions" in origin:
            versions = tuple(sorted(origin.get("versions", {}).items()))
            found[origin.get("processor", "not known"), origin.get("threads"), versions] += 1
    return tuple(
        Setting(processor=processor, threads=threads, versions=dict(versions), trials=trials)
        for (processor, threads, versions), trials in found.most_common()
    )


def as_plain(value: Any) -> Any:
    """Returns an analysis, or any part of one, for JSON; NaN and infinity become None.

    >>> as_plain({"state": State.PRUNED, "loss": float("nan"), "rungs": (1, 3)})
    {'state': 'pruned', 'loss': None, 'rungs': [1, 3]}
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    # Not by its fields: a record holds attributes that a report does not show.
    if isinstance(value, RankedTrial):
        record, measured = value.record, value.pick
        value = {
            "number": record.number,
            "state": record.state,
            "is_front": value.is_front,
            "is_knee": value.is_knee,
            "params": record.params,
            "values": record.values,
            "measured": measured.measured,
            "accuracy_interval": (measured.low, measured.high),
            "seed": record.seed,
            "curve": record.curve,
        }
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):  # a trial's is local, without a zone
        return (value if value.tzinfo else value.astimezone()).isoformat()
    if isinstance(value, Mapping):
        return {str(key): as_plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_plain(inner) for inner in value]
    if hasattr(value, "__dataclass_fields__"):
        return {name: as_plain(getattr(value, name)) for name in value.__dataclass_fields__}
    return value
