"""The loop that runs trials until the study needs no more of them."""

from __future__ import annotations

import enum
import logging
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from hpsearch.core.trial import Outcome, State, TrialRecord
from hpsearch.errors import StudyError
from hpsearch.nn.training.interrupt import Interrupted
from hpsearch.search.study.leases import Lease, LeaseLost
from hpsearch.search.study.status import StudyStatus
from hpsearch.search.study.study import Study
from hpsearch.search.worker.heartbeat import heartbeats, touch_alive_file
from hpsearch.search.worker.observer import Observer

_log = logging.getLogger(__name__)

PARENT = "HPSEARCH_PARENT"  # the environment variable that tells a worker whose child it is
_POLL_SECONDS = 0.5
_ECHO_SECONDS = 5.0  # the parent passes a signal on after its look at the study, maybe a long one
FINISH_SECONDS = 10.0  # for the epoch at hand; Kubernetes grants 30 s in all


@dataclass(slots=True, kw_only=True)
class StopSignal:
    """Says when to stop: a signal came, or the time is up. ``deadline`` is by ``clock``.

    While ``raises``, the first signal also raises KeyboardInterrupt, for what cannot ask; what
    swallows that is still told when it asks. The second signal ends the process, unless that is
    not ours to end (``exits`` is False): then it raises KeyboardInterrupt in any case.
    """

    deadline: float | None = None
    raises: bool = True
    signals: list[int] = field(default_factory=list)
    parent: int | None = None  # a process whose end is a signal too
    exits: bool = True
    at_once: Callable[[], None] = lambda: None  # what a second signal does before it ends all
    clock: Callable[[], float] = time.monotonic  # in seconds
    _asked_at: float | None = None
    _heard_at: float = -math.inf

    @classmethod
    def of_a_worker(cls) -> StopSignal:
        """Returns one that also stops when the command that started this worker is gone."""
        parent = os.environ.get(PARENT)
        return cls(parent=int(parent) if parent else None)

    def start_clock(self, timeout: float | None) -> None:
        """Sets the deadline that many seconds from now; None: none."""
        self.deadline = None if timeout is None else self.clock() + timeout

    @property
    def timed_out(self) -> bool:
        """Whether the time is up."""
        return self.deadline is not None and self.clock() >= self.deadline

    def __call__(self) -> bool:
        """Whether to stop at the next good moment: after the epoch."""
        orphaned = self.parent is not None and os.getppid() != self.parent
        wanted = bool(self.signals) or self.timed_out or orphaned
        if wanted and self._asked_at is None:
            self._asked_at = self.clock()
        return wanted

    def overdue(self) -> bool:
        """Whether to stop at once: the good moment is too long in coming."""
        if not self():
            return False
        assert self._asked_at is not None
        return self.clock() - self._asked_at > FINISH_SECONDS

    def wait(self, seconds: float) -> None:
        """Waits so long, or until it is time to stop."""
        until = self.clock() + seconds
        while not self() and (left := until - self.clock()) > 0:
            time.sleep(min(left, _POLL_SECONDS))

    def is_hurried(self) -> bool:
        """Whether a signal came so long ago that a database that is away is waited for no more."""
        return bool(self.signals) and self.overdue()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Turns the first Ctrl-C or SIGTERM into a wish to stop; the second one ends at once."""
        caught = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self._hear) for number in caught}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _hear(self, number: int, _frame: FrameType | None) -> None:
        # A supervisor may signal a whole group, of which the parent passes its own on.
        may_echo = self.parent is not None and self.clock() - self._heard_at < _ECHO_SECONDS
        if self.signals == [signal.SIGTERM] and number == signal.SIGTERM and may_echo:
            return
        if self.signals:
            if sys.stderr.isatty():  # the cursor again
                sys.stderr.write("\x1b[?25h\nended at once\n")
                sys.stderr.flush()
            self.at_once()
            if not self.exits:
                raise KeyboardInterrupt
            os._exit(128 + number)  # the trial is handed back by whoever runs the study next
        self.signals.append(number)
        self._heard_at = self.clock()
        if self.raises:
            raise KeyboardInterrupt


RunTrial = Callable[[Lease, StopSignal], Outcome]


def work(
    study: Study,
    run_trial: RunTrial,
    *,
    origin: Mapping[str, Any],
    observer: Observer,
    stop: StopSignal,
    waits: bool = True,
) -> StudyStatus | None:
    """Runs trials until the study needs no more; returns why, or None if asked to stop.

    A trial that is interrupted is handed back: it keeps its number and parameters and waits for
    the next worker.

    Args:
        study: what to work on.
        run_trial: trains a trial.
        origin: where the trials run, kept with each.
        observer: hears of each trial.
        stop: says when to end.
        waits: for the last trials that others run, one of which may come back; else returns BUSY.
    """
    stop.raises = False
    while not stop():
        touch_alive_file()
        try:
            claim = study.claim(origin)
        except LeaseLost:  # drawing its values took too long
            continue
        if claim is StudyStatus.BUSY and waits:
            stop.wait(_POLL_SECONDS)
            continue
        if isinstance(claim, StudyStatus):
            return claim
        try:
            with heartbeats(study, claim):
                record = _run(study, claim, run_trial, stop)
        except LeaseLost:
            record = study.record(claim.number)
            _log.info("trial %s was given to another worker; dropped here", claim.number)
        observer.ended(record)
    return None


def _run(study: Study, claim: Lease, run_trial: RunTrial, stop: StopSignal) -> TrialRecord:
    try:
        outcome = run_trial(claim, stop)
    except Interrupted:
        return study.hand_back(claim)
    return study.finish(claim, outcome)


class Ending(enum.Enum):
    """How a run ended."""

    DONE = "done"  # the budget is met, or the grid used up
    TIMED_OUT = "timed out"
    BUSY = "left to others"  # who run its last trials
    INTERRUPTED = "interrupted"  # Ctrl-C or SIGTERM
    STOPPED = "stopped"  # `hpsearch stop`
    FAILING = "failing"  # too many failures in a row


def ending_of(standing: StudyStatus | None, stop: StopSignal) -> Ending:
    """Returns how a run ended, by why the study gave no more trials; None: it was asked to stop."""
    if standing is None:
        return Ending.TIMED_OUT if stop.timed_out and not stop.signals else Ending.INTERRUPTED
    return _ENDINGS[standing]


_ENDINGS = {
    StudyStatus.DONE: Ending.DONE,
    StudyStatus.BUSY: Ending.BUSY,
    StudyStatus.USED_UP: Ending.DONE,
    StudyStatus.STOPPED: Ending.STOPPED,
    StudyStatus.FAILING: Ending.FAILING,
}


def close(study: Study, ending: Ending) -> None:
    """Closes the study's database; SQLite folds its write-ahead log into the file.

    Of a run that failures ended, it tells the traceback of the last one, and asks every worker to
    leave the study alone until a person runs it again.

    Raises:
        StudyError: the run ended because too many trials failed in a row.
    """
    if ending is not Ending.FAILING:
        study.storage.close()
        return
    failures = study.failures() or [r for r in study.records() if r.state is State.FAILED]
    study.storage.with_retry(lambda: study.request_stop())
    study.storage.close()
    last = failures[-1]
    if told := last.attributes.get("failure", {}).get("traceback"):
        _log.info(told.rstrip())
    raise StudyError(
        f"{len(failures)} trials failed in a row, the last one, trial {last.number}, with"
        f" {last.reason}; see `hpsearch show {last.number} --study {study.name}` for where, mend it"
        " and run again"
    )
