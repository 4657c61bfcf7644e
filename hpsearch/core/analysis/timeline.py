"""Which worker ran which trial when."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from hpsearch.core.trial import State, TrialRecord


class HandoffReason(enum.Enum):
    """How a start went that did not end its trial: somebody else took it up, or will."""

    LOST = "worker lost"
    HANDED_BACK = "handed back"


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One start of a trial on its worker's line, in seconds since the study's first start.

    ``worker`` is its host and process. The last start of a trial has the trial's state, each one
    before it has how it was left. A running one ends where the last one known ended, one whose
    worker was lost at its last sign of life.
    """

    number: int
    worker: str
    started: float
    ended: float
    state: State | HandoffReason


@dataclass(frozen=True, slots=True, kw_only=True)
class _Start:
    """The same by the clock; ``ended`` is None while it runs."""

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
    first = min(start.started for start in starts)
    last = max(moment for start in starts for moment in (start.started, start.ended or first))
    spans = [_span(start, first=first, last=last) for start in starts]
    appeared: dict[str, float] = {}
    for span in spans:
        appeared[span.worker] = min(span.started, appeared.get(span.worker, span.started))
    spans.sort(key=lambda s: (appeared[s.worker], s.worker, s.started, s.number))
    return tuple(spans)


def _starts(record: TrialRecord) -> Iterator[_Start]:
    """Those of a trial that are known; one that failed as lost has its last start once."""
    origin = record.attributes.get("origin", {})
    failed = record.state is State.FAILED
    for entry in record.attributes.get("history", ()):
        if not (failed and entry.get("start") == origin.get("starts")):
            yield from _left(record.number, entry)
    if record.started is not None and record.state is not State.WAITING:
        yield _Start(
            number=record.number,
            worker=_worker(origin.get("process") or {}),
            started=record.started,
            ended=record.ended,
            state=record.state,
        )


def _left(number: int, entry: Mapping[str, Any]) -> Iterator[_Start]:
    """An earlier start; none where the history is of before it told when."""
    if entry.get("from") is not None and entry.get("until") is not None:
        yield _Start(
            number=number,
            worker=_worker(entry),
            started=_here(entry["from"]),
            ended=_here(entry["until"]),
            state=HandoffReason(entry["ended"]),
        )


def _here(told: str) -> datetime:
    """A time as a record has it: local, without a zone; one that was kept so is taken as it is."""
    return datetime.fromisoformat(told).astimezone().replace(tzinfo=None)


def _worker(process: Mapping[str, Any]) -> str:
    host, pid = process.get("host"), process.get("pid")
    return f"{host}, process {pid}" if host is not None else "not known"


def _span(start: _Start, *, first: datetime, last: datetime) -> Span:
    ended = max(start.started, start.ended or last)
    return Span(
        number=start.number,
        worker=start.worker,
        started=(start.started - first).total_seconds(),
        ended=(ended - first).total_seconds(),
        state=start.state,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """How many workers there were, and how long.

    ``seconds`` from the first start to the last end; ``busy`` is the share of the workers' time,
    each from its first start to its last end, that was spent in trials.
    """

    workers: int
    seconds: float
    busy: float


def presence(spans: Sequence[Span]) -> Presence:
    """Returns how many workers there were, how long, and how busy.

    >>> presence([Span(number=n, worker="a", started=s, ended=e, state=State.COMPLETE)
    ...           for n, s, e in ((0, 0.0, 3.0), (1, 4.0, 10.0))])
    Presence(workers=1, seconds=10.0, busy=0.9)
    """
    lines: dict[str, list[Span]] = {}
    for span in spans:
        lines.setdefault(span.worker, []).append(span)
    there = sum(max(s.ended for s in w) - min(s.started for s in w) for w in lines.values())
    busy = sum(span.ended - span.started for span in spans)
    return Presence(
        workers=len(lines),
        seconds=max((span.ended for span in spans), default=0.0),
        busy=min(1.0, busy / there) if there else 0.0,
    )
