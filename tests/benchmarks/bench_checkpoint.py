"""What checkpoints cost: the share of a training's time that writing them takes, limit 2 %.

    python tests/benchmarks/bench_checkpoint.py [--trials 20] [--seed 0] [--study-file STUDY.toml]

Random trials of the embedded default, none of them stopped early, are searched in this process on
an SQLite file of its own, beside which the checkpoints lie. Every call that may write one is timed;
it is held against the ``wall_seconds`` of the trial's epochs, training and validation.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from arguments import add_quick, parser_of
from environment import describe_environment, print_table

from hpsearch.config import read_spec
from hpsearch.core.spec import StudySpec
from hpsearch.core.trial import Curve
from hpsearch.search.worker import trainer
from hpsearch.search.worker.launch import WorkerOptions, prepare, run_here
from hpsearch.search.worker.trainer import Checkpointer
from hpsearch.search.worker.work_loop import StopSignal


@dataclass(slots=True)
class Kept:
    """What a trial's checkpoints took, and its epochs; times in seconds."""

    seconds: float = 0.0
    written: int = 0
    bytes: int = 0
    epochs: int = 0
    trained: float = 0.0

    @property
    def share(self) -> float:
        """The share of the training's time."""
        return self.seconds / self.trained


class TimedCheckpointer(Checkpointer):
    """Notes what each trial's checkpoints take."""

    kept: ClassVar[dict[int, Kept]] = {}

    def __init__(self, study: Any, lease: Any) -> None:
        super().__init__(study, lease)
        self._mine = self.kept.setdefault(lease.number, Kept())
        self._file = study.storage.artifacts.folder / study.checkpoint_key(lease.number)

    def keep(self, model: Any, progress: Any, curve: Curve, *, now: bool = False) -> None:
        before = self._stamp()
        began = time.perf_counter()
        super().keep(model, progress, curve, now=now)
        self._mine.seconds += time.perf_counter() - began
        if (after := self._stamp()) != before:
            self._mine.written += 1
            self._mine.bytes = after[1]

    def _stamp(self) -> tuple[int, int]:
        """Which file lies there, by its inode, and its size."""
        if not self._file.exists():
            return 0, 0
        found = self._file.stat()
        return found.st_ino, found.st_size


class Silent:
    """Watches a search and says nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def measure(spec: StudySpec, *, threads: int | None) -> Sequence[Kept]:
    """Searches; returns what every trial kept that trained an epoch."""
    trainer.Checkpointer = TimedCheckpointer
    with tempfile.TemporaryDirectory() as folder:
        place = WorkerOptions(storage=str(Path(folder, "bench.db")), device="cpu", threads=threads)
        ready = prepare(spec, place, stop=StopSignal())
        run_here(ready, stop=StopSignal(), observer=Silent())
        for record in ready.study.records():
            kept = TimedCheckpointer.kept[record.number]
            kept.epochs = len(record.curve)
            kept.trained = sum(epoch.wall_seconds for epoch in record.curve)
        ready.study.storage.close()
    return [kept for kept in TimedCheckpointer.kept.values() if kept.epochs]


def main() -> None:
    """Searches and prints the table."""
    parser = parser_of(__doc__, trials=20, seed=0, threads=None)
    parser.add_argument("--study-file", type=Path, help="instead of the embedded default")
    add_quick(parser)
    chosen = parser.parse_args()
    spec = read_spec(chosen.study_file, {})
    trials = 3 if chosen.quick else chosen.trials
    search = replace(spec.search, sampler="random", trials=trials, seed=chosen.seed)
    spec = replace(spec, search=search, pruning=replace(spec.pruning, pruner="none"))
    kept = measure(spec, threads=chosen.threads)
    print(describe_environment())
    trained, seconds = (sum(getattr(k, name) for k in kept) for name in ("trained", "seconds"))
    print(
        f"\n{len(kept)} trials, {trained:.0f} s of training and validation, of which checkpoints"
        f" take {100 * seconds / trained:.2f} %\n"
    )
    print_table(["a trial", "median", "least", "most"], [line(*each, kept) for each in LINES])


LINES = (
    ("share of its time, %", lambda k: 100 * k.share, "{:.2f}"),
    ("training and validation, s", lambda k: k.trained, "{:.1f}"),
    ("epochs", lambda k: k.epochs, "{:.0f}"),
    ("checkpoints written", lambda k: k.written, "{:.0f}"),
    ("bytes of one, KiB", lambda k: k.bytes / 1024, "{:.0f}"),
    ("to write one, ms", lambda k: 1e3 * k.seconds / max(1, k.written), "{:.1f}"),
)


def line(label: str, value: Any, form: str, kept: Sequence[Kept]) -> list[str]:
    """A line of the table: label, median, least and most."""
    values = [value(each) for each in kept]
    return [label, *(form.format(pick(values)) for pick in (statistics.median, min, max))]


if __name__ == "__main__":
    main()
