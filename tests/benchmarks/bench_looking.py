"""What the commands that look at a database cost: processor time beyond start-up, and memory.

    python tests/benchmarks/bench_looking.py [--trials 5000] [--studies 200] [--repeats 5]
        [--before CHECKOUT]

One database holds a study of so many trials, 9 in 10 of them complete, with curves of 10 epochs;
another holds so many studies of 20 trials each. Every command is a process of its own, which counts
its own user and system time and its peak memory. Start-up is that of `hpsearch --version`, measured
in the same round. With another checkout (``--before``), both run each command in turn, the order
reversed in every other round. PostgreSQL is a server of the benchmark's own, whose processor time
is not counted.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from arguments import parser_of
from crowd import BOUNDS, fill
from environment import describe_environment, print_table
from postgres import postgres

from hpsearch.config import build_spec
from hpsearch.core.trial import State
from hpsearch.search.storage.storage import open_storage
from hpsearch.search.study.catalog import create_or_resume

EPOCHS = 10
TRIALS_EACH = 20  # of a study in the database of many studies
LOG_IN_CHILD = """
import atexit, os, pathlib, re, runpy, sys
log = sys.argv.pop()

def report():
    spent, status = os.times(), pathlib.Path("/proc/self/status").read_text()
    peak = re.search(r"VmHWM:\\s+(\\d+)", status)[1]
    pathlib.Path(log).write_text(f"{spent.user + spent.system} {peak}")

atexit.register(report)
runpy.run_module("hpsearch", run_name="__main__")
"""


def fill_one(url: str, trials: int) -> None:
    """Makes a study of so many trials."""
    fill_many(url, 1, trials)


def fill_many(url: str, studies: int, trials: int) -> None:
    """Makes so many studies of so many trials each."""
    with contextlib.closing(open_storage(url, create=True)) as storage:
        for index in range(studies):
            overrides = {"name": f"study{index}", "search.trials": trials, "train.epochs": EPOCHS}
            study = create_or_resume(
                storage,
                build_spec(None, overrides),
                data={},
                reference={"threads": 1},
                bounds=lambda: BOUNDS,
            )
            complete = trials * 9 // 10
            fill(study, 0, complete, state=State.COMPLETE, epochs=EPOCHS)
            fill(study, complete, trials - complete, state=State.PRUNED, epochs=EPOCHS // 2)


@contextlib.contextmanager
def databases(kind: str, folder: Path) -> Iterator[tuple[str, str]]:
    """The addresses of two empty databases of that kind."""
    if kind == "sqlite":
        yield f"{folder}/one.db", f"{folder}/many.db"
        return
    with postgres(folder, max_connections=20) as server:
        yield server.database("one"), server.database("many")


def run(checkout: Path, arguments: list[str], folder: Path) -> tuple[float, float]:
    """Runs a command of a checkout; returns its processor seconds and its peak memory in MB."""
    log, environment = folder / "spent", {**os.environ, "PYTHONPATH": str(checkout)}
    subprocess.run(
        [sys.executable, "-c", LOG_IN_CHILD, *arguments, str(log)],
        cwd=folder,
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    seconds, peak = log.read_text().split()
    return float(seconds), float(peak) / 1024


def main() -> None:
    """Measures every command on both databases and prints the table."""
    parser = parser_of(__doc__, trials=5000, repeats=5)
    parser.add_argument("--studies", type=int, default=200, help="in the other database")
    parser.add_argument("--before", type=Path, help="another checkout to compare with")
    parser.add_argument("--kinds", nargs="+", default=["sqlite", "postgres"])
    chosen = parser.parse_args()
    here = Path(__file__).parents[2]
    checkouts = [*([chosen.before.resolve()] if chosen.before else []), here]
    print(describe_environment())
    rows = []
    for kind in chosen.kinds:
        with (
            tempfile.TemporaryDirectory() as name,
            databases(kind, Path(name)) as (one, many),
        ):
            folder = Path(name)
            fill_one(one, chosen.trials)
            fill_many(many, chosen.studies, TRIALS_EACH)
            commands = {
                "--version": ["--version"],
                "status": ["status", "--storage", one],
                "show": ["show", str(chosen.trials // 2), "--storage", one],
                "front": ["front", "--storage", one],
                "list": ["list", "--storage", many],
                "status of many": ["status", "--storage", many],
            }
            spent: dict[tuple[str, Path], list[tuple[float, float]]] = {}
            for turn, command in itertools.product(range(chosen.repeats), commands):
                for checkout in checkouts if turn % 2 else reversed(checkouts):
                    measured = run(checkout, commands[command], folder)
                    spent.setdefault((command, checkout), []).append(measured)
            for command in commands:
                row = [f"{command}, {kind}"]
                for checkout in checkouts:
                    start = [seconds for seconds, _ in spent["--version", checkout]]
                    found = [seconds for seconds, _ in spent[command, checkout]]
                    if command != "--version":
                        found = [a - b for a, b in zip(found, start, strict=True)]
                    peak = statistics.median(peak for _, peak in spent[command, checkout])
                    middle = statistics.median(found)
                    row += [f"{middle:.2f} ({min(found):.2f}-{max(found):.2f})", f"{peak:.0f}"]
                rows.append(row)
    print(
        f"\nprocessor seconds of a command beyond start-up: median of {chosen.repeats} (range); MB"
        f" at the peak; {chosen.trials:,} trials, {chosen.studies} studies\n"
    )
    names = ["before", "now"] if chosen.before else ["now"]
    print_table(["command", *(part for name in names for part in (name, "MB"))], rows)


if __name__ == "__main__":
    main()
