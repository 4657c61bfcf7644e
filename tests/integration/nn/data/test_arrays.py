"""Images from ``.npz`` files, and the messages about unfit files."""

import numpy as np
import pytest

from hpsearch.core.spec import DataSpec
from hpsearch.errors import DataError
from hpsearch.nn.data import dataset

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (30, 9, 10), dtype=np.uint8)
Y = np.arange(30) % 3


@pytest.fixture
def load(tmp_path):
    def save_and_load(*, image_size=None, **arrays):
        path = tmp_path / "set.npz"
        np.savez(path, **arrays)
        return dataset.load(DataSpec(dataset=str(path), image_size=image_size))

    return save_and_load


def test_gray_images_get_a_channel_and_classes_get_numbers(load):
    got = load(x_train=X, y_train=Y)
    assert (got.name, got.input_shape, got.classes) == ("set", (1, 9, 10), ("0", "1", "2"))
    assert np.array_equal(got.images[..., 0], X)
    assert got.labels.tolist() == Y.tolist()


def test_channels_come_out_last_wherever_they_stand(load):
    last = RNG.integers(0, 256, (30, 9, 10, 3), dtype=np.uint8)
    assert np.array_equal(load(x_train=last, y_train=Y).images, last)
    first = last.transpose(0, 3, 1, 2)
    assert np.array_equal(load(x_train=first, y_train=Y).images, last)
    rgba = RNG.integers(0, 256, (30, 9, 10, 4), dtype=np.uint8)
    assert load(x_train=rgba, y_train=Y).input_shape == (4, 9, 10)


def test_given_parts_and_class_names_are_kept(load):
    got = load(
        x_train=X,
        y_train=Y,
        x_val=X[:6],
        y_val=Y[:6],
        x_test=X[6:9],
        y_test=Y[6:9],
        classes=np.array(["ant", "bee", "cat"]),
    )
    assert got.classes == ("ant", "bee", "cat")
    assert [len(part) for part in (got.split.train, got.split.val, got.split.test)] == [30, 6, 3]
    assert np.array_equal(got.images[got.split.val][..., 0], X[:6])
    assert got.labels[got.split.test].tolist() == Y[6:9].tolist()


def test_with_a_given_test_part_only_validation_is_cut(load):
    got = load(x_train=X, y_train=Y, x_test=X[:3], y_test=Y[:3])
    assert got.split.test.tolist() == [30, 31, 32]
    assert [len(got.split.train), len(got.split.val)] == [24, 6]


def test_mean_and_deviation_are_those_of_the_training_images(load):
    images = RNG.integers(0, 256, (30, 9, 10, 3), dtype=np.uint8)
    got = load(x_train=images, y_train=Y)
    scaled = got.images[got.split.train] / 255
    assert got.mean == pytest.approx(scaled.mean(axis=(0, 1, 2)))
    assert got.std == pytest.approx(scaled.std(axis=(0, 1, 2)))


def test_a_constant_channel_has_a_deviation_to_divide_by(load):
    assert load(x_train=np.full_like(X, 7), y_train=Y).std == pytest.approx((1 / 255,))


def test_labels_in_a_column_are_accepted(load):
    assert load(x_train=X, y_train=Y[:, None].astype(np.uint8)).labels.tolist() == Y.tolist()


GOOD = {"x_train": X, "y_train": Y}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": X, "y": Y}, "found no arrays, expected x_train and y_train"),
        ({"x_train": X}, "found x_train, expected x_train and y_train"),
        (GOOD | {"x_val": X}, "found x_val without y_val"),
        (GOOD | {"y_test": Y}, "found y_test without x_test"),
        (GOOD | {"x_train": X / 255}, r"x_train is float64, expected uint8.*astype\('uint8'\)"),
        (GOOD | {"y_train": Y / 1}, "y_train is float64, expected integers from 0"),
        (GOOD | {"y_train": Y[:-1]}, "found 30 images in x_train and 29 labels in y_train"),
        (GOOD | {"y_train": np.eye(3, dtype=int)[Y]}, "shape 30×3, expected one label per image"),
        (GOOD | {"x_train": X[:, 0]}, "shape 30×10, expected N×H×W"),
        (GOOD | {"x_train": np.stack([X, X], 3)}, "30×9×10×2, expected N×H×W, N×H×W×C or N×C"),
        (GOOD | {"y_train": Y - 1}, "found the label -1 in train, expected 0 to 1"),
        (GOOD | {"y_train": Y * 2}, r"class '1' \(label 1\) has no training image"),
        (GOOD | {"y_train": Y * 10**12}, "found the label 2000000000000 in train"),
        (GOOD | {"y_train": Y * 0}, "found 1 class, expected at least 2"),
        (GOOD | {"x_val": X, "y_val": Y + 1}, "found the label 3 in val, expected 0 to 2"),
        (GOOD | {"classes": np.array(["a", "b"])}, "found the label 2 in train, expected 0 to 1"),
        (GOOD | {"classes": np.array(list("abcd"))}, r"class 'd' \(label 3\) has no training"),
        (GOOD | {"classes": np.array(list("aba"))}, "found two classes named 'a'"),
        (
            GOOD | {"classes": np.array(["a", "\udcff", "c"])},
            r"named '\?', expected a name in UTF-8",
        ),
        (GOOD | {"classes": np.arange(3)}, "classes has type int64 .*expected a list of strings"),
        (GOOD | {"x_train": X[:, :7]}, "images of 7×10 pixels, expected at least 8×8"),
        (GOOD | {"x_test": X[:, :8], "y_test": Y}, "test images of 8×10×1 and training images of"),
        (GOOD | {"x_train": np.array([{}] * 30)}, "cannot be read.*plain arrays"),
        (GOOD | {"image_size": 16}, r"image_size is 16 for the \.npz file"),
        ({"x_train": X[:5], "y_train": Y[:5]}, "class '0' has 2 training images"),
    ],
)
def test_unfit_arrays_are_named_in_one_line(load, arrays, message):
    with pytest.raises(DataError, match=message) as caught:
        load(**arrays)
    assert "\n" not in str(caught.value)


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "set.npz"
    np.savez(path, x_train=X, y_train=Y)
    whole = path.read_bytes()
    for damaged in (whole[:500], b"", b"PK nonsense", whole[:100] + b"?" * 50 + whole[150:]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"set\.npz: cannot be read"):
            dataset.load(DataSpec(dataset=str(path)))


def test_a_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "set.csv"
    path.write_text("1,2")
    with pytest.raises(DataError, match="found a file of another kind"):
        dataset.load(DataSpec(dataset=str(path)))
