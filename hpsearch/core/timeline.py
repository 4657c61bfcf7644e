"""Which worker ran which trial when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from hpsearch.core.trial import State, TrialRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A trial on its worker's line, in seconds since the first trial of the study started.

    ``worker`` is its host and process. A trial that was taken up again is on the line of the
    worker that ended it, from its latest start; a running one ends where the last one known ended.
    """

    number: int
    worker: str
    started: float
    ended: float
    state: State


def timeline(records: Sequence[TrialRecord]) -> tuple[Span, ...]:
    """Returns the trials that were started, by worker and time; workers in order of appearance."""
    begun = [
        (r, r.started) for r in records if r.started is not None and r.state is not State.WAITING
    ]
    if not begun:
        return ()
    first = min(started for _, started in begun)
    last = max(moment for r, started in begun for moment in (started, r.ended or started))
    spans = [_span(record, started, first=first, last=last) for record, started in begun]
    appeared: dict[str, float] = {}
    for span in spans:
        appeared[span.worker] = min(span.started, appeared.get(span.worker, span.started))
    spans.sort(key=lambda s: (appeared[s.worker], s.worker, s.started, s.number))
    return tuple(spans)


def _span(record: TrialRecord, started: datetime, *, first: datetime, last: datetime) -> Span:
    process = record.attributes.get("origin", {}).get("process") or {}
    host, pid = process.get("host"), process.get("pid")
    ended = max(started, record.ended or last)
    return Span(
        number=record.number,
        worker=f"{host}, process {pid}" if host is not None else "not known",
        started=(started - first).total_seconds(),
        ended=(ended - first).total_seconds(),
        state=record.state,
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
