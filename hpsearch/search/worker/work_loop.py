"""The loop that runs trials until the study needs no more, and the observers of a run.

:class:`StopSignal` says when it ends early; :func:`heartbeats` keep the lease of the current trial.
"""

from __future__ import annotations

import contextvars
import logging
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from hpsearch.core.trial import Epoch, Interrupted, Outcome, State, TrialRecord
from hpsearch.errors import MovedError, StudyError
from hpsearch.search.storage.records import StudyStatus
from hpsearch.search.storage.retry import first_line
from hpsearch.search.study.leases import Lease, LeaseLost
from hpsearch.search.study.study import Study

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


class EndedTrials(Observer):
    """Passes each ended trial to a function."""

    def __init__(self, call: Callable[[TrialRecord], None]) -> None:
        self._call = call

    def ended(self, record: TrialRecord) -> None:
        """Passes the trial on."""
        self._call(record)


_FOLLOW_SECONDS = 1.0


class Follower:
    """Reports the trials that other processes run to an observer."""

    def __init__(self, study: Study, watcher: Observer) -> None:
        self._study, self._watcher = study, watcher
        self._ended = {r.number for r in study.records() if _has_ended(r)}

    def poll(self) -> list[TrialRecord]:
        """Reports the trials that ended since the last call; returns the current records."""
        records = self._study.records()
        for record in records:
            if _has_ended(record) and record.number not in self._ended:
                self._ended.add(record.number)
                self._watcher.ended(record)
        self._watcher.sync(records)
        return records


def follow(study: Study, watcher: Observer) -> StudyStatus:
    """Follows the study until it gives no more trials to workers; returns why."""
    follower, stale_before = Follower(study, watcher), 0
    # Without a terminal, the next line may be an hour away: only trials that end are shown there.
    _log.info("watching study %r until it is done (Ctrl-C to leave)", study.name)
    while True:
        status = study.status()
        records = follower.poll()  # after the status, so that the last trial is reported too
        stale = study.silent()
        is_all = stale == sum(record.state is State.RUNNING for record in records)
        if stale > stale_before and is_all:
            _log.info(
                "no worker sends heartbeats; the next one to start resumes the running trials (%s)",
                stale,
            )
        stale_before = stale
        if status not in (None, StudyStatus.BUSY):
            return status
        time.sleep(_FOLLOW_SECONDS)


def _has_ended(record: TrialRecord) -> bool:
    return record.state.counts or record.state is State.FAILED


BEAT_SECONDS = 10.0
FINISH_SECONDS = 10.0  # for the current epoch; Kubernetes grants 30 s in all
_POLL_SECONDS = 0.5
_ECHO_SECONDS = 5.0  # the parent may be reading a large study before it passes a signal on

# Environment variables: a file to touch, and the pid of the command that started this worker.
ALIVE, PARENT = "HPSEARCH_ALIVE", "HPSEARCH_PARENT"

_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class StopSignal:
    """Whether to stop: a signal came, or the time is up. ``deadline`` is by ``clock``.

    While ``raises``, the first signal also raises KeyboardInterrupt, for code that does not poll;
    code that swallows the exception still sees the signal when it polls. The second signal ends
    the process; unless ``exits``, it raises KeyboardInterrupt instead.
    """

    deadline: float | None = None
    raises: bool = True
    signals: list[int] = field(default_factory=list)
    parent: int | None = None  # a process whose end is a signal too
    exits: bool = True
    clock: Callable[[], float] = time.monotonic  # in seconds
    _on_second: Callable[[], None] = lambda: None
    _stopped_at: float | None = None
    _signalled_at: float = -math.inf

    @classmethod
    def of_a_worker(cls) -> StopSignal:
        """Returns one that also stops when the command that started this worker is gone."""
        parent = os.environ.get(PARENT)
        return cls(parent=int(parent) if parent else None)

    def start_clock(self, timeout: float | None) -> None:
        """Sets the deadline to that many seconds from now; None: no deadline."""
        self.deadline = None if timeout is None else self.clock() + timeout

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

    def overdue(self) -> bool:
        """Whether to stop at once, because the epoch took too long to end."""
        if not self():
            return False
        assert self._stopped_at is not None
        return self.clock() - self._stopped_at > FINISH_SECONDS

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
        return self.is_signalled() and self.overdue()

    def poll(self, *, on_second: Callable[[], None] = lambda: None) -> None:
        """Declares that the caller polls: from here on, the first signal does not raise.

        ``on_second`` is called at a second signal, before the process ends.
        """
        self.raises, self._on_second = False, on_second

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Has the first signal raise KeyboardInterrupt inside the context, which cannot poll."""
        before, self.raises = self.raises, True
        try:
            yield
        finally:
            self.raises = before

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Takes the first Ctrl-C or SIGTERM as a request to stop; the second one ends at once."""
        caught = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self._receive) for number in caught}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        # A supervisor may signal a whole process group, whose parent then passes its signal on.
        may_echo = self.parent is not None and self.clock() - self._signalled_at < _ECHO_SECONDS
        if self.signals == [signal.SIGTERM] and number == signal.SIGTERM and may_echo:
            return
        if self.signals:
            if sys.stderr.isatty():  # show the cursor, which a live view hid
                sys.stderr.write("\x1b[?25h\nended at once\n")
                sys.stderr.flush()
            self._on_second()
            if not self.exits:
                raise KeyboardInterrupt
            os._exit(128 + number)  # the next worker recovers the trial
        self.signals.append(number)
        self._signalled_at = self.clock()
        if self.raises:
            raise KeyboardInterrupt


def touch_alive_file() -> None:
    """Touches the file that ``HPSEARCH_ALIVE`` names, if it names one.

    A container's health check reads the file's age. A command that asks the database would take
    processor time from the trials, which are timed.
    """
    path = os.environ.get(ALIVE)
    if path:
        with suppress(OSError):  # then the file grows old, and the health check detects it
            Path(path).touch()


@contextmanager
def heartbeats(lease: Lease, *, seconds: float = BEAT_SECONDS) -> Iterator[None]:
    """Writes a heartbeat every ``seconds`` inside the context; the first came with the lease.

    Touches the alive file after each one, see :func:`touch_alive_file`. Optuna's own heartbeats
    run only inside ``study.optimize``, and miss a trial that died before its first one.
    """
    done = threading.Event()

    def beat() -> None:
        while not done.wait(seconds):
            try:
                lease.beat()
                touch_alive_file()
            except (LeaseLost, MovedError):
                return  # the worker notices with its next write
            except (SQLAlchemyError, StorageInternalError) as exc:
                lease.storage.outage.note()  # other workers' heartbeats were not written either
                message = first_line(exc.__cause__ or exc)
                _log.warning("no heartbeat of trial %d: %s", lease.number, message)
        lease.storage.sessions.remove()

    # Daemon: a heartbeat that hangs must not keep the process alive. In the caller's context, so
    # that its warnings reach the function that receives the caller's messages.
    run = contextvars.copy_context().run
    thread = threading.Thread(target=run, args=(beat,), name="heartbeat", daemon=True)
    thread.start()
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
    keeps its number and parameters and waits for the next worker. With ``waits``, waits for the
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
        # Beats while the trial is handed back or finished, too: that may wait for the database.
        try:
            with heartbeats(lease):
                try:
                    record = lease.finish(run_trial(lease, stop))
                except Interrupted:
                    record = lease.hand_back()
        except LeaseLost:
            record = study.record(lease.number)
            _log.info("trial %s: the lease was lost to another worker", lease.number)
        observer.ended(record)
    return stop.status


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
