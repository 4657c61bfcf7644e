"""A study in its database: its records, its budget, and the leases that it gives.

Everything is kept in Optuna's own storage, as study and trial attributes, so that
optuna-dashboard and any notebook can read the study.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.orm import Session

from hpsearch.core.analysis import pruning_stats
from hpsearch.core.analysis.pareto import ParetoFront, front
from hpsearch.core.dimensions import Value
from hpsearch.core.overrides import check_in_space
from hpsearch.core.spec import StudySpec, is_control, resolve, trial_seed
from hpsearch.core.spec_text import identity_changes
from hpsearch.core.trial import State, TrialRecord
from hpsearch.errors import SpecError, StudyError
from hpsearch.search.samplers import free_slot, grid_cells, make_sampler, sample
from hpsearch.search.storage import overviews, tables
from hpsearch.search.storage import records as stored
from hpsearch.search.storage.artifacts import checkpoint_key, remove_orphaned
from hpsearch.search.storage.records import (
    BOUNDS,
    CREATED,
    DATA,
    SPEC,
    STOP,
    StateCounts,
    StudyStatus,
    read,
    read_spec,
)
from hpsearch.search.storage.retry import retry_while_away
from hpsearch.search.storage.storage import Storage
from hpsearch.search.study.leases import Lease, hold_lease, recover, stale_trials

optuna.logging.set_verbosity(optuna.logging.WARNING)

_REASON_LENGTH = 300  # characters that a failure keeps of a message, as of an exception's


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
        """The names of the objectives, in the order of the stored values."""
        return self.spec.search.objectives

    @property
    def bounds(self) -> dict[str, tuple[float, float]]:
        """Each objective's range for the hypervolume, fixed by the study's first worker."""
        known = self.attributes.get(BOUNDS) or self.current_attributes().get(BOUNDS, {})
        return {name: (low, high) for name, (low, high) in known.items()}

    @property
    def created(self) -> datetime:
        """When the study was created."""
        return datetime.fromisoformat(self.attributes[CREATED])

    @retry_while_away
    def current_attributes(self) -> Mapping[str, Any]:
        """Reads the study's attributes again and returns them."""
        return self.handle.user_attrs

    @retry_while_away
    def set_attribute(self, key: str, value: Any) -> None:
        """Stores an attribute of the study; ``value`` must be serialisable as JSON."""
        self.handle.set_user_attr(key, value)

    @retry_while_away
    def records(self) -> list[TrialRecord]:
        """Returns all trials by number; reads finished ones only once."""
        records = []
        for frozen in self.handle.get_trials(deepcopy=False):
            record = self._finished.get(frozen.number) or read(frozen, self.spec)
            if frozen.state.is_finished():
                self._finished[frozen.number] = record
            records.append(record)
        return records

    @retry_while_away
    def record(self, number: int) -> TrialRecord:
        """Returns one trial, without reading the others.

        Raises:
            StudyError: there is no trial of that number.
        """
        if number in self._finished:
            return self._finished[number]
        with self.storage.transaction() as session:
            trial_id = tables.id_of(session, self.handle._study_id, number)
            newest = tables.newest_number(session, self.handle._study_id)
        if trial_id is None:
            self._refresh()  # reports a study that was deleted
            has = "no trials yet" if newest is None else f"trials 0 to {newest}"
            raise StudyError(f"found no trial {number} in study {self.name!r}, which has {has}")
        return read(self.storage.backend.get_trial(trial_id), self.spec)

    @retry_while_away
    def front(self) -> ParetoFront:
        """Returns the front; of the other trials, only the objectives are read."""
        study_id = self.handle._study_id
        with self.storage.transaction() as session:
            complete = overviews.complete_trials(session, [study_id]).get(study_id, [])
        found = front(overviews.complete_records(complete, self.spec), self.objectives)
        ids = [trial.trial_id for trial in complete if trial.number in found.numbers]
        whole = {t.number: read(t, self.spec) for t in self.storage.trials(study_id, ids)}
        return replace(found, trials=tuple(whole[record.number] for record in found.trials))

    @retry_while_away
    def tally(self) -> Mapping[State, int]:
        """Returns how many trials are in each state; fast, because it reads no trial."""
        return self._count().counts

    @retry_while_away
    def summary(self) -> pruning_stats.StudySummary:
        """Returns the study's summary, as `hpsearch status` shows it."""
        with self.storage.transaction() as session:
            (overview,) = overviews.overviews(session, [self.handle._study_id]).values()
        # Bounds that were attached since the study was opened, too.
        attributes = {**self.attributes, BOUNDS: self.bounds}
        masked, silent = self.storage.masked, len(stale_trials(self.storage, overview))
        return overviews.summarise(self.spec, overview, attributes, storage=masked, silent=silent)

    @retry_while_away
    def silent(self) -> int:
        """Returns how many running trials have lost their workers and wait for recovery."""
        return len(stale_trials(self.storage, self._count()))

    def acquire(self, origin: Mapping[str, Any]) -> Lease | TrialRecord | StudyStatus:
        """Starts the next trial, if the budget has room for one, and draws its values.

        Counting and starting are one step under the database's lock, so any number of workers
        share a budget exactly. Values are drawn after the lock is released. Returns the record of
        a trial that failed instead of starting: another program queued values that the study does
        not search.

        Args:
            origin: where the trial will run, stored with it; must hold ``process``.

        Raises:
            LeaseLost: drawing took so long that the lease was lost to another worker.
            StorageError: the location for checkpoints cannot be used.
        """
        artifacts = self.storage.artifacts
        lease = self._acquire({**origin, "claim": uuid.uuid4().hex})
        is_over = isinstance(lease, StudyStatus) and lease is not StudyStatus.BUSY
        if is_over and artifacts is not None:
            remove_orphaned(artifacts, self.created, self.records)
        return lease

    @retry_while_away
    def _acquire(self, origin: Mapping[str, Any]) -> Lease | TrialRecord | StudyStatus:
        failed: list[int] = []
        with self.storage.lock():
            started = self._start_next(origin, failed)
        self._remove_checkpoints(failed)  # may take long, so not under the lock
        if isinstance(started, StudyStatus):
            return started
        trial, own, alone = started
        if not own:
            return read(self.storage.backend.get_trial(trial._trial_id), self.spec)
        slot = own["slot"]
        # A slot beyond the last cell starts another round of the grid.
        cell = None if slot is None else self._grid()[slot % len(self._grid())]
        # A sampler per trial, seeded by its number: a resumed search draws the same values.
        self.handle.sampler = make_sampler(
            self.spec,
            trial.number,
            cell=cell,
            alone=alone,
            images=self.attributes.get(DATA, {}).get("train"),
            scaled=self._scaled,
        )
        params, drawn = sample(self.handle, trial, self.spec)
        # Drawing may have taken so long that the lease was lost to another worker.
        with hold_lease(self.storage, trial._trial_id, token=own["claim"]) as session:
            tables.put_params(session, trial._trial_id, drawn)
        return Lease(
            storage=self.storage,
            study_spec=self.spec,
            spec=resolve(self.spec, number=trial.number, params=params),
            params=params,
            control=own["control"],
            trial_id=trial._trial_id,
            start=own["starts"],
            token=own["claim"],
            attributes=trial.user_attrs,
            checkpoint_key=self.checkpoint_key(trial.number),
        )

    def _start_next(
        self, origin: Mapping[str, Any], failed: list[int]
    ) -> tuple[FrozenTrial, dict[str, Any], bool] | StudyStatus:
        """Starts a trial under the caller's lock, or returns why not; ``failed`` as in _recover.

        Returns the trial, its origin (empty if it failed at once), and whether no other trial is
        running.
        """
        attributes, counts = self._refresh(), self._count()
        # The answer to an earlier attempt may have been lost after it started a trial.
        for running in counts.running:
            if running.origin.get("claim") == origin["claim"]:
                trial = self.storage.backend.get_trial(running.trial_id)
                return trial, dict(running.origin), len(counts.running) == 1
        counts = self._recover(counts, failed, signals={})
        status, slot = self._look(counts, attributes)
        if status is not None:
            return status
        with self.storage.transaction() as session:  # a trial without origin is never recovered
            trial = self._start(session, counts.waiting)
            known = stored.origin_of(trial.user_attrs)
            if not known and self._fails_at_once(session, trial):
                return trial, {}, False
            own = {
                **origin,
                "seed": trial_seed(self.spec, trial.number),
                "slot": known.get("slot") if slot is None else slot,
                "control": is_control(self.spec, trial.number),
                "starts": known.get("starts", 0) + 1,
            }
            tables.put(session, trial._trial_id, {"origin": own})
            tables.beat(session, trial._trial_id, token=origin["claim"])
        return trial, own, not counts.running

    def _start(self, session: Session, waiting: int | None) -> FrozenTrial:
        """Starts the waiting trial of that id, or a new one."""
        backend = self.storage.backend
        if waiting is not None:
            backend.set_trial_state_values(waiting, TrialState.RUNNING)
            tables.start_now(session, waiting)
            return backend.get_trial(waiting)
        # Not study.ask(), which reads the new trial back from the database.
        trial_id = backend.create_new_trial(self.handle._study_id)
        tables.start_now(session, trial_id)
        trial = optuna.create_trial(state=TrialState.RUNNING)
        trial.number, trial._trial_id = tables.number_of(session, trial_id), trial_id
        return trial

    def _fails_at_once(self, session: Session, trial: FrozenTrial) -> bool:
        """Fails a trial whose preset values the study does not search; returns whether it did.

        `hpsearch enqueue` refuses such values, Optuna's own functions do not.
        """
        try:
            check_in_space(self.spec.space, stored.presets(trial))
        except SpecError as exc:
            reason = f"queued by another program: {str(exc)[:_REASON_LENGTH]}"
            tables.put(session, trial._trial_id, {"reason": reason, "failure": {"kind": "queued"}})
            # Not in the order of ends: it says nothing about the study's other trials.
            tables.end(session, trial._trial_id, TrialState.FAIL, (), ordered=False)
            return True
        return False

    def _refresh(self) -> Mapping[str, Any]:
        """Adopts what `hpsearch run` or `submit` has changed since: trials, sampler, …

        Returns the study's attributes.

        Raises:
            StudyError: the study was deleted, or changed so that it is another study.
        """
        # The creation time identifies a study; its name and id may belong to a successor.
        attributes: Mapping[str, Any] = self.handle.user_attrs
        if attributes[CREATED] != self.attributes[CREATED]:
            raise StudyError(f"study {self.name!r} has been deleted; run it again")
        if attributes[SPEC] != self.attributes[SPEC]:
            spec = read_spec(self.name, attributes[SPEC])
            # Another program wrote it: it may name code that nobody has allowed.
            if changed := identity_changes(self.spec, spec):
                raise StudyError(f"study {self.name!r} was changed ({changed}); run a new one")
            self.attributes, self.spec = attributes, spec
        return attributes

    def _count(self) -> StateCounts:
        with self.storage.transaction() as session:
            return tables.count_states(session, self.handle._study_id)

    @retry_while_away
    def status(self) -> StudyStatus | None:
        """Returns why no worker would get a trial now; None if one would.

        A stale trial counts as available, because the next worker to come recovers it.
        """
        attributes, counts = self._refresh(), self._count()
        status, _ = self._look(counts, attributes)
        if status is not StudyStatus.BUSY:
            return status
        stale = len(stale_trials(self.storage, counts))
        left = self.spec.search.trials - counts.counted - (len(counts.running) - stale)
        return None if stale and left > 0 else status

    def _look(
        self, counts: StateCounts, attributes: Mapping[str, Any]
    ) -> tuple[StudyStatus | None, int | None]:
        """Returns why the study gives no trial now, if so, and the grid slot of a new trial."""
        settings = self.spec.search
        if counts.counted >= settings.trials:
            return StudyStatus.DONE, None
        if attributes.get(STOP):
            return StudyStatus.STOPPED, None
        if len(self._new_failures(counts)) >= settings.max_failures:
            return StudyStatus.FAILING, None
        if counts.counted + counts.counts[State.RUNNING] >= settings.trials:
            return StudyStatus.BUSY, None
        # A waiting trial has its cell already.
        if not settings.sampler.startswith("grid") or counts.waiting is not None:
            return None, None
        held = [slot for r in self.records() if (slot := stored.slot_of(r)) is not None]
        slot = free_slot(held, self.spec, len(self._grid()))
        if slot is not None:
            return None, slot
        # The cell of a running trial may come free again.
        return StudyStatus.BUSY if counts.running else StudyStatus.USED_UP, None

    def _grid(self) -> list[dict[str, Value]]:
        self._cells = self._cells or grid_cells(self.spec)
        return self._cells

    @retry_while_away
    def failures(self) -> list[TrialRecord]:
        """Returns the failures in a row since this process first asked, by the order of ends."""
        return [self.record(number) for number in self._new_failures(self._count())]

    def _new_failures(self, counts: StateCounts) -> list[int]:
        if self._failed_before is None:
            self._failed_before = set(counts.failed)
        return [number for number in counts.failed_since if number not in self._failed_before]

    @retry_while_away
    def reap(self, *, signals: Mapping[int, int] | None = None) -> None:
        """Recovers the trials whose workers are gone, now.

        ``signals`` maps the pids of this host's processes to the signals that ended them.
        """
        failed: list[int] = []
        with self.storage.lock():
            self._recover(self._count(), failed, signals=signals or {})
        self._remove_checkpoints(failed)

    def _recover(
        self, counts: StateCounts, failed: list[int], *, signals: Mapping[int, int]
    ) -> StateCounts:
        """Recovers stale trials; returns new counts.

        Adds the numbers of the trials that fail thereby to ``failed``.
        """
        stale = stale_trials(self.storage, counts)
        ended = [recover(self.storage, self.spec, trial, signals) for trial in stale]
        failed += [number for number in ended if number is not None]
        return self._count() if stale else counts

    def checkpoint_key(self, number: int) -> str:
        """Returns the name of the trial's checkpoint among the artifacts."""
        return checkpoint_key(self.created, number)

    def _remove_checkpoints(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            if self.storage.artifacts is not None:
                self.storage.artifacts.remove(self.checkpoint_key(number))

    @retry_while_away
    def request_stop(self) -> None:
        """Asks every worker of the study to end after its trial; the next run revokes that."""
        self.handle.set_user_attr(STOP, True)

    def enqueue(self, params: Mapping[str, Value]) -> int:
        """Queues a configuration, whose missing values are sampled. Returns the trial's number."""
        with self.storage.lock():
            self.handle.enqueue_trial(dict(params), user_attrs={"enqueued": dict(params)})
            with self.storage.transaction() as session:
                number = tables.newest_number(session, self.handle._study_id)
            assert number is not None, "the lock keeps the study from being deleted"
            return number
