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

from hpsearch.core.analysis import counts
from hpsearch.core.trial import TrialRecord
from hpsearch.errors import HpsearchError, StudyError
from hpsearch.search.follow import Follower, Watcher
from hpsearch.search.standing import Standing
from hpsearch.search.study import Study
from hpsearch.search.worker import PARENT, Stopper

_LOOK_SECONDS = 0.5
_END_SECONDS = 25.0  # for workers to hand their trials back; Kubernetes grants 30 s in all
_VAIN_DEATHS = 5  # that no epoch lies between, until it is not worth going on

_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class _Worker:
    number: int
    command: Sequence[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    start_at: float = 0.0  # monotonic seconds

    def last_words(self) -> str:
        """The last line that it said on stderr."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1].removeprefix("hpsearch: ") if lines else "it said nothing"


@dataclass(slots=True, kw_only=True)
class Pool:
    """As many processes as there are commands; used as a context, it leaves none behind.

    Each runs in a process group of its own, so that a Ctrl-C reaches the parent alone, which
    passes it on once. A worker whose parent is gone ends by itself.
    """

    study: Study
    commands: Sequence[Sequence[str]]
    environment: Mapping[str, str]
    watcher: Watcher
    _workers: list[_Worker] = field(default_factory=list)
    _folder: tempfile.TemporaryDirectory[str] | None = None
    _vain: int = 0
    _reached: int = -1

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="hpsearch-")
        for number, command in enumerate(self.commands):
            log = Path(self._folder.name) / f"worker-{number}.log"
            self._workers.append(_Worker(number=number, command=command, log=log))
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        if self._folder is not None:
            self._folder.cleanup()

    def run(self, stop: Stopper) -> Standing | None:
        """Runs until the study needs no more trials; returns why, or None if asked to stop.

        Raises:
            HpsearchError: every worker was refused, or they die without getting anywhere.
        """
        stop.raises, stop.at_once = False, self.kill
        follower = Follower(self.study, self.watcher)
        while not stop():
            records = follower.look()
            if len(self.study.failures()) >= self.study.spec.search.max_failures:
                return Standing.FAILING
            if not self._tend(records):
                follower.look()
                return self._why()
            time.sleep(_LOOK_SECONDS)
        self.end()
        follower.look()
        return None

    def _tend(self, records: Sequence[TrialRecord]) -> bool:
        """Starts who is due and replaces who died; whether any is left."""
        if self.study.standing() is Standing.DONE:
            self._workers = [worker for worker in self._workers if worker.process is not None]
        for worker in list(self._workers):
            if worker.process is None:
                if time.monotonic() >= worker.start_at:
                    self._start(worker)
            elif (code := worker.process.poll()) is not None:
                self._ended(worker, code, records)
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

    def _ended(self, worker: _Worker, code: int, records: Sequence[TrialRecord]) -> None:
        """Lets go of a worker that is done or was refused; has one that died replaced."""
        if code == 0 or (code == 2 and len(self._workers) > 1):
            self._workers.remove(worker)
            if code == 2:
                self.watcher.note(f"worker {worker.number} ended: {worker.last_words()}")
            return
        if code == 2:
            raise HpsearchError(worker.last_words())
        self.study.reap()
        reached = _reached(records)
        self._vain = 1 if reached > self._reached else self._vain + 1
        self._reached = reached
        how = f"by signal {-code}" if code < 0 else f"with code {code}"
        if self._vain > _VAIN_DEATHS:
            raise StudyError(
                f"{self._vain} workers died and no epoch was gained between, the last {how}:"
                f" {worker.last_words()}; mend it and run again"
            )
        pause = min(30.0, 0.25 * 2**self._vain)
        self.watcher.note(f"worker {worker.number} died ({how}); another starts in {pause:g} s")
        worker.process, worker.start_at = None, time.monotonic() + pause

    def _why(self) -> Standing:
        standing = self.study.standing()
        # A grid that is used up leaves the budget open, and nobody to ask: only workers know.
        return Standing.USED_UP if standing in (None, Standing.BUSY) else standing

    def end(self) -> None:
        """Ends who still runs: asks, waits, and kills who does not come."""
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + _END_SECONDS
        for process in self._running():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._workers:
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


def worker_command(*options: str) -> list[str]:
    """Returns the command that starts a worker like this process, with those options."""
    return [sys.executable, "-P", "-m", "hpsearch", "worker", *options]
