"""The loop that runs trials until the study needs no more, and the observers of a run.

:func:`heartbeats` keep the lease of the current trial.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from hpsearch.core.trial import Epoch, Interrupted, Outcome, State, TrialRecord
from hpsearch.errors import MovedError, StudyError
from hpsearch.search.storage.records import StudyStatus
from hpsearch.search.storage.retry import first_line
from hpsearch.search.study.leases import IDLE, Lease, LeaseLost
from hpsearch.search.study.study import Study
from hpsearch.util.messages import start_thread

_log = logging.getLogger(__name__)


class Observer:
    """Receives a worker's trials; does nothing itself. Views derive from it."""

    def started(self, number: int, params: Mapping[str, Any], cost: Mapping[str, float]) -> None:
        """Called when a trial starts training; all its costs but the seconds are known."""

    def trained(self, number: int, epoch: Epoch) -> None:
        """Called at the end of an epoch."""

    def ended(self, record: TrialRecord) -> None:
        """Called when a trial is complete, pruned, failed or handed back (waiting)."""

    def sync(self, records: Sequence[TrialRecord]) -> None:
        """Called with the current trials of the study, those of other workers included."""


Item = TypeVar("Item")
BEAT_SECONDS = 10.0
FINISH_SECONDS = 10.0  # for the current epoch; Kubernetes grants 30 s in all
IDLE_SECONDS = 60.0  # without a step, until the heartbeats say so
_POLL_SECONDS = 0.5

# Environment variables: a file to touch, and the pid of the command that started this worker.
ALIVE, PARENT = "HPSEARCH_ALIVE", "HPSEARCH_PARENT"


class Overdue(BaseException):
    """Raised inside a training whose time is up. No Exception, which user code would catch."""


@dataclass(slots=True, kw_only=True)
class StopSignal:
    """Whether to stop: a signal came, or the time is up. ``deadline`` is by ``clock``.

    While ``raises``, the first signal also raises KeyboardInterrupt, for code that does not poll;
    code that swallows the exception still sees the signal when it polls. The second signal ends
    the process; unless ``exits``, it raises KeyboardInterrupt instead. SIGHUP, of a terminal that
    was closed, is a first signal only.
    """

    deadline: float | None = None
    raises: bool = True
    signals: list[int] = field(default_factory=list)
    parent: int | None = None  # a process whose end is a signal too
    exits: bool = True
    clock: Callable[[], float] = time.monotonic  # in seconds
    steps: int = 0  # of the training, and its epochs: it makes progress
    limit_at: float | None = None  # of the current trial, by ``clock``
    idle_since: float = math.inf  # the last step of the current trial, by ``clock``
    task: str | None = None
    abandon: Callable[[str], object] = str  # does nothing
    is_interruptible: bool = False
    on_limit: Callable[[], None] = lambda: None  # called when ``deadline`` or ``limit_at`` is set
    on_second: Callable[[], None] = lambda: None
    _stopped_at: float | None = None

    @classmethod
    def of_a_worker(cls) -> StopSignal:
        """Returns one that also stops when the command that started this worker is gone."""
        parent = os.environ.get(PARENT)
        return cls(parent=int(parent) if parent else None)

    def start_clock(self, timeout: float | None) -> None:
        """Sets the deadline to that many seconds from now; None: no deadline."""
        self.deadline = None if timeout is None else self.clock() + timeout
        self.on_limit()

    @property
    def timed_out(self) -> bool:
        """Whether the time is up."""
        return self.deadline is not None and self.clock() >= self.deadline

    @property
    def status(self) -> StudyStatus:
        """The status of a run that this signal ended."""
        is_timeout = self.timed_out and not self.signals
        return StudyStatus.TIMED_OUT if is_timeout else StudyStatus.INTERRUPTED

    def __call__(self) -> bool:
        """Whether to stop after the current epoch."""
        orphaned = self.parent is not None and os.getppid() != self.parent
        stops = bool(self.signals) or self.timed_out or orphaned
        if stops and self._stopped_at is None:
            self._stopped_at = self.clock()
        return stops

    @property
    def is_over_limit(self) -> bool:
        """Whether the current trial has exceeded its limit."""
        return self.limit_at is not None and self.clock() >= self.limit_at

    def idle_seconds(self) -> float:
        """For how long the current trial has made no step."""
        return max(0.0, self.clock() - self.idle_since)

    @property
    def is_overdue(self) -> bool:
        """Whether the trial exceeded its limit, or the epoch took too long to end."""
        if self.is_over_limit or not self():
            return self.is_over_limit
        assert self._stopped_at is not None
        return self.clock() - self._stopped_at > FINISH_SECONDS

    def overdue(self) -> bool:
        """Whether a training is to stop at once. It asks before each step: that is progress."""
        self.steps += 1
        return self.is_overdue

    def wait(self, seconds: float) -> None:
        """Waits that long, or until it is time to stop."""
        until = self.clock() + seconds
        while not self() and (left := until - self.clock()) > 0:
            time.sleep(min(left, _POLL_SECONDS))

    def is_signalled(self) -> bool:
        """Whether a signal came: a parent of workers then waits no longer for a database."""
        return bool(self.signals)

    def gives_up(self) -> bool:
        """Whether a signal came so long ago that a worker waits no longer for a database."""
        return self.is_signalled() and self.is_overdue

    def poll(self, *, on_second: Callable[[], None] = lambda: None) -> None:
        """Declares that the caller polls: from here on, the first signal does not raise.

        ``on_second`` is called at a second signal, before the process ends.
        """
        self.raises, self.on_second = False, on_second

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Has the first signal raise KeyboardInterrupt inside the context, which cannot poll."""
        before, self.raises = self.raises, True
        try:
            yield
        finally:
            self.raises = before

    @contextmanager
    def limiting(
        self, task: str, seconds: float | None, *, abandon: Callable[[str], object] = str
    ) -> Iterator[None]:
        """Limits a task, such as a trial, to that many seconds (None: no limit).

        The limit holds where the training polls, and inside :meth:`interruptible`. ``abandon`` is
        called by the watchdog if the training could not be interrupted, with its stack as text.
        """
        now = self.clock()
        self.task, self.abandon, self.idle_since = task, abandon, now
        self.limit_at = None if seconds is None else now + seconds
        self.on_limit()
        try:
            yield
        finally:
            self.limit_at, self.idle_since = None, math.inf
            self.task, self.abandon = None, str

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Lets the watchdog raise :class:`Overdue` inside the context, which writes nothing."""
        self.is_interruptible = True
        try:
            yield
        finally:
            self.is_interruptible = False

    def drawing(self, items: Iterator[Item]) -> Iterator[Item]:
        """Yields the items, each a sign of progress; drawing one is interruptible."""
        end = object()
        while True:
            with self.interruptible():
                item = next(items, end)
            if item is end:
                return
            self.steps += 1
            yield item  # type: ignore[misc]


def touch_alive_file() -> None:
    """Touches the file that ``HPSEARCH_ALIVE`` names, if it names one.

    A container's health check reads the file's age. A command that asks the database would take
    processor time from the trials, which are timed.
    """
    path = os.environ.get(ALIVE)
    if path:
        with suppress(OSError):  # then the file grows old, and the health check detects it
            Path(os.path.expanduser(path)).touch()


@contextmanager
def heartbeats(
    lease: Lease, *, idle: Callable[[], float] = lambda: 0.0, seconds: float = BEAT_SECONDS
) -> Iterator[None]:
    """Writes a heartbeat every ``seconds`` inside the context; the first came with the lease.

    ``idle`` returns for how many seconds the training has made no step; the heartbeat says so from
    a minute on. Touches the alive file after each one, see :func:`touch_alive_file`. Optuna's own
    heartbeats run only inside ``study.optimize``, and miss a trial that died before its first one.
    """
    done = threading.Event()

    def beat() -> None:
        known = lease.attributes.get(IDLE, 0)  # of an earlier start
        while not done.wait(seconds):
            now = int(idle()) if idle() >= IDLE_SECONDS else 0
            try:
                # A second write only for a training that stands still, or goes on again.
                lease.beat(idle=now if now != known else None)
                known = now
                touch_alive_file()
            except (LeaseLost, MovedError):
                return  # the worker notices with its next write
            except (SQLAlchemyError, StorageInternalError) as exc:
                lease.storage.outage.note()  # other workers' heartbeats were not written either
                message = first_line(exc.__cause__ or exc)
                _log.warning("no heartbeat of trial %d: %s", lease.number, message)
        lease.storage.sessions.remove()

    thread = start_thread(beat, name="heartbeat")
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=1)  # it may hang in a database that is away


def work(
    study: Study,
    run_trial: Callable[[Lease, StopSignal], Outcome],
    *,
    origin: Mapping[str, Any],
    observer: Observer,
    stop: StopSignal,
    waits: bool = True,
) -> StudyStatus:
    """Runs trials until the study needs no more, or ``stop``; returns why it ended.

    ``origin`` is where the trials run, stored with each. An interrupted trial is handed back: it
    keeps its number and parameters and waits for the next worker. One beyond the study's
    ``trial_timeout`` fails. With ``waits``, waits for the
    last trials that others run, one of which may come back; else returns BUSY.
    """
    stop.poll()
    while not stop():
        touch_alive_file()
        try:
            lease = study.acquire(origin)
        except LeaseLost:  # drawing its values took too long
            continue
        if lease is StudyStatus.BUSY and waits:
            stop.wait(_POLL_SECONDS)
            continue
        if isinstance(lease, StudyStatus):
            return lease
        if isinstance(lease, TrialRecord):  # failed without a start
            observer.ended(lease)
            continue
        # Beats while the trial is handed back or finished, too: that may wait for the database.
        try:
            with heartbeats(lease, idle=stop.idle_seconds):
                record = _run(lease, run_trial, stop)
        except LeaseLost:
            record = study.record(lease.number)
            _log.info("trial %s: the lease was lost to another worker", lease.number)
        observer.ended(record)
    return stop.status


def _run(
    lease: Lease, run_trial: Callable[[Lease, StopSignal], Outcome], stop: StopSignal
) -> TrialRecord:
    """Runs the trial within the study's limit; hands it back if it was to stop before its end.

    A training that did not stop by itself counts as a lost worker: it is not retried for ever.
    """
    limit = lease.study_spec.search.trial_timeout

    def settle(where: str, *, was_stuck: bool = True) -> TrialRecord:
        if not stop.is_over_limit:
            return lease.take_back() if was_stuck else lease.hand_back()
        reason = f"timeout: not done after {limit:g} s, the study's trial_timeout"
        failure = {"kind": "timeout", "traceback": where}
        outcome = Outcome(state=State.FAILED, reason=reason, details={"failure": failure})
        return lease.finish(outcome)

    with stop.limiting(f"trial {lease.number}", limit, abandon=settle):
        try:
            outcome = run_trial(lease, stop)
        except (Interrupted, Overdue) as exc:
            stop.is_interruptible = False  # a second exception may have kept it on
            where = traceback.format_exc()
            return settle(where, was_stuck=isinstance(exc, Overdue))
    return lease.finish(outcome)


def close(study: Study, status: StudyStatus) -> None:
    """Closes the study's database; SQLite folds its write-ahead log into the file.

    After a run that failures ended, logs the traceback of the last one and stops the study for
    every worker until somebody runs it again.

    Raises:
        StudyError: too many trials failed in a row.
    """
    if status is not StudyStatus.FAILING:
        study.storage.close()
        return
    failures = study.failures() or [r for r in study.records() if r.state is State.FAILED]
    # The other workers would fail in the same way.
    study.request_stop()
    study.storage.close()
    last = failures[-1]
    if trace := last.attributes.get("failure", {}).get("traceback"):
        _log.info(trace.rstrip())
    raise StudyError(
        f"{len(failures)} trials failed in a row, the last one, trial {last.number}, with"
        f" {last.reason}; see `hpsearch show {last.number} --study {study.name}` for where, fix it"
        " and run again"
    )
