"""Studies of a real database side by side: which can be compared, and with which caveats."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hpsearch.core.spec import RecipeSpec
from hpsearch.errors import DeviceError, HpsearchError, StudyError
from hpsearch.search.jobs.analyse import compare
from hpsearch.search.study import catalog
from tests.integration.studies import REFERENCE, make_spec, make_study, origin, search

IMAGES = {"content": "abc", "shape": [1, 8, 8], "classes": ["a", "b"], "val": 40, "split": "s"}
MORE_THREADS = {**REFERENCE, "threads": 2}


def searched(storage, name, *, data=IMAGES, reference=REFERENCE, spec=None, **words):
    """A study that has run to its end, on computed curves."""
    spec = spec or make_spec(name, **{"trials": 12, **words})
    study = make_study(storage, spec, data=data, reference=reference)
    search(study)
    return study


def test_studies_of_a_database_are_compared_as_they_stand(storage):
    searched(storage, "tpe")
    searched(storage, "random", sampler="random", trials=8)

    found = compare(storage, ["random", "tpe"])

    random, tpe = found.studies
    assert (random.study, random.trials, tpe.trials, found.trials) == ("random", 8, 12, 8)
    assert found.seconds == min(random.seconds, tpe.seconds)
    assert found.val_images == 40
    assert found.differences == {"search.sampler": ("random", "tpe")}
    assert found.repeats == ()
    assert found.caveats == (
        "Only tpe began with 5 trials of a recipe known to be good, as every learning sampler"
        " does.",
    )
    assert 0 < random.at_trials <= random.hypervolume <= 1
    assert found.joint_front <= len(random.front.unbeaten) + len(tpe.front.unbeaten)


def test_a_study_has_the_hypervolume_of_its_status_where_all_bounds_are_equal(sqlite):
    one, two = searched(sqlite, "one"), searched(sqlite, "two", seed=1)

    found = compare(sqlite, ["one", "two"])

    told = [study.summary().hypervolume for study in (one, two)]
    assert [study.hypervolume for study in found.studies] == pytest.approx(told)
    assert found.differences == {"search.seed": (0, 1)}
    assert found.repeats == (("one", "two"),)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["one"], "found only one study, 'one', expected two or more"),
        (["one", "two", "one"], "found study 'one' more than once"),
        (["one", "twu"], "found no study 'twu' in .*; did you mean 'two'?"),
        (["one", "queued"], "no trial of study 'queued' is complete"),
        (
            ["one", "params"],
            "'params' optimises accuracy, params, but 'one' optimises accuracy",
        ),
        (
            ["one", "digits"],
            r"other images than 'one' \(.* differ in content, shape\)",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(sqlite, names, words):
    for name in ("one", "two"):
        searched(sqlite, name, trials=3)
    searched(sqlite, "params", trials=3, objectives=("accuracy", "params"))
    searched(sqlite, "digits", trials=3, data={**IMAGES, "content": "def", "shape": [1, 9, 9]})
    catalog.submit(sqlite, make_spec("queued"))

    with pytest.raises(StudyError, match=words):
        compare(sqlite, names)


def test_seconds_of_other_hardware_are_refused_unless_asked_for(sqlite):
    searched(sqlite, "one")
    searched(sqlite, "two", reference=MORE_THREADS)

    with pytest.raises(DeviceError, match=r"with 2 threads, but 'one' on .* 1 thread; run both"):
        compare(sqlite, ["one", "two"])
    found = compare(sqlite, ["one", "two"], mixed_hardware=True)

    assert found.seconds is not None
    assert found.caveats == (
        "Seconds on different hardware are treated as equal: one on test with 1 thread; two on"
        " test with 2 threads.",
    )


def test_where_no_objective_is_timed_other_hardware_is_compared_at_equal_trials(sqlite):
    for name, reference in (("one", REFERENCE), ("two", MORE_THREADS)):
        searched(sqlite, name, reference=reference, objectives=("accuracy", "params"))

    found = compare(sqlite, ["one", "two"])

    assert found.seconds is None
    assert "are not compared: one on" in found.caveats[0]


def test_objectives_in_another_order_are_the_same_objectives(sqlite):
    searched(sqlite, "one", objectives=("accuracy", "params"))
    searched(sqlite, "two", objectives=("params", "accuracy"))

    found = compare(sqlite, ["two", "one"])

    assert (found.level, found.differences) == (("two", "one"), {})


def test_limits_of_the_comparison_are_reported(sqlite):
    searched(sqlite, "one", trials=3)
    searched(sqlite, "one", trials=6, sampler="random")
    study = make_study(sqlite, make_spec("two", seed=1), data={**IMAGES, "split": "t"})
    search(study, at_most=4)
    lease = study.acquire({**origin(), "mixed_hardware": True})
    assert lease.number == 4

    assert compare(sqlite, ["one", "two"]).caveats == (
        "The studies measure accuracy on different validation images, which adds noise.",
        "Only two began with 5 trials of a recipe known to be good, as every learning sampler"
        " does.",
        "one was changed during its search: search.sampler.",
        "two has 4 of its 30 trials so far.",
        "two has 1 trial that ran on other hardware than the rest.",
    )


def test_recipes_and_spaces_that_differ_are_named(sqlite):
    spec = make_spec("one", trials=3)
    fixed = {**spec.space, "kernel_size": 3}
    other = replace(spec, name="two", train=RecipeSpec(epochs=4, flip=True), space=fixed)
    searched(sqlite, "one", spec=spec)
    searched(sqlite, "two", spec=other)

    found = compare(sqlite, ["one", "two"]).differences

    assert found == {"train.flip": (False, True), "space.kernel_size": ({"choices": (3, 5)}, 3)}


def test_a_database_without_the_studies_says_how_to_begin(sqlite):
    with pytest.raises(HpsearchError, match="start one with `hpsearch run`"):
        compare(sqlite, ["one", "two"])
