"""Trials and the status of studies as plain records: attribute keys, and how they are read."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from importlib.metadata import version
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from hpsearch.core.analysis.statistics import Repeat
from hpsearch.core.overrides import check_in_space
from hpsearch.core.space import draw
from hpsearch.core.spec import StudySpec, from_json
from hpsearch.core.trial import Curve, Epoch, State, TrialRecord
from hpsearch.errors import HpsearchError, SpecError, StudyError

SPEC, DATA, REFERENCE, BOUNDS = (f"hpsearch:{k}" for k in ("spec", "data", "reference", "bounds"))
CREATED, CHANGES, STOP = (f"hpsearch:{key}" for key in ("created", "changes", "stop"))
CONFIRMED = "hpsearch:confirmed"  # then, after colons, the trial and the index of its repeat

STATES: Mapping[TrialState, State] = {
    TrialState.WAITING: State.WAITING,
    TrialState.RUNNING: State.RUNNING,
    TrialState.COMPLETE: State.COMPLETE,
    TrialState.PRUNED: State.PRUNED,
    TrialState.FAIL: State.FAILED,
}
TRIAL_STATES = {ours: theirs for theirs, ours in STATES.items()}
_EPOCH_COLUMNS = tuple(f.name for f in fields(Epoch))


def read(frozen: FrozenTrial, spec: StudySpec) -> TrialRecord:
    """Returns the record of one of the study's trials.

    A trial that ended without a worker (added by Optuna's ``add_trial``, say) is imported: it has
    no values, and its parameters only if a trial of the study could have them. One that was told
    complete by hand in the middle of its training counts as stopped early.
    """
    attributes = {**_attributes(frozen), "trial_id": frozen._trial_id}
    if not is_order(attributes.get("before")):  # written by another program
        attributes.pop("before", None)
    curve = curve_of(attributes.pop("curve", None))
    cost = dict(attributes.get("cost", {}))
    if curve:
        cost["train_seconds"] = curve[-1].train_seconds
    state, reason = state_of(frozen, epochs=spec.train.epochs), attributes.get("reason")
    if state is State.PRUNED and frozen.state is TrialState.COMPLETE:
        reason = f"marked complete by hand after epoch {len(curve)}"
    origin = attributes.get("origin", {})
    values = {}
    if state is State.COMPLETE:
        values = dict(zip(spec.search.objectives, frozen.values or (), strict=True))
    return TrialRecord(
        number=frozen.number,
        state=state,
        params=_params(frozen, spec),
        values=values,
        curve=curve,
        cost=cost,
        seed=origin.get("seed"),
        control=origin.get("control", False),
        reason=reason,
        started=frozen.datetime_start,
        ended=frozen.datetime_complete,
        attributes=attributes,
    )


def origin_of(attributes: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the origin that a worker stored with a trial; empty without one."""
    origin = attributes.get("origin")
    return origin if isinstance(origin, dict) else {}


def is_order(before: object) -> bool:
    """Whether this is the place of an end among those of its study, as workers write it."""
    keys = ("counted", "failed")
    return isinstance(before, dict) and all(type(before.get(key)) is int for key in keys)


def state_of(frozen: FrozenTrial, *, epochs: int) -> State:
    """Returns the state of a trial; ``epochs`` are those of a full training."""
    state, attributes = STATES[frozen.state], frozen.user_attrs
    if not state.counts:
        return state
    if not isinstance(attributes.get("origin"), dict):
        return State.IMPORTED
    # Every end by a worker stores "before"; earlier versions did not, but stored the whole curve.
    if "before" in attributes or state is State.PRUNED:
        return state
    is_whole = len((attributes.get("curve") or {}).get("epoch", ())) == epochs
    return state if is_whole else State.PRUNED


def presets(frozen: FrozenTrial) -> dict[str, Any]:
    """Returns the values that a trial has before its first start: queued or added by Optuna."""
    return {**frozen.system_attrs.get("fixed_params", {}), **frozen.params}


def _attributes(frozen: FrozenTrial) -> Mapping[str, Any]:
    """The attributes of a trial; those of other programs under ``foreign``.

    Before its first start a trial has none of a worker's, so what looks like one, such as a cost,
    may be of any type.
    """
    known = frozen.user_attrs
    if isinstance(known.get("origin"), dict):
        return known
    ours: dict[str, Any] = {
        key: known[key] for key in ("enqueued", "reason", "failure") if key in known
    }
    foreign = {key: value for key, value in known.items() if key not in ours}
    if frozen.state.is_finished():
        foreign["params"] = presets(frozen)
    return {**ours, "foreign": foreign} if foreign else ours


def _params(frozen: FrozenTrial, spec: StudySpec) -> Mapping[str, Any]:
    """The trial's parameters, those that the space fixes included.

    Empty if other programs wrote some that no trial of the study can have: views and analyses
    count on their types.
    """
    drawn = presets(frozen)
    if not isinstance(frozen.user_attrs.get("origin"), dict):
        try:
            drawn = check_in_space(spec.space, drawn)
        except SpecError:
            return {}
    with suppress(KeyError):  # a value that has not been drawn yet
        return draw(spec.space, lambda name, _: drawn[name])
    return drawn


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningTrial:
    """A running trial: its id in the database, where it runs, and its last heartbeat.

    ``beat`` is by the database's clock, in seconds since 1970; None: it has none.
    """

    trial_id: int
    origin: Mapping[str, Any]
    beat: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StateCounts:
    """The trials in each state, the running ones, and the first waiting one (its id).

    ``failed`` are the numbers of all failed trials, ``failed_since`` of those since the last trial
    that counts toward the budget, in the order of their ends. ``now`` is the database's time.
    """

    counts: Mapping[State, int]
    running: Sequence[RunningTrial]
    waiting: int | None
    failed: Sequence[int]
    failed_since: Sequence[int]
    now: float

    @property
    def counted(self) -> int:
        """How many trials count toward the budget."""
        return sum(number for state, number in self.counts.items() if state.counts)


def curve_of(columns: Mapping[str, Any] | None) -> Curve:
    """Returns the curve that :func:`columns_of` wrote; empty for None."""
    if not columns:
        return ()
    rows = zip(*(columns[name] for name in _EPOCH_COLUMNS), strict=True)
    return tuple(Epoch(**dict(zip(_EPOCH_COLUMNS, row, strict=True))) for row in rows)


def columns_of(curve: Curve) -> dict[str, list[Any]]:
    """Returns the curve as a trial's attribute stores it: a list per measurement."""
    return {name: [getattr(epoch, name) for epoch in curve] for name in _EPOCH_COLUMNS}


def slot_of(record: TrialRecord) -> int | None:
    """Returns the grid slot that the trial holds; None if it has none, or failed."""
    if record.state is State.FAILED:
        return None
    slot: int | None = record.attributes.get("origin", {}).get("slot")
    return slot


def spec_of(handle: optuna.Study) -> StudySpec | None:
    """Returns the spec of a study; None if the study was not made by hpsearch.

    Raises:
        StudyError: the spec has settings that this version does not know.
    """
    written = handle.user_attrs.get(SPEC)
    return read_spec(handle.study_name, written) if written is not None else None


def read_spec(name: str, written: str) -> StudySpec:
    """Parses the stored spec of the study of that name.

    Raises:
        StudyError: the spec has settings that this version does not know.
    """
    try:
        return from_json(written)
    except (KeyError, TypeError, ValueError, HpsearchError) as exc:
        raise StudyError(
            f"study {name!r} cannot be read by hpsearch {version('hpsearch')}"
            f" ({type(exc).__name__}: {exc}); it was made by a newer version: install that one"
        ) from exc


def repeats_of(attributes: Mapping[str, Any]) -> list[Repeat]:
    """Returns the trainings with fresh seeds that a study's attributes hold, by trial."""
    names = [field.name for field in fields(Repeat)]
    repeats = (
        Repeat(**{name: value[name] for name in names})
        for key, value in attributes.items()
        if key.startswith(f"{CONFIRMED}:")
    )
    return sorted(repeats, key=lambda repeat: (repeat.trial, repeat.place))


class StudyStatus(enum.Enum):
    """Why a worker gets no trial now, and so how its run ended.

    ``label`` is the run's end in a word, as `hpsearch run` prints it; ``words`` is the predicate of
    a sentence about the study.
    """

    DONE = "done", "needs no more trials"
    USED_UP = "done", "has tried every cell of its grid"
    # Other workers run the last trials; one of these may come back.
    BUSY = "left to others", "waits for its last trials"
    STOPPED = "stopped", "is stopped; `hpsearch run` goes on with it"  # by `hpsearch stop`
    FAILING = "failing", "has ended after too many failures in a row"
    TIMED_OUT = "timed out", "is left at the end of the run's time"  # the study would go on
    INTERRUPTED = "interrupted", "was interrupted"  # by Ctrl-C or SIGTERM; the study would go on

    def __init__(self, label: str, words: str) -> None:
        self.label = label
        self.words = words
