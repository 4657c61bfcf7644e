"""The worker processes that one command starts on this host: watched, replaced, and ended."""

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
from hpsearch.core.trial import TrialRecord
from hpsearch.errors import HpsearchError, StorageError, StudyError
from hpsearch.search.study.status import StudyStatus
from hpsearch.search.study.study import Study
from hpsearch.search.worker.observer import Follower, Observer
from hpsearch.search.worker.work_loop import PARENT, StopSignal

_log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.5
_END_SECONDS = 25.0  # for workers to hand their trials back; Kubernetes grants 30 s in all
_LAST_BYTES = 10_000  # that hold a worker's last line
_VAIN_LOOKS = 5  # that saw workers dead, no epoch between, until it is not worth going on
_ASKED = (128 + signal.SIGINT, 128 + signal.SIGTERM)  # codes of a worker that a person ended


@dataclass(slots=True, kw_only=True)
class _Worker:
    number: int
    command: Sequence[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    start_at: float = 0.0  # monotonic seconds
    heard: int = 0  # bytes of what it said, to the end of a line

    def last_words(self) -> str:
        """The last line that it said on stderr."""
        start = max(0, self._length() - _LAST_BYTES)
        lines = self._said(start).decode(errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return said[-1].removeprefix("hpsearch: ") if said else "it said nothing"

    def news(self) -> list[str]:
        """The whole lines that it said on stderr since the last time."""
        whole, newline, _ = self._said(self.heard).rpartition(b"\n")
        self.heard += len(whole) + len(newline)
        lines = whole.decode(errors="replace").split("\n")
        return [line.rstrip() for line in lines if line.strip()]

    def _length(self) -> int:
        return self.log.stat().st_size if self.log.exists() else 0

    def _said(self, start: int) -> bytes:
        if self._length() <= start:
            return b""
        with self.log.open("rb") as log:
            log.seek(start)
            return log.read()


@dataclass(slots=True, kw_only=True)
class Pool:
    """As many processes as there are commands; used as a context, it leaves none behind.

    Each runs in a process group of its own, so that a Ctrl-C reaches the parent alone, which
    passes it on once. A worker whose parent is gone ends by itself.
    """

    study: Study
    commands: Sequence[Sequence[str]]
    environment: Mapping[str, str]
    watcher: Observer
    _workers: list[_Worker] = field(default_factory=list)
    _folder: tempfile.TemporaryDirectory[str] | None = None
    _vain: int = 0
    _reached: int = -1
    _told: set[str] = field(default_factory=set)

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="hpsearch-")
        for number, command in enumerate(self.commands):
            log = Path(self._folder.name) / f"worker-{number}.log"
            self._workers.append(_Worker(number=number, command=command, log=log))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        away = kind is not None and issubclass(kind, StorageError)
        try:
            self.end(reaps=not away)  # a database that is away has been waited for
        finally:
            if self._folder is not None:
                self._folder.cleanup()

    def run(self, stop: StopSignal) -> StudyStatus:
        """Runs until the study needs no more trials, or ``stop``; returns why it ended.

        Raises:
            HpsearchError: every worker was refused, or they die without getting anywhere.
        """
        stop.poll(on_second=self.kill)
        follower = Follower(self.study, self.watcher)
        while not stop():
            records = follower.look()
            if len(self.study.failures()) >= self.study.spec.search.max_failures:
                return StudyStatus.FAILING
            if not self._tend(records):
                follower.look()
                return self._why()
            time.sleep(_LOOK_SECONDS)
        self.end()
        follower.look()
        return stop.status

    def _tend(self, records: Sequence[TrialRecord]) -> bool:
        """Starts who is due and replaces who died; whether any is left."""
        if self.study.status() is StudyStatus.DONE:
            self._workers = [worker for worker in self._workers if worker.process is not None]
        dead: dict[int, int] = {}  # exit codes by pid
        for worker in list(self._workers):
            if worker.process is None:
                if time.monotonic() >= worker.start_at:
                    self._start(worker)
                continue
            code = worker.process.poll()
            self._pass_on(worker, is_last=code == 2)
            if code == 0 or (code == 2 and len(self._workers) > 1):
                self._workers.remove(worker)
            elif code == 2:
                raise HpsearchError(worker.last_words())
            elif code is not None:
                dead[worker.process.pid] = code
        if dead:
            self._replace(dead, records)
        return bool(self._workers)

    def _pass_on(self, worker: _Worker, *, is_last: bool) -> None:
        """Tells what the worker said, each line once, whoever says it, and what it ended with."""
        for line in worker.news():
            if line not in self._told:
                self._told.add(line)
                if not line.startswith("hpsearch: "):
                    _log.info("worker %s: %s", worker.number, line)
        if is_last and len(self._workers) > 1:
            _log.info("worker %s ended: %s", worker.number, worker.last_words())

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

    def _replace(self, dead: Mapping[int, int], records: Sequence[TrialRecord]) -> None:
        """Has those that died since the last look replaced: after a pause that grows in vain."""
        self.study.reap(signals={pid: -code for pid, code in dead.items() if code < 0})
        reached = _reached(records)
        if reached > self._reached:
            self._vain = 0
        self._vain += any(code not in _ASKED for code in dead.values())
        self._reached = reached
        pause = min(30.0, 0.25 * 2**self._vain)
        for worker in self._workers:
            if worker.process is None or worker.process.pid not in dead:
                continue
            how = _how(dead[worker.process.pid])
            if self._vain > _VAIN_LOOKS:
                raise StudyError(
                    f"workers died {self._vain} times and no epoch was gained between, the last one"
                    f" {how}: {worker.last_words()}; mend it and run again"
                )
            _log.info("worker %s %s; another starts in %g s", worker.number, how, pause)
            worker.process, worker.start_at = None, time.monotonic() + pause

    def _why(self) -> StudyStatus:
        standing = self.study.status()
        # A grid that is used up leaves the budget open, and nobody to ask: only workers know.
        return StudyStatus.USED_UP if standing in (None, StudyStatus.BUSY) else standing

    def end(self, *, reaps: bool = True) -> None:
        """Ends who still runs: asks, waits, and kills who does not come."""
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
        """Ends who still runs, at once; whoever runs the study next takes the trials up."""
        self._signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)

    def _signal(self, number: int) -> None:
        for process in self._running():
            process.send_signal(number)

    def _running(self) -> list[subprocess.Popen[bytes]]:
        started = [worker.process for worker in self._workers if worker.process is not None]
        return [process for process in started if process.poll() is None]


def _reached(records: Sequence[TrialRecord]) -> int:
    """A number that grows with every epoch and every end of a trial."""
    tally = counts(records)
    return sum(len(r.curve) for r in records) + tally["complete"] + tally["pruned"]


def _how(code: int) -> str:
    """What ended a worker: an exit code, negative for a signal."""
    if code in _ASKED:
        return "was asked to end"
    if code >= 0:
        return f"died with code {code}"
    return f"died by signal {-code}" + ", as in a system short of memory" * (-code == 9)


def worker_command(*options: str) -> list[str]:
    """Returns the command that starts a worker like this process, with those options."""
    return [sys.executable, "-P", "-m", "hpsearch", "worker", *options]
