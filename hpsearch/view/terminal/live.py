"""The progress of a run: a live view on a terminal, else one line per trial."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from hpsearch.core.analysis.pruning_stats import counts
from hpsearch.core.trial import Epoch, State, TrialRecord
from hpsearch.errors import HpsearchError
from hpsearch.search.storage.records import REFERENCE
from hpsearch.search.study.study import Study
from hpsearch.search.worker.launch import hardware
from hpsearch.search.worker.work_loop import Observer
from hpsearch.view.format import format_seconds
from hpsearch.view.terminal.screen import FrontPanel, Snapshot, closing, draw, outcome
from hpsearch.view.terminal.trial_tables import print_line

_TICK = 0.5  # seconds between two checks for changes
_PACE_OVER = 20  # recent trials whose pace predicts the time left


class LiveView(Observer):
    """Shows a run on a terminal inside a ``with`` block.

    A thread checks for changes twice a second and draws only then, so that the terminal never
    delays a training. On exit, one line of counts remains.

    Args:
        console: an interactive terminal, on stderr (stdout is left alone).
        title: the first line: the study, its storage and its hardware.
        target: the budget, in trials that are complete or pruned.
        epochs: the epochs of a full training.
        objectives: the names of the objectives.
        records: the trials of the study so far; :meth:`sync` adds those of other workers.
        stopping: returns whether the user has requested a stop.
        clock: returns monotonic seconds.
    """

    def __init__(
        self,
        console: Console,
        *,
        title: str = "",
        target: int,
        epochs: int,
        objectives: Sequence[str],
        records: Sequence[TrialRecord],
        stopping: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console, self._stopping, self._clock = console, stopping, clock
        self._title, self._target, self._epochs = title, target, epochs
        self._objectives = tuple(objectives)
        self._local: dict[int, TrialRecord] = {}  # running trials, reported by their worker
        self._stored = {r.number: r for r in records if r.state is not State.RUNNING}
        self._counts = counts(list(self._stored.values()))
        self._front = FrontPanel(records, objectives=objectives)
        self._last: Text | None = None
        self._ends = deque([clock()], maxlen=_PACE_OVER + 1)
        self._lock = threading.Lock()  # never held while drawing
        self._done = threading.Event()
        self._drawn: tuple[Snapshot, tuple[int, int]] | None = None
        self._live = Live(console=console, auto_refresh=False, redirect_stdout=False)
        self._ticker = threading.Thread(target=self._tick, name="live-view", daemon=True)

    def __enter__(self) -> Self:
        self._live.start()
        try:
            self.refresh()
            self._ticker.start()
        except BaseException:
            self._live.stop()  # shows the cursor again
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        try:
            # The closing line is drawn last, so the thread ends first.
            self._ticker.join()
            self._live.update(closing(self._snapshot()))
        finally:
            self._live.stop()

    def started(self, number: int, params: Mapping[str, Any], cost: Mapping[str, float]) -> None:
        """Shows the trial as running."""
        record = TrialRecord(number=number, state=State.RUNNING, params=params, cost=cost)
        with self._lock:
            self._local[number] = record

    def trained(self, number: int, epoch: Epoch) -> None:
        """Adds an epoch to the trial and advances its bar."""
        with self._lock:
            record = self._local[number]
            cost = {**record.cost, "train_seconds": epoch.train_seconds}
            self._local[number] = replace(record, curve=(*record.curve, epoch), cost=cost)

    def ended(self, record: TrialRecord) -> None:
        """Counts the trial; prints a line above the view if it failed or was handed back."""
        line = outcome(record, objectives=self._objectives)
        with self._lock:
            self._local.pop(record.number, None)
            self._store({**self._stored, record.number: record})
            self._last = line
        if record.state in (State.FAILED, State.WAITING):
            print_line(self._console, line)

    def show_message(self, text: str) -> None:
        """Prints a line above the live view."""
        print_line(self._console, text)

    def sync(self, records: Sequence[TrialRecord]) -> None:
        """Replaces the trials by those of the study, including trials of other workers.

        The local running trials stay as their worker reported them.
        """
        with self._lock:
            self._store({r.number: r for r in records})

    def refresh(self) -> None:
        """Draws if anything has changed since the last drawing."""
        snapshot, size = self._snapshot(), self._console.size
        # Equal snapshots look the same, and drawing takes milliseconds.
        if self._drawn != (snapshot, size):
            self._drawn = snapshot, (size.width, size.height)
            self._live.update(draw(snapshot, width=size.width, height=size.height), refresh=True)

    def _tick(self) -> None:
        while not self._done.wait(_TICK):
            self.refresh()

    def _store(self, records: Mapping[int, TrialRecord]) -> None:
        before, self._counts = self._counts, counts(list(records.values()))
        self._stored = dict(records)
        new = [self._counts[name] - before[name] for name in ("complete", "pruned")]
        # The pace is that of the whole study: trials of other workers count too.
        self._ends.extend([self._clock()] * max(0, sum(new)))
        if new[0]:
            self._front = FrontPanel(list(records.values()), objectives=self._objectives)

    def _snapshot(self) -> Snapshot:
        with self._lock:
            running = {n: r for n, r in self._stored.items() if r.state is State.RUNNING}
            running.update(self._local)
            shown = {name: self._counts[name] for name in ("complete", "pruned", "failed")}
            return Snapshot(
                title=self._title,
                target=self._target,
                epochs=self._epochs,
                counts=shown,
                time_left=self._time_left(self._target - shown["complete"] - shown["pruned"]),
                running=tuple(running[number] for number in sorted(running)),
                last=self._last,
                front=self._front,
                stopping=self._stopping(),
            )

    def _time_left(self, remaining: int) -> str:
        """Estimates from the pace of the last counted trials and the number of trials left."""
        if remaining <= 0 or len(self._ends) < 2:
            return ""
        pace = (self._ends[-1] - self._ends[0]) / (len(self._ends) - 1)
        since = min(pace, self._clock() - self._ends[-1])  # spent on the current trial
        seconds = max(1, round(pace * remaining - since))
        return f"{seconds} s left" if seconds < 60 else f"{format_seconds(seconds)} left"


class PlainLog(Observer):
    """Prints one line when a trial ends, for streams that are no terminal.

    ``target`` is the budget, in trials that are complete or pruned; ``records`` are those so far.
    """

    def __init__(
        self,
        console: Console,
        *,
        target: int,
        objectives: Sequence[str],
        records: Sequence[TrialRecord] = (),
    ) -> None:
        self._console = console
        self._target, self._objectives = target, tuple(objectives)
        self._counted = {r.number for r in records if r.state.counts}

    def ended(self, record: TrialRecord) -> None:
        """Prints the used part of the budget and the outcome of the trial."""
        if record.state.counts:
            self._counted.add(record.number)
        # The count stored with the end: another worker's end may not have been read yet.
        before = record.attributes.get("before")
        counted = before["counted"] + record.state.counts if before else len(self._counted)
        line = Text(f"{counted:>{len(str(self._target))}}/{self._target}  ")
        print_line(self._console, line.append_text(outcome(record, objectives=self._objectives)))

    def sync(self, records: Sequence[TrialRecord]) -> None:
        """Adds the trials of other workers to the count."""
        self._counted |= {r.number for r in records if r.state.counts}

    def show_message(self, text: str) -> None:
        """Prints a line."""
        print_line(self._console, text)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None


def view_for(
    console: Console,
    *,
    title: str,
    target: int,
    epochs: int,
    objectives: Sequence[str],
    records: Sequence[TrialRecord],
    stopping: Callable[[], bool] = lambda: False,
) -> LiveView | PlainLog:
    """Returns the live view if the console is a capable terminal, else the plain log."""
    if console.is_interactive and not console.is_dumb_terminal:
        return LiveView(
            console,
            title=title,
            target=target,
            epochs=epochs,
            objectives=objectives,
            records=records,
            stopping=stopping,
        )
    return PlainLog(console, target=target, objectives=objectives, records=records)


@contextmanager
def getting_ready(console: Console) -> Iterator[Callable[[str], None]]:
    """Shows a spinner while a study is prepared; yields a function that prints a line above it."""
    with console.status("loading PyTorch and the data", spinner="line"):
        yield lambda text: print_line(console, text)


@contextmanager
def watch(
    console: Console, study: Study, *, stopping: Callable[[], bool] = lambda: False
) -> Iterator[LiveView | PlainLog]:
    """Shows a study while workers run it, and at the end its final state.

    ``stopping`` returns whether the user has requested a stop.
    """
    reference = study.attributes.get(REFERENCE)
    processor = hardware(reference) if reference else "no worker yet"
    view = view_for(
        console,
        title=f"{study.name} on {study.storage.masked}, {processor}",
        target=study.spec.search.trials,
        epochs=study.spec.train.epochs,
        objectives=study.objectives,
        records=study.records(),
        stopping=stopping,
    )
    with view:
        yield view
        # Other workers may have ended the last trials; a deleted study has none to read.
        with suppress(HpsearchError):
            view.sync(study.records())
