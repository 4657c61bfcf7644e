"""Repeats the chaos test: are all trials run exactly once, on both databases, each time?

    python tests/benchmarks/chaos.py --runs 10 --cut 90

Prints a line per run and database. The network is cut for ``--cut`` seconds on PostgreSQL; from
61 s on, a stopped worker's trial is taken after the 60 s that a user's worker waits, else after 25.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

TEST = Path(__file__).parents[1] / "acceptance/test_chaos.py"
LAST_LINES = 30  # of the output of a run that failed


def main() -> None:
    """Runs the test; ends with exit code 1 if a run was not exact."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=10, help="on each database  [default: 10]")
    parser.add_argument("--cut", type=float, default=90.0, help="seconds  [default: 90]")
    parser.add_argument("--databases", nargs="+", default=["sqlite", "postgres"])
    arguments = parser.parse_args()
    exact = total = 0
    for run in range(1, arguments.runs + 1):
        for database in arguments.databases:
            began = time.monotonic()
            result = _run(database, cut_seconds=arguments.cut)
            is_exact = result.returncode == 0
            exact, total = exact + is_exact, total + 1
            word = "exact" if is_exact else "NOT EXACT"
            print(f"run {run}  {database:8}  {word}  {time.monotonic() - began:.0f} s", flush=True)
            if not is_exact:
                print("\n".join(result.stdout.splitlines()[-LAST_LINES:]))
    print(f"{exact} of {total} runs exact")
    sys.exit(exact < total)


def _run(database: str, *, cut_seconds: float) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", str(TEST), "-k", database]
    environment = os.environ | {"HPSEARCH_CHAOS_CUT": str(cut_seconds)}
    return subprocess.run(command, env=environment, text=True, capture_output=True, check=False)


if __name__ == "__main__":
    main()
