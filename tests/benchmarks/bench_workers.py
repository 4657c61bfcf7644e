"""Two workers of one thread against one worker of two threads, and one of one, on two cores.

    python tests/benchmarks/bench_workers.py [--trials 24] [--epochs 3] [--rounds 5] [--quick]

Each way is one `hpsearch run` as a process, on a fresh SQLite file. All train the same nets:
random sampler, no stopping, objectives that are not timed. Epochs are counted in the records, and
the time runs from the first claim to the last trial's end, so that start-up does not count but the
end does, where one worker has nothing left to do. After each comes the machine's own ceiling for
that way: bare training loops (``nn.train.epochs`` on the same nets, no database, no checkpoints),
in as many processes of as many threads, which take the next net from one queue. All six take turns
in a round, in the reverse order every other round; ratios are of one round, then their median.

``--default-rounds`` adds runs of the embedded default (tpe, forecast, accuracy against seconds):
there the ways do not train the same nets.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arguments import add_quick, parser_of
from environment import describe_environment, print_table, settle
from pace import SAME_FOR_ALL, Pace, pace, spread
from processes import gather

from hpsearch.core.spec import StudySpec, resolve
from hpsearch.nn.runtime import cpu

_LOADING_SECONDS = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """So many workers of so many threads each."""

    workers: int
    threads: int

    def __str__(self) -> str:
        workers, threads = self.workers, self.threads
        return f"{workers} worker{'s' * (workers > 1)} of {threads} thread{'s' * (threads > 1)}"


ONE_OF_TWO, ONE_OF_ONE = Way(workers=1, threads=2), Way(workers=1, threads=1)
TWO_OF_ONE = Way(workers=2, threads=1)
WAYS = (ONE_OF_TWO, ONE_OF_ONE, TWO_OF_ONE)
AIMS = {ONE_OF_TWO: 1.2, ONE_OF_ONE: 1.8}  # times as many epochs by two workers of one thread


@dataclass(frozen=True, slots=True, kw_only=True)
class Net:
    """A configuration that an `hpsearch run` has trained, and for how many epochs."""

    number: int
    params: Mapping[str, Any]
    epochs: int


def run_search(way: Way, options: Sequence[str]) -> tuple[StudySpec, list[Net], Pace]:
    """Runs `hpsearch run` that way and returns its study, what it has trained, and its pace."""
    from bench_quickstart import search

    ways = ["--workers", str(way.workers), "--threads", str(way.threads), "--device", "cpu"]
    with tempfile.TemporaryDirectory() as folder:
        study = search([*options, *ways], folder=Path(folder)).study
        records = study.records()
        study.storage.close()
    if failed := [r.number for r in records if not r.state.counts]:
        sys.exit(f"trial {failed[0]} is {records[failed[0]].state.value}; expected none to fail")
    nets = [Net(number=r.number, params=r.params, epochs=len(r.curve)) for r in records]
    return study.spec, nets, pace(records, workers=way.workers)


def run_bare(way: Way, spec: StudySpec, nets: Sequence[Net]) -> Pace:
    """Trains the same nets that way in bare loops, and returns their pace."""
    context = multiprocessing.get_context("spawn")
    start, jobs, ends = context.Barrier(way.workers), context.Queue(), context.Queue()
    for net in [*nets, *[None] * way.workers]:
        jobs.put(net)
    arguments = (spec, way.threads, start, jobs, ends)
    processes = [context.Process(target=train_bare, args=arguments) for _ in range(way.workers)]
    for process in processes:
        process.start()
    spans = [span for each in gather(processes, ends) for span in each]
    seconds = max(end for _, end, _ in spans) - min(began for began, _, _ in spans)
    return Pace(
        epochs=sum(epochs for _, _, epochs in spans),
        seconds=seconds,
        in_trials=sum(end - began for began, end, _ in spans) / (way.workers * seconds),
    )


def train_bare(spec: StudySpec, threads: int, start: Any, jobs: Any, ends: Any) -> None:
    """What a bare process does: loads the images, and trains nets until none is left."""
    settle(threads)
    cpu.keep_freed_memory()
    import torch

    images, spans = load_images(spec), []
    start.wait(_LOADING_SECONDS)
    while (net := jobs.get()) is not None:
        began = time.time()
        epochs = train_net(spec, net, images, torch.device("cpu"))
        spans.append((began, time.time(), epochs))
    ends.put(spans)


def load_images(spec: StudySpec) -> Any:
    """Returns the study's images as tensors."""
    from hpsearch.nn.data.dataset import load
    from hpsearch.nn.data.tensors import tensors_of

    return tensors_of(load(spec.data, seed=spec.search.seed), device="cpu")


def train_net(spec: StudySpec, net: Net, images: Any, device: Any) -> int:
    """Builds and trains one net; returns the epochs, fewer than wanted if it diverged."""
    from hpsearch.nn.models import build
    from hpsearch.nn.training.loop import Diverged, epochs

    trial = resolve(spec, number=net.number, params=net.params)
    model = build(trial.model, images.input_shape, images.classes, seed=trial.seed)
    trained = 0
    try:
        for _ in epochs(model, images, trial.train, device=device):
            trained += 1
    except Diverged:
        pass
    return trained


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """The pace of every way in one round, of `hpsearch run` and of the bare loops."""

    searches: Mapping[Way, Pace]
    bare: Mapping[Way, Pace]


def run_round(turn: int, options: Sequence[str], nets: Sequence[Net]) -> tuple[Round, list[Net]]:
    """Runs all ways, each beside its ceiling; ``nets`` are those of earlier rounds, if any."""
    searches, bare = {}, {}
    for way in WAYS if turn % 2 == 0 else WAYS[::-1]:
        spec, trained, searches[way] = run_search(way, options)
        if nets and [n.params for n in trained] != [n.params for n in nets]:
            sys.exit(f"{way} trained other nets than the run before; they cannot be compared")
        nets = trained
        bare[way] = run_bare(way, spec, nets)
        print(
            f"round {turn + 1}, {way}: {searches[way].rate:.2f} epochs/s,"
            f" bare {bare[way].rate:.2f}",
            file=sys.stderr,
        )
    return Round(searches=searches, bare=bare), list(nets)


def print_paces(rounds: Sequence[Round]) -> None:
    """Prints each way's epochs a second, beside its ceiling."""
    rows = []
    for way in WAYS:
        searches, bare = ([getattr(r, kind)[way] for r in rounds] for kind in ("searches", "bare"))
        shares = [100 * s.rate / b.rate for s, b in zip(searches, bare, strict=True)]
        cells = [spread([p.rate for p in paces]) for paces in (searches, bare)]
        cells += [spread(shares, "{:.0f}")]
        cells += [
            spread([100 * p.in_trials for p in paces], "{:.0f}") for paces in (searches, bare)
        ]
        rows.append([str(way), *cells])
    header = ["epochs a second", "hpsearch run", "bare loops", "of bare, %"]
    print_table([*header, "in trials, %", "bare, in nets, %"], rows)


def print_ratios(rounds: Sequence[Round]) -> None:
    """Prints how much more two workers of one thread train, and what the machine allows."""
    rows = []
    for way, aim in AIMS.items():
        searches, bare = (
            [paces[TWO_OF_ONE].rate / paces[way].rate for paces in kind]
            for kind in ([r.searches for r in rounds], [r.bare for r in rounds])
        )
        shares = [100 * s / b for s, b in zip(searches, bare, strict=True)]
        met = f"{sum(ratio >= aim for ratio in searches)} of {len(rounds)}"
        cells = [spread(searches), spread(bare), spread(shares, "{:.0f}")]
        rows.append([f"against {way}", *cells, f"{aim:.1f}", met])
    header = [f"{TWO_OF_ONE}, times", "hpsearch run", "ceiling: bare", "of it, %", "aim", "met"]
    print_table(header, rows)


def print_defaults(chosen: argparse.Namespace) -> None:
    """Runs the embedded default each way and prints how long its trials took."""
    found: dict[Way, list[Pace]] = {}
    for turn in range(chosen.default_rounds):
        options = ["--trials", str(chosen.trials), "--seed", str(chosen.seed + turn)]
        for way in WAYS if turn % 2 == 0 else WAYS[::-1]:
            found.setdefault(way, []).append(run_search(way, options)[2])
    print(
        f"\nThe embedded default, {chosen.trials} trials, n = {chosen.default_rounds}: what is"
        " drawn and stopped differs between the ways\n"
    )
    rows = []
    for way in WAYS:
        cells = [spread([p.seconds for p in found[way]], "{:.1f}")]
        cells += [spread([p.epochs for p in found[way]], "{:.0f}")]
        rows.append([str(way), *cells, spread([p.rate for p in found[way]])])
    print_table(["", "seconds of trials", "epochs", "epochs a second"], rows)


def parse_options() -> argparse.Namespace:
    parser = parser_of(__doc__, trials=24, epochs=3, rounds=5, seed=0)
    parser.add_argument("--default-rounds", type=int, default=0, help="of the embedded default")
    add_quick(parser)
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.trials, chosen.epochs, chosen.rounds = 4, 1, 1
    return chosen


def main() -> None:
    """Runs the rounds and prints the tables."""
    chosen = parse_options()
    if cpu.usable_cpus() < 2:
        sys.exit(f"found {cpu.usable_cpus()} usable core, expected two or more")
    print(describe_environment())
    numbers = {"--trials": chosen.trials, "--epochs": chosen.epochs, "--seed": chosen.seed}
    options = [*(word for key, n in numbers.items() for word in (key, str(n))), *SAME_FOR_ALL]
    rounds: list[Round] = []
    nets: list[Net] = []
    for turn in range(chosen.rounds):
        done, nets = run_round(turn, options, nets)
        rounds.append(done)
    print(
        f"\n{chosen.trials} trials of {chosen.epochs} epochs, the same nets for all; n ="
        f" {len(rounds)} rounds in turns, median (range)\n"
    )
    print_paces(rounds)
    print()
    print_ratios(rounds)
    if chosen.default_rounds:
        print_defaults(chosen)


if __name__ == "__main__":
    main()
