"""The private hooks of Optuna that hpsearch leans on; each says what breaks if it goes."""

import inspect

import optuna
import pytest
from optuna.samplers import GPSampler, QMCSampler
from optuna.trial import TrialState


@pytest.fixture
def study():
    return optuna.create_study(directions=["maximize", "minimize"])


def test_a_running_trial_can_be_set_back_to_waiting_and_keeps_what_it_has(study):
    """Handing a trial back: recording.hand_back and reaping.reap."""
    trial = study.ask()
    value = trial.suggest_float("x", 0, 1)
    study._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)
    again = study.ask()
    assert (again.number, again.suggest_float("x", 0, 1)) == (trial.number, value)


def test_samplers_read_trials_by_one_method(study):
    """samplers hand a sampler a study whose trials are read once, and with logarithms of costs."""
    study.ask()
    study._get_trials = lambda *_, **__: []
    assert study.get_trials() == []


def test_a_distribution_knows_what_it_contains():
    """samplers.sample asks it whether a joint draw fits."""
    kind = optuna.distributions.IntDistribution(1, 3)
    assert (kind._contains(2.0), kind._contains(4.0)) == (True, False)


def test_qmc_asks_for_its_points_number():
    """NumberedQMCSampler answers with the trial's own number."""
    signature = inspect.signature(QMCSampler._find_sample_id)
    assert list(signature.parameters) == ["self", "study", "search_space"]


def test_gp_learns_from_the_trials_it_is_handed():
    """StoppedAwareGPSampler adds the stopped trials to the complete ones."""
    assert list(inspect.signature(GPSampler._sample_relative_impl).parameters) == [
        "self",
        "study",
        "completed_trials",
        "running_trials",
        "search_space",
    ]


def test_reporting_in_a_multi_objective_study_is_still_refused(study):
    """Why curves are kept in a trial attribute; if this passes some day, Optuna has learnt it."""
    with pytest.raises(NotImplementedError):
        study.ask().report(1.0, 1)
