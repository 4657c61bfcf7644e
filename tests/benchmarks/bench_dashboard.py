"""A run with `hpsearch dashboard` polled throughout, against the same run without.

    python tests/benchmarks/bench_dashboard.py [--trials 24] [--epochs 3] [--rounds 5] [--quick]

Each run is an `hpsearch run` as a process on a fresh SQLite file, training the same nets (random
sampler, no stopping, objectives that are not timed). Its first trial makes the file and is left
out; then, in every other run, the dashboard opens the file, and the rest is run while it is polled.
Epochs are counted in the records, from the first claim to the last trial's end. Who goes first
alternates between rounds; the ratio is of one round, then the median.

The poller asks what optuna-dashboard 0.21's page asks, at the page's own rates and more: the study
with its trials from the first unfinished one on (every 2 s below 100 trials, 5 s below 500, then
10 s: the trial list, the most eager of its pages), the importances every 10 s if trials have
completed since (the study's own page), and, which no page does, the list of studies each time.
Poller and dashboard run on the cores that train, as they do on a laptop.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from pace import SAME_FOR_ALL, Pace, pace, spread

from hpsearch.nn import host

LIMIT_PERCENT = 5.0
_IMPORTANCE_SECONDS = 10.0
_START_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """What the poller saw in one run; ``cpu`` is the dashboard's share of one core."""

    latencies: Sequence[float]
    errors: Sequence[str]
    cpu: float


@dataclass(slots=True, kw_only=True)
class Page:
    """An open page of the dashboard, which asks for what is new."""

    base: str
    trials: list[dict[str, Any]] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    _completed: int = 0
    _importances_at: float = 0.0

    def poll(self) -> None:
        """Asks for the studies, the study's news and, at times, the importances."""
        studies = self._get("/api/studies")
        if studies is None:
            return
        path = f"/api/studies/{studies['study_summaries'][0]['study_id']}"
        known = next(
            (i for i, t in enumerate(self.trials) if t["state"] in ("Running", "Waiting")),
            len(self.trials),
        )
        news = self._get(f"{path}?after={known}")
        if news is None:
            return
        self.trials = self.trials[:known] + news["trials"]
        completed = sum(trial["state"] == "Complete" for trial in self.trials)
        due = time.monotonic() - self._importances_at >= _IMPORTANCE_SECONDS
        if completed != self._completed and due:
            self._get(f"{path}/param_importances")
            self._completed, self._importances_at = completed, time.monotonic()

    @property
    def interval(self) -> float:
        """Seconds until the next poll, as the page has it."""
        known = len(self.trials)
        return 2.0 if known < 100 else 5.0 if known < 500 else 10.0

    def _get(self, path: str) -> Any:
        began = time.perf_counter()
        try:
            with urllib.request.urlopen(self.base + path, timeout=60) as answer:
                found = json.load(answer)
        except (OSError, ValueError) as exc:  # an HTTPError is an OSError
            self.errors.append(f"{path}: {exc}")
            return None
        self.latencies.append(time.perf_counter() - began)
        return found


@contextlib.contextmanager
def dashboard(storage: Path) -> Iterator[tuple[str, psutil.Process]]:
    """Runs `hpsearch dashboard` on the file; gives its address, once it answers, and process."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "hpsearch", "dashboard", "--storage", str(storage)]
    process = subprocess.Popen(
        [*command, "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        base = f"http://127.0.0.1:{port}"
        _wait_for(base, process)
        yield base, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def _wait_for(base: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            urllib.request.urlopen(f"{base}/api/meta", timeout=5).close()
            return
        except OSError:  # refused, or silent while it imports
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"`hpsearch dashboard` does not answer at {base}; try it by hand")
            time.sleep(0.1)


@contextlib.contextmanager
def polled(storage: Path) -> Iterator[list[Watched]]:
    """Polls a dashboard on the file inside the context; the list holds what was seen, after it."""
    seen: list[Watched] = []
    with dashboard(storage) as (base, process):
        page, done = Page(base=base), threading.Event()

        def poll() -> None:
            page.poll()
            while not done.wait(page.interval):
                page.poll()

        before, began = process.cpu_times(), time.perf_counter()
        thread = threading.Thread(target=poll, name="poller")
        thread.start()
        try:
            yield seen
        finally:
            done.set()
            thread.join()
        after = process.cpu_times()
        cpu = after.user + after.system - before.user - before.system
        cpu /= time.perf_counter() - began
    seen.append(Watched(latencies=page.latencies, errors=page.errors, cpu=cpu))


def run_search(
    chosen: argparse.Namespace, *, with_dashboard: bool
) -> tuple[Pace, list[Any], Watched | None]:
    """Runs the search, polled or not; returns its pace, the nets it trained, and what was seen."""
    from bench_quickstart import search

    options = ["--epochs", str(chosen.epochs), "--seed", str(chosen.seed), "--device", "cpu"]
    options += ["--threads", str(chosen.threads), *SAME_FOR_ALL]
    with tempfile.TemporaryDirectory() as folder:
        first = search(["--trials", "1", *options], folder=Path(folder))
        first.study.storage.close()
        watching = (
            polled(Path(folder) / "hpsearch.db") if with_dashboard else contextlib.nullcontext()
        )
        with watching as seen:
            study = search(["--trials", str(chosen.trials), *options], folder=Path(folder)).study
        records = study.records()
        study.storage.close()
    if len(records) != chosen.trials or not all(r.state.counts for r in records):
        sys.exit(f"found {len(records)} trials, expected {chosen.trials}, none of them failed")
    return pace(records[1:], workers=1), [r.params for r in records], seen[0] if seen else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """A run without the dashboard and one with it."""

    without: Pace
    polled: Pace
    watched: Watched

    @property
    def slower(self) -> float:
        """By how many percent the polled run trained fewer epochs a second."""
        return 100 * (1 - self.polled.rate / self.without.rate)


def run_round(chosen: argparse.Namespace, turn: int) -> Round:
    """Runs both, the one without first in even rounds."""
    paces, nets, watched = {}, {}, None
    for with_dashboard in (False, True) if turn % 2 == 0 else (True, False):
        paces[with_dashboard], nets[with_dashboard], seen = run_search(
            chosen, with_dashboard=with_dashboard
        )
        watched = seen or watched
    if nets[False] != nets[True]:
        sys.exit("the two runs trained different nets; they cannot be compared")
    assert watched is not None
    done = Round(without=paces[False], polled=paces[True], watched=watched)
    print(f"round {turn + 1}: {done.slower:.1f} % slower", file=sys.stderr)
    return done


def print_rounds(rounds: Sequence[Round]) -> None:
    """Prints both paces, how much slower the polled one is, and what the poller saw."""
    from environment import print_table

    latencies = [1e3 * s for r in rounds for s in r.watched.latencies]
    errors = [error for r in rounds for error in r.watched.errors]
    slower, cpu = [r.slower for r in rounds], [100 * r.watched.cpu for r in rounds]
    met = statistics.median(slower) <= LIMIT_PERCENT
    late = statistics.quantiles(latencies, n=20, method="inclusive")[-1]
    rows = [
        ["epochs a second without", spread([r.without.rate for r in rounds]), ""],
        ["epochs a second, polled", spread([r.polled.rate for r in rounds]), ""],
        ["slower, %", spread(slower, "{:.1f}"), _verdict(f"{LIMIT_PERCENT:.0f} at most", met)],
        ["polls", f"{len(latencies) + len(errors)}", ""],
        ["errors", f"{len(errors)}", _verdict("0", not errors)],
        ["a poll, ms, median", f"{statistics.median(latencies):.0f}", ""],
        ["a poll, ms, 95 %", f"{late:.0f}", ""],
        [
            "dashboard's CPU, % of one core",
            spread(cpu, "{:.1f}"),
            "",
        ],
    ]
    print_table(["", "median (range)", "limit"], rows)
    for error in errors[:5]:
        print(error, file=sys.stderr)


def _verdict(limit: str, met: bool) -> str:
    return f"{limit}: {'met' if met else 'missed'}"


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--epochs", type=int, default=3, help="of a trial")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=host.usable_cpus(), help="of the run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a smoke run: no figures to keep")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.trials, chosen.epochs, chosen.rounds = 4, 1, 2
    return chosen


def main() -> None:
    """Runs the rounds and prints the table."""
    from environment import describe_environment

    chosen = options()
    print(describe_environment())
    rounds = [run_round(chosen, turn) for turn in range(chosen.rounds)]
    print(
        f"\n{chosen.trials - 1} trials of {chosen.epochs} epochs, one worker of {chosen.threads}"
        f" thread{'s' * (chosen.threads > 1)}, SQLite; n = {len(rounds)} rounds in turns\n"
    )
    print_rounds(rounds)


if __name__ == "__main__":
    main()
