"""Two waiting threads beside one busy process, against the same training alone.

Each training is a process of its own, so that the waiting policy is set before torch is imported:
``passive`` is ours, ``active`` lets OpenMP threads spin at their barriers.

    python tests/benchmarks/bench_threads.py [--seconds 6] [--repeats 2]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

from arguments import parser_of
from environment import describe_environment, print_table, settle
from processes import SPIN, neighbours


def main() -> None:
    """Measures and prints the table, or trains when called for that."""
    parser = parser_of(__doc__, repeats=2)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--train", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        train(options.seconds)
        return
    print(describe_environment())
    print(
        f"milliseconds a step (wall), net 32-64-128, batch 64, 2 threads, median of"
        f" {options.repeats} runs of {options.seconds:g} s"
    )
    found: dict[tuple[str, bool], list[float]] = {}
    for _ in range(options.repeats):
        for policy in ("PASSIVE", "ACTIVE"):
            for busy in (False, True):
                step_ms = run(policy, busy=busy, seconds=options.seconds)
                found.setdefault((policy, busy), []).append(step_ms)
    rows = []
    for policy in ("PASSIVE", "ACTIVE"):
        alone, beside = (statistics.median(found[policy, busy]) for busy in (False, True))
        rows.append([policy.lower(), f"{alone:.1f}", f"{beside:.1f}", f"{beside / alone:.2f}"])
    print_table(["waiting", "alone", "beside one busy process", "times slower"], rows)


def run(policy: str, *, busy: bool, seconds: float) -> float:
    """Trains in a fresh process under that policy and returns milliseconds a step."""
    environment = {**os.environ, "OMP_WAIT_POLICY": policy}
    environment.pop("KMP_BLOCKTIME", None)
    command = [sys.executable, __file__, "--train", "--seconds", str(seconds)]
    with neighbours(SPIN if busy else None, count=1):
        result = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True
        )
    return float(result.stdout)


def train(seconds: float) -> None:
    """Trains for that long, after a warm-up, and prints the milliseconds a step took."""
    settle(2)
    from bench_epoch import ours

    epoch = ours((32, 64, 128), 640)
    epoch()
    steps, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        epoch()
        steps += 10
    print((time.perf_counter() - begin) / steps * 1e3)


if __name__ == "__main__":
    main()
