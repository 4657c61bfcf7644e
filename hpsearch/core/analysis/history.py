"""The course of a search: hypervolume after each trial, recent gain, and workers over time."""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from hpsearch.core.analysis.pareto import Point, Staircase, covers, hypervolume, nondominated
from hpsearch.core.objectives import merit
from hpsearch.core.trial import State, TrialRecord, end_order

ENOUGH = 20  # trials that have ended, at least, before their last quarter is meaningful
MUCH = 0.01  # of the hypervolume, gained in a quarter of the trials: the search is still improving


@dataclass(frozen=True, slots=True, kw_only=True)
class HypervolumePoint:
    """The state of the search when trial ``number`` had ended.

    Complete and pruned ``trials`` so far, ``seconds`` of pure training steps (failed trials
    included), and the front's ``hypervolume`` in [0, 1].
    """

    number: int
    trials: int
    seconds: float
    hypervolume: float


class Outlook(Enum):
    """Whether more trials are likely to help, by the hypervolume gained in the last quarter."""

    HELP = "help"  # 1 % of the hypervolume or more
    LITTLE = "little"  # less
    NOTHING = "nothing"  # nothing at all


@dataclass(frozen=True, slots=True, kw_only=True)
class RecentGain:
    """The gain of the last quarter of the trials, ``trials`` in number, by order of their ends.

    ``gained`` is the hypervolume that they added, in [0, 1], ``arrived`` how many of them are on
    the front.
    """

    trials: int
    gained: float
    arrived: int
    outlook: Outlook


def hypervolume_history(
    records: Sequence[TrialRecord], *, bounds: Mapping[str, tuple[float, float]], epochs: int
) -> tuple[HypervolumePoint, ...]:
    """Returns one point for every trial that counts, in the order in which they ended.

    ``bounds`` is each objective's range, which the hypervolume is measured in: without bounds there
    are no points. ``epochs`` are those of a full training.
    """
    if not bounds:
        return ()
    ended = [r for r in records if r.ended is not None and r.state is not State.RUNNING]
    # Trials of several workers end in another order than that of their numbers.
    ended.sort(key=end_order)
    # Two objectives, the usual case, need no recomputation.
    front: Staircase | _Volume = Staircase() if len(bounds) == 2 else _Volume()
    seconds = 0.0
    history: list[HypervolumePoint] = []
    for record in ended:
        seconds += spent_seconds(record, epochs=epochs)  # failed trials cost time too
        if record.state is State.COMPLETE and set(bounds) <= set(record.values):
            front.add(merit(record.values, bounds))
        if record.state.counts:
            history.append(
                HypervolumePoint(
                    number=record.number,
                    trials=len(history) + 1,
                    seconds=seconds,
                    hypervolume=front.area,
                )
            )
    return tuple(history)


class _Volume:
    """As `Staircase`, in any number of dimensions: recomputed for each point that changes it."""

    def __init__(self) -> None:
        self.area = 0.0
        self._front: list[Point] = []

    def add(self, point: Point) -> None:
        if not any(covers(other, point) for other in self._front):
            points = [*self._front, point]
            self._front = [points[i] for i in nondominated(points)]
            self.area = hypervolume(self._front)


def spent_seconds(record: TrialRecord, *, epochs: int) -> float:
    """Returns the seconds of pure training steps that the trial took, by its own estimate."""
    if not record.curve:
        return 0.0
    # train_seconds estimates the whole training; a stopped trial spent its share of it.
    return record.curve[-1].train_seconds * len(record.curve) / epochs


def first_reaching(history: Sequence[HypervolumePoint], share: float) -> HypervolumePoint | None:
    """Returns where the search first had that share of its final hypervolume; None if never.

    >>> history = [HypervolumePoint(number=n, trials=n + 1, seconds=1.0 + n, hypervolume=h)
    ...            for n, h in enumerate((0.5, 0.9, 0.9))]
    >>> first_reaching(history, 0.99).trials
    2
    """
    if not history or history[-1].hypervolume <= 0:
        return None
    return next(at for at in history if at.hypervolume >= share * history[-1].hypervolume)


def recent_gain(
    history: Sequence[HypervolumePoint], on_front: Collection[int]
) -> RecentGain | None:
    """Returns the gain of the last quarter of the trials, given the numbers of those on the front.

    None with fewer than 20 of them, and if the hypervolume is 0.
    """
    if len(history) < ENOUGH or (final := history[-1].hypervolume) <= 0:
        return None
    # A quarter is long enough to smooth luck and short enough to see a search level off.
    last = history[-(len(history) // 4) :]
    gained = final - history[-len(last) - 1].hypervolume
    outlook = Outlook.HELP if gained >= MUCH * final else Outlook.LITTLE
    return RecentGain(
        trials=len(last),
        gained=gained,
        arrived=sum(point.number in on_front for point in last),
        outlook=outlook if gained > 0 else Outlook.NOTHING,
    )


class HandoffReason(enum.Enum):
    """Why a start did not end its trial, so that another worker continues it."""

    LOST = "worker lost"
    HANDED_BACK = "handed back"


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One start of a trial on its worker's line, in seconds since the study's first start.

    ``worker`` is its host and process. ``state`` is the trial's state for its last start, the
    reason of the handoff for earlier ones. A running start ends with the last known end of any, the
    start of a lost worker with its last heartbeat.
    """

    number: int
    worker: str
    started: float
    ended: float
    state: State | HandoffReason


@dataclass(frozen=True, slots=True, kw_only=True)
class _Start:
    """A span by the clock; ``ended`` is None while it runs."""

    number: int
    worker: str
    started: datetime
    ended: datetime | None
    state: State | HandoffReason


def timeline(records: Sequence[TrialRecord]) -> tuple[Span, ...]:
    """Returns the starts of all trials, by worker and time; workers in order of appearance."""
    starts = [start for record in records for start in _starts(record)]
    if not starts:
        return ()
    # A start that has not ended is drawn to the last moment known, not to the reader's clock.
    first = min(start.started for start in starts)
    last = max(moment for start in starts for moment in (start.started, start.ended or first))
    # Lines are sorted by the first start of their worker.
    appeared: dict[str, datetime] = {}
    for start in starts:
        appeared[start.worker] = min(start.started, appeared.get(start.worker, start.started))
    starts.sort(key=lambda s: (appeared[s.worker], s.worker, s.started, s.number))
    return tuple(
        Span(
            number=start.number,
            worker=start.worker,
            started=(start.started - first).total_seconds(),
            # Clocks of two hosts may differ by seconds: a span never ends before it starts.
            ended=(max(start.started, start.ended or last) - first).total_seconds(),
            state=start.state,
        )
        for start in starts
    )


def _starts(record: TrialRecord) -> Iterator[_Start]:
    """Yields the known starts of a trial."""
    origin = record.attributes.get("origin", {})
    failed = record.state is State.FAILED
    for entry in record.attributes.get("history", ()):
        # The last start of a trial that failed as lost is in its history too: count it once.
        again = failed and entry.get("start") == origin.get("starts")
        # Histories of the first versions hold no times.
        if not again and entry.get("from") is not None and entry.get("until") is not None:
            yield _Start(
                number=record.number,
                worker=_worker(entry),
                started=_local(entry["from"]),
                ended=_local(entry["until"]),
                state=HandoffReason(entry["ended"]),
            )
    # An imported trial took no worker's time.
    if record.started is not None and record.state not in (State.WAITING, State.IMPORTED):
        yield _Start(
            number=record.number,
            worker=_worker(origin.get("process") or {}),
            started=record.started,
            ended=record.ended,
            state=record.state,
        )


def _local(text: str) -> datetime:
    """A time in the form of a record's: local, without a zone."""
    return datetime.fromisoformat(text).astimezone().replace(tzinfo=None)


def _worker(process: Mapping[str, Any]) -> str:
    host, pid = process.get("host"), process.get("pid")
    return f"{host}, process {pid}" if host is not None else "not known"


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """How many workers there were, for how long, and how busy they were.

    ``seconds`` from the first start to the last end; ``busy`` is the share of the workers' time,
    each from its first start to its last end, that was spent in trials.
    """

    workers: int
    seconds: float
    busy: float


def presence(spans: Sequence[Span]) -> Presence:
    """Returns how many workers there were, for how long, and how busy they were.

    >>> presence([Span(number=n, worker="a", started=s, ended=e, state=State.COMPLETE)
    ...           for n, s, e in ((0, 0.0, 3.0), (1, 4.0, 10.0))])
    Presence(workers=1, seconds=10.0, busy=0.9)
    """
    lines: dict[str, list[Span]] = {}
    for span in spans:
        lines.setdefault(span.worker, []).append(span)
    # Idle time before a worker's first start is not its own: it was not there yet.
    there = sum(max(s.ended for s in w) - min(s.started for s in w) for w in lines.values())
    busy = sum(span.ended - span.started for span in spans)
    return Presence(
        workers=len(lines),
        seconds=max((span.ended for span in spans), default=0.0),
        busy=min(1.0, busy / there) if there else 0.0,
    )
