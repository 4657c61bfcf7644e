"""A study in its database: its records, its budget, and the trials it hands out.

Everything is kept in Optuna's own storage, as study and trial attributes, so that
optuna-dashboard and any notebook read a study of ours as it is.
"""

from __future__ import annotations

import enum
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from hpsearch.core import analysis
from hpsearch.core.objectives import OBJECTIVES
from hpsearch.core.pareto import front
from hpsearch.core.space import Dim, Value, draw
from hpsearch.core.spec import StudySpec, TrialSpec, from_json, is_control, resolve, trial_seed
from hpsearch.core.trial import Curve, Epoch, Outcome, State, TrialRecord
from hpsearch.errors import StudyError
from hpsearch.search.process import is_gone
from hpsearch.search.samplers import distribution, free_slot, grid_cells, make_sampler
from hpsearch.search.storage import Storage

optuna.logging.set_verbosity(optuna.logging.WARNING)

SPEC, DATA, REFERENCE, BOUNDS = (f"hpsearch:{k}" for k in ("spec", "data", "reference", "bounds"))
CREATED, CHANGES, STOP = (f"hpsearch:{key}" for key in ("created", "changes", "stop"))

STATES: Mapping[TrialState, State] = {
    TrialState.WAITING: State.WAITING,
    TrialState.RUNNING: State.RUNNING,
    TrialState.COMPLETE: State.COMPLETE,
    TrialState.PRUNED: State.PRUNED,
    TrialState.FAIL: State.FAILED,
}
_TRIAL_STATES = {ours: theirs for theirs, ours in STATES.items()}
_EPOCH_COLUMNS = tuple(f.name for f in fields(Epoch))


class Standing(enum.Enum):
    """Why a worker gets no trial now."""

    DONE = "done"  # the budget is met
    USED_UP = "used up"  # every cell of the grid has been tried
    BUSY = "busy"  # others run the last trials; one may yet come back
    STOPPED = "stopped"  # `hpsearch stop` was called
    FAILING = "failing"  # too many failures in a row


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A trial that this worker runs: what to train, and the handle to report it by."""

    spec: TrialSpec
    params: Mapping[str, Value]
    control: bool
    handle: optuna.Trial

    @property
    def number(self) -> int:
        """The trial's number, from 0."""
        return self.spec.number


@dataclass(slots=True, kw_only=True)
class Study:
    """An open study. Made by :mod:`hpsearch.search.catalog`."""

    storage: Storage
    handle: optuna.Study
    spec: StudySpec
    attributes: Mapping[str, Any]
    opened: datetime = field(default_factory=datetime.now)
    _finished: dict[int, TrialRecord] = field(default_factory=dict)
    _cells: list[dict[str, Value]] | None = None

    @property
    def name(self) -> str:
        """The study's name in its database."""
        return self.handle.study_name

    @property
    def objectives(self) -> tuple[str, ...]:
        """The names of what is optimised, in the order of the stored values."""
        return self.spec.search.objectives

    @property
    def bounds(self) -> dict[str, tuple[float, float]]:
        """Each objective's range, fixed with the study, for the hypervolume."""
        return {name: (low, high) for name, (low, high) in self.attributes[BOUNDS].items()}

    @property
    def created(self) -> datetime:
        """When the study was made."""
        return datetime.fromisoformat(self.attributes[CREATED])

    def records(self) -> list[TrialRecord]:
        """Returns all trials by number; the finished ones are read once and kept."""
        records = []
        for frozen in self.handle.get_trials(deepcopy=False):
            record = self._finished.get(frozen.number) or _record(frozen, self.spec)
            if frozen.state.is_finished():
                self._finished[frozen.number] = record
            records.append(record)
        return records

    def summary(self) -> analysis.StudySummary:
        """Returns the study in a line."""
        records = self.records()
        chosen, _ = front(records, self.objectives)
        return analysis.StudySummary(
            study=self.name,
            storage=self.storage.masked,
            objectives=self.objectives,
            target=self.spec.search.trials,
            front_size=len(chosen),
            hypervolume=analysis.study_hypervolume(records, self.bounds),
            created=self.created,
            **analysis.counts(records),
        )

    def claim(self, origin: Mapping[str, Any]) -> Claim | Standing:
        """Takes the next trial, if the budget has room for one, and draws its values.

        Lock, count, ask: the count and the claim are one step under the database's lock, so any
        number of workers share a budget exactly. Values are drawn after the lock is let go.

        Args:
            origin: where the trial will run, kept with it; must hold ``process``.
        """
        with self.storage.lock():
            taken = self._take(origin)
        if isinstance(taken, Standing):
            return taken
        handle, slot, alone = taken
        cell = None if slot is None else self._grid()[slot % len(self._grid())]
        self.handle.sampler = make_sampler(self.spec, handle.number, cell=cell, alone=alone)
        params = self._draw(handle)
        spec = resolve(self.spec, number=handle.number, params=params)
        control = bool(handle.user_attrs["origin"]["control"])
        return Claim(spec=spec, params=params, control=control, handle=handle)

    def _draw(self, handle: optuna.Trial) -> dict[str, Value]:
        """Draws the trial's values first and then stores them, all in one transaction."""
        drawn = _Drawn()
        handle.storage, storage = drawn, handle.storage  # type: ignore[assignment]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            params = draw(self.spec.space, lambda name, dim: _suggest(handle, name, dim))
        handle.storage = storage
        with self.storage.together():
            for arguments in drawn.arguments:
                storage.set_trial_param(*arguments)
        return params

    def _take(self, origin: Mapping[str, Any]) -> tuple[optuna.Trial, int | None, bool] | Standing:
        records = [self._reap(record) for record in self.records()]
        standing = self._standing(records)
        if standing is not None:
            return standing
        alone = not any(r.state is State.RUNNING for r in records)
        slot, is_grid = None, self.spec.search.sampler.startswith("grid")
        if is_grid and not any(r.state is State.WAITING for r in records):
            held = [s for r in records if (s := _slot(r)) is not None]
            slot = free_slot(held, self.spec, len(self._grid()))
            if slot is None:
                return Standing.USED_UP if alone else Standing.BUSY
        with self.storage.together():  # a trial without an origin would never be reaped
            handle = self.handle.ask()
            known = handle.user_attrs.get("origin", {})
            slot = known.get("slot") if slot is None else slot
            own = {
                "seed": trial_seed(self.spec, handle.number),
                "slot": slot,
                "control": is_control(self.spec, handle.number),
                "starts": known.get("starts", 0) + 1,
            }
            handle.set_user_attr("origin", {**origin, **own})
        return handle, slot, alone

    def _standing(self, records: Sequence[TrialRecord]) -> Standing | None:
        counts = analysis.counts(records)
        counted, target = counts["complete"] + counts["pruned"], self.spec.search.trials
        if counted >= target:
            return Standing.DONE
        if self.handle.user_attrs.get(STOP):
            return Standing.STOPPED
        if len(self.failures(records)) >= self.spec.search.max_failures:
            return Standing.FAILING
        return Standing.BUSY if counted + counts["running"] >= target else None

    def failures(self, records: Sequence[TrialRecord]) -> list[TrialRecord]:
        """Returns the failures in a row that the study ends with, since this process opened it."""
        recent = analysis.failures_in_a_row(records)
        return [r for r in recent if r.ended is not None and r.ended >= self.opened]

    def _reap(self, record: TrialRecord) -> TrialRecord:
        """Hands back a running trial whose process is certainly gone, or that never had one."""
        if record.state is not State.RUNNING:
            return record
        process = record.attributes.get("origin", {}).get("process")
        if process is not None and not is_gone(process):
            return record
        self._hand_back(record.attributes["trial_id"])
        return TrialRecord(number=record.number, state=State.WAITING, attributes=record.attributes)

    def _grid(self) -> list[dict[str, Value]]:
        if self._cells is None:
            self._cells = grid_cells(self.spec)
        return self._cells

    def record_cost(self, claim: Claim, cost: Mapping[str, float]) -> None:
        """Stores what the trial is and costs, as far as it is known before training."""
        plain = {"model": asdict(claim.spec.model), "train": asdict(claim.spec.train)}
        with self.storage.together():
            claim.handle.set_user_attr("cost", dict(cost))
            if "curve" in claim.handle.user_attrs:  # of an earlier start
                claim.handle.set_user_attr("curve", {})
            claim.handle.set_user_attr("spec", plain)

    def record_epoch(self, claim: Claim, curve: Curve) -> None:
        """Stores the curve so far; with one objective Optuna hears of it in its own way too.

        Not with several: intermediate values in a multi-objective study break TPESampler once a
        trial that has any is pruned (optuna 5.0 reads ``study.direction`` there).
        """
        columns = {name: [getattr(e, name) for e in curve] for name in _EPOCH_COLUMNS}
        claim.handle.set_user_attr("curve", columns)
        if len(self.objectives) == 1 and not OBJECTIVES[self.objectives[0]].is_cost:
            value = getattr(curve[-1], _CURVE_VALUE[self.objectives[0]])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a trial taken up again reports its epochs again
                claim.handle.report(value, len(curve))

    def finish(self, claim: Claim, outcome: Outcome) -> TrialRecord:
        """Tells the database how the trial ended, and returns its record."""
        details = dict(outcome.details)
        if outcome.reason is not None:
            details["reason"] = outcome.reason
        values = [outcome.values[name] for name in self.objectives if outcome.values]
        with self.storage.together(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for key, value in details.items():
                claim.handle.set_user_attr(key, value)
            self.handle.tell(claim.handle, values or None, state=_TRIAL_STATES[outcome.state])
        return self.record(claim.number)

    def hand_back(self, claim: Claim) -> TrialRecord:
        """Puts a running trial back in the queue; it keeps its number, parameters and seed."""
        self._hand_back(claim.handle._trial_id)
        return self.record(claim.number)

    def _hand_back(self, trial_id: int) -> None:
        self.storage.backend.set_trial_state_values(trial_id, TrialState.WAITING)

    def record(self, number: int) -> TrialRecord:
        """Returns one trial.

        Raises:
            StudyError: there is no trial of that number.
        """
        records = self.records()
        if not 0 <= number < len(records):
            has = f"trials 0 to {len(records) - 1}" if records else "no trials yet"
            raise StudyError(f"found no trial {number} in study {self.name!r}, which has {has}")
        return records[number]

    def request_stop(self, *, stop: bool) -> None:
        """Asks every worker of the study to end after its trial, or takes that back."""
        self.handle.set_user_attr(STOP, stop)

    def enqueue(self, params: Mapping[str, Value]) -> int:
        """Queues a configuration; what it leaves open is sampled. Returns the trial's number."""
        with self.storage.lock():
            self.handle.enqueue_trial(dict(params), user_attrs={"enqueued": dict(params)})
            return len(self.handle.get_trials(deepcopy=False)) - 1


class _Drawn:
    """Stands in for a trial's storage while its values are drawn: keeps what it would write."""

    def __init__(self) -> None:
        self.arguments: list[tuple[int, str, float, BaseDistribution]] = []

    def set_trial_param(self, *arguments: Any) -> None:
        self.arguments.append(arguments)


_CURVE_VALUE = {"accuracy": "val_accuracy", "val_loss": "val_loss"}


def _suggest(handle: optuna.Trial, name: str, dim: Dim) -> Value:
    value = handle._suggest(name, distribution(dim))
    return value  # type: ignore[no-any-return]


def _slot(record: TrialRecord) -> int | None:
    if record.state is State.FAILED:
        return None
    slot: int | None = record.attributes.get("origin", {}).get("slot")
    return slot


def _record(frozen: FrozenTrial, spec: StudySpec) -> TrialRecord:
    attributes = {**frozen.user_attrs, "trial_id": frozen._trial_id}
    columns = attributes.pop("curve", None) or {name: [] for name in _EPOCH_COLUMNS}
    rows = zip(*(columns[name] for name in _EPOCH_COLUMNS), strict=True)
    curve = tuple(Epoch(**dict(zip(_EPOCH_COLUMNS, row, strict=True))) for row in rows)
    cost = dict(attributes.get("cost", {}))
    if curve:
        cost["train_seconds"] = curve[-1].train_seconds
    origin = attributes.get("origin", {})
    is_complete = frozen.state is TrialState.COMPLETE
    values = (
        dict(zip(spec.search.objectives, frozen.values or (), strict=True)) if is_complete else {}
    )
    return TrialRecord(
        number=frozen.number,
        state=STATES[frozen.state],
        params=_params(frozen, spec),
        values=values,
        curve=curve,
        cost=cost,
        seed=origin.get("seed"),
        control=origin.get("control", False),
        reason=attributes.get("reason"),
        started=frozen.datetime_start,
        ended=frozen.datetime_complete,
        attributes=attributes,
    )


def _params(frozen: FrozenTrial, spec: StudySpec) -> dict[str, Any]:
    """The trial's whole configuration: Optuna keeps only what was drawn, not what is fixed."""
    known = {**frozen.system_attrs.get("fixed_params", {}), **frozen.params}
    try:
        return draw(spec.space, lambda name, _: known[name])
    except KeyError:
        return known  # not drawn yet, or only in part


def spec_of(handle: optuna.Study) -> StudySpec | None:
    """Returns the spec that a study was made from; None for a study that is not ours."""
    text = handle.user_attrs.get(SPEC)
    return from_json(text) if text is not None else None
