"""Dimensions, drawing, grids and configurations given by hand."""

import itertools
import math

import pytest

from hpsearch.core import overrides, space
from hpsearch.core.dimensions import ChoiceDim, FloatDim, IntDim
from hpsearch.core.space import cells, default_space, dims, draw, grid_values
from hpsearch.core.spec import (
    SearchSpec,
    ShapeSpec,
    StudySpec,
    from_json,
    geometric_widths,
    resolve,
    to_json,
)
from hpsearch.core.spec_text import differences, identity
from hpsearch.errors import SpecError

GEOMETRIC = default_space("geometric")
PER_BLOCK = default_space("per-block")


def low(name, dim):
    return dim.choices[0] if isinstance(dim, ChoiceDim) else dim.low


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"n_block": 3}, "did you mean 'n_blocks'"),
        ({"n_blocks": 0}, "space.n_blocks: found 0, expected 1 to 12"),
        ({"n_blocks": 2.5}, "expected a whole number"),
        ({"n_blocks": "three"}, "expected a number"),
        ({"n_blocks": {"low": 5, "high": 1}}, "low 5 above high 1"),
        ({"n_blocks": {"low": 1}}, "expected low and high"),
        ({"n_blocks": {"low": 1, "high": 3, "lgo": True}}, "found keys"),
        ({"learning_rate": {"low": 0.0, "high": 1.0, "log": True}}, "expected 1e-08 to 10.0"),
        ({"dropout": {"low": 0.0, "high": 0.5, "log": True}}, "low above 0"),
        ({"dropout": {"low": 0.0, "high": 0.5, "step": -1}}, "step above 0"),
        ({"dropout": {"low": 0.1, "high": 0.5, "log": "yes"}}, "expected true or false"),
        ({"optimizer": "adem"}, "did you mean 'adam'"),
        ({"optimizer": ["adam", "adam"]}, "a choice twice"),
        ({"optimizer": []}, "empty list"),
        ({"optimizer": {"low": 1, "high": 2}}, "expected a value or a list"),
        ({"kernel_size": 4}, "expected one of 1, 3, 5, 7"),
        ({"batch_norm": 1}, "expected one of false, true"),
        ({"width": 8}, "expected only with 'per-block'"),
    ],
)
def test_an_illegal_entry_is_named(raw, message):
    with pytest.raises(ValueError, match=message):
        space.overlay("geometric", raw)


def test_a_study_file_can_fix_narrow_or_list_any_dimension():
    merged = space.overlay("geometric", {"n_blocks": 3, "dropout": {"low": 0.1, "high": 0.2}})
    assert merged["n_blocks"] == 3
    assert merged["dropout"] == FloatDim(low=0.1, high=0.2)
    assert set(merged) == set(GEOMETRIC)


def test_per_block_widths_exist_only_where_the_block_exists():
    drawn = draw({**PER_BLOCK, "n_blocks": 3}, low)
    assert [name for name in drawn if name.startswith("width")] == ["width_1", "width_2", "width_3"]
    widened = space.overlay("per-block", {"n_blocks": 2, "width_2": 99})
    assert draw(widened, low)["width_2"] == 99


def test_momentum_exists_only_with_sgd():
    assert "momentum" in draw({**GEOMETRIC, "optimizer": "sgd"}, low)
    assert "momentum" not in draw({**GEOMETRIC, "optimizer": "adam"}, low)


def test_dims_lists_every_dimension_that_may_be_drawn():
    assert set(dims(GEOMETRIC)) == set(GEOMETRIC)
    assert {f"width_{n}" for n in range(1, 6)} <= set(dims(PER_BLOCK))
    assert "optimizer" not in dims({**GEOMETRIC, "optimizer": "adam"})
    assert "momentum" not in dims({**GEOMETRIC, "optimizer": "adam"})


def test_grid_cells_are_distinct_and_leave_out_what_cannot_exist():
    small = {
        **GEOMETRIC,
        "n_blocks": IntDim(low=1, high=3),
        "optimizer": ChoiceDim(choices=("sgd", "adam")),
        "momentum": FloatDim(low=0.8, high=0.9),
    }
    listed = list(cells(small, ["n_blocks", "optimizer", "momentum"], 2))
    assert len(listed) == 3 * (2 + 1)
    assert len({tuple(sorted(cell.items())) for cell in listed}) == len(listed)
    assert {"n_blocks": 1, "optimizer": "adam"} in listed


def test_a_grid_over_per_block_widths_has_a_cell_per_existing_width():
    small = {**PER_BLOCK, "n_blocks": IntDim(low=1, high=2), "width": ChoiceDim(choices=(8, 16))}
    listed = list(cells(small, ["n_blocks", "width_1", "width_2"], 2))
    assert len(listed) == 2 + 4


def test_grid_values_cover_both_ends():
    assert grid_values(FloatDim(low=0.0, high=0.5), 3) == (0.0, 0.25, 0.5)
    assert grid_values(FloatDim(low=0.0, high=0.5, step=0.25), 9) == (0.0, 0.25, 0.5)
    assert grid_values(IntDim(low=8, high=32, log=True), 3) == (8, 16, 32)


def spec(**search):
    return StudySpec(name="s", search=SearchSpec(**search), space=GEOMETRIC)


def test_a_spec_survives_its_json():
    per_block = StudySpec(
        name="p",
        model=ShapeSpec(widths="per-block"),
        search=SearchSpec(sampler="grid+random", grid=("n_blocks",), timeout=9.5),
        space=PER_BLOCK,
    )
    for one in (spec(), per_block):
        assert from_json(to_json(one)) == one


def test_identity_holds_what_must_not_change_and_nothing_else():
    base = identity(spec())
    for change in (
        {"trials": 9},
        {"sampler": "random"},
        {"timeout": 3.0},
        {"trial_timeout": 9.0},
        {"workers": 2},
    ):
        assert identity(spec(**change)) == base
    assert set(differences(base, identity(spec(seed=1)))) == {"search.seed"}
    narrowed = StudySpec(name="s", space={**GEOMETRIC, "n_blocks": 3})
    assert set(differences(base, identity(narrowed))) == {"space.n_blocks"}


def test_a_trial_is_resolved_without_chance():
    params = draw(GEOMETRIC, low)
    one, same = (resolve(spec(), number=4, params=params) for _ in range(2))
    assert one == same
    assert one.model.widths == (4,)
    assert one.train.epochs == spec().train.epochs
    assert resolve(spec(), number=5, params=params).seed != one.seed
    assert resolve(spec(seed=1), number=4, params=params).seed != one.seed


def test_geometric_widths_grow_and_are_capped():
    assert geometric_widths(5, 32, 2.0, 128) == (32, 64, 128, 128, 128)
    assert geometric_widths(3, 9, 1.5, 999) == (8, 12, 20)
    assert geometric_widths(2, 1, 1.0, 8) == (1, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["learning_rate"], "expected NAME=VALUE"),
        (["lr=0.1"], "unknown dimension"),
        (["learning_rate=fast"], "expected a number"),
        (["learning_rate=9"], "the study searches 0.0003 to 0.1"),
        (["batch_size=33"], "one of 64, 128, 256"),
        (["optimizer=adam", "momentum=0.9"], "add --set optimizer=sgd"),
        (["momentum=0.9"], "add --set optimizer=sgd"),
        (["kernel_size=7"], "one of 3, 5"),
    ],
)
def test_a_baseline_outside_the_space_is_refused(settings, message):
    with pytest.raises(SpecError, match=message):
        overrides.parse_in_space(GEOMETRIC, settings)


@pytest.mark.parametrize(
    ("searched", "setting", "told"),
    [
        ({**GEOMETRIC, "optimizer": "adam"}, "momentum=0.9", "known: base_width"),
        (PER_BLOCK, "width=8", "did you mean 'width_"),
    ],
)
def test_a_baseline_names_only_what_some_trial_draws(searched, setting, told):
    name = setting.partition("=")[0]
    with pytest.raises(SpecError, match=f"--set {name}: found one that no trial .*; {told}"):
        overrides.parse_in_space(searched, [setting])


def test_a_baseline_settles_what_it_names():
    read = overrides.parse_in_space(
        GEOMETRIC, ["optimizer=sgd", "momentum=0.9", "batch_norm=false"]
    )
    assert read == {"optimizer": "sgd", "momentum": 0.9, "batch_norm": False}
    fixed = {**GEOMETRIC, "n_blocks": 3}
    assert overrides.parse_in_space(fixed, ["n_blocks=3"]) == {}
    with pytest.raises(SpecError, match="found 4, but the study fixes it at 3; leave it out"):
        overrides.parse_in_space(fixed, ["n_blocks=4"])
    with pytest.raises(SpecError, match="found false, but the study fixes it at true; leave"):
        overrides.parse_in_space({**GEOMETRIC, "batch_norm": True}, ["batch_norm=false"])
    assert math.isclose(overrides.parse_in_space(GEOMETRIC, ["dropout=0.25"])["dropout"], 0.25)


@pytest.mark.parametrize(
    "dim", [IntDim(low=0, high=2**62), FloatDim(low=0.0, high=1.0, step=1e-320)]
)
def test_a_grid_over_more_values_than_memory_can_hold_is_counted_without_listing_them(dim):
    """The sampler takes one cell more than a grid may have, and then refuses it."""
    endless = {"depth": dim, "other": dim, "optimizer": "adam"}

    listed = list(itertools.islice(cells(endless, ["depth"], 3), 100_001))

    assert len(listed) == 100_001
