"""A run with `hpsearch dashboard` polled, against the same run with the dashboard halted.

    python tests/benchmarks/bench_dashboard.py [--pairs 20] [--seconds 12] [--workers 2] [--quick]

One `hpsearch run` as a process on a fresh SQLite file trains one net over and over, with as many
workers as there are cores, so that nothing is idle. Windows with and without the dashboard follow
each other, a pair at a time, the one without first in every other pair: what a shared machine does
meanwhile hits both. In a window without it the dashboard's process is halted (SIGSTOP). A window
begins and ends as an epoch is written; epochs are counted in the database, which holds all
overhead there is. The ratio is of one pair; the interval is of the median, by resampling the pairs.

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
import random
import signal
import socket
import sqlite3
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
from arguments import add_quick, parser_of
from environment import describe_environment, print_table
from pace import spread

from hpsearch.nn.runtime import cpu

LIMIT_PERCENT = 5.0
_IMPORTANCE_SECONDS = 10.0
_START_SECONDS = 60.0

STUDY = """
[search]
trials = 100000
sampler = "random"
objectives = ["accuracy", "params"]

[pruning]
pruner = "none"

[space]
n_blocks = 2
base_width = 8
growth = 2.0
kernel_size = 3
batch_norm = true
dropout = 0.0
head = "gap"
optimizer = "adam"
weight_decay = 1e-4
batch_size = 128
schedule = "constant"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Epochs that were written in so many seconds, and the dashboard's processor seconds."""

    epochs: int
    seconds: float
    cpu: float

    @property
    def rate(self) -> float:
        """Epochs a second."""
        return self.epochs / self.seconds


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
def searching(chosen: argparse.Namespace, folder: Path) -> Iterator[Path]:
    """Runs the search in the folder; gives its database, once epochs are written to it."""
    study_file, database = folder / "bench.toml", folder / "hpsearch.db"
    study_file.write_text(STUDY)
    command = [sys.executable, "-m", "hpsearch", "run", str(study_file), "--device", "cpu"]
    command += ["--workers", str(chosen.workers), "--threads", "1", "--storage", str(database)]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
        try:
            deadline = time.monotonic() + _START_SECONDS
            while epochs(database) < 2 * chosen.workers:
                if process.poll() is not None or time.monotonic() > deadline:
                    sys.exit(f"`hpsearch run` trains nothing:\n{(folder / 'log').read_text()}")
                time.sleep(0.1)
            yield database
            if process.poll() is not None:
                sys.exit(f"`hpsearch run` has ended:\n{(folder / 'log').read_text()}")
        finally:
            process.terminate()
            process.wait()


def epochs(database: Path) -> int:
    """Returns how many epochs the database holds by now."""
    query = """
        SELECT COALESCE(SUM(json_array_length(value_json, '$.epoch')), 0)
        FROM trial_user_attributes WHERE key = 'curve'
    """
    try:
        with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as opened:
            return int(opened.execute(query).fetchone()[0])
    except sqlite3.OperationalError:  # not there yet
        return 0


def next_epoch(database: Path) -> tuple[int, float]:
    """Waits for the next epoch; returns how many there are then, and when that was."""
    before = epochs(database)
    while (now := epochs(database)) == before:
        time.sleep(0.01)
    return now, time.perf_counter()


def window(database: Path, seconds: float, process: psutil.Process, page: Page | None) -> Window:
    """Counts epochs for that long; with a page the dashboard runs, and the page polls it."""
    process.send_signal(signal.SIGSTOP if page is None else signal.SIGCONT)
    time.sleep(0.2)
    done = threading.Event()
    poller = threading.Thread(target=_poll, args=(page, done), name="poller")
    used, (first, began) = _used(process), next_epoch(database)
    poller.start()
    time.sleep(seconds)
    last, ended = next_epoch(database)
    done.set()
    poller.join()
    return Window(epochs=last - first, seconds=ended - began, cpu=_used(process) - used)


def _poll(page: Page | None, done: threading.Event) -> None:
    while page is not None:
        page.poll()
        if done.wait(page.interval):
            return


def _used(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A window without the dashboard and one with it."""

    without: Window
    polled: Window

    @property
    def slower(self) -> float:
        """By how many percent fewer epochs a second were trained with it."""
        return 100 * (1 - self.polled.rate / self.without.rate)


def measure(chosen: argparse.Namespace) -> tuple[list[Pair], Page]:
    """Runs the pairs, the window without the dashboard first in every other one."""
    pairs = []
    with (
        tempfile.TemporaryDirectory() as folder,
        searching(chosen, Path(folder)) as database,
        dashboard(database) as (base, process),
    ):
        page = Page(base=base)
        page.poll()  # what it does once, at its first look
        for number in range(chosen.pairs):
            order = (None, page) if number % 2 == 0 else (page, None)
            found = {
                asked is None: window(database, chosen.seconds, process, asked) for asked in order
            }
            pairs.append(Pair(without=found[True], polled=found[False]))
            print(f"pair {number + 1}: {pairs[-1].slower:.1f} % slower", file=sys.stderr)
        process.send_signal(signal.SIGCONT)  # halted, it would not hear that it shall end
    return pairs, page


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Returns the 95 % interval of the median, by resampling."""
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(values, k=len(values))) for _ in range(10_000))
    return medians[250], medians[-251]


def print_pairs(pairs: Sequence[Pair], page: Page) -> None:
    """Prints both paces, how much slower the polled windows are, and what the poller saw."""
    latencies = [1e3 * seconds for seconds in page.latencies]
    slower = [pair.slower for pair in pairs]
    cpu = [100 * pair.polled.cpu / pair.polled.seconds for pair in pairs]
    middle, (low, high) = statistics.median(slower), interval(slower)
    late = statistics.quantiles(latencies, n=20, method="inclusive")[-1]
    rows = [
        ["epochs a second without", spread([pair.without.rate for pair in pairs]), ""],
        ["epochs a second, polled", spread([pair.polled.rate for pair in pairs]), ""],
        ["slower, %", spread(slower, "{:.1f}"), ""],
        [
            "slower, %, 95 % interval of the median",
            f"{middle:.1f} ({low:.1f}–{high:.1f})",
            _verdict(f"{LIMIT_PERCENT:.0f} at most", middle <= LIMIT_PERCENT),
        ],
        ["trials by the end", f"{len(page.trials)}", ""],
        ["requests", f"{len(latencies) + len(page.errors)}", ""],
        ["errors", f"{len(page.errors)}", _verdict("0", not page.errors)],
        ["a request, ms, median", f"{statistics.median(latencies):.0f}", ""],
        ["a request, ms, 95 %", f"{late:.0f}", ""],
        ["dashboard's CPU, % of one core", spread(cpu, "{:.1f}"), ""],
    ]
    print_table(["", "median (range)", "limit"], rows)
    for error in page.errors[:5]:
        print(error, file=sys.stderr)


def _verdict(limit: str, met: bool) -> str:
    return f"{limit}: {'met' if met else 'missed'}"


def options() -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=12.0, help="of a window")
    parser.add_argument("--workers", type=int, default=cpu.usable_cpus(), help="of one thread")
    add_quick(parser)
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.pairs, chosen.seconds = 2, 3.0
    return chosen


def main() -> None:
    """Runs the pairs and prints the table."""
    chosen = options()
    print(describe_environment())
    pairs, page = measure(chosen)
    print(
        f"\n{chosen.workers} workers of one thread, SQLite; n = {len(pairs)} pairs of windows of"
        f" {chosen.seconds:g} s\n"
    )
    print_pairs(pairs, page)


if __name__ == "__main__":
    main()
