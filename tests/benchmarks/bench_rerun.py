"""How far a trial trained again ends from its record, where it cannot be the same to the last bit.

Random trials of the embedded default are trained to their ends with one thread, then again: as they
were, with two threads, and with the instructions of older processors, which the libraries are told
to keep to. The first must be equal; the others are what the tolerance of ``hpsearch rerun`` is for.
What another seed makes of the first epoch is told beside them: a tolerance must not reach so far.

    python tests/benchmarks/bench_rerun.py [--trials 20] [--seed 0]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from arguments import parser_of
from bench_quickstart import search
from environment import describe_environment, print_table, settle

from hpsearch.core.trial import State

_OLDER = {  # the variables of torch's own kernels, of oneDNN and of MKL
    "AVX2": ("avx2", "AVX2", "AVX2"),
    "SSE4": ("default", "SSE41", "SSE4_2"),
}
_VARIABLES = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")
_FAR = 10_000  # beyond the numbers of the search

Apart = Mapping[str, float]


def main() -> None:
    """Searches, trains all again in each way, and prints the table."""
    parser = parser_of(__doc__, trials=20, seed=0)
    parser.add_argument("--again", metavar="JSON", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.again:
        again(**json.loads(chosen.again))
        return
    settle(1)
    print(describe_environment())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        options = ["--trials", str(chosen.trials), "--seed", str(chosen.seed), "--threads", "1"]
        search([*options, "--sampler", "random", "--pruner", "none"], folder=folder)
        ways = {"the same": told(folder), "two threads": told(folder, threads=2)}
        for kind, values in _OLDER.items():
            variables = dict(zip(_VARIABLES, values, strict=True))
            ways[f"{kind} alone"] = told(folder, variables=variables)
        ways["another seed"] = told(folder, other=True)
    header = ["trained again", "equal", "first loss apart, most", "median", "accuracy apart, most"]
    print_table(header, [row(name, found) for name, found in ways.items()])


def told(
    folder: Path,
    *,
    threads: int = 1,
    variables: Mapping[str, str] | None = None,
    other: bool = False,
) -> list[Apart]:
    """Trains every trial again in a process with those variables; returns how far each ended."""
    out = folder / "apart.json"
    given = {"folder": str(folder), "out": str(out), "threads": threads, "other": other}
    command = [sys.executable, __file__, "--again", json.dumps(given)]
    environment = {**os.environ, "HPSEARCH_CACHE": str(folder / "cache"), **(variables or {})}
    subprocess.run(command, env=environment, check=True)
    return list(json.loads(out.read_text()))


def again(folder: str, out: str, threads: int, other: bool) -> None:
    """Trains the complete trials again in this process and writes how far each ended."""
    settle(threads)
    from hpsearch.core.spec import resolve
    from hpsearch.nn.training.custom_loop import build_net, epochs_of
    from hpsearch.nn.training.loop import Diverged
    from hpsearch.search.jobs.confirm import Rerun
    from hpsearch.search.storage.storage import open_storage
    from hpsearch.search.study.catalog import open_study
    from hpsearch.search.worker.launch import WorkerOptions, attach_worker
    from hpsearch.search.worker.work_loop import StopSignal

    database = str(Path(folder, "hpsearch.db"))
    study = open_study(open_storage(database, create=False))
    place = WorkerOptions(storage=database, device="cpu", threads=threads, mixed_hardware=True)
    ready = attach_worker(study, place, dataset=None)
    found = []
    for record in study.records():
        if record.state is not State.COMPLETE:  # it diverged
            continue
        number = record.number + (_FAR if other else 0)  # a trial's seed is made of its number
        trial = resolve(study.spec, number=number, params=record.params)
        net = build_net(trial, ready.images)
        try:
            now = tuple(epochs_of(trial, net, ready.images, ready.device, stop=StopSignal()))
        except Diverged as exc:
            print(f"trial {record.number} is left out: {exc}", file=sys.stderr)
            continue
        result = Rerun(before=record.curve, now=now, excuse="it is another training")
        accuracy = abs(now[-1].val_accuracy - record.curve[-1].val_accuracy)
        found.append({"equal": result.is_equal, "first": result.apart, "accuracy": accuracy})
    Path(out).write_text(json.dumps(found))


def row(name: str, found: Sequence[Apart]) -> list[str]:
    """A line of the table: losses in per cent of the record's, accuracies in points."""
    first = [100 * each["first"] for each in found]
    return [
        name,
        f"{sum(each['equal'] for each in found):.0f} of {len(found)}",
        *(f"{pick(first):.2g} %" for pick in (max, statistics.median)),
        f"{100 * max(each['accuracy'] for each in found):.1f}",
    ]


if __name__ == "__main__":
    main()
