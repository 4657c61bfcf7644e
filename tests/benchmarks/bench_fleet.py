"""16 and 64 workers on one PostgreSQL, with sleeps for trials, and what 1,000 would need of it.

    python tests/benchmarks/bench_fleet.py [--fleets 16x0.5 64x2] [--rounds 3] [--quick]

Three parts. *Fleets*: worker processes (no torch in them, see simulation.py) share a study until
its budget is met, each claiming trials whose epochs sleep; ``16x0.5`` is 16 workers and half a
second an epoch in the mean. The budget is checked: every trial complete, each run once. Where a
worker's time went is told from the end of its first claim, since all start at one instant, to the
end of its last trial; the ideal is that no time goes to anything but sleep. How long the lock is
waited for and held is measured by ``Storage.lock`` wrapped in the worker's process. *Saturation*:
the same without sleep, one epoch a trial: what the machine gives with worker and server on the same
cores. *Crowd*: one worker asks, alone, a study in which so many trials run (crowd.py); from that
follows the plan for fleets that this machine cannot hold. The server is the benchmark's own, with
its default settings but for ``max_connections``; it syncs every commit to disk. A part whose list
is empty (``--fleets``, ``--saturation`` or ``--crowds`` with nothing after it) is left out.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from arguments import add_quick, parser_of
from environment import describe_environment, print_table
from pace import spread
from postgres import Server, postgres
from simulation import Clock, Diary, Work, fleet, watch_lock

from hpsearch.core.trial import State
from hpsearch.search.storage.storage import open_storage
from hpsearch.search.study.study import Study

if TYPE_CHECKING:
    from crowd import Crowd  # it imports the samplers and more, which a worker need not

TRIAL_SECONDS = (60, 600, 3600)  # of the trials in the plan
PLANNED = 1000  # workers


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """What a run of so many workers took; ``load`` is the share of the usable cores kept busy."""

    workers: int
    trials: int
    seconds: float  # from the first claim to the last trial's end
    slept: float  # by all trials together, as they were meant to
    diaries: Sequence[Diary]
    load: float
    server_cpu: float
    connections: int

    @property
    def rate(self) -> float:
        """Trials a second."""
        return self.trials / self.seconds

    @property
    def ideal(self) -> float:
        """Trials a second if workers did nothing but sleep."""
        return self.workers * self.trials / self.slept if self.slept else float("inf")

    def share(self, *names: str) -> float:
        """The share of all workers' time that these spans took, after their first claims."""
        spent = sum(sum(diary.spans.get(name, ())) for diary in self.diaries for name in names)
        return spent / sum(diary.steady for diary in self.diaries)

    def milliseconds(self, name: str, quantile: int) -> float:
        """That percentile of a span, over all workers."""
        seconds = [s for diary in self.diaries for s in diary.spans.get(name, ())]
        if len(seconds) < 2:
            return 1e3 * seconds[0] if seconds else float("nan")
        return 1e3 * statistics.quantiles(seconds, n=100, method="inclusive")[quantile - 1]


@dataclass(slots=True, kw_only=True)
class Meter:
    """Reads the processors and the server while a fleet works."""

    server: Server
    database: str
    connections: int = 0
    busy: float = 0.0
    total: float = 0.0
    cpu: float = 0.0
    looked: float = field(default_factory=time.monotonic)

    def start(self) -> None:
        self.busy, self.total = self._processors()
        self.cpu = self.server.cpu_seconds()

    def look(self) -> None:
        """Counts the connections, about every two seconds."""
        if time.monotonic() - self.looked > 2.0:
            self.connections = max(self.connections, self.server.connections(self.database))
            self.looked = time.monotonic()

    def stop(self) -> tuple[float, float]:
        """Returns the share of the usable cores that was busy, and the server's seconds."""
        busy, total = self._processors()
        load = (busy - self.busy) / (total - self.total)
        return load, self.server.cpu_seconds() - self.cpu

    def _processors(self) -> tuple[float, float]:
        """Busy and all seconds of the cores that this process may use, whoever used them."""
        every = psutil.cpu_times(percpu=True)
        mine = [every[core] for core in sorted(os.sched_getaffinity(0))]
        total = sum(sum(times[:8]) for times in mine)  # guests' time is in the user's already
        return total - sum(times.idle + times.iowait for times in mine), total


def make_study(url: str, *, sampler: str, trials: int, epochs: int) -> Study:
    """Makes the study in an empty database."""
    from crowd import open_study

    storage = open_storage(url, create=True)
    return open_study(storage, sampler=sampler, trials=trials, epochs=epochs)


def run_fleet(
    server: Server,
    name: str,
    *,
    workers: int,
    epoch_seconds: float,
    sampler: str,
    trials: int,
    epochs: int,
) -> Fleet:
    """Runs a fleet on a database of its own, to the end of its budget, and checks the budget."""
    url = server.database(name)
    study = make_study(url, sampler=sampler, trials=trials, epochs=epochs)
    study.storage.close()  # its connections would be counted as the workers'
    work = Work(url=url, study=study.name, epochs=epochs, epoch_seconds=epoch_seconds)
    meter = Meter(server=server, database=name)
    diaries = fleet(work, workers, started=meter.start, meanwhile=meter.look)
    load, server_cpu = meter.stop()
    records = study.records()
    check_budget(study, diaries)
    study.storage.close()
    first, last = min(r.started for r in records), max(r.ended for r in records)
    return Fleet(
        workers=workers,
        trials=trials,
        seconds=(last - first).total_seconds(),
        slept=sum(sum(work.sleeps(number)) for number in range(trials)),
        diaries=diaries,
        load=load,
        server_cpu=server_cpu,
        connections=meter.connections,
    )


def check_budget(study: Study, diaries: Sequence[Diary]) -> None:
    """Ends the benchmark unless the budget is met exactly, each trial run once and to its end."""
    records, trials = study.records(), study.spec.search.trials
    numbers = list(range(trials))
    run = sorted(number for diary in diaries for number in diary.trials)
    counted = [r.number for r in records if r.state is State.COMPLETE]
    starts = {r.attributes["origin"]["starts"] for r in records}
    if not ([r.number for r in records] == counted == run == numbers and starts == {1}):
        sys.exit(
            f"found {len(records)} trials, {len(counted)} of them complete, run {len(run)} times;"
            f" expected {trials}, each complete and run once"
        )


Line = tuple[str, Callable[[Fleet], float], str]
LINES: tuple[Line, ...] = (
    ("trials, each complete and run once", lambda f: f.trials, "{:.0f}"),
    ("all have a first trial after, s", lambda f: max(d.first for d in f.diaries), "{:.2f}"),
    ("trials a second", lambda f: f.rate, "{:.2f}"),
    ("  ideal: workers / sleep of a trial", lambda f: f.ideal, "{:.2f}"),
    ("  of the ideal, %", lambda f: 100 * f.rate / f.ideal, "{:.1f}"),
    ("a worker's time after its first claim, %:", lambda f: 100.0, "{:.0f}"),
    ("  asleep, where others train", lambda f: 100 * f.share("asleep"), "{:.2f}"),
    ("  claim", lambda f: 100 * f.share("claim"), "{:.2f}"),
    ("    of it waiting for the lock", lambda f: 100 * f.share("lock wait"), "{:.2f}"),
    ("  record_epoch", lambda f: 100 * f.share("record_epoch"), "{:.2f}"),
    ("  looks at other trials", lambda f: 100 * f.share("judge"), "{:.2f}"),
    ("  record_cost, finish", lambda f: 100 * f.share("record_cost", "finish"), "{:.2f}"),
    ("the lock is held, % of the time", lambda f: 100 * f.workers * f.share("lock held"), "{:.1f}"),
    *(
        (f"{label}, ms, {word}", lambda f, n=name, q=quantile: f.milliseconds(n, q), "{:.1f}")
        for label, name in (
            ("claim", "claim"),
            ("  waiting for the lock", "lock wait"),
            ("  holding it", "lock held"),
            ("record_epoch", "record_epoch"),
            ("finish", "finish"),
        )
        for word, quantile in (("median", 50), ("95 %", 95))
    ),
    ("processors' load, %", lambda f: 100 * f.load, "{:.0f}"),
    ("server's CPU, ms a trial", lambda f: 1e3 * f.server_cpu / f.trials, "{:.0f}"),
    (
        "workers' CPU, ms a trial",
        lambda f: 1e3 * sum(d.cpu for d in f.diaries) / f.trials,
        "{:.0f}",
    ),
    ("connections at most, a worker", lambda f: f.connections / f.workers, "{:.2f}"),
)
SATURATED = ("trials, each", "trials a second", "the lock", "  holding", "processors", "server's")


def print_fleets(fleets: dict[str, list[Fleet]], lines: Sequence[Line]) -> None:
    """Prints each line's median over the rounds, and its range where there are several."""
    rows = [
        [label, *(spread([value(found) for found in rounds], form) for rounds in fleets.values())]
        for label, value, form in lines
    ]
    print_table(["", *fleets], rows)


def measure_fleets(server: Server, chosen: argparse.Namespace) -> dict[str, list[Fleet]]:
    """Runs every fleet by every sampler, in turns, so often."""
    found: dict[str, list[Fleet]] = {}
    for turn in range(chosen.rounds):
        for kind in chosen.fleets:
            workers, _, seconds = kind.partition("x")
            for sampler in chosen.samplers:
                ran = run_fleet(
                    server,
                    f"fleet_{kind}_{sampler}_{turn}",
                    workers=int(workers),
                    epoch_seconds=float(seconds),
                    sampler=sampler,
                    trials=int(workers) * chosen.trials_each,
                    epochs=chosen.epochs,
                )
                found.setdefault(f"{workers} × {seconds} s, {sampler}", []).append(ran)
                print(f"{kind}, {sampler}: {ran.seconds:.1f} s", file=sys.stderr)
    return found


def measure_saturation(server: Server, chosen: argparse.Namespace) -> dict[str, list[Fleet]]:
    """Runs fleets that do not sleep, in turns, so often."""
    found: dict[str, list[Fleet]] = {}
    for turn in range(chosen.rounds):
        for workers in chosen.saturation:
            ran = run_fleet(
                server,
                f"saturation_{workers}_{turn}",
                workers=workers,
                epoch_seconds=0.0,
                sampler="random",
                trials=chosen.saturation_trials,
                epochs=1,
            )
            found.setdefault(f"{workers} worker{'s' * (workers > 1)}", []).append(ran)
    return found


def ask_crowds(server: Server, chosen: argparse.Namespace) -> list[Crowd]:
    """Asks studies in which ever more trials run."""
    from crowd import crowds

    clock, found = Clock(), []
    watch_lock(clock)
    asking = crowds(
        server,
        clock,
        sizes=chosen.crowds,
        finished=chosen.finished,
        questions=chosen.questions,
        epochs=chosen.epochs,
    )
    for crowd in asking:
        found.append(crowd)
        print(f"crowd of {crowd.running}, {crowd.sampler}: asked", file=sys.stderr)
    return found


def print_crowds(crowds: Sequence[Crowd]) -> None:
    """Prints what each question costs its worker and the server."""
    print(
        f"\nCrowd: one worker asks, alone, a study with {crowds[0].finished} finished trials; ms:"
        f" medians of\n{crowds[0].questions} for the lock and for what the worker waits, means"
        " for the CPU\n"
    )
    names, dear = ("claim", "look", "record_epoch", "finish"), ("claim", "look")
    header = ["running, sampler", "lock held", *names]
    header += [*(f"its CPU, {name}" for name in dear), *(f"server's CPU, {name}" for name in names)]
    rows = []
    for crowd in crowds:
        times = [crowd.held, *map(crowd.asked.get, names)]
        times += [*map(crowd.worker.get, dear), *map(crowd.server.get, names)]
        rows.append([f"{crowd.running}, {crowd.sampler}", *(f"{1e3 * t:.1f}" for t in times)])
    print_table(header, rows)


def print_plan(crowds: Sequence[Crowd], *, epochs: int) -> None:
    """Prints what follows for as many workers as trials run in each crowd."""
    print(
        f"\nThe plan, from the crowds: a worker to each running trial, {epochs} epochs a trial."
        " Claims a second: as\nmany as the lock lets through. Shortest trial: with it the lock is"
        " held half of the time. Then, by the\nlength of a trial: the share of a worker's time"
        " that is lost, and the server's cores that are busy.\n"
    )
    header = ["workers, sampler", "claims a second", "shortest trial, s"]
    header += [f"trials of {seconds} s" for seconds in TRIAL_SECONDS]
    rows = []
    for crowd in crowds:
        workers = crowd.running
        cells = [f"{crowd.claims_per_second:.1f}", f"{crowd.shortest_trial(workers):.1f}"]
        for seconds in TRIAL_SECONDS:
            lost = crowd.lost(workers, trial_seconds=seconds, epochs=epochs)
            cores = crowd.cores(workers, trial_seconds=seconds, epochs=epochs)
            fits = lost != float("inf")
            cells.append(f"{100 * lost:.1f} %, {cores:.2f}" if fits else "too many claims")
        rows.append([f"{workers}, {crowd.sampler}", *cells])
    print_table(header, rows)


def options() -> argparse.Namespace:
    parser = parser_of(__doc__, epochs=10, rounds=3)
    parser.add_argument("--fleets", nargs="*", default=["16x0.5", "64x2"], metavar="WORKERSxS")
    parser.add_argument("--samplers", nargs="+", default=["random", "tpe"], help="of the fleets")
    parser.add_argument("--trials-each", type=int, default=6, help="trials a worker in the mean")
    parser.add_argument("--saturation", type=int, nargs="*", default=[1, 2, 4, 8])
    parser.add_argument("--saturation-trials", type=int, default=300)
    parser.add_argument("--crowds", type=int, nargs="*", default=[16, 64, 256, PLANNED])
    parser.add_argument("--finished", type=int, default=1000, help="trials before a crowd's")
    parser.add_argument("--questions", type=int, default=20, help="of each kind to a crowd")
    add_quick(parser)
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.fleets, chosen.trials_each, chosen.epochs, chosen.rounds = ["4x0.1"], 3, 3, 1
        chosen.saturation, chosen.saturation_trials = [1, 2], 20
        chosen.crowds, chosen.finished, chosen.questions = [4, 16], 50, 3
    return chosen


def main() -> None:
    """Measures all three parts and prints their tables."""
    chosen = options()
    print(describe_environment())
    most = max([1, *(int(kind.partition("x")[0]) for kind in chosen.fleets), *chosen.saturation])
    with (
        tempfile.TemporaryDirectory() as folder,
        postgres(Path(folder), max_connections=4 * most + 20) as server,
    ):
        version, synced = server.setting("server_version"), server.setting("synchronous_commit")
        print(f"server    PostgreSQL {version} on the same cores, synchronous_commit {synced}")
        if chosen.fleets:
            fleets = measure_fleets(server, chosen)
            print(f"\nFleets: {chosen.epochs} epochs a trial, {told_rounds(chosen)}\n")
            print_fleets(fleets, LINES)
        if chosen.saturation:
            saturation = measure_saturation(server, chosen)
            print(
                f"\nSaturation: no sleep, 1 epoch a trial, random sampler, {told_rounds(chosen)}\n"
            )
            print_fleets(saturation, [line for line in LINES if line[0].startswith(SATURATED)])
        if chosen.crowds:
            crowds = ask_crowds(server, chosen)
            print_crowds(crowds)
            print_plan(crowds, epochs=chosen.epochs)


def told_rounds(chosen: argparse.Namespace) -> str:
    return f"n = {chosen.rounds} round{'s' * (chosen.rounds > 1)} in turns, median (range)"


if __name__ == "__main__":
    main()
