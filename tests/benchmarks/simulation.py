"""Workers that sleep where others train, each in a process of its own, and where their time went.

A worker here does what :func:`hpsearch.search.worker.work_loop.work` does, with heartbeats and
reads of the other trials, but for training, checkpoints and pruning: the rule is evaluated and
ignored, so that all trials have the same number of epochs. It checks that torch is not imported.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import random
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from processes import gather

from hpsearch.core.trial import Curve, Epoch, Outcome, State
from hpsearch.search.storage.records import StudyStatus
from hpsearch.search.storage.storage import Storage, open_storage
from hpsearch.search.study.catalog import open_study
from hpsearch.search.study.leases import Lease, process_identity
from hpsearch.search.study.study import Study
from hpsearch.search.worker.trainer import PeerTrials
from hpsearch.search.worker.work_loop import heartbeats

BUSY_SECONDS = 0.5  # between two questions for a trial, as in a real worker
COST = {"params": 1e4, "flops": 1e6, "latency_ms": 0.1}
_OPENING_SECONDS = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a fleet works on; an epoch sleeps 0.5 to 1.5 times ``epoch_seconds``."""

    url: str
    study: str
    epochs: int
    epoch_seconds: float

    def sleeps(self, number: int) -> list[float]:
        """Returns the seconds that each epoch of a trial sleeps: the same at every call."""
        drawn = random.Random(number)
        return [self.epoch_seconds * drawn.uniform(0.5, 1.5) for _ in range(self.epochs)]


class Clock:
    """Keeps the seconds of every span of time, with the span's name, in order of ending."""

    def __init__(self) -> None:
        self.events: list[tuple[str, float]] = []

    @contextlib.contextmanager
    def span(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.events.append((name, time.perf_counter() - began))

    def spans(self) -> dict[str, list[float]]:
        """Returns the seconds by the name of their span."""
        found: defaultdict[str, list[float]] = defaultdict(list)
        for name, seconds in self.events:
            found[name].append(seconds)
        return dict(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Diary:
    """One worker's trials and its time in seconds, from its first trial's claim to its last's end.

    ``spans`` leaves the first claim out, for which all workers queue at once; ``first`` is how
    long it took. ``steady`` is the time that the spans are of, ``cpu`` the process's own.
    """

    trials: Sequence[int]
    first: float
    steady: float
    cpu: float
    spans: Mapping[str, Sequence[float]]


def watch_lock(clock: Clock) -> None:
    """Has this process keep how long it waits for the database's lock and how long it holds it.

    The wait begins with the call and so holds, on PostgreSQL, a connection from the pool, its ping
    and the way to the server; the holding ends when the lock is given back.
    """
    lock = Storage.lock

    @contextlib.contextmanager
    def timed(self: Storage, *arguments: Any, **options: Any) -> Iterator[None]:
        with contextlib.ExitStack() as held:
            with clock.span("lock wait"):
                held.enter_context(lock(self, *arguments, **options))
            with clock.span("lock held"):
                yield
                held.close()

    Storage.lock = timed


def epoch(number: int, trial: int) -> Epoch:
    """Returns an epoch's measurements, which differ between trials and get better."""
    loss = (1 + trial % 13 / 13) / (1 + number)
    return Epoch(
        epoch=number,
        train_loss=loss,
        train_accuracy=1 / (1 + loss),
        val_loss=loss,
        val_accuracy=1 / (1 + loss),
        train_seconds=1.0 + trial % 31,
        wall_seconds=0.5,
    )


def outcome(curve: Curve) -> Outcome:
    last = curve[-1]
    values = {"accuracy": last.val_accuracy, "train_seconds": last.train_seconds}
    return Outcome(state=State.COMPLETE, values=values)


def run_trial(study: Study, lease: Lease, work: Work, clock: Clock) -> None:
    """Runs a claimed trial to its end, asleep where others train."""
    with clock.span("record_cost"):
        lease.write_cost(COST)
    others, curve = PeerTrials(study, lease.number), ()
    for number, seconds in enumerate(work.sleeps(lease.number), start=1):
        with clock.span("asleep"):
            time.sleep(seconds)
        curve = (*curve, epoch(number, lease.number))
        with clock.span("record_epoch"):
            lease.write_epoch(curve)
        with clock.span("judge"):
            others.judge(curve, COST)
    with clock.span("finish"):
        lease.finish(outcome(curve))


def labour(work: Work, start: Any, diaries: Any) -> None:
    """What a worker process does: opens the study, waits for all others, and works till the end."""
    study = open_study(open_storage(work.url, create=False), work.study)
    clock, trials, origin = Clock(), [], {"process": process_identity(), "threads": 1}
    watch_lock(clock)
    start.wait(_OPENING_SECONDS)
    began = first = last = time.perf_counter()
    cpu = time.process_time()
    while (lease := _claim(study, origin, clock)) is not StudyStatus.DONE:
        if lease is StudyStatus.BUSY:
            time.sleep(BUSY_SECONDS)
            continue
        assert isinstance(lease, Lease), f"found {lease}, expected a trial or the budget met"
        if not trials:
            clock.events.clear()
            first = time.perf_counter()
        trials.append(lease.number)
        with heartbeats(lease):
            run_trial(study, lease, work, clock)
        last = time.perf_counter()
    cpu = time.process_time() - cpu
    study.storage.close()
    assert "torch" not in sys.modules, "a worker of this benchmark must not import torch"
    diaries.put(
        Diary(
            trials=trials,
            first=first - began,
            steady=last - first,
            cpu=cpu,
            spans=clock.spans(),
        )
    )


def _claim(study: Study, origin: Mapping[str, Any], clock: Clock) -> Lease | StudyStatus:
    """Asks for a trial; a question that gets none leaves nothing on the clock."""
    before = len(clock.events)
    with clock.span("claim"):
        lease = study.acquire(origin)
    if isinstance(lease, StudyStatus):
        del clock.events[before:]
    return lease


def fleet(
    work: Work, workers: int, *, started: Callable[[], None], meanwhile: Callable[[], None]
) -> list[Diary]:
    """Runs that many worker processes at once and returns what they have to tell.

    Args:
        work: what they work on.
        workers: how many.
        started: called when all have the study open and begin.
        meanwhile: called about twice a second while they work.
    """
    context = multiprocessing.get_context("forkserver")  # forks from a process without torch
    context.set_forkserver_preload([__name__])
    start, diaries = context.Barrier(workers + 1), context.Queue()
    arguments = (work, start, diaries)
    processes = [context.Process(target=labour, args=arguments) for _ in range(workers)]
    for process in processes:
        process.start()
    start.wait(_OPENING_SECONDS)
    started()
    return gather(processes, diaries, meanwhile=meanwhile)
