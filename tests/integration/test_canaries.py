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
    """Handing a trial back: Study.hand_back and _reap."""
    trial = study.ask()
    value = trial.suggest_float("x", 0, 1)
    study._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)
    again = study.ask()
    assert (again.number, again.suggest_float("x", 0, 1)) == (trial.number, value)


def test_ask_draws_nothing_until_a_value_is_suggested(study):
    """The budget's lock is held for milliseconds; the sampler is set after the number is known."""

    class Fixed(optuna.samplers.RandomSampler):
        def sample_independent(self, *_):
            return 0.25

    trial = study.ask()
    study.sampler = Fixed()
    assert trial.suggest_float("x", 0, 1) == 0.25


def test_suggest_takes_any_distribution():
    """search.study draws from the space by Trial._suggest, whatever the kind of dimension."""
    assert list(inspect.signature(optuna.Trial._suggest).parameters) == [
        "self",
        "name",
        "distribution",
    ]


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
