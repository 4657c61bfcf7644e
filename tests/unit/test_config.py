"""Study files and options become a spec, or an error of one line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hpsearch import build_spec, load_study_file
from hpsearch.config import parse_duration
from hpsearch.core.dimensions import ChoiceDim, FloatDim, IntDim
from hpsearch.core.initial_trials import few_steps_warning
from hpsearch.core.space import default_space
from hpsearch.core.spec import StudySpec, from_json, to_json
from hpsearch.errors import SpecError

STUDIES = Path(__file__).parents[2] / "studies"
FILES = sorted(STUDIES.glob("*.toml"))


def test_the_promised_study_files_are_there():
    promised = {"quickstart", "emnist-balanced", "depth", "my-images"}

    assert promised <= {path.stem for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_study_file_loads_and_survives_the_database(path):
    spec = load_study_file(path)

    assert isinstance(spec, StudySpec)
    assert from_json(to_json(spec)) == spec


def test_quickstart_is_the_built_in_default_but_for_its_name():
    quickstart = load_study_file(STUDIES / "quickstart.toml")

    assert quickstart == replace(build_spec(), name=quickstart.name)


def test_the_template_trains_long_enough_on_a_hundred_images():
    spec = load_study_file(STUDIES / "my-images.toml")

    assert few_steps_warning(spec.space, epochs=spec.train.epochs, images=84) is None


def test_depth_covers_every_depth_with_sgd_and_adam_evenly():
    spec = load_study_file(STUDIES / "depth.toml")

    assert spec.search.sampler == "grid+random"
    assert spec.search.grid == ("n_blocks", "optimizer")
    assert spec.space["n_blocks"] == IntDim(low=1, high=5)
    assert set(spec.space["optimizer"].choices) == {"sgd", "adam"}


def test_without_anything_the_built_in_default_is_searched():
    spec = build_spec()

    assert spec.name == spec.data.dataset == "mnist5k"
    assert spec.search.trials == 100
    assert spec.search.objectives == ("accuracy", "train_seconds")
    assert spec.train.epochs >= 8
    assert spec.space == default_space("geometric")


def test_a_study_is_named_after_its_file_unless_it_names_itself(tmp_path):
    (tmp_path / "birds.toml").write_text("[search]\ntrials = 7\n")
    (tmp_path / "named.toml").write_text('name = "owls"\n')

    assert load_study_file(tmp_path / "birds.toml").name == "birds"
    assert load_study_file(tmp_path / "named.toml").name == "owls"
    assert load_study_file(tmp_path / "named.toml", {"name": "hawks"}).name == "hawks"


@pytest.mark.parametrize(
    ("dataset", "name"), [("digits", "digits"), ("x/birds.npz", "birds"), ("x/owls", "owls")]
)
def test_without_a_file_a_study_is_named_after_its_data(dataset, name):
    assert build_spec(None, {"data.dataset": dataset}).name == name


def test_overrides_go_over_the_file_and_none_is_no_override():
    raw = {"search": {"trials": 5, "seed": 3}}

    spec = build_spec(raw, {"search.trials": 9, "search.seed": None, "train.epochs": 2})

    assert (spec.search.trials, spec.search.seed, spec.train.epochs) == (9, 3, 2)
    assert raw == {"search": {"trials": 5, "seed": 3}}


def test_a_space_can_be_narrowed_fixed_and_chosen_from():
    spec = build_spec(
        {
            "space": {
                "n_blocks": {"low": 2, "high": 3},
                "optimizer": ["sgd", "adam"],
                "learning_rate": {"low": 1e-3, "high": 1e-1, "log": True},
                "dropout": 0.25,
            }
        }
    )

    assert spec.space["n_blocks"] == IntDim(low=2, high=3)
    assert spec.space["optimizer"] == ChoiceDim(choices=("sgd", "adam"))
    assert spec.space["learning_rate"] == FloatDim(low=1e-3, high=1e-1, log=True)
    assert spec.space["dropout"] == 0.25
    assert spec.space["schedule"] == default_space("geometric")["schedule"]


def test_per_block_widths_bring_their_own_dimension():
    spec = build_spec({"model": {"widths": "per-block"}})

    assert "width" in spec.space
    assert "base_width" not in spec.space


WRONG = {
    "unknown table": ({"serach": {}}, r"unknown key 'serach'; did you mean 'search'\?"),
    "unknown key": ({"search": {"trails": 1}}, r"search\.trails: .*did you mean 'trials'\?"),
    "not a table": ({"train": 8}, r"train: found 8, expected a table \[train\]"),
    "name that is no text": ({"name": 3}, "name: found 3, expected a text"),
    "empty name": ({"name": " "}, "name: found ' ', expected a name"),
    "text for a number": (
        {"search": {"trials": "many"}},
        r"search\.trials: found 'many', expected",
    ),
    "digits for a number": (
        {"search": {"trials": "3"}},
        r"search\.trials: found '3', expected a whole number without",
    ),
    "truth for a number": ({"search": {"trials": True}}, r"search\.trials: found True, expected"),
    "half a trial": ({"search": {"trials": 2.5}}, r"search\.trials: found 2\.5, expected"),
    "text for a truth": ({"train": {"flip": "yes"}}, r"train\.flip: found 'yes', expected"),
    "text for a list": ({"search": {"grid": "n_blocks"}}, r"search\.grid: found 'n_blocks', exp"),
    "number in a list": ({"search": {"objectives": [1]}}, r"search\.objectives\.0: found 1, expe"),
    "no trials": ({"search": {"trials": 0}}, r"search\.trials: found 0, expected 1 or more"),
    "no objective": (
        {"search": {"objectives": []}},
        r"search\.objectives: found \[\], expected at",
    ),
    "nan": ({"train": {"label_smoothing": float("nan")}}, r"label_smoothing: found nan, expected"),
    "endless timeout": ({"search": {"timeout": float("inf")}}, r"search\.timeout: found inf, exp"),
    "no time": ({"search": {"timeout": 0}}, r"search\.timeout: found 0\.0, expected more than 0"),
    "a trial of no time": (
        {"search": {"trial_timeout": 0}},
        r"search\.trial_timeout: found 0\.0, expected more than 0 seconds",
    ),
    "no time at all": (
        {"search": {"trial_timeout": "soon"}},
        r"trial_timeout: found 'soon', expected a duration such as 90s",
    ),
    "fraction": ({"data": {"val_fraction": 0.6}}, r"data\.val_fraction: found 0\.6, expected a fr"),
    "risk": ({"pruning": {"risk": 2}}, r"pruning\.risk: found 2\.0, expected 0 to 1"),
    "rung": ({"pruning": {"rungs": [0]}}, r"pruning\.rungs: found \[0\], expected epochs from 1"),
    "widths": (
        {"model": {"widths": "wide"}},
        r"model\.widths: found 'wide'; known: geometric, per-",
    ),
    "width kind": ({"space": {"width": 8}}, r"space\.width: .*expected only with 'per-block'"),
    "dimension": (
        {"space": {"lr": 1}},
        r"space\.lr: found an unknown dimension; did you mean 'learning_rate'\?",
    ),
    "key above its table": (
        {"trials": 3},
        r"unknown key 'trials'; trials belongs under \[search\]$",
    ),
    "misspelled above its table": ({"trails": 3}, r"'trails'; trials belongs under \[search\]$"),
    "epochs above their table": ({"epochs": 3}, r"'epochs'; epochs belongs under \[train\]$"),
    "data above its table": ({"dataset": "digits"}, r"dataset belongs under \[data\]$"),
    "dimension in another table": (
        {"train": {"learning_rate": 0.1}},
        r"train\.learning_rate: found an unknown key; learning_rate belongs under \[space\]$",
    ),
    "short dimension in another table": (
        {"train": {"lr": 0.1}},
        r"learning_rate belongs under \[space\]$",
    ),
    "key in the space": (
        {"space": {"epochs": 3}},
        r"space\.epochs: found an unknown dimension; epochs belongs under \[train\]$",
    ),
    "study for a name": ({"study": "owls"}, r"unknown key 'study'; did you mean 'name'\?"),
    "name in a table": ({"search": {"study": "owls"}}, "belongs at the top, as name"),
    "text for objectives": (
        {"search": {"objectives": "accuracy,params"}},
        r'objectives: found \S+, expected a list, e\.g\. \["accuracy", "params"\]$',
    ),
    "truth in words": (
        {"space": {"batch_norm": "yes"}},
        r"space\.batch_norm: found 'yes', expected one of false, true$",
    ),
    "optimizer": (
        {"space": {"optimizer": "lion"}},
        r"found 'lion', expected one of sgd, adam, adamw, rmsprop$",
    ),
    "dimension of no name": (
        {"space": {"foo": 1}},
        r"known: base_width, .*, weight_decay, width, width_1 …$",
    ),
    "kernel": ({"space": {"kernel_size": 4}}, r"space\.kernel_size: found 4, expected one of 1, 3"),
    "infinite end": (
        {"space": {"n_blocks": {"low": 1, "high": float("inf")}}},
        r"space\.n_blocks: found inf, expected",
    ),
    "nan value": ({"space": {"n_blocks": float("nan")}}, r"space\.n_blocks: found nan, expected"),
    "step that is no number": (
        {"space": {"n_blocks": {"low": 1, "high": 5, "step": [1]}}},
        r"space\.n_blocks: found step = \[1\], expected",
    ),
    "nan step": (
        {"space": {"dropout": {"low": 0.0, "high": 0.5, "step": float("nan")}}},
        r"space\.dropout: found step",
    ),
    "infinite step": (
        {"space": {"n_blocks": {"low": 1, "high": 5, "step": float("inf")}}},
        r"space\.n_blocks: found step",
    ),
    "key of a range": ({"space": {"dropout": {"low": 0}}}, r"space\.dropout: found keys \['low'\]"),
    "epochs": ({"train": {"epochs": 0}}, r"train\.epochs: found 0, expected 1 to 10000$"),
    "range the wrong way": (
        {"space": {"n_blocks": {"low": 3, "high": 1}}},
        r"space\.n_blocks: .*low 3 above high 1; swap them",
    ),
    "dropout": ({"space": {"dropout": 1.5}}, r"space\.dropout: found 1\.5, expected 0\.0 to 0\.9"),
    "sampler": ({"search": {"sampler": "nsga"}}, r"found 'nsga'; did you mean 'nsga2'\?"),
    "pruner": ({"pruning": {"pruner": "forcast"}}, r"did you mean 'forecast'\?"),
    "objective": (
        {"search": {"objectives": ["acc"]}},
        r"search\.objectives: found 'acc'; did you mean 'accuracy'\?",
    ),
    "grid over nothing": ({"search": {"sampler": "grid+random"}}, r"search\.grid: found nothing"),
    "grid dimension": (
        {"search": {"grid": ["n_block"]}},
        r"search\.grid: .*did you mean 'n_blocks'",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_value_is_named_with_what_was_expected(case):
    raw, message = WRONG[case]

    with pytest.raises(SpecError, match=message) as caught:
        build_spec(raw, source="study.toml")

    assert str(caught.value).startswith("study.toml: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[search\n", "found invalid TOML"),
        (b'[data]\ndataset = "C:\\Users\\ann"', r"invalid TOML .*line 2.*with / for \\"),
        (b"\xff\xfe", "cannot be read"),
        (None, "does not exist; pass the path of a TOML file"),
    ],
)
def test_a_file_that_is_no_toml_is_refused_by_name(tmp_path, content, message):
    path = tmp_path / "study.toml"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(SpecError, match=message) as caught:
        load_study_file(path)

    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (np.zeros((9, 9)), "a ndarray"),
        ((np.zeros(9), np.zeros(9)), "a tuple"),
        ([1] * 99, "a list"),
        (5, "5"),
    ],
)
def test_arrays_for_a_data_set_are_refused_with_the_way_to_pass_them(given, found):
    with pytest.raises(SpecError, match=rf"data\.dataset: found {found}, .*numpy\.savez") as caught:
        build_spec(overrides={"data.dataset": given})
    assert len(str(caught.value).splitlines()) == 1


def test_a_data_set_may_be_a_path_object():
    assert build_spec(overrides={"data.dataset": Path("my") / "set.npz"}).data.dataset == (
        str(Path("my") / "set.npz")
    )


def test_a_folder_is_not_a_study_file(tmp_path):
    with pytest.raises(SpecError, match=r"found a folder, expected a TOML file; .*--dataset"):
        load_study_file(tmp_path)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("30m", 1800), ("1h30m", 5400), ("2d", 172800), ("1.5h", 5400)],
)
def test_a_duration_is_read_in_seconds(text, seconds):
    assert parse_duration(text) == seconds


def test_the_limit_of_a_trial_is_read_as_the_time_of_a_run():
    assert build_spec({"search": {"trial_timeout": "30m"}}).search.trial_timeout == 1800
    assert build_spec().search.trial_timeout is None


@pytest.mark.parametrize("text", ["", "soon", "5x", "-5s", "1h 30m", "m", "1.2.3s"])
def test_a_text_that_is_no_duration_is_refused(text):
    with pytest.raises(ValueError, match=f"timeout: found '{text}', expected a duration such as"):
        parse_duration(text)


@pytest.mark.parametrize("name", ["\udcff", "a\0b"])
def test_a_name_is_text_that_a_database_can_hold(name):
    with pytest.raises(SpecError, match=r"name: found '.*', expected text in UTF-8 without NUL"):
        build_spec(None, {"name": name})
    with pytest.raises(ValueError, match=r"name: found '.*', expected a name in UTF-8"):
        replace(build_spec(), name=name)


@pytest.mark.parametrize("path", ["a\0b.toml", "x" * 5000])
def test_a_path_that_cannot_be_is_an_error_of_one_line(path):
    with pytest.raises(SpecError, match=r"cannot be read \(.+\); expected a TOML file"):
        load_study_file(path)


def test_a_message_quotes_the_beginning_of_a_long_value():
    with pytest.raises(SpecError) as caught:
        build_spec({"space": {"n_blocks": "x" * 9000}})

    assert len(str(caught.value)) < 400
