"""What a trial costs beside training: ours against a plain Optuna loop, on databases of a size.

    python tests/benchmarks/bench_overhead.py [--trials 20] [--sizes 100 1000 5000]

A trial here is asked for, draws the embedded default's space by TPE, records 10 epochs and is told;
nothing is trained. The plain loop stores each epoch by ``set_user_attr`` and opens its storage as
``optuna.create_study`` does. Both studies hold ``size`` finished trials with 10 epochs each before;
the two take turns, trial by trial, in one process. The time inside the sampler is listed apart and
is not part of the rest. PostgreSQL is a server of the benchmark's own.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
from arguments import parser_of
from environment import describe_environment, print_table
from postgres import postgres
from simulation import COST
from untrained import add, draw_at_random

from hpsearch.config import build_spec
from hpsearch.core.space import draw
from hpsearch.core.trial import Epoch, Outcome, State
from hpsearch.search import samplers
from hpsearch.search.storage.storage import Storage, open_storage
from hpsearch.search.study.catalog import create_or_resume
from hpsearch.search.study.leases import Lease, process_identity
from hpsearch.search.study.study import Study

EPOCHS = 10


def epoch(number: int) -> Epoch:
    return Epoch(
        epoch=number,
        train_loss=1 / number,
        train_accuracy=0.5,
        val_loss=1 / number,
        val_accuracy=0.5,
        train_seconds=3.0,
        wall_seconds=0.5,
    )


class Timed:
    """Adds up the seconds spent inside calls."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            began = time.perf_counter()
            try:
                return call(*arguments, **options)
            finally:
                self.seconds += time.perf_counter() - began

        return timed


def fill(storage: Storage, handle: optuna.Study, attributes: dict[str, Any], size: int) -> None:
    """Adds that many finished trials."""
    spec = build_spec(None, {})
    add(storage, handle, (template_trial(spec, number, attributes) for number in range(size)))


def template_trial(spec: Any, number: int, attributes: dict[str, Any]) -> Any:
    _, drawn = draw_at_random(spec.space, seed=number)
    return optuna.create_trial(
        values=[0.5 + 0.4 * (number % 97) / 97, 1.0 + number % 31],
        **drawn,
        user_attrs=attributes,
    )


class Ours:
    def __init__(self, url: str, size: int) -> None:
        spec = build_spec(None, {"search.trials": 10**6, "pruning.pruner": "none"})
        storage = open_storage(url, create=True)
        bounds = {"accuracy": (0.1, 1.0), "train_seconds": (0.1, 100.0)}
        self.study: Study = create_or_resume(
            storage, spec, data={}, reference={"threads": 1}, bounds=lambda: bounds
        )
        columns = {f: [getattr(epoch(n + 1), f) for n in range(EPOCHS)] for f in Epoch.__slots__}
        origin = {"process": process_identity(), "starts": 1, "seed": 0, "control": False}
        fill(storage, self.study.handle, {"curve": columns, "cost": COST, "origin": origin}, size)
        self.timed = Timed()

    def __call__(self) -> None:
        lease = self.study.acquire({"process": process_identity()})
        assert isinstance(lease, Lease)
        lease.write_cost(COST)
        for n in range(EPOCHS):
            lease.write_epoch(tuple(epoch(k + 1) for k in range(n + 1)))
        values = {"accuracy": 0.5, "train_seconds": 3.0}
        lease.finish(Outcome(state=State.COMPLETE, values=values))


class Plain:
    def __init__(self, url: str, size: int) -> None:
        storage = open_storage(url, create=True)  # fast, for the filling alone
        handle = optuna.create_study(
            storage=storage.backend, study_name="plain", directions=["maximize", "minimize"]
        )
        measured = {f: getattr(epoch(1), f) for f in Epoch.__slots__}
        fill(storage, handle, {f"epoch_{n + 1}": measured for n in range(EPOCHS)}, size)
        storage.close()
        self.timed = Timed()
        sampler = optuna.samplers.TPESampler(seed=0, constant_liar=False)
        sampler.sample_independent = self.timed.around(sampler.sample_independent)
        where = url if "://" in url else f"sqlite:///{url}"
        where = where.replace("postgresql://", "postgresql+psycopg://")
        self.study = optuna.load_study(storage=where, study_name="plain", sampler=sampler)
        self.space = build_spec(None, {}).space

    def __call__(self) -> None:
        trial = self.study.ask()
        draw(self.space, lambda name, dim: trial._suggest(name, samplers.distribution(dim)))
        for n in range(EPOCHS):
            measured = {f: getattr(epoch(n + 1), f) for f in Epoch.__slots__}
            trial.set_user_attr(f"epoch_{n + 1}", measured)
        self.study.tell(trial, [0.5, 3.0])


@contextlib.contextmanager
def databases(kind: str, folder: Path) -> Iterator[tuple[str, str]]:
    """Two empty databases of that kind."""
    if kind == "sqlite":
        yield f"{folder}/ours.db", f"{folder}/plain.db"
        return
    with postgres(folder, max_connections=100) as server:
        yield server.database("ours"), server.database("plain")


def measure(loops: dict[str, Any], trials: int) -> dict[str, tuple[float, float, float]]:
    """Median milliseconds a trial outside the sampler, their quartiles' distance, and inside."""
    rest: dict[str, list[float]] = {name: [] for name in loops}
    inside: dict[str, list[float]] = {name: [] for name in loops}
    for turn in range(trials + 2):
        for name, loop in loops.items():
            loop.timed.seconds = 0.0
            began = time.perf_counter()
            loop()
            took = time.perf_counter() - began
            if turn >= 2:  # the first read the whole study
                inside[name].append(1e3 * loop.timed.seconds)
                rest[name].append(1e3 * (took - loop.timed.seconds))
    found = {}
    for name in loops:
        low, middle, high = statistics.quantiles(rest[name], n=4)
        found[name] = (middle, high - low, statistics.median(inside[name]))
    return found


def main() -> None:
    """Measures every size on both databases and prints the table."""
    parser = parser_of(__doc__, trials=20)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000, 5000])
    parser.add_argument("--kinds", nargs="+", default=["sqlite", "postgres"])
    chosen = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    print(describe_environment())
    rows = []
    for kind in chosen.kinds:
        for size in chosen.sizes:
            with (
                tempfile.TemporaryDirectory() as folder,
                databases(kind, Path(folder)) as (ours_url, plain_url),
            ):
                ours, plain = Ours(ours_url, size), Plain(plain_url, size)
                original = samplers.sample
                from hpsearch.search.study import study as study_module

                study_module.sample = ours.timed.around(original)
                found = measure({"ours": ours, "plain": plain}, chosen.trials)
                study_module.sample = original
                ours.study.storage.close()
                plain.study._storage.remove_session()
            (a, a_iqr, a_in), (b, b_iqr, b_in) = found["ours"], found["plain"]
            told = [f"{a:.0f} ({a_iqr:.0f})", f"{b:.0f} ({b_iqr:.0f})", f"{a / b:.2f}"]
            rows.append([kind, f"{size:,}", *told, f"{a_in:.0f}", f"{b_in:.0f}"])
    print(
        f"\nmilliseconds a trial outside the sampler: median of {chosen.trials}"
        " (distance of quartiles)\n"
    )
    header = ["database", "trials in it", "ours", "plain", "ratio"]
    print_table([*header, "sampler, ours", "sampler, plain"], rows)


if __name__ == "__main__":
    main()
