"""The loop that runs trials until the study needs no more of them."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from hpsearch.core.trial import Outcome
from hpsearch.nn.interrupt import Interrupted
from hpsearch.search.observer import Observer
from hpsearch.search.study import Claim, Standing, Study

_POLL_SECONDS = 0.5


@dataclass(slots=True, kw_only=True)
class Stopper:
    """Says when to stop: a signal came, or the time is up. ``deadline`` is of time.monotonic.

    While ``raises``, the first signal also raises KeyboardInterrupt, for what cannot ask; what
    swallows that is still told when it asks.
    """

    deadline: float | None = None
    raises: bool = True
    signals: list[int] = field(default_factory=list)

    def start_clock(self, timeout: float | None) -> None:
        """Sets the deadline that many seconds from now; None: none."""
        self.deadline = None if timeout is None else time.monotonic() + timeout

    @property
    def timed_out(self) -> bool:
        """Whether the time is up."""
        return self.deadline is not None and time.monotonic() >= self.deadline

    def __call__(self) -> bool:
        """Whether to stop now."""
        return bool(self.signals) or self.timed_out

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Turns the first Ctrl-C or SIGTERM into a wish to stop; the second one ends at once."""
        caught = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self._hear) for number in caught}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _hear(self, number: int, _frame: FrameType | None) -> None:
        if self.signals:
            sys.stderr.write("\x1b[?25h\n" if sys.stderr.isatty() else "")  # the cursor again
            sys.stderr.flush()
            os._exit(128 + number)  # the trial is handed back by whoever runs the study next
        self.signals.append(number)
        if self.raises:
            raise KeyboardInterrupt


RunTrial = Callable[[Claim, Callable[[], bool]], Outcome]


def work(
    study: Study,
    run_trial: RunTrial,
    *,
    origin: Mapping[str, Any],
    observer: Observer,
    stop: Stopper,
) -> Standing | None:
    """Runs trials until the study needs no more; returns why, or None if asked to stop.

    A trial that is interrupted is handed back: it keeps its number and parameters and waits for
    the next worker.
    """
    stop.raises = False
    while not stop():
        claim = study.claim(origin)
        if claim is Standing.BUSY:
            time.sleep(_POLL_SECONDS)
            continue
        if isinstance(claim, Standing):
            return claim
        try:
            outcome = run_trial(claim, stop)
        except Interrupted:
            observer.ended(study.hand_back(claim))
            return None
        observer.ended(study.finish(claim, outcome))
    return None
