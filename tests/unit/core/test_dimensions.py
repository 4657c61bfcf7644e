"""Studies with a custom net or training: their files, spaces and identity."""

import dataclasses

import pytest

from hpsearch.config import build_spec, load_study_file
from hpsearch.core import overrides
from hpsearch.core.dimensions import ChoiceDim, FloatDim, IntDim
from hpsearch.core.initial_trials import INITIAL_TRIALS, initial_trial
from hpsearch.core.overrides import apply_overrides, parse_overrides
from hpsearch.core.space import TRAINING, cells, dims, draw
from hpsearch.core.spec import FactorySpec, ModelSpec, from_json, resolve, to_dict, to_json
from hpsearch.core.spec_text import differences, identity, to_toml
from hpsearch.core.trial import State, TrialRecord
from hpsearch.errors import SpecError
from hpsearch.view.format import describe

FACTORY = {"factory": "nets:build"}
SPACE = {
    "depth": {"low": 1, "high": 3},
    "ratio": {"low": 0.0, "high": 1.0},
    "act": ["relu", "gelu"],
    "residual": True,
}


def own(space=None, **tables):
    return build_spec({"name": "own", "model": FACTORY, "space": space or SPACE, **tables})


def middle(name, dim):
    return dim.choices[0] if isinstance(dim, ChoiceDim) else dim.low


def test_a_file_with_own_dimensions_reads_back_as_the_same_study(tmp_path):
    spec = own()
    path = tmp_path / "own.toml"
    path.write_text(to_toml(spec))

    assert load_study_file(path) == from_json(to_json(spec)) == spec
    assert spec.space["depth"] == IntDim(low=1, high=3)
    assert spec.space["ratio"] == FloatDim(low=0.0, high=1.0)
    assert spec.space["act"] == ChoiceDim(choices=("relu", "gelu"))
    assert spec.space["residual"] is True


def test_the_built_in_nets_dimensions_are_not_asked_for():
    spec = own()

    assert set(spec.space) == {*TRAINING, *SPACE}
    assert list(dims(from_json(to_json(spec)).space)) == list(dims(spec.space))
    for number in range(INITIAL_TRIALS):
        assert set(initial_trial(spec.space, number)) == {*TRAINING} - {"momentum"}
    assert len(list(cells(spec.space, ["depth", "act"], 2))) == 6


def test_dimensions_outside_the_training_go_to_the_builder():
    spec = own({**SPACE, "n_blocks": 2, "width": {"low": 8, "high": 16}})
    params = draw(spec.space, middle)

    trial = resolve(spec, number=0, params=params)

    assert trial.model == FactorySpec(
        factory="nets:build",
        params={
            "n_blocks": 2,
            "width_1": 8,
            "width_2": 8,
            "act": "relu",
            "depth": 1,
            "ratio": 0.0,
            "residual": True,
        },
    )
    assert trial.train.optimizer == params["optimizer"]
    assert trial.train.params == {}


def test_a_width_without_blocks_is_a_dimension_like_any_other():
    spec = own({"width": {"low": 8, "high": 16}, "width_2": 4})

    assert draw(spec.space, middle)["width"] == 8
    assert draw(spec.space, middle)["width_2"] == 4


def test_a_custom_training_needs_no_built_in_dimension():
    spec = build_spec(
        {"name": "t", "train": {"function": "loops:train"}, "space": {"mixup": [0.0, 0.2]}}
    )
    params = draw(spec.space, middle)

    trial = resolve(spec, number=3, params=params)

    assert not set(spec.space) & set(TRAINING)
    assert isinstance(trial.model, ModelSpec)
    assert trial.train.function == "loops:train"
    assert trial.train.params == params
    assert (trial.train.optimizer, trial.train.batch_size) == ("adamw", 128)


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"space": {"depht": 3}}, "space.depht: found an unknown dimension"),
        ({"model": FACTORY, "space": {"learning_rat": 0.1}}, "looks like 'learning_rate'"),
        ({"model": FACTORY, "space": {"n_block": 3}}, "looks like 'n_blocks'"),
        ({"model": FACTORY, "space": {"a-b": 3}}, "characters other than letters"),
        ({"model": FACTORY, "space": {"depth": []}}, "empty list"),
        ({"model": FACTORY, "space": {"depth": {"low": 3, "high": 1}}}, "low 3 above high 1"),
        ({"model": FACTORY, "space": {"depth": {"low": 1}}}, "expected low and high"),
        ({"model": FACTORY, "space": {"depth": [[1], [2]]}}, "expected a finite number"),
        ({"model": FACTORY, "space": {"depth": float("nan")}}, "expected a finite number"),
        ({"model": FACTORY, "space": {"optimizer": "adem"}}, "did you mean 'adam'"),
        ({"model": {"factory": "nets.build"}}, "model.factory: found 'nets.build'"),
        ({"model": {"factory": "os.system('x'):y"}}, "a module and a name in it"),
        ({"train": {"function": ":train"}}, "train.function: found ':train'"),
        ({"model": {**FACTORY, "max_width": 9}}, "model.max_width: found 9, expected none"),
        ({"model": {**FACTORY, "widths": "per-block"}}, "model.widths: found 'per-block'"),
        ({"model": {"factroy": "nets:build"}}, "did you mean 'factory'"),
    ],
)
def test_a_slip_is_one_line(tables, message):
    with pytest.raises(SpecError, match=message) as caught:
        build_spec({"name": "own", **tables})
    assert "\n" not in str(caught.value)


def test_a_number_behind_a_built_in_name_makes_a_custom_name():
    assert own({"dropout_2": 0.5, "width2": 3}).space["dropout_2"] == 0.5


def test_the_code_is_part_of_a_studys_identity():
    spec, plain = own(), build_spec({"name": "own"})
    other = dataclasses.replace(spec, model=dataclasses.replace(spec.model, factory="nets:other"))

    assert differences(identity(spec), identity(other)) == {
        "model.factory": ("nets:build", "nets:other")
    }
    assert "model.factory" in differences(identity(plain), identity(spec))


def test_a_study_of_before_there_was_own_code_is_still_the_same():
    spec = build_spec({"name": "old"})
    old = to_dict(spec)
    del old["model"]["factory"], old["train"]["function"]

    assert identity(build_spec(old)) == identity(spec)


def test_own_values_can_be_set_by_hand():
    spec = own()

    assert overrides.parse_in_space(spec.space, ["depth=2", "act=gelu", "ratio=0.5"]) == {
        "depth": 2,
        "act": "gelu",
        "ratio": 0.5,
    }
    assert overrides.parse_in_space(spec.space, ["residual=true"]) == {}
    for text, message in (
        ("depth=9", "the study searches 1 to 3"),
        ("depth=two", "expected a whole number"),
        ("act=tanh", "expected one of relu, gelu"),
        ("residual=false", "expected one of true"),
    ):
        with pytest.raises(SpecError, match=message):
            overrides.parse_in_space(spec.space, [text])


def test_settings_override_a_trial_of_custom_code():
    spec = own()
    params = draw(spec.space, middle)

    _, laid = apply_overrides(
        spec, params, parse_overrides(["depth=5", "optimizer=adam"], spec.space)
    )

    assert (laid["depth"], laid["optimizer"]) == (5, "adam")
    assert "momentum" not in laid
    with pytest.raises(SpecError, match="--set n_blocks: found an unknown name"):
        parse_overrides(["n_blocks=5"], spec.space)


def test_a_trial_is_described_by_its_own_dimensions():
    record = TrialRecord(
        number=0,
        state=State.COMPLETE,
        params={"depth": 2, "ratio": 0.25, "residual": True, "optimizer": "adam"},
    )

    assert describe(record) == "depth 2, ratio 0.25, residual true, adam"
