"""A run as it goes: a live picture on a terminal, one line per trial without one."""

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
from hpsearch.search.worker.observer import Observer
from hpsearch.view.format import format_seconds
from hpsearch.view.terminal.screen import Front, Picture, closing, draw, outcome
from hpsearch.view.terminal.trial_tables import EncodingSafe

_TICK = 0.5  # seconds between two looks for something new to draw
_PACE_OVER = 20  # trials whose pace tells the time left


class LiveView(Observer):
    """Shows a run on a terminal while it is entered as a context.

    A thread looks twice a second whether anything has changed, and draws only then; what trains
    is never held up by the terminal. On leaving, one line of counts remains.

    Args:
        console: an interactive terminal, on stderr (stdout is left alone).
        title: the first line: the study, its data and its device.
        target: the budget, in trials that are complete or pruned.
        epochs: the epochs of a full training.
        objectives: the names of the objectives.
        records: the study's trials so far; those running elsewhere appear with :meth:`sync`.
        stopping: tells whether a person has asked for the end.
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
        self._ours: dict[int, TrialRecord] = {}  # running, and told of by their worker
        self._rest = {r.number: r for r in records if r.state is not State.RUNNING}
        self._counts = counts(list(self._rest.values()))
        self._front = Front(records, objectives=objectives)
        self._last: Text | None = None
        self._ends = deque([clock()], maxlen=_PACE_OVER + 1)
        self._lock = threading.Lock()  # never held while drawing
        self._done = threading.Event()
        self._drawn: tuple[Picture, tuple[int, int]] | None = None
        self._live = Live(console=console, auto_refresh=False, redirect_stdout=False)
        self._ticker = threading.Thread(target=self._tick, name="live-view", daemon=True)

    def __enter__(self) -> Self:
        self._live.start()
        try:
            self.refresh()
            self._ticker.start()
        except BaseException:
            self._live.stop()  # gives the cursor back
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        try:
            self._ticker.join()
            self._live.update(closing(self._picture()))
        finally:
            self._live.stop()

    def started(self, number: int, params: Mapping[str, Any], cost: Mapping[str, float]) -> None:
        """Shows the trial as running."""
        record = TrialRecord(number=number, state=State.RUNNING, params=params, cost=cost)
        with self._lock:
            self._ours[number] = record

    def trained(self, number: int, epoch: Epoch) -> None:
        """Moves the trial's bar."""
        with self._lock:
            record = self._ours[number]
            cost = {**record.cost, "train_seconds": epoch.train_seconds}
            self._ours[number] = replace(record, curve=(*record.curve, epoch), cost=cost)

    def ended(self, record: TrialRecord) -> None:
        """Counts the trial; one that failed or is to go on is told above the picture, and stays."""
        line = outcome(record, objectives=self._objectives)
        with self._lock:
            self._ours.pop(record.number, None)
            self._take({**self._rest, record.number: record})
            self._last = line
        if record.state in (State.FAILED, State.WAITING):
            self._say(line)

    def show_message(self, text: str) -> None:
        """Prints a line above the live picture, where it stays."""
        self._say(Text(text))

    def sync(self, records: Sequence[TrialRecord]) -> None:
        """Takes the study's trials anew, those of other workers included.

        Of the trials that this view was told of itself, it keeps what it was told.
        """
        with self._lock:
            self._take({r.number: r for r in records})

    def refresh(self) -> None:
        """Draws now, if anything has changed since the last time."""
        picture, size = self._picture(), self._console.size
        if self._drawn != (picture, size):
            self._drawn = picture, (size.width, size.height)
            self._live.update(draw(picture, width=size.width, height=size.height), refresh=True)

    def _tick(self) -> None:
        while not self._done.wait(_TICK):
            self.refresh()

    def _say(self, line: Text) -> None:
        self._console.print(EncodingSafe(line), soft_wrap=True)

    def _take(self, records: Mapping[int, TrialRecord]) -> None:
        before, self._counts = self._counts, counts(list(records.values()))
        self._rest = dict(records)
        new = [self._counts[name] - before[name] for name in ("complete", "pruned")]
        self._ends.extend([self._clock()] * max(0, sum(new)))
        if new[0]:
            self._front = Front(list(records.values()), objectives=self._objectives)

    def _picture(self) -> Picture:
        with self._lock:
            running = {n: r for n, r in self._rest.items() if r.state is State.RUNNING}
            running.update(self._ours)
            tally = {name: self._counts[name] for name in ("complete", "pruned", "failed")}
            return Picture(
                title=self._title,
                target=self._target,
                epochs=self._epochs,
                counts=tally,
                time_left=self._time_left(self._target - tally["complete"] - tally["pruned"]),
                running=tuple(running[number] for number in sorted(running)),
                last=self._last,
                front=self._front,
                stopping=self._stopping(),
            )

    def _time_left(self, remaining: int) -> str:
        """Tells the pace of the last trials that counted, times the trials that are left."""
        if remaining <= 0 or len(self._ends) < 2:
            return ""
        pace = (self._ends[-1] - self._ends[0]) / (len(self._ends) - 1)
        since = min(pace, self._clock() - self._ends[-1])
        seconds = max(1, round(pace * remaining - since))
        return f"{seconds} s left" if seconds < 60 else f"{format_seconds(seconds)} left"


class PlainLog(Observer):
    """Tells one line per trial when it ends, for streams that are no terminal.

    Args:
        console: where the lines go; characters that its encoding lacks are replaced.
        target: the budget, in trials that are complete or pruned.
        objectives: the names of the objectives.
        records: the study's trials so far.
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
        """Tells how the trial ended, after how many trials of the budget are used up."""
        if record.state.counts:
            self._counted.add(record.number)
        width = len(str(self._target))
        line = Text(f"{len(self._counted):>{width}}/{self._target}  ")
        self._say(line.append_text(outcome(record, objectives=self._objectives)))

    def sync(self, records: Sequence[TrialRecord]) -> None:
        """Counts the trials of other workers too, from now on."""
        self._counted |= {r.number for r in records if r.state.counts}

    def show_message(self, text: str) -> None:
        """Prints a line."""
        self._say(Text(text))

    def _say(self, line: Text) -> None:
        self._console.print(EncodingSafe(line), soft_wrap=True)

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
    """Returns the live view for a console that can show it, and the plain log for any other."""
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
    """Shows on a terminal that a study is being prepared, which has nothing to show yet.

    Gives what tells a line meanwhile: above, where it stays.
    """
    with console.status("getting ready", spinner="line"):
        yield lambda text: console.print(EncodingSafe(Text(text)), soft_wrap=True)


@contextmanager
def watch(
    console: Console, study: Study, *, stopping: Callable[[], bool] = lambda: False
) -> Iterator[LiveView | PlainLog]:
    """Shows a study that is worked on, or is about to be, and in the end how it stands then.

    Others may have ended its last trials. ``stopping`` tells whether a person asked for the end.
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
        with suppress(HpsearchError):  # a study that was deleted leaves what was last known
            view.sync(study.records())
