"""Which worker ran which trial when."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from hpsearch.core.trial import State, TrialRecord


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
    if record.started is not None and record.state is not State.WAITING:
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
    there = sum(max(s.ended for s in w) - min(s.started for s in w) for w in lines.values())
    busy = sum(span.ended - span.started for span in spans)
    return Presence(
        workers=len(lines),
        seconds=max((span.ended for span in spans), default=0.0),
        busy=min(1.0, busy / there) if there else 0.0,
    )
