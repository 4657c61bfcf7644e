"""What `hpsearch report` takes, on studies of a size, and how large the page is.

    python tests/benchmarks/bench_report.py [--sizes 100 5000] [--repeats 3]

Each study is an SQLite file of synthetic trials in the embedded default's space: learning curves of
8 epochs whose level follows from depth, width and learning rate, half of them stopped early, by two
workers in turn. The command runs as a process of its own, start of Python included; `run` writes
the same page at its end, in a process that has everything loaded and read, timed here apart.
"""

from __future__ import annotations

import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from arguments import parser_of
from environment import describe_environment, print_table
from pace import spread
from untrained import add, draw_at_random

from hpsearch.config import build_spec
from hpsearch.core.trial import Epoch
from hpsearch.search.jobs.analyse import analyse_study
from hpsearch.search.storage.records import columns_of
from hpsearch.search.storage.storage import open_storage
from hpsearch.search.study.catalog import create_or_resume
from hpsearch.search.study.study import Study
from hpsearch.view.report.report import render, write

EPOCHS = 8
BOUNDS = {"accuracy": (0.1, 1.0), "train_seconds": (0.1, 500.0)}
DATA = {
    "content": "synthetic",
    "shape": [1, 28, 28],
    "classes": [str(digit) for digit in range(10)],
    "train": 3500,
    "val": 750,
    "test": 750,
    "split": "synthetic",
}
VERSIONS = {"python": "3", "torch": "2"}


def make_study(path: Path, size: int) -> Study:
    """A study of that many synthetic trials."""
    storage = open_storage(str(path), create=True)
    spec = build_spec(None, {"search.trials": size})
    reference = {"device": "cpu", "processor": "synthetic", "threads": 1}
    study = create_or_resume(storage, spec, data=DATA, reference=reference, bounds=lambda: BOUNDS)
    add(storage, study.handle, synthetic(spec, size))
    return study


def synthetic(spec: Any, size: int) -> Iterator[optuna.trial.FrozenTrial]:
    """Trials as a search leaves them."""
    generator = np.random.default_rng(0)
    began = datetime(2030, 1, 1)
    for number in range(size):
        params, drawn = draw_at_random(spec.space, seed=number)
        curve = curve_of(params, generator)
        stopped = number > 10 and curve[-1].val_accuracy < 0.8
        curve = curve[: 1 + number % 3] if stopped else curve
        values = [curve[-1].val_accuracy, curve[-1].train_seconds]
        trial = optuna.create_trial(
            state=optuna.trial.TrialState.PRUNED if stopped else optuna.trial.TrialState.COMPLETE,
            values=None if stopped else values,
            **drawn,
            user_attrs=attributes(number, curve, stopped=stopped),
        )
        trial.datetime_start = began + timedelta(seconds=2 * (number // 2))
        trial.datetime_complete = trial.datetime_start + timedelta(seconds=0.2 * len(curve) + 0.2)
        yield trial


def curve_of(params: dict[str, Any], generator: np.random.Generator) -> tuple[Epoch, ...]:
    """Deeper, wider nets are better and dearer; a learning rate far from 0.01 is worse."""
    away = abs(math.log10(params["learning_rate"]) + 2)
    size = params["n_blocks"] * params["base_width"] * params["growth"]
    level = 0.6 * away + 2 / size + 0.1 * generator.random()
    seconds = 0.02 * size * 256 / params["batch_size"] * (1 + 0.1 * generator.random())
    curve = []
    for number in range(1, EPOCHS + 1):
        loss = level + 1.5 / number
        accuracy = round(750 * math.exp(-loss / 3)) / 750
        measured = {"train_loss": loss, "train_accuracy": accuracy, "train_seconds": seconds}
        curve.append(
            Epoch(epoch=number, val_loss=loss, val_accuracy=accuracy, wall_seconds=0.2, **measured)
        )
    return tuple(curve)


def attributes(number: int, curve: tuple[Epoch, ...], *, stopped: bool) -> dict[str, Any]:
    """What a trial keeps beside its values."""
    process = {"host": "synthetic", "pid": 100 + number % 2}
    origin = {"process": process, "processor": "synthetic", "threads": 1, "versions": VERSIONS}
    cost = {"params": 1e4, "flops": 1e6, "latency_ms": 0.1}
    kept = {"curve": columns_of(curve), "cost": cost}
    kept["origin"] = {**origin, "starts": 1, "seed": number, "control": number % 20 == 7}
    return {**kept, "reason": "forecast"} if stopped else kept


def command_seconds(database: Path, page: Path) -> tuple[float, float]:
    """How long the command takes, from its start to its end, and its processor time."""
    arguments = ["report", "--storage", str(database), "-o", str(page)]
    began, spent = time.perf_counter(), processor_seconds()
    subprocess.run([sys.executable, "-m", "hpsearch", *arguments], check=True, capture_output=True)
    return time.perf_counter() - began, processor_seconds() - spent


def processor_seconds() -> float:
    """The processor time of the processes that were waited for."""
    times = os.times()
    return times.children_user + times.children_system


def ending_seconds(study: Study, page: Path) -> float:
    """How long a run's end takes to write it, all modules loaded and all trials read."""
    began = time.perf_counter()
    write(render(analyse_study(study), "html"), page)
    return time.perf_counter() - began


def main() -> None:
    """Measures every size and prints the table."""
    parser = parser_of(__doc__, repeats=3)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 5000])
    chosen = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    print(describe_environment())
    rows = []
    for size in chosen.sizes:
        with tempfile.TemporaryDirectory() as folder:
            page = Path(folder) / "report.html"
            study = make_study(Path(folder) / "study.db", size)
            ending_seconds(study, page)
            ends = [ending_seconds(study, page) for _ in range(chosen.repeats)]
            runs = [command_seconds(Path(folder) / "study.db", page) for _ in range(chosen.repeats)]
            took, spent = zip(*runs, strict=True)
            told = [spread(took), f"{statistics.median(spent):.2f}"]
            told += [f"{statistics.median(ends):.2f}", f"{os.path.getsize(page) / 1e6:.2f}"]
            rows.append([f"{size:,}", *told])
            study.storage.close()
    print(f"\nmedian of {chosen.repeats} (least to most)\n")
    print_table(
        ["trials", "the command, s", "of the processor, s", "at the end of a run, s", "page, MB"],
        rows,
    )


if __name__ == "__main__":
    main()
