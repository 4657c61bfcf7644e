"""How a search came on, who worked when, what stopping may have cost, and all of it as JSON."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from datetime import timedelta, timezone

import pytest

from hpsearch.config import build_spec
from hpsearch.core.analysis.history import (
    HandoffReason,
    HypervolumePoint,
    Outlook,
    Presence,
    first_reaching,
    hypervolume_history,
    presence,
    recent_gain,
    spent_seconds,
    timeline,
)
from hpsearch.core.analysis.pareto import ParetoFront, front
from hpsearch.core.analysis.pruning_stats import audit
from hpsearch.core.analysis.study_analysis import Environment, analyse, as_plain, failures, settings
from hpsearch.core.spec_text import to_toml
from hpsearch.core.trial import State, TrialRecord, reached
from tests.unit.trials import START, trial

TWO = ("accuracy", "train_seconds")
BOUNDS = {"accuracy": (0.0, 1.0), "train_seconds": (1.0, 100.0)}


def test_the_hypervolume_grows_with_the_trials_and_the_seconds_spent():
    records = [
        trial(0, 0.5, 10.0, ended=4),  # half of accuracy, half of log cost
        trial(1, 0.9, 1.0, state=State.PRUNED, epochs=1, ended=1),  # a quarter of 1 s
        trial(2, 0.4, 50.0, ended=6),  # dominated
        trial(3, 0.0, 8.0, state=State.FAILED, ended=7),
        trial(4, 1.0, 10.0, ended=9),
        trial(5, 0.9, 5.0, state=State.RUNNING),
    ]

    found = hypervolume_history(records, bounds=BOUNDS, epochs=4)

    assert [now.number for now in found] == [1, 0, 2, 4]
    assert [now.trials for now in found] == [1, 2, 3, 4]
    assert [now.seconds for now in found] == [0.25, 10.25, 60.25, 70.25]
    assert [now.hypervolume for now in found] == pytest.approx([0.0, 0.25, 0.25, 0.5])
    assert first_reaching(found, 0.5).number == 0
    assert first_reaching(found, 0.99).number == 4


@pytest.mark.parametrize(
    ("late", "gained", "outlook"),
    [
        ((0.7, 0.7, 0.7, 0.7, 0.7), 0.0, Outlook.NOTHING),
        ((0.7, 0.7, 0.7, 0.701, 0.705), 0.005, Outlook.LITTLE),
        ((0.7, 0.71, 0.72, 0.72, 0.72), 0.02, Outlook.HELP),
    ],
)
def test_the_last_quarter_decides_whether_more_trials_are_likely_to_help(late, gained, outlook):
    worths = [0.69, *[0.7] * 14, *late]
    found = [
        HypervolumePoint(number=40 - n, trials=n + 1, seconds=1.0 + n, hypervolume=worth)
        for n, worth in enumerate(worths)
    ]

    told = recent_gain(found, on_front={40, 24, 21, 3})

    assert (told.trials, told.arrived, told.outlook) == (5, 2, outlook)
    assert told.gained == pytest.approx(gained)
    assert recent_gain(found[1:], on_front={40}) is None  # 19
    assert recent_gain([replace(now, hypervolume=0.0) for now in found], on_front=()) is None


def test_seconds_of_a_failed_trial_with_epochs_count_as_spent():
    record = trial(0, 0.9, 8.0, state=State.PRUNED, epochs=3)

    assert spent_seconds(record, epochs=4) == 6.0
    assert spent_seconds(TrialRecord(number=0, state=State.FAILED), epochs=4) == 0.0


def test_without_bounds_or_a_complete_trial_there_is_no_curve_to_speak_of():
    assert hypervolume_history([trial(0, 0.9, 1.0)], bounds={}, epochs=4) == ()
    stopped = hypervolume_history([trial(0, 0.9, 1.0, state=State.PRUNED)], bounds=BOUNDS, epochs=4)
    assert first_reaching(stopped, 0.99) is None
    assert first_reaching((), 0.99) is None


def test_the_timeline_has_a_line_a_worker_in_order_of_appearance():
    records = [
        trial(0, 0.9, 1.0, ended=5, worker=7),
        trial(1, 0.9, 1.0, ended=4, worker=9, state=State.FAILED),
        trial(2, 0.9, 1.0, ended=8, worker=9, state=State.RUNNING),
        trial(3, 0.9, 1.0, ended=9, worker=7, state=State.WAITING),
        TrialRecord(number=4, state=State.WAITING),
    ]

    spans = timeline(records)

    assert [(s.number, s.worker, s.started, s.ended) for s in spans] == [
        (1, "here, process 9", 0.0, 2.0),
        (2, "here, process 9", 4.0, 4.0),
        (0, "here, process 7", 1.0, 3.0),
    ]
    assert [span.state for span in spans] == [State.FAILED, State.RUNNING, State.COMPLETE]
    assert timeline([]) == ()
    assert presence(spans) == Presence(workers=2, seconds=4.0, busy=4.0 / 6.0)
    assert presence([]) == Presence(workers=0, seconds=0.0, busy=0.0)


def left(start, ended, moments, *, worker=7):
    begun, until = ((START + timedelta(seconds=s)).isoformat() for s in moments)
    told = {"start": start, "host": "here", "pid": worker, "epochs": 0, "ended": ended}
    return {**told, "from": begun, "until": until}


def test_each_start_of_a_trial_is_a_bar_on_the_line_of_the_worker_that_had_it():
    history = [left(1, "worker lost", (0, 3)), left(2, "handed back", (4, 6), worker=8)]
    waiting = TrialRecord(
        number=1,
        state=State.WAITING,
        started=START,
        attributes={"history": [left(1, "handed back", (7, 8), worker=9)]},
    )

    spans = timeline([trial(0, 0.9, 1.0, ended=10, worker=9, history=history), waiting])

    assert [(s.number, s.worker[-1], s.started, s.ended, s.state) for s in spans] == [
        (0, "7", 0.0, 3.0, HandoffReason.LOST),
        (0, "8", 4.0, 6.0, HandoffReason.HANDED_BACK),
        (1, "9", 7.0, 8.0, HandoffReason.HANDED_BACK),
        (0, "9", 8.0, 10.0, State.COMPLETE),
    ]
    assert presence(spans).workers == 3
    assert [plain["state"] for plain in as_plain(spans)][:2] == ["worker lost", "handed back"]


def test_a_trial_that_failed_as_lost_has_its_last_start_once():
    history = [left(n, "worker lost", (2 * n, 2 * n + 1)) for n in (1, 2, 3)]
    record = trial(0, 0.9, 1.0, state=State.FAILED, ended=9, history=history)
    record.attributes["origin"]["starts"] = 3

    assert [span.state for span in timeline([record])] == [
        HandoffReason.LOST,
        HandoffReason.LOST,
        State.FAILED,
    ]


def test_starts_are_in_one_clock_whatever_zone_their_workers_are_in():
    tokyo = timezone(timedelta(hours=9))
    begun, until = (START.astimezone(tokyo) + timedelta(seconds=s) for s in (0, 3))
    entry = {
        **left(1, "worker lost", (0, 3)),
        "from": begun.isoformat(),
        "until": until.isoformat(),
    }
    spans = timeline([trial(0, 0.9, 1.0, ended=6, worker=9, history=[entry])])
    assert [(span.started, span.ended) for span in spans] == [(0.0, 3.0), (4.0, 6.0)]


def test_an_old_history_without_times_still_has_its_last_start():
    old = {"start": 1, "host": "here", "pid": 7, "epochs": 2, "ended": "worker lost"}

    (span,) = timeline([trial(0, 0.9, 1.0, ended=4, worker=9, history=[old])])

    assert (span.worker, span.state) == ("here, process 9", State.COMPLETE)


def verdict(value, pruner="forecast"):
    return {"pruner": pruner, "epoch": 1, "value": value, "limit": 0.1, "beaten_by": 0}


def test_control_trials_estimate_the_cost_of_stopping():
    records = [
        trial(0, 0.9, 1.0, control=True),  # would not have been stopped
        trial(1, 0.95, 2.0, control=True, loss=0.5, would_prune=verdict(0.4)),  # on the front
        trial(2, 0.5, 3.0, control=True, loss=0.3, would_prune=verdict(0.4)),  # beat its forecast
        trial(3, 0.5, 3.0, control=True, loss=0.5, would_prune=verdict(0.4)),  # rightly doomed
        trial(4, 0.5, 3.0, control=True, loss=0.3, would_prune=verdict(0.4, "margin")),
        trial(5, 0.5, 3.0, state=State.PRUNED, control=True, epochs=1),  # diverged
        trial(6, 0.5, 3.0, state=State.PRUNED, epochs=1),
    ]

    found = audit(records, front(records, TWO))

    assert (found.pruned, found.control) == (2, 5)
    assert found.judged == (1, 2, 3, 4)
    assert (found.on_front, found.beat_forecast, found.wronged) == ((1,), (2,), (1, 2))
    share, low, high = found.share
    assert share == 0.5
    assert (low, high) == pytest.approx((0.1500, 0.8500), abs=5e-4)


def test_without_a_judged_control_trial_nothing_is_known():
    found = audit([trial(0, 0.9, 1.0, state=State.PRUNED)], ParetoFront())

    assert (found.pruned, found.judged, found.wronged, found.share) == (1, (), (), None)


def test_what_a_trial_has_reached_prefers_its_values():
    record = trial(0, 0.9, 2.0, state=State.PRUNED, epochs=1)

    assert reached(record)["accuracy"] == 0.9
    assert reached(record)["train_seconds"] == 2.0
    assert reached(TrialRecord(number=0, state=State.COMPLETE, values={"accuracy": 0.5})) == {
        "accuracy": 0.5
    }


def test_failures_and_settings_are_counted_the_most_frequent_first():
    def failed(number, reason):
        return TrialRecord(number=number, state=State.FAILED, reason=reason)

    assert failures([failed(0, "a"), failed(1, "b"), failed(2, "b"), failed(3, None)]) == {
        "b": 2,
        "a": 1,
        "not known": 1,
    }

    def ran(number, torch):
        origin = {"processor": "cpu: x", "threads": 2, "versions": {"torch": torch}}
        return TrialRecord(number=number, state=State.PRUNED, attributes={"origin": origin})

    found = settings([ran(0, "2.1"), ran(1, "2.2"), ran(2, "2.2")])
    assert [(s.versions, s.trials) for s in found] == [({"torch": "2.2"}, 2), ({"torch": "2.1"}, 1)]


def findings_of(records, *, objectives=TWO, data=None, confirmed=(), chance=0.0, **overrides):
    spec = build_spec({}, {"search.objectives": list(objectives), "train.epochs": 4, **overrides})
    environment = Environment(
        spec=spec,
        data={"val": 750} if data is None else data,
        reference={},
        settings=settings(records),
        changes=(),
        created=None,
    )
    known = {**BOUNDS, "accuracy": (chance, 1.0)}
    bounds = {n: known.get(n, (1.0, 1e6)) for n in objectives}
    return analyse(spec.name, records, bounds=bounds, environment=environment, confirmed=confirmed)


def test_findings_gather_everything_of_a_study():
    found = findings_of(
        [
            trial(0, 0.8, 1.0),
            trial(1, 0.95, 2.0),
            trial(2, 0.96, 9.0),
            trial(3, 0.7, 3.0, state=State.PRUNED, epochs=1),
            trial(4, 0.0, 3.0, state=State.FAILED),
        ]
    )

    assert [s.record.number for s in found.front] == [0, 1, 2]
    assert [s.record.number for s in found.front if s.is_knee] == [found.answer.knee.number]
    assert [s.record.number for s in found.trials] == [0, 1, 2, 3]
    assert [s.is_front for s in found.trials] == [True, True, True, False]
    assert found.counts["failed"] == 1
    assert found.savings.epochs_trained == 13
    assert found.hypervolume == found.attainment[-1].hypervolume
    assert found.nearly.number == 1  # trial 2 adds 0.5 % of it
    assert (found.presence.workers, found.presence.seconds, found.presence.busy) == (1, 10.0, 1.0)


def test_all_findings_are_json_even_where_numbers_are_not():
    found = findings_of([trial(0, 0.9, 1.0, loss=float("nan")), trial(1, 0.8, 2.0)])

    plain = json.loads(json.dumps(as_plain(found), allow_nan=False))

    assert plain["trials"][0]["measured"]["val_loss"] is None
    assert plain["trials"][0]["accuracy_interval"] == pytest.approx([0.8765, 0.9195], abs=5e-4)
    assert plain["answer"]["knee"]["number"] == 0


@pytest.mark.parametrize(
    "raw",
    [
        {},
        {"name": 'a "quoted" \\ study\x7f é\n', "search": {"timeout": "1h30m"}},
        {
            "model": {"widths": "per-block"},
            "space": {"width": {"low": 4, "high": 64, "log": True}, "width_2": 12, "n_blocks": 3},
            "pruning": {"rungs": [1, 3]},
            "search": {"sampler": "grid", "grid": ["optimizer"]},
        },
        {"space": {"dropout": {"low": 0.0, "high": 0.5, "step": 0.1}, "weight_decay": 1e-05}},
    ],
)
def test_the_study_file_makes_the_same_study_again(raw):
    spec = build_spec(raw)

    assert build_spec(tomllib.loads(to_toml(spec))) == spec
