"""The embedded default as a person runs it: its wall time, and what of it is not training.

    python tests/benchmarks/bench_quickstart.py [--trials 100] [--repeats 3] [--seed 0]

Each repeat is one `hpsearch run` as a process, on a database and an image cache of its own, so
that the decoding of the images is part of the start-up; repeat k has the seed ``--seed`` + k.
Everything is read from the study afterwards: start-up ends where the first trial was claimed, and
training with validation is the sum of ``wall_seconds`` over all epochs of all trials.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from arguments import parser_of
from environment import describe_environment, print_table

from hpsearch.core.analysis.pareto import front
from hpsearch.core.analysis.pruning_stats import counts, savings, study_hypervolume
from hpsearch.search.storage.records import REFERENCE
from hpsearch.search.storage.storage import open_storage
from hpsearch.search.study.catalog import open_study
from hpsearch.search.study.study import Study

AIM_WALL_SECONDS, AIM_ACCURACY = 240.0, 0.97
AIM_START_UP_SECONDS, AIM_REST_SECONDS = 6.0, 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """A search that has ended, and when its process began and ended (local time, as Optuna's)."""

    study: Study
    began: datetime
    ended: datetime


def search(options: Sequence[str], *, folder: Path) -> Search:
    """Runs `hpsearch run` as a process, on a database and an image cache in the folder."""
    storage = str(folder / "hpsearch.db")
    hidden = ("HPSEARCH_STORAGE", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    environment["HPSEARCH_CACHE"] = str(folder / "cache")
    command = [sys.executable, "-m", "hpsearch", "run", *options, "--storage", storage]
    began = datetime.now()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    ended = datetime.now()
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    study = open_study(open_storage(storage, create=False))
    return Search(study=study, began=began, ended=ended)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What one search took and found; times in seconds."""

    threads: int
    wall: float
    start_up: float
    epochs: float
    trials: float  # from the start of the first trial to the end of the last
    finished: float  # from the end of the last trial to that of the process
    n: int
    complete: int
    pruned: int
    failed: int
    saved: float
    accuracy: float
    front_size: int
    knee_accuracy: float
    knee_seconds: float
    hypervolume: float

    @property
    def rest(self) -> float:
        """Seconds a trial that are neither training nor validation, start-up apart."""
        return (self.trials - self.epochs) / self.n

    @property
    def overhead(self) -> float:
        """All seconds that are neither training nor validation, start-up and ending included."""
        return self.wall - self.epochs


def measure(done: Search) -> Measurement:
    """Reads an ended search."""
    study, records = done.study, done.study.records()
    tally = counts(records)
    found = front(records, study.objectives)
    at_knee = found.knee_trial
    first = min(r.started for r in records)
    last = max(r.ended for r in records)
    nan = float("nan")
    return Measurement(
        threads=study.attributes[REFERENCE]["threads"],
        wall=(done.ended - done.began).total_seconds(),
        start_up=(first - done.began).total_seconds(),
        epochs=sum(epoch.wall_seconds for r in records for epoch in r.curve),
        trials=(last - first).total_seconds(),
        finished=(done.ended - last).total_seconds(),
        n=len(records),
        complete=tally["complete"],
        pruned=tally["pruned"],
        failed=tally["failed"],
        saved=savings(records, epochs=study.spec.train.epochs).share,
        accuracy=max((r.values["accuracy"] for r in found.trials), default=nan),
        front_size=len(found.trials),
        knee_accuracy=at_knee.values["accuracy"] if at_knee else nan,
        knee_seconds=at_knee.values["train_seconds"] if at_knee else nan,
        hypervolume=study_hypervolume(records, study.bounds),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of the table: what it shows, how, and what it should be (None: no aim)."""

    label: str
    value: Callable[[Measurement], float]
    form: str
    aim: str = ""
    met: Callable[[Measurement], bool] | None = None


LINES = (
    Line(label="threads", value=lambda m: m.threads, form="{:.0f}"),
    Line(
        label="wall time, s",
        value=lambda m: m.wall,
        form="{:.1f}",
        aim=f"< {AIM_WALL_SECONDS:.0f} at 100 trials",
        met=lambda m: m.wall < AIM_WALL_SECONDS,
    ),
    Line(
        label="  start-up, s",
        value=lambda m: m.start_up,
        form="{:.2f}",
        aim=f"<= {AIM_START_UP_SECONDS:.0f}",
        met=lambda m: m.start_up <= AIM_START_UP_SECONDS,
    ),
    Line(label="  training + validation, s", value=lambda m: m.epochs, form="{:.1f}"),
    Line(
        label="  the rest, s a trial",
        value=lambda m: m.rest,
        form="{:.3f}",
        aim=f"<= {AIM_REST_SECONDS}",
        met=lambda m: m.rest <= AIM_REST_SECONDS,
    ),
    Line(label="  after the last trial, s", value=lambda m: m.finished, form="{:.2f}"),
    Line(
        label="all but training + validation, s",
        value=lambda m: m.overhead,
        form="{:.1f}",
        aim=f"<= {AIM_START_UP_SECONDS:.0f} + {AIM_REST_SECONDS} a trial",
        met=lambda m: m.overhead <= AIM_START_UP_SECONDS + AIM_REST_SECONDS * m.n,
    ),
    Line(label="trials complete", value=lambda m: m.complete, form="{:.0f}"),
    Line(label="trials pruned", value=lambda m: m.pruned, form="{:.0f}"),
    Line(
        label="trials failed",
        value=lambda m: m.failed,
        form="{:.0f}",
        aim="0",
        met=lambda m: m.failed == 0,
    ),
    Line(label="epochs saved, %", value=lambda m: 100 * m.saved, form="{:.1f}"),
    Line(
        label="best accuracy on the front, %",
        value=lambda m: 100 * m.accuracy,
        form="{:.2f}",
        aim=f">= {100 * AIM_ACCURACY:.0f}",
        met=lambda m: m.accuracy >= AIM_ACCURACY,
    ),
    Line(label="front, trials", value=lambda m: m.front_size, form="{:.0f}"),
    Line(label="knee, accuracy, %", value=lambda m: 100 * m.knee_accuracy, form="{:.2f}"),
    Line(label="knee, train_seconds", value=lambda m: m.knee_seconds, form="{:.2f}"),
    Line(label="hypervolume", value=lambda m: m.hypervolume, form="{:.4f}"),
)


def row(line: Line, measurements: Sequence[Measurement]) -> list[str]:
    """Returns a line's label, its value for each repeat, mean ± deviation, aim and whether met."""
    values = [line.value(m) for m in measurements]
    spread = line.form.format(statistics.mean(values))
    if len(values) > 1:
        spread += " ± " + line.form.format(statistics.stdev(values))
    met = "" if line.met is None else f"{sum(map(line.met, measurements))} of {len(values)}"
    return [line.label, *map(line.form.format, values), spread, line.aim, met]


def options() -> argparse.Namespace:
    parser = parser_of(__doc__, trials=100, repeats=3, seed=0, threads=None)
    parser.add_argument("--study-file", type=Path, help="instead of the embedded default")
    return parser.parse_args()


def repeat(chosen: argparse.Namespace, seed: int) -> Measurement:
    """Runs one search in a folder that is removed afterwards."""
    command = [str(chosen.study_file)] if chosen.study_file else []
    command += ["--trials", str(chosen.trials), "--seed", str(seed), "--device", "cpu"]
    command += ["--threads", str(chosen.threads)] if chosen.threads else []
    with tempfile.TemporaryDirectory() as folder:
        measurement = measure(search(command, folder=Path(folder)))
    print(f"seed {seed}: {measurement.wall:.1f} s", file=sys.stderr)
    return measurement


def main() -> None:
    """Runs the searches and prints the table."""
    chosen = options()
    print(describe_environment())
    seeds = range(chosen.seed, chosen.seed + chosen.repeats)
    measurements = [repeat(chosen, seed) for seed in seeds]
    what = chosen.study_file or "the embedded default"
    print(f"\n{what}, {chosen.trials} trials, one worker; n = {len(seeds)}, mean ± deviation\n")
    header = ["", *(f"seed {seed}" for seed in seeds), "mean", "aim", "met"]
    print_table(header, [row(line, measurements) for line in LINES])


if __name__ == "__main__":
    main()
