"""What a worker's questions cost a server while so many trials run, asked by one worker alone.

The running trials are rows without a worker behind them, with a sign of life from the future, so
that nobody takes them up. So a crowd of a thousand fits a machine that could not run it.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import optuna
from postgres import Server
from simulation import COST, Clock, epoch, outcome
from untrained import add, draw_at_random

from hpsearch.config import build_spec
from hpsearch.core.spec import resolve
from hpsearch.core.trial import Curve, State
from hpsearch.search.storage.records import TRIAL_STATES, columns_of
from hpsearch.search.storage.storage import Storage, open_storage
from hpsearch.search.storage.tables import clock as clock_of
from hpsearch.search.study.catalog import create_or_resume
from hpsearch.search.study.leases import Lease, process_identity
from hpsearch.search.study.study import Study
from hpsearch.search.worker.work_loop import BEAT_SECONDS, heartbeats

BOUNDS = {"accuracy": (0.1, 1.0), "train_seconds": (0.1, 100.0)}
LOOK_SECONDS = 5.0  # between two looks of a worker at the other trials, at least; search/peers.py
_FAR_SECONDS = 1e6


def open_study(storage: Storage, *, sampler: str, trials: int, epochs: int) -> Study:
    """Opens the study ``crowd`` of the storage, makes it if it is not there, with that sampler."""
    overrides = {"name": "crowd", "search.sampler": sampler, "search.trials": trials}
    spec = build_spec(None, {**overrides, "train.epochs": epochs})
    return create_or_resume(storage, spec, data={}, reference={"threads": 1}, bounds=lambda: BOUNDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """What questions cost with that many trials running in a study of so many finished ones.

    ``held`` is the median of the seconds that a claim holds the lock. By question, ``asked`` is
    the median of the seconds that the worker waits, and ``worker`` and ``server`` are the means of
    the processor seconds that the worker and all the server's processes spend.
    """

    sampler: str
    running: int
    finished: int
    questions: int
    held: float
    asked: Mapping[str, float]
    worker: Mapping[str, float]
    server: Mapping[str, float]

    @property
    def claims_per_second(self) -> float:
        """What the lock lets through, whatever the number of processors."""
        return 1 / self.held

    def shortest_trial(self, workers: int) -> float:
        """Seconds of a trial with which so many workers hold the lock half of the time."""
        return 2 * workers * self.held

    def use(self, workers: int, *, trial_seconds: float) -> float:
        """Returns the share of the time that so many workers hold the lock, if they can."""
        return workers * self.held / trial_seconds

    def lost(self, workers: int, *, trial_seconds: float, epochs: int) -> float:
        """Returns the share of so many workers' time that is lost beside the training itself.

        Infinite where the lock is asked for more than it can be held. It is waited for as in a
        queue with random arrivals and a fixed service time.
        """
        use = self.use(workers, trial_seconds=trial_seconds)
        if use >= 1:
            return float("inf")
        waiting = self.held * use / (1 - use) / 2
        times = self._times(trial_seconds, epochs)
        return (waiting + sum(n * self.asked[name] for name, n in times.items())) / trial_seconds

    def cores(self, workers: int, *, trial_seconds: float, epochs: int) -> float:
        """Returns how many of the server's cores so many workers keep busy."""
        times = {**self._times(trial_seconds, epochs), "beat": trial_seconds / BEAT_SECONDS}
        seconds = sum(n * self.server[name] for name, n in times.items())
        return workers * seconds / trial_seconds

    def _times(self, trial_seconds: float, epochs: int) -> dict[str, float]:
        """How often a trial asks each question while its training waits for the answer."""
        looks = min(epochs, trial_seconds / LOOK_SECONDS)
        once = dict.fromkeys(("claim", "record_cost", "finish"), 1.0)
        return {**once, "record_epoch": epochs, "look": looks}


def crowds(
    server: Server,
    clock: Clock,
    *,
    sizes: Sequence[int],
    finished: int,
    questions: int,
    epochs: int,
) -> Iterator[Crowd]:
    """Fills one study with ever more running trials and asks it, by each sampler.

    Args:
        server: where.
        clock: on which this process keeps its lock times.
        sizes: how many trials run, growing.
        finished: how many have ended before.
        questions: how often each is asked.
        epochs: of a trial; the running ones are half through.
    """
    storage = open_storage(server.database("crowd"), create=True)
    opened = {"trials": 10**6, "epochs": epochs}
    study = open_study(storage, sampler="random", **opened)
    fill(study, 0, finished, state=State.COMPLETE, epochs=epochs)
    running = 0
    for size in sizes:
        fill(study, finished + running, size - running, state=State.RUNNING, epochs=epochs // 2)
        running = size
        for sampler in ("random", "tpe"):
            study = open_study(storage, sampler=sampler, **opened)
            ask(study, server, clock, 1, epochs)  # the first reads the whole study
            asked = ask(study, server, clock, questions, epochs)
            held = statistics.median(clock.spans()["lock held"])
            costs = {"running": size, "finished": finished, "questions": questions}
            yield Crowd(sampler=sampler, held=held, **costs, **asked)
    storage.close()


def ask(
    study: Study, server: Server, clock: Clock, questions: int, epochs: int
) -> dict[str, dict[str, float]]:
    """Asks every question so often; returns ``asked``, ``worker`` and ``server`` of a crowd."""
    clock.events.clear()
    claims: list[Lease] = []
    origin = {"process": process_identity(), "threads": 1}
    curve = curve_of(epochs, trial=0)
    found: dict[str, dict[str, float]] = {"asked": {}, "worker": {}, "server": {}}

    def claim(_turn: int) -> None:
        claims.append(study.acquire(origin))
        # All of them may take longer than a silent trial is left to its worker.
        alive.enter_context(heartbeats(claims[-1]))

    def measure(name: str, question: Callable[[int], Any]) -> None:
        ours, theirs = time.process_time(), server.cpu_seconds()
        for turn in range(questions):
            with clock.span(name):
                question(turn)
        found["worker"][name] = (time.process_time() - ours) / questions
        found["server"][name] = (server.cpu_seconds() - theirs) / questions
        found["asked"][name] = statistics.median(clock.spans()[name])

    with contextlib.ExitStack() as alive:
        measure("claim", claim)
        measure("record_cost", lambda turn: claims[turn].write_cost(COST))
        measure("record_epoch", lambda turn: claims[turn].write_epoch(curve))
        measure("look", lambda _: study.records())
        measure("beat", lambda turn: claims[turn].beat())
        measure("finish", lambda turn: claims[turn].finish(outcome(curve)))
    return found


def curve_of(epochs: int, *, trial: int) -> Curve:
    return tuple(epoch(number, trial) for number in range(1, epochs + 1))


def fill(study: Study, first: int, number: int, *, state: State, epochs: int) -> None:
    """Adds that many trials in that state."""
    with study.storage.transaction() as session:
        beat = clock_of(session) + _FAR_SECONDS
    numbers = range(first, first + number)
    trials = (trial_of(study, n, state=state, epochs=epochs, beat=beat) for n in numbers)
    add(study.storage, study.handle, trials)


def trial_of(
    study: Study, number: int, *, state: State, epochs: int, beat: float
) -> optuna.trial.FrozenTrial:
    """Returns a trial as a worker leaves it in the database, its values drawn at random."""
    params, drawn = draw_at_random(study.spec.space, seed=number)
    curve, spec = curve_of(epochs, trial=number), resolve(study.spec, number=number, params=params)
    plain = {"model": asdict(spec.model), "train": asdict(spec.train)}
    origin = {"process": process_identity(), "threads": 1, "starts": 1, "seed": 0, "control": False}
    known = {"curve": columns_of(curve), "cost": COST, "spec": plain, "origin": origin}
    return optuna.create_trial(
        state=TRIAL_STATES[state],
        values=list(outcome(curve).values.values()) if state is State.COMPLETE else None,
        **drawn,
        user_attrs={**known, "beat": beat},
    )
