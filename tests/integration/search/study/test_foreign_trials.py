"""Trials that other programs put into a study: queued values, imported and hand-told trials."""

import math

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from hpsearch.api.studies import StudyHandle
from hpsearch.core.analysis.recommendation import TrialSelection, select_trial
from hpsearch.core.trial import Outcome, State
from hpsearch.errors import StudyError
from hpsearch.search.jobs.analyse import analyse_study
from hpsearch.search.jobs.confirm import _chosen_trials, rerun
from hpsearch.search.storage.records import StudyStatus
from hpsearch.search.study.leases import Lease
from hpsearch.search.worker.work_loop import Observer, StopSignal, work
from hpsearch.util.messages import messages_to
from tests.integration.studies import (
    curve_of,
    make_spec,
    make_study,
    origin,
    search,
    simulate,
)

WRONG = [
    ({"optimizer": "lion"}, "--set optimizer: found 'lion', expected one of sgd, adam"),
    ({"learning_rate": math.nan}, "--set learning_rate: found nan, expected 1e-08 to 10"),
    ({"learning_rate": "0.01"}, "--set learning_rate: found '0.01', expected a number"),
    ({"learning_rate": 5.0}, "--set learning_rate: found 5.0, the study searches 0.0003 to 0.1"),
    ({"n_blocks": 2.5}, "--set n_blocks: found 2.5, expected a whole number"),
    ({"n_blocks": None}, "--set n_blocks: found None"),
    ({"n_blocks": [3]}, "--set n_blocks"),
    ({"n_blocks": "three"}, "--set n_blocks"),
    ({"batch_norm": 1}, "--set batch_norm"),
    ({"neurons": 3}, "--set neurons: found an unknown dimension"),
    ({"optimizer": "adam", "momentum": 0.9}, "--set momentum: has no effect"),
]


@pytest.mark.parametrize(("values", "words"), WRONG, ids=[str(values) for values, _ in WRONG])
def test_a_queued_trial_that_enqueue_would_refuse_fails_with_its_words(sqlite, values, words):
    """Keeps the promise "A configuration that Optuna's `enqueue_trial` …" of docs/workers.md."""
    study = make_study(sqlite, make_spec(trials=2, max_failures=1))
    study.handle.enqueue_trial(values)
    study.records()  # can be read while it waits
    failed = study.acquire(origin())
    assert (failed.state, failed.params) == (State.FAILED, {})
    assert failed.reason.startswith("queued by another program: ")
    assert words in failed.reason
    # It neither counts towards the budget nor as a failure in a row.
    assert search(study) is StudyStatus.DONE
    assert study.tally()[State.FAILED] == 1
    assert sum(record.state.counts for record in study.records()) == 2


def test_queued_values_of_the_space_are_trained_in_their_dimensions_types(storage):
    study = make_study(storage)
    study.handle.enqueue_trial({"n_blocks": 2.0, "optimizer": "sgd", "momentum": 0.9})
    lease = study.acquire(origin())
    assert isinstance(lease, Lease)
    assert repr(lease.params["n_blocks"]) == "2"
    assert lease.params["momentum"] == 0.9


def test_a_waiting_trial_added_with_values_outside_the_space_is_not_trained(sqlite):
    study = make_study(sqlite)
    wide = {"base_width": IntDistribution(1, 4096)}
    added = optuna.create_trial(
        state=TrialState.WAITING, params={"base_width": 4000}, distributions=wide
    )
    study.handle.add_trial(added)
    failed = study.acquire(origin())
    assert failed.state is State.FAILED
    assert "--set base_width: found 4000, the study searches 8 to 32" in failed.reason


def add_imported(study, values, **more):
    """Adds a complete trial as Optuna's users do, with a parameter that no trial can have."""
    kinds = {
        "optimizer": CategoricalDistribution(("lion", "tiger")),
        "learning_rate": FloatDistribution(1e-4, 100.0),
    }
    params = {"optimizer": "lion", "learning_rate": 50.0}
    more.setdefault("user_attrs", {"cost": 3, "curve": "none"})
    added = optuna.create_trial(values=values, params=params, distributions=kinds, **more)
    study.handle.add_trial(added)
    return len(study.records()) - 1


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "gp", "qmc"])
def test_imported_trials_are_left_out_everywhere_and_do_not_count(sqlite, sampler):
    """Keeps the promise "A trial that was added complete …" of docs/workers.md."""
    study = make_study(sqlite, make_spec(trials=14, sampler=sampler, pruner="none"))
    dream = add_imported(study, [1.0, 1e-6])
    record = study.record(dream)
    assert (record.state, record.values, record.params) == (State.IMPORTED, {}, {})
    assert record.attributes["foreign"]["params"]["optimizer"] == "lion"
    assert search(study) is StudyStatus.DONE
    records = study.records()
    assert sum(record.state.counts for record in records) == 14
    assert study.tally()[State.IMPORTED] == 1
    summary = study.summary()
    assert (summary.complete, summary.imported) == (14, 1)
    assert summary.hypervolume < 0.99

    said = []
    handle = StudyHandle(study=study, name=study.name)
    with messages_to(said.append):
        found = handle.pareto_front()
    assert said == ["1 imported trial left out: not trained by hpsearch"]
    assert dream not in found.numbers
    analysis = analyse_study(study)
    assert dream not in {trial.record.number for trial in analysis.trials}
    assert analysis.counts["imported"] == 1
    best = select_trial(records, study.objectives, TrialSelection(best="accuracy"))
    assert best.number != dream
    for choose in (
        lambda: select_trial(records, study.objectives, TrialSelection(trial=dream)),
        lambda: _chosen_trials(records, study.objectives, [dream]),
        lambda: rerun(study, dream, None, dataset=None, on_epoch=None),
    ):
        with pytest.raises(StudyError, match=f"trial {dream} was imported, expected a trial that"):
            choose()


def test_an_origin_that_no_worker_wrote_is_none(storage):
    study = make_study(storage, make_spec(trials=2))
    for state, values in ((TrialState.COMPLETE, [0.9, 1.0]), (TrialState.RUNNING, None)):
        foreign = optuna.create_trial(state=state, values=values, user_attrs={"origin": "x"})
        study.handle.add_trial(foreign)
    assert [record.state for record in study.records()] == [State.IMPORTED, State.RUNNING]
    assert study.tally()[State.IMPORTED] == study.summary().imported == 1
    assert study.front().trials == ()
    assert study.acquire(origin()).number == 1  # nobody runs it, so it is recovered


def test_a_study_of_imported_trials_alone_has_no_front_and_its_whole_budget(storage):
    study = make_study(storage, make_spec(trials=1))
    for _ in range(3):
        add_imported(study, [1.0, 1.0])
    assert study.summary().front_size == 0
    assert search(study) is StudyStatus.DONE
    assert study.summary().complete == 1


def test_a_running_trial_told_complete_by_hand_counts_as_stopped_early(storage):
    """Keeps the promise "A trial that is marked complete by hand …" of docs/workers.md."""
    study = make_study(storage, make_spec(trials=2))
    lease = study.acquire(origin())
    lease.write_cost({"params": 1.0})
    lease.write_epoch(curve_of(lease)[:2])
    study.handle.tell(lease.number, [1.0, 1e-6])
    record = study.record(lease.number)
    assert (record.state, record.values) == (State.PRUNED, {})
    assert record.reason == "marked complete by hand after epoch 2"
    assert search(study) is StudyStatus.DONE
    assert len(study.records()) == 2
    assert study.summary().front_size == 1


def test_complete_trials_of_earlier_versions_keep_their_values(sqlite):
    study = make_study(sqlite)
    lease = study.acquire(origin())
    lease.write_epoch(curve_of(lease))
    study.handle.tell(lease.number, [0.5, 2.0])  # an end without counts, as they stored it
    assert study.record(lease.number).state is State.COMPLETE


def test_failures_that_other_programs_wrote_are_not_failures_in_a_row(sqlite):
    study = make_study(sqlite, make_spec(max_failures=2))
    assert study.failures() == []
    for _ in range(3):
        number = study.acquire(origin()).number
        study.handle.tell(number, state=TrialState.FAIL)
    assert study.failures() == []
    study.acquire(origin()).finish(Outcome(state=State.FAILED, reason="bug: boom"))
    assert len(study.failures()) == 1


class _Ended(Observer):
    def __init__(self, records):
        self.records = records

    def ended(self, record):
        self.records.append(record)


def test_a_worker_reports_trials_that_fail_at_once_and_goes_on(sqlite):
    study, ended = make_study(sqlite, make_spec(trials=2, max_failures=2)), []
    for _ in range(3):
        study.handle.enqueue_trial({"optimizer": "lion"})
    status = work(
        study,
        lambda lease, stop: simulate(study, lease),
        origin=origin(),
        observer=_Ended(ended),
        stop=StopSignal(),
    )
    assert status is StudyStatus.DONE
    states = [record.state for record in ended]
    assert states[:3] == [State.FAILED] * 3
    assert all(state.counts for state in states[3:])
    assert len(states) == 5
