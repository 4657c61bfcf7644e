"""Importance comes from Optuna as plain numbers, and costs no scikit-learn."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from hpsearch.core.dimensions import ChoiceDim
from hpsearch.search.jobs.analyse import ENOUGH, importances
from hpsearch.search.storage.storage import open_storage
from tests.integration.studies import make_spec, make_study, search

FIXED = {"optimizer": "adam", "dropout": 0.1, "weight_decay": 1e-4, "batch_norm": True}


def importances_of(study):
    return importances(study, study.records())


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    opened = open_storage(str(tmp_path_factory.mktemp("importance") / "s.db"), create=True)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def found(storage):
    """The importances of a study of 120 trials."""
    return importances_of(searched(storage, "large", trials=120))


def searched(storage, name, **search_):
    search_ = {"trials": 25, "sampler": "random", "pruner": "none", **search_}
    study = make_study(storage, make_spec(name, space=FIXED, **search_))
    search(study)
    return study


def test_each_objective_and_the_front_have_shares_that_sum_to_one(found):
    assert [one.target for one in found] == ["accuracy", "train_seconds", "front"]
    assert {one.trials for one in found} == {120}
    for one in found:
        assert sum(one.shares.values()) == pytest.approx(1.0)
        assert list(one.shares.values()) == sorted(one.shares.values(), reverse=True)
        assert not set(one.shares) & set(FIXED)


def test_the_dimensions_that_the_trials_depend_on_are_found(found):
    """Their accuracy depends on learning rate and widths alone, their time on widths alone."""
    accuracy, seconds, _ = found

    wide = {"n_blocks", "base_width", "growth"}
    assert next(iter(accuracy.shares)) == "learning_rate"
    assert sum(share for name, share in seconds.shares.items() if name in wide) > 0.6


def test_what_cannot_change_a_cost_has_no_share_in_it(found, storage):
    accuracy, seconds, on_front = (set(one.shares) for one in found)

    assert {"learning_rate", "schedule", "batch_size"} <= accuracy == on_front
    assert accuracy - seconds == {"learning_rate", "schedule"}
    costs = importances_of(searched(storage, "costs", objectives=("params", "train_seconds")))
    params, seconds, on_front = (set(one.shares) for one in costs)
    assert not params & {"learning_rate", "schedule", "batch_size"}
    assert seconds == on_front == params | {"batch_size"}


def test_with_custom_code_every_dimension_keeps_its_share(storage):
    spec = make_spec("own", space=FIXED, trials=25, sampler="random", pruner="none")
    spec = replace(spec, train=replace(spec.train, function="loops:train"))
    study = make_study(storage, spec)
    search(study)

    assert all("learning_rate" in one.shares for one in importances_of(study))


def test_one_objective_has_no_front_to_be_on(storage):
    found = importances_of(searched(storage, "one", trials=60, objectives=("accuracy",)))

    assert [one.target for one in found] == ["accuracy"]
    assert next(iter(found[0].shares)) == "learning_rate"  # for high accuracy, not for low


def test_three_objectives_have_a_share_each(storage):
    found = importances_of(
        searched(storage, "three", objectives=("accuracy", "train_seconds", "params"))
    )

    assert [one.target for one in found] == ["accuracy", "train_seconds", "params", "front"]


def test_too_few_trials_and_a_fixed_space_have_no_importance(storage):
    assert importances_of(searched(storage, "few", trials=ENOUGH - 1)) == ()
    everything = {
        "n_blocks": 2,
        "base_width": 8,
        "growth": 1.0,
        "kernel_size": 3,
        "head": "gap",
        "learning_rate": 0.01,
        "batch_size": 64,
        "schedule": ChoiceDim(choices=("constant",)),
    }
    spec = make_spec("fixed", trials=25, pruner="none", space={**FIXED, **everything})
    fixed = make_study(storage, spec)
    search(fixed)
    assert importances_of(fixed) == ()


def test_scikit_learn_stays_out_and_others_still_get_the_whole_of_optuna(storage, found):
    code = """
import sys
from hpsearch.search.study.catalog import open_study
from hpsearch.search.jobs.analyse import importances
from hpsearch.search.storage.storage import open_storage
study = open_study(open_storage(sys.argv[1], create=False), 'large')
assert len(importances(study, study.records())) == 3
assert not {"sklearn", "torch", "pandas"} & set(sys.modules), "too much was imported"
import importlib.util
assert importlib.util.find_spec("sklearn") is not None
assert "optuna.importance" not in sys.modules  # the next import gets it whole
"""
    path = storage.url.database
    process = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)

    assert (process.returncode, process.stderr) == (0, "")


def test_other_threads_import_scikit_learn_and_optuna_as_ever_meanwhile(storage, found):
    """Halfway through the loading of Optuna's importance, a thread imports what it may see."""
    code = """
import importlib, sys, threading
from hpsearch.search.study.catalog import open_study
from hpsearch.search.jobs.analyse import importances
from hpsearch.search.storage.storage import open_storage
seen = []
def look():
    for name in ("sklearn", "optuna.importance"):
        seen.append(importlib.import_module(name).__spec__.loader is not None)
    seen.append(hasattr(importlib.import_module("optuna.importance"), "FanovaImportanceEvaluator"))
def halfway(event, arguments):
    if event == "exec" and "_ped_anova" in arguments[0].co_filename and not threads:
        threads.append(threading.Thread(target=look))
        threads[0].start()
        threads[0].join(timeout=60)
threads = []
sys.addaudithook(halfway)
study = open_study(open_storage(sys.argv[1], create=False), 'large')
assert len(importances(study, study.records())) == 3
assert seen == [True, True, True], seen
import optuna
assert optuna.importance.get_param_importances is not None
"""
    path = storage.url.database
    process = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)

    assert (process.returncode, process.stderr) == (0, "")
