"""A study in its database: its records, its budget, and the trials it hands out.

Everything is kept in Optuna's own storage, as study and trial attributes, so that
optuna-dashboard and any notebook read a study of ours as it is.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.orm import Session

from hpsearch.core.analysis import pruning_stats
from hpsearch.core.analysis.pareto import front
from hpsearch.core.dimensions import Value
from hpsearch.core.spec import StudySpec, is_control, resolve, trial_seed
from hpsearch.core.trial import Curve, Outcome, State, TrialRecord
from hpsearch.errors import StudyError
from hpsearch.search.samplers import free_slot, grid_cells, make_sampler, sample
from hpsearch.search.storage import tables
from hpsearch.search.storage.artifacts import checkpoint_key, remove_orphaned
from hpsearch.search.storage.records import (
    BOUNDS,
    CREATED,
    DATA,
    SPEC,
    STOP,
    read,
    read_spec,
    slot_of,
)
from hpsearch.search.storage.storage import Storage
from hpsearch.search.storage.tables import StateCounts, count_states
from hpsearch.search.study import leases
from hpsearch.search.study.leases import Lease, hold_lease
from hpsearch.search.study.status import StudyStatus, exhausted

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Taken:
    """A trial that has been taken and not been drawn yet; ``alone``: no other runs now."""

    trial: FrozenTrial
    origin: Mapping[str, Any]
    alone: bool


@dataclass(slots=True, kw_only=True)
class Study:
    """An open study. Made by :mod:`hpsearch.search.study.catalog`."""

    storage: Storage
    handle: optuna.Study
    spec: StudySpec
    attributes: Mapping[str, Any]
    _finished: dict[int, TrialRecord] = field(default_factory=dict)
    _scaled: dict[int, FrozenTrial] = field(default_factory=dict)
    _cells: list[dict[str, Value]] | None = None
    _failed_before: set[int] | None = None

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
        """Each objective's range, fixed with the study's first worker, for the hypervolume."""
        known = self.attributes.get(BOUNDS) or self.handle.user_attrs.get(BOUNDS, {})
        return {name: (low, high) for name, (low, high) in known.items()}

    @property
    def created(self) -> datetime:
        """When the study was made."""
        return datetime.fromisoformat(self.attributes[CREATED])

    def records(self) -> list[TrialRecord]:
        """Returns all trials by number; the finished ones are read once and kept."""
        records = []
        for frozen in self.storage.with_retry(lambda: self.handle.get_trials(deepcopy=False)):
            record = self._finished.get(frozen.number) or read(frozen, self.spec)
            if frozen.state.is_finished():
                self._finished[frozen.number] = record
            records.append(record)
        return records

    def tally(self) -> Mapping[State, int]:
        """Returns how many trials are in each state; light, whatever the trials hold."""
        return self.storage.with_retry(self._roll).counts

    def summary(self) -> pruning_stats.StudySummary:
        """Returns the study in a line."""
        records = self.records()
        return pruning_stats.StudySummary(
            study=self.name,
            storage=self.storage.masked,
            objectives=self.objectives,
            target=self.spec.search.trials,
            front_size=len(front(records, self.objectives).trials),
            hypervolume=pruning_stats.study_hypervolume(records, self.bounds),
            created=self.created,
            silent=self.silent(),
            **pruning_stats.counts(records),
        )

    def silent(self) -> int:
        """Returns how many running trials have lost their workers, and wait to be taken up."""
        return len(
            leases.stale_trials(self.storage, self.storage.with_retry(self._roll), claim=None)
        )

    def claim(self, origin: Mapping[str, Any]) -> Lease | StudyStatus:
        """Takes the next trial, if the budget has room for one, and draws its values.

        Lock, count, ask: the count and the claim are one step under the database's lock, so any
        number of workers share a budget exactly. Values are drawn after the lock is let go.

        Args:
            origin: where the trial will run, kept with it; must hold ``process``.

        Raises:
            LeaseLost: drawing took so long that the lease was lost to another worker.
            StorageError: the place for checkpoints cannot be used.
        """
        artifacts = self.storage.artifacts
        marked = {**origin, "claim": uuid.uuid4().hex}
        claim = self.storage.with_retry(lambda: self._claim(marked))
        over = isinstance(claim, StudyStatus) and claim is not StudyStatus.BUSY
        if over and artifacts is not None:
            remove_orphaned(artifacts, self.created, self.records)
        return claim

    def _claim(self, origin: Mapping[str, Any]) -> Lease | StudyStatus:
        failed: list[int] = []
        with self.storage.lock():
            taken = self._take(origin, failed)
        self._remove_checkpoints(failed)  # however long that takes: not under the lock
        if isinstance(taken, StudyStatus):
            return taken
        trial, own = taken.trial, taken.origin
        cell = None if own["slot"] is None else self._grid()[own["slot"] % len(self._grid())]
        self.handle.sampler = make_sampler(
            self.spec,
            trial.number,
            cell=cell,
            alone=taken.alone,
            images=self.attributes.get(DATA, {}).get("train"),
            scaled=self._scaled,
        )
        params, drawn = sample(self.handle, trial, self.spec.space)
        # Drawing may have taken so long that the trial is another worker's by now.
        with hold_lease(self.storage, trial._trial_id, mark=own["claim"]) as session:
            tables.put_params(session, trial._trial_id, drawn)
        return Lease(
            spec=resolve(self.spec, number=trial.number, params=params),
            params=params,
            control=own["control"],
            trial_id=trial._trial_id,
            start=own["starts"],
            mark=own["claim"],
            attributes=trial.user_attrs,
        )

    def _take(self, origin: Mapping[str, Any], failed: list[int]) -> _Taken | StudyStatus:
        attributes = self._refresh()
        roll = self._reaped(self._roll(), failed, claim=origin["claim"])
        standing = self._standing(roll, attributes)
        if standing is not None:
            return standing
        slot = None
        if self._deals_cells(roll) and (slot := self._free_slot()) is None:
            return exhausted(alone=not roll.running)
        with self.storage.transaction() as session:  # without an origin it would never be reaped
            trial = self._start(session, roll.waiting)
            own = {**origin, **self._origin(trial, slot)}
            tables.put(session, trial._trial_id, {"origin": own})
            tables.beat(session, trial._trial_id, mark=origin["claim"])
        return _Taken(trial=trial, origin=own, alone=not roll.running)

    def _start(self, session: Session, waiting: int | None) -> FrozenTrial:
        """Starts the trial that waits, by its id, or a new one."""
        backend = self.storage.backend
        if waiting is not None:
            backend.set_trial_state_values(waiting, TrialState.RUNNING)
            tables.start_now(session, waiting)
            return backend.get_trial(waiting)
        trial_id = backend.create_new_trial(self.handle._study_id)
        tables.start_now(session, trial_id)
        trial = optuna.create_trial(state=TrialState.RUNNING)
        trial.number, trial._trial_id = tables.number_of(session, trial_id), trial_id
        return trial

    def _origin(self, trial: FrozenTrial, slot: int | None) -> dict[str, Any]:
        """What a trial keeps of the study's own doing, beside where it runs."""
        known = trial.user_attrs.get("origin", {})
        return {
            "seed": trial_seed(self.spec, trial.number),
            "slot": known.get("slot") if slot is None else slot,
            "control": is_control(self.spec, trial.number),
            "starts": known.get("starts", 0) + 1,
        }

    def _refresh(self) -> Mapping[str, Any]:
        """Takes up what `hpsearch run` or `submit` has changed meanwhile: trials, sampler, …

        Returns the study's attributes as they are now.

        Raises:
            StudyError: the study is gone, and another has its id: SQLite gives it out anew.
        """
        attributes: Mapping[str, Any] = self.handle.user_attrs
        if attributes[CREATED] != self.attributes[CREATED]:
            raise StudyError(f"study {self.name!r} has been deleted; run it again")
        if attributes[SPEC] != self.attributes[SPEC]:
            self.attributes, self.spec = attributes, read_spec(self.name, attributes[SPEC])
        return attributes

    def _roll(self) -> StateCounts:
        with self.storage.transaction() as session:
            return count_states(session, self.handle._study_id)

    def status(self) -> StudyStatus | None:
        """Returns why no worker would get a trial now; None if one would.

        One would get a trial that has lost its worker: whoever claims takes it up.
        """

        def look() -> StudyStatus | None:
            attributes, roll = self._refresh(), self._roll()
            standing = self._standing(roll, attributes)
            if standing is None and self._deals_cells(roll) and self._free_slot() is None:
                standing = exhausted(alone=not roll.running)
            is_busy = standing is StudyStatus.BUSY
            gone = len(leases.stale_trials(self.storage, roll, claim=None)) if is_busy else 0
            rest = self.spec.search.trials - roll.counted - (len(roll.running) - gone)
            return None if gone and rest > 0 else standing

        return self.storage.with_retry(look)

    def _standing(self, roll: StateCounts, attributes: Mapping[str, Any]) -> StudyStatus | None:
        target, counts = self.spec.search.trials, roll.counts
        if roll.counted >= target:
            return StudyStatus.DONE
        if attributes.get(STOP):
            return StudyStatus.STOPPED
        if len(self._new_failures(roll)) >= self.spec.search.max_failures:
            return StudyStatus.FAILING
        return StudyStatus.BUSY if roll.counted + counts[State.RUNNING] >= target else None

    def _deals_cells(self, roll: StateCounts) -> bool:
        """Whether the next trial is a cell of a grid; one that waits has its own."""
        return self.spec.search.sampler.startswith("grid") and roll.waiting is None

    def _free_slot(self) -> int | None:
        held = [slot for r in self.records() if (slot := slot_of(r)) is not None]
        return free_slot(held, self.spec, len(self._grid()))

    def _grid(self) -> list[dict[str, Value]]:
        if self._cells is None:
            self._cells = grid_cells(self.spec)
        return self._cells

    def failures(self) -> list[TrialRecord]:
        """Returns the failures in a row that the study ends with, but for those known before.

        Before: when this process first looked. In a row by the database's clock.
        """
        numbers = self.storage.with_retry(lambda: self._new_failures(self._roll()))
        return [self.record(number) for number in numbers]

    def _new_failures(self, roll: StateCounts) -> list[int]:
        if self._failed_before is None:
            self._failed_before = set(roll.failed)
        return [number for number in roll.failed_since if number not in self._failed_before]

    def reap(self, *, signals: Mapping[int, int] | None = None) -> None:
        """Takes the trials of workers that are gone from them, now.

        ``signals`` tells which signal ended processes of this host, by pid.
        """

        def reap() -> list[int]:
            failed: list[int] = []
            with self.storage.lock():
                self._reaped(self._roll(), failed, signals=signals)
            return failed

        self._remove_checkpoints(self.storage.with_retry(reap))

    def _reaped(
        self,
        roll: StateCounts,
        failed: list[int],
        *,
        claim: str | None = None,
        signals: Mapping[int, int] | None = None,
    ) -> StateCounts:
        """Hands the trials back whose workers are gone; fails those that may be what kills them.

        Likewise the trial of that very claim, if the database went away while it was made.
        Returns the roll as it then is, and adds the numbers of those that failed to ``failed``.
        """
        lost = leases.stale_trials(self.storage, roll, claim=claim)
        known = signals or {}
        ended = [leases.recover(self.storage, self.spec, trial, known) for trial in lost]
        failed += [number for number in ended if number is not None]
        return self._roll() if lost else roll

    def beat(self, claim: Lease) -> None:
        """Gives a sign of life.

        Raises:
            LeaseLost: the lease was lost to another worker.
        """
        leases.beat(self.storage, claim)

    def record_cost(self, claim: Lease, cost: Mapping[str, float], curve: Curve = ()) -> None:
        """Stores the trial's spec, its costs and the curve that it resumes; raises LeaseLost."""
        self.storage.with_retry(lambda: leases.put_cost(self.storage, claim, cost, curve))

    def record_epoch(self, claim: Lease, curve: Curve) -> None:
        """Stores the curve so far; with one objective Optuna hears of it in its own way too.

        Not with several: intermediate values in a multi-objective study break TPESampler once a
        trial that has any is pruned (optuna 5.0 reads ``study.direction`` there).

        Raises:
            LeaseLost: the lease was lost to another worker.
        """
        self.storage.with_retry(lambda: leases.put_epoch(self.storage, self.spec, claim, curve))

    def finish(self, claim: Lease, outcome: Outcome) -> TrialRecord:
        """Tells the database how the trial ended, and returns its record.

        Raises:
            LeaseLost: the lease was lost to another worker.
        """
        record = self.storage.with_retry(
            lambda: leases.finish(self.storage, self.spec, claim, outcome)
        )
        self.remove_checkpoint(claim.number)
        return record

    def hand_back(self, claim: Lease) -> TrialRecord:
        """Puts a running trial back in the queue; it keeps its number, parameters and seed.

        Raises:
            LeaseLost: the lease was lost to another worker.
        """
        return self.storage.with_retry(lambda: leases.hand_back(self.storage, self.spec, claim))

    def checkpoint_key(self, number: int) -> str:
        """Returns the name under which the trial's checkpoint lies among the artifacts."""
        return checkpoint_key(self.created, number)

    def remove_checkpoint(self, number: int) -> None:
        """Removes the trial's checkpoint, if there is one."""
        if self.storage.artifacts is not None:
            self.storage.artifacts.remove(self.checkpoint_key(number))

    def _remove_checkpoints(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self.remove_checkpoint(number)

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

    def request_stop(self) -> None:
        """Asks every worker of the study to end after its trial; the next run takes that back."""
        self.handle.set_user_attr(STOP, True)

    def enqueue(self, params: Mapping[str, Value]) -> int:
        """Queues a configuration; what it leaves open is sampled. Returns the trial's number."""
        with self.storage.lock():
            self.handle.enqueue_trial(dict(params), user_attrs={"enqueued": dict(params)})
            return len(self.handle.get_trials(deepcopy=False)) - 1
