"""Which summary of step times ranks configurations best, however busy the machine is.

20 configurations, each alone, beside a busy neighbour (two spinning processes) and beside an
intermittent one (the same, half a second on, half a second off), interleaved. The truth that an
estimate is held against is the lowest mean step time of the runs alone, times the steps of an
epoch. ``mixed`` gives every configuration a random one of its runs, whatever ran beside it, as a
search on a shared machine would; mean of 500 draws. The spread is the standard deviation of the
logarithm over all runs of one configuration, mean of the configurations.

    python tests/benchmarks/bench_clock.py [--seconds 1.5] [--repeats 3] [--threads 1] [--save F]
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from arguments import parser_of
from environment import describe_environment, print_table, settle
from processes import SPIN, neighbours

from hpsearch.core.pruning import quantile

SPIN_BY_HALVES = """
import time
while True:
    end = time.monotonic() + 0.5
    while time.monotonic() < end: pass
    time.sleep(0.5)
"""
CONDITIONS = {"alone": None, "busy": SPIN, "intermittent": SPIN_BY_HALVES}
IMAGES = 4000
WARM_UP = 3

# Seconds of each step: by the wall, of the training thread's processor time, of all threads'.
Steps = list[tuple[float, float, float]]


def main() -> None:
    """Measures, or loads what was measured, and prints the table."""
    parser = parser_of(__doc__, repeats=3, threads=1)
    parser.add_argument("--configurations", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--save", type=Path, help="where to keep the raw step times")
    options = parser.parse_args()
    settle(options.threads)
    print(describe_environment())
    runs = record(options)
    if options.save:
        options.save.write_text(json.dumps(runs))
    report(runs, options.repeats)


def record(options: argparse.Namespace) -> list[dict[str, list[Steps]]]:
    """Returns for each configuration, by condition, the steps of each repeat."""
    chosen = configurations(options.configurations)
    runs: list[dict[str, list[Steps]]] = [{name: [] for name in CONDITIONS} for _ in chosen]
    for _ in range(options.repeats):
        for configuration, found in zip(chosen, runs, strict=True):
            for condition, code in CONDITIONS.items():
                with neighbours(code, count=2):
                    found[condition].append(time_steps(configuration, options.seconds))
    return runs


def configurations(count: int) -> list[tuple[object, object]]:
    """Returns that many pairs of a ModelSpec and a TrainSpec, drawn from a usual space."""
    from hpsearch.core.spec import ModelSpec, TrainSpec, geometric_widths

    draw = random.Random(0)
    found = []
    for _ in range(count):
        blocks, base = draw.randint(1, 4), round(8 * 4 ** draw.random())
        model = ModelSpec(
            widths=geometric_widths(blocks, base, draw.uniform(1, 2), 128),
            kernel_size=draw.choice([3, 3, 5]),
            batch_norm=draw.random() < 0.75,
            dropout=draw.choice([0.0, 0.3]),
            head=draw.choice(["flatten", "gap"]),
        )
        train = TrainSpec(
            epochs=10**6,
            batch_size=draw.choice([32, 64, 128]),
            optimizer=draw.choice(["sgd", "adam", "adamw", "rmsprop"]),
            learning_rate=1e-4,
            shift=2,
        )
        found.append((model, train))
    return found


def time_steps(configuration, seconds: float) -> Steps:
    """Trains for that long, at least 12 steps, and returns the times of the steps."""
    import torch
    from bench_epoch import random_data

    from hpsearch.nn.models import build
    from hpsearch.nn.training import loop as trainer

    steps: Steps = []

    class Recorder(trainer.StepTimer):
        def start(self) -> None:
            self.began = now()

        def stop(self) -> None:
            ended = now()
            steps.append(tuple(end - begin for begin, end in zip(self.began, ended, strict=True)))

        def estimate(self, steps: int) -> float:
            return 0.0

    model_spec, spec = configuration
    data = random_data(spec.batch_size * 6)
    model = build(model_spec, data.input_shape, data.classes, seed=0)
    plain, trainer.StepTimer = trainer.StepTimer, Recorder
    try:
        end = time.perf_counter() + seconds
        for _ in trainer.epochs(model, data, spec, device=torch.device("cpu")):
            if time.perf_counter() > end and len(steps) >= 12:
                return steps
    finally:
        trainer.StepTimer = plain
    raise AssertionError("a training of a million epochs has ended")


def now() -> tuple[float, float, float]:
    """Returns the three clocks, in seconds."""
    return time.perf_counter(), time.thread_time(), time.process_time()


def lower_half_mean(values: Sequence[float]) -> float:
    """Returns the mean of the lower half."""
    return statistics.mean(sorted(values)[: max(1, len(values) // 2)])


ESTIMATORS: dict[str, Callable[[Sequence[float]], float]] = {
    "mean": statistics.mean,
    "median": statistics.median,
    "25 % quantile": lambda values: quantile(values, 0.25),
    "10 % quantile": lambda values: quantile(values, 0.10),
    "5 % quantile": lambda values: quantile(values, 0.05),
    "minimum": min,
    "mean of lower half": lower_half_mean,
}


def report(runs: list[dict[str, list[Steps]]], repeats: int) -> None:
    """Prints each estimator's rank correlations and spread."""
    batch_sizes = [spec.batch_size for _, spec in configurations(len(runs))]
    counts = [IMAGES // size for size in batch_sizes]
    truth = [
        min(statistics.mean(step[0] for step in run[WARM_UP:]) for run in found["alone"]) * count
        for found, count in zip(runs, counts, strict=True)
    ]
    rows = []
    for clock, column in (("wall", 0), ("thread", 1), ("process", 2)):
        for name, summary in ESTIMATORS.items():
            estimates = [
                {
                    condition: [
                        summary([step[column] for step in run[WARM_UP:]]) * count for run in kept
                    ]
                    for condition, kept in found.items()
                }
                for found, count in zip(runs, counts, strict=True)
            ]
            rows.append([f"{clock}, {name}", *figures(estimates, truth, repeats)])
    rows = [[*row, f"{float(row[-1]) / float(rows[0][-1]):.2f}"] for row in rows]
    steps = [len(run) for found in runs for kept in found.values() for run in kept]
    print(
        f"{len(runs)} configurations × {len(CONDITIONS)} conditions × {repeats} repeats,"
        f" {min(steps)} to {max(steps)} steps each (median {statistics.median(steps):.0f}),"
        f" the first {WARM_UP} left out; {min(truth):.2f} to {max(truth):.2f} s an epoch"
    )
    header = ["estimator", *CONDITIONS, "mixed", "spread", "÷ wall mean's"]
    print_table(header, rows)


def figures(estimates: list[dict[str, list[float]]], truth: list[float], repeats: int) -> list[str]:
    """Returns Spearman by condition, Spearman mixed, and the spread of all runs."""
    ranks = [
        statistics.mean(
            spearman([found[condition][repeat] for found in estimates], truth)
            for repeat in range(repeats)
        )
        for condition in CONDITIONS
    ]
    draw = random.Random(0)
    everything = [[value for kept in found.values() for value in kept] for found in estimates]
    mixed = statistics.mean(
        spearman([draw.choice(values) for values in everything], truth) for _ in range(500)
    )
    return [*(f"{rank:.3f}" for rank in (*ranks, mixed)), f"{spread(everything):.4f}"]


def spread(everything: list[list[float]]) -> float:
    """Returns the standard deviation of the logarithm, mean over the configurations."""
    return statistics.mean(
        statistics.stdev([math.log(value) for value in values]) for values in everything
    )


def spearman(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Returns the rank correlation of two lists without ties."""
    return statistics.correlation(ranks(ours), ranks(theirs))


def ranks(values: Sequence[float]) -> list[int]:
    """Returns each value's place, the lowest first."""
    places = {
        index: place
        for place, index in enumerate(sorted(range(len(values)), key=values.__getitem__))
    }
    return [places[index] for index in range(len(values))]


if __name__ == "__main__":
    main()
