"""Splits, names and the checks that touch no data file."""

import dataclasses

import numpy as np
import pytest

from hpsearch.core.spec import DataSpec
from hpsearch.errors import DataError
from hpsearch.nn.data import dataset as data

CLASSES = ("a", "b", "c")
LABELS = np.repeat([0, 1, 2], [100, 40, 7])


def cut(labels=LABELS, *, sizes=None, seed=0, **fractions):
    return data.cut(
        labels,
        sizes=sizes or (len(labels), 0, 0),
        classes=CLASSES,
        spec=DataSpec(**fractions),
        seed=seed,
    )


def counts(indices, labels=LABELS):
    return np.bincount(labels[indices], minlength=3).tolist()


def test_every_class_gives_its_share_to_each_part():
    split = cut()
    assert counts(split.val) == counts(split.test) == [15, 6, 1]
    assert counts(split.train) == [70, 28, 5]


def test_the_parts_are_sorted_disjoint_and_leave_out_nothing():
    split = cut()
    everything = np.concatenate([split.train, split.val, split.test])
    assert sorted(everything) == list(range(147))
    for part in dataclasses.astuple(split):
        assert part.dtype == np.int64
        assert (np.diff(part) > 0).all()


def test_a_seed_fixes_the_split_and_another_seed_gives_another():
    assert cut(seed=3).val.tolist() == cut(seed=3).val.tolist()
    assert cut(seed=3).val.tolist() != cut(seed=4).val.tolist()


def test_the_validation_fraction_does_not_move_the_test_images():
    assert cut(val_fraction=0.1).test.tolist() == cut(val_fraction=0.3).test.tolist()


def test_given_parts_are_kept_and_only_the_missing_one_is_cut():
    labels = np.concatenate([LABELS, [0, 1, 2, 2]])
    given_test = cut(labels, sizes=(147, 0, 4))
    assert given_test.test.tolist() == [147, 148, 149, 150]
    assert counts(given_test.val, labels) == [15, 6, 1]
    assert len(given_test.train) == 147 - 22
    given_val = cut(labels, sizes=(147, 4, 0))
    assert given_val.val.tolist() == [147, 148, 149, 150]
    assert counts(given_val.test, labels) == [15, 6, 1]
    both = cut(labels, sizes=(147, 3, 1))
    assert both.train.tolist() == list(range(147))
    assert (both.val.tolist(), both.test.tolist()) == ([147, 148, 149], [150])


def test_three_images_of_a_class_suffice_and_two_are_an_error_that_names_it():
    assert counts(cut(np.repeat([0, 1, 2], 3)).train, np.repeat([0, 1, 2], 3)) == [1, 1, 1]
    message = "class 'b' has 2 training images, of which 1 for test and 1 for val would be cut"
    with pytest.raises(DataError, match=message):
        cut(np.repeat([0, 1, 2], [5, 2, 5]))


def test_fractions_that_leave_nothing_to_train_on_are_an_error():
    with pytest.raises(DataError, match="expected at least 1 left for training"):
        cut(val_fraction=0.5, test_fraction=0.5)


@pytest.mark.parametrize(
    ("dataset", "name"),
    [
        ("mnist5k", "mnist5k"),
        ("emnist-letters", "emnist-letters"),
        ("/some/where/birds", "birds"),
        ("birds/v1.2", "v1.2"),
        ("~/sets/my.images.npz", "my.images"),
    ],
)
def test_a_study_is_named_after_its_data(dataset, name):
    assert data.default_name(dataset) == name


def test_all_promised_names_are_known():
    emnist = [
        f"emnist-{s}" for s in ("balanced", "byclass", "bymerge", "letters", "digits", "mnist")
    ]
    others = ["mnist5k", "digits", "mnist", "fashion-mnist", "kmnist", "cifar10", "svhn"]
    assert sorted(data.DATASETS) == sorted([*emnist, *others])


def test_an_unknown_name_is_answered_with_the_nearest_known_one():
    with pytest.raises(
        DataError, match=r"'mnist5', nor is there a folder.*did you mean 'mnist5k'\?"
    ):
        data.check(DataSpec(dataset="mnist5"))


def test_a_path_that_leads_nowhere_is_shown_in_full():
    with pytest.raises(DataError, match=r"no/such\.npz: no such file.*looked for /.*no/such\.npz"):
        data.check(DataSpec(dataset="no/such.npz"))


def test_a_path_that_cannot_be_looked_at_is_an_error_in_one_line():
    with pytest.raises(DataError, match="cannot be examined"):
        data.check(DataSpec(dataset="a" * 5000))


def test_an_image_size_is_for_folders_only():
    with pytest.raises(DataError, match="image_size is 32 for the data set 'digits'"):
        data.check(DataSpec(dataset="digits", image_size=32))
