"""The worker processes of a command: starts, restarts, ends and follows them."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from hpsearch.core.analysis.pruning_stats import counts
from hpsearch.core.trial import State, TrialRecord, end_order
from hpsearch.errors import HpsearchError, StorageError, StudyError
from hpsearch.search.storage.records import StudyStatus
from hpsearch.search.study.study import Study
from hpsearch.search.worker.watchdog import HUNG
from hpsearch.search.worker.work_loop import PARENT, Observer, StopSignal

_log = logging.getLogger(__name__)

_POLL_SECONDS = 0.5
_FOLLOW_SECONDS = 1.0
_END_SECONDS = 25.0  # for workers to hand their trials back; Kubernetes grants 30 s in all
_LAST_BYTES = 10_000  # are searched for the last line of a worker's output
_MAX_ATTEMPTS = 5  # restarts of dead workers without a new epoch in between
_INTERRUPTED = (128 + signal.SIGINT, 128 + signal.SIGTERM)  # exit codes of a worker after a signal
_INVALID = 2  # exit code of a worker that refused to start: it would refuse again


@dataclass(slots=True, kw_only=True)
class _Worker:
    number: int
    command: Sequence[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    start_at: float = 0.0  # monotonic seconds
    offset: int = 0  # bytes of the log that have been read, up to the end of a line

    def last_line(self) -> str:
        """The last line of its output that is not empty."""
        size = self.log.stat().st_size if self.log.exists() else 0
        lines = self._read(max(0, size - _LAST_BYTES)).decode(errors="replace").split("\n")
        lines = [line.strip() for line in lines if line.strip()]
        return lines[-1].removeprefix("hpsearch: ") if lines else "no output"

    def new_lines(self) -> list[str]:
        """The complete lines of its output since the last call, without empty ones."""
        complete, newline, _ = self._read(self.offset).rpartition(b"\n")
        self.offset += len(complete) + len(newline)
        lines = complete.decode(errors="replace").split("\n")
        return [line.rstrip() for line in lines if line.strip()]

    def _read(self, start: int) -> bytes:
        if not self.log.exists():
            return b""
        with self.log.open("rb") as log:
            log.seek(start)
            return log.read()


@dataclass(slots=True, kw_only=True)
class Pool:
    """One worker process per command; as a context manager it ends all of them.

    Each process has its own process group, so that Ctrl-C reaches only this parent, which passes it
    on once. A worker whose parent has died ends by itself.
    """

    study: Study
    commands: Sequence[Sequence[str]]
    environment: Mapping[str, str]
    watcher: Observer
    _workers: list[_Worker] = field(default_factory=list)
    _folder: tempfile.TemporaryDirectory[str] | None = None
    _attempts_without_progress: int = 0
    _last_progress: int = -1
    _logged: set[str] = field(default_factory=set)

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="hpsearch-")
        for number, command in enumerate(self.commands):
            log = Path(self._folder.name) / f"worker-{number}.log"
            self._workers.append(_Worker(number=number, command=command, log=log))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # After a StorageError the database is unreachable, and retries have failed already.
        is_away = kind is not None and issubclass(kind, StorageError)
        try:
            self.end(reaps=not is_away)
        finally:
            if self._folder is not None:
                self._folder.cleanup()

    def run(self, stop: StopSignal) -> StudyStatus:
        """Runs until the study needs no more trials, or ``stop``; returns why it ended.

        Raises:
            HpsearchError: every worker refused to start, or workers die without progress.
        """
        stop.poll(on_second=self.kill)
        follower = Follower(self.study, self.watcher)
        while not stop():
            records = follower.poll()
            if len(self.study.failures()) >= self.study.spec.search.max_failures:
                return StudyStatus.FAILING
            if not self._check_workers(records):
                follower.poll()
                status = self.study.status()
                # Only workers know that a grid is used up: its budget is still open.
                return StudyStatus.USED_UP if status in (None, StudyStatus.BUSY) else status
            time.sleep(_POLL_SECONDS)
        self.end()
        follower.poll()
        return stop.status

    def _check_workers(self, records: Sequence[TrialRecord]) -> bool:
        """Starts workers that are due and restarts dead ones; returns whether any is left."""
        # Workers that wait for their start or restart would find nothing to do.
        if self.study.status() is StudyStatus.DONE:
            self._workers = [worker for worker in self._workers if worker.process is not None]
        dead: dict[int, int] = {}  # exit codes by pid
        for worker in list(self._workers):
            if worker.process is None:
                if time.monotonic() >= worker.start_at:
                    self._start(worker)
                continue
            code = worker.process.poll()
            # Each line once for all workers; a worker's final error is logged with its end.
            for line in worker.new_lines():
                if line not in self._logged and not line.startswith("hpsearch: "):
                    _log.info("worker %s: %s", worker.number, line)
                self._logged.add(line)
            if code == _INVALID:
                if len(self._workers) == 1:
                    raise HpsearchError(worker.last_line())
                _log.info("worker %s ended: %s", worker.number, worker.last_line())
            if code in (0, _INVALID):
                self._workers.remove(worker)
            elif code is not None:
                dead[worker.process.pid] = code
        if dead:
            self._schedule_restarts(dead, records)
        return bool(self._workers)

    def _start(self, worker: _Worker) -> None:
        environment = {**os.environ, **self.environment, PARENT: str(os.getpid())}
        with worker.log.open("ab") as log:
            worker.process = subprocess.Popen(
                worker.command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _schedule_restarts(self, dead: Mapping[int, int], records: Sequence[TrialRecord]) -> None:
        """Restarts workers that died, after a pause that doubles while there is no progress.

        ``dead`` holds exit codes by process id.
        """
        # The missing heartbeats would release the trials only after a minute.
        self.study.reap(signals={pid: -code for pid, code in dead.items() if code < 0})
        # Grows with every epoch and with every trial that ends.
        tally = counts(records)
        progress = sum(len(r.curve) for r in records) + tally["complete"] + tally["pruned"]
        if progress > self._last_progress:
            self._attempts_without_progress = 0
        self._attempts_without_progress += any(code not in _INTERRUPTED for code in dead.values())
        self._last_progress = progress
        attempts = self._attempts_without_progress
        pause = min(30.0, 0.25 * 2**attempts)
        for worker in self._workers:
            if worker.process is None or worker.process.pid not in dead:
                continue
            reason = _exit_reason(dead[worker.process.pid])
            if attempts > _MAX_ATTEMPTS:
                raise StudyError(
                    f"workers died {attempts} times without completing an epoch in between, the"
                    f" last one {reason}: {worker.last_line()}; fix the cause and run again"
                )
            _log.info("worker %s %s; restarting it in %g s", worker.number, reason, pause)
            worker.process, worker.start_at = None, time.monotonic() + pause

    def end(self, *, reaps: bool = True) -> None:
        """Ends all workers: asks them to, waits, and kills those that do not end in time."""
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + _END_SECONDS
        for process in self._running():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._workers and reaps:
            self.study.reap()
        self._workers.clear()

    def kill(self) -> None:
        """Kills all workers at once; the next run of the study resumes their trials."""
        self._signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)

    def _signal(self, number: int) -> None:
        for process in self._running():
            process.send_signal(number)

    def _running(self) -> list[subprocess.Popen[bytes]]:
        started = [worker.process for worker in self._workers if worker.process is not None]
        return [process for process in started if process.poll() is None]


def _exit_reason(code: int) -> str:
    """Describes an exit code, which is negative for a signal."""
    if code in _INTERRUPTED:
        return "was interrupted"
    if code == HUNG:
        return "ended itself, because a training hung"
    if code >= 0:
        return f"exited with code {code}"
    return f"was killed by signal {-code}" + ", often a sign of too little memory" * (-code == 9)


def worker_command(*options: str) -> list[str]:
    """Returns the command that starts a worker with those options, by this Python."""
    return [sys.executable, "-P", "-m", "hpsearch", "worker", *options]


class Follower:
    """Reports the trials that other processes run to an observer."""

    def __init__(self, study: Study, watcher: Observer) -> None:
        self._study, self._watcher = study, watcher
        self._ended = {r.number for r in study.records() if _has_ended(r)}

    def poll(self) -> list[TrialRecord]:
        """Reports the trials that ended since the last call; returns the current records."""
        records = self._study.records()
        for record in sorted(records, key=end_order):
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
