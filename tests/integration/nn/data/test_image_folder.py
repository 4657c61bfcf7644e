"""Images from folders of class folders."""

import os
import re

import numpy as np
import pytest
from PIL import Image

from hpsearch.core.spec import DatasetSummary, DataSpec
from hpsearch.errors import DataError
from hpsearch.nn.data import dataset
from hpsearch.nn.data.image_folder import read_image
from hpsearch.util.messages import messages_to

RNG = np.random.default_rng(0)


def write(path, *, size=(12, 12), mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    pixels = RNG.integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.fixture
def pets(tmp_path):
    for name in ("dog", "cat"):
        for i in range(5):
            write(tmp_path / "pets" / name / f"{i}.png")
    return tmp_path / "pets"


def load(folder, **spec):
    return dataset.load(DataSpec(dataset=str(folder), **spec))


def test_classes_are_the_folders_in_order_of_name(pets):
    got = load(pets)
    assert (got.name, got.classes, got.input_shape) == ("pets", ("cat", "dog"), (1, 12, 12))
    assert got.labels.tolist() == [0] * 5 + [1] * 5
    assert np.array_equal(got.images[5, ..., 0], np.asarray(Image.open(pets / "dog" / "0.png")))


def test_one_coloured_image_makes_all_of_them_coloured(pets):
    pixels = write(pets / "cat" / "9.png", mode="RGB")
    got = load(pets)
    assert got.input_shape == (3, 12, 12)
    assert np.array_equal(got.images[5], pixels)
    assert (got.images[0, ..., 0] == got.images[0, ..., 2]).all()


def test_the_default_size_is_the_median_shorter_side_at_most_64(pets, tmp_path):
    for name in ("dog", "cat"):
        for i in range(5, 12):
            write(pets / name / f"{i}.png", size=(40, 20))
        for i in range(3):
            write(tmp_path / "big" / name / f"{i}.jpg", size=(200, 100), mode="RGB")
    assert load(pets).input_shape == (1, 20, 20)
    assert load(tmp_path / "big").input_shape == (3, 64, 64)
    assert load(tmp_path / "big", image_size=16).input_shape == (3, 16, 16)


def test_the_shorter_side_is_scaled_and_the_middle_is_kept(tmp_path):
    pixels = np.zeros((20, 60), np.uint8)
    pixels[:, 20:40] = 200
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    assert (read_image(tmp_path / "wide.png", size=20, channels=1) == 200).all()
    assert (read_image(tmp_path / "wide.png", size=10, channels=1)[:, 1:-1] == 200).all()


def test_a_photo_is_turned_as_its_camera_noted(tmp_path):
    pixels = np.zeros((10, 10, 3), np.uint8)
    pixels[0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(pixels).save(tmp_path / "photo.png", exif=exif)
    assert (read_image(tmp_path / "photo.png", size=10, channels=1)[:, -1] == 255).all()


def test_sixteen_bit_gray_is_scaled_rather_than_clipped(tmp_path):
    pixels = np.linspace(0, 65535, 100).astype(np.uint16).reshape(10, 10)
    Image.fromarray(pixels).save(tmp_path / "deep.png")
    got = read_image(tmp_path / "deep.png", size=10, channels=1)[..., 0]
    assert np.array_equal(got, pixels // 257)


def test_train_val_and_test_folders_are_kept_as_they_are(tmp_path):
    for part, n in (("train", 4), ("val", 2), ("test", 3)):
        for name in "ab":
            for i in range(n):
                write(tmp_path / "set" / part / name / f"{i}.png")
    got = load(tmp_path / "set")
    assert [len(p) for p in (got.split.train, got.split.val, got.split.test)] == [8, 4, 6]
    assert got.labels[got.split.test].tolist() == [0, 0, 0, 1, 1, 1]
    third = np.asarray(Image.open(tmp_path / "set" / "test" / "b" / "2.png"))
    assert np.array_equal(got.images[-1, ..., 0], third)


def test_nested_folders_count_and_other_files_do_not(pets):
    write(pets / "cat" / "more" / "deep.png")
    (pets / "cat" / "notes.txt").write_text("no image")
    (pets / "cat" / ".hidden.png").write_text("no image")
    (pets / ".git").mkdir()
    assert len(load(pets).images) == 11


def test_a_changed_folder_is_read_again(pets):
    before = load(pets)
    write(pets / "cat" / "9.png")
    after = load(pets)
    assert (len(before.images), len(after.images)) == (10, 11)
    assert before.content != after.content


def test_a_missing_image_is_not_reported_as_damaged(tmp_path):
    with pytest.raises(DataError, match=r"none\.png: no such file, expected an image; check the"):
        read_image(tmp_path / "none.png", size=10, channels=1)


def test_a_damaged_image_is_named(pets):
    whole = (pets / "cat" / "2.png").read_bytes()
    for damaged in (whole[:100], b"", b"text"):
        (pets / "cat" / "2.png").write_bytes(damaged)
        with pytest.raises(DataError, match=r"cat/2\.png: cannot be decoded .*replace or remove"):
            load(pets)


def test_all_unfit_images_are_named_at_once_the_first_ten_with_why(pets):
    whole = (pets / "cat" / "2.png").read_bytes()
    (pets / "cat" / "2.png").write_bytes(whole[:100])  # found only by decoding it
    write(pets / "dog" / "0.png", size=(7, 30))
    (pets / "dog" / "3.png").write_bytes(b"text")
    with pytest.raises(DataError) as caught:
        load(pets)
    message = str(caught.value)
    assert message.startswith(
        f"{pets}: found 3 images that cannot be used, expected none; replace or"
    )
    assert re.search(
        r": cat/2\.png: cannot be decoded \(.+\); dog/0\.png: found an image whose shorter side is"
        r" 7 pixels; dog/3\.png: cannot be decoded \(it is none of JPEG, .+ WEBP\)$",
        message,
    )
    for number in range(10, 20):
        (pets / "eel").mkdir(exist_ok=True)
        (pets / "eel" / f"{number}.png").write_bytes(b"text")
    with pytest.raises(DataError, match=r"found 13 images .*eel/16\.png: [^;]*; and 3 more$"):
        load(pets)


def test_a_folder_without_a_readable_image_is_reported(pets):
    for path in pets.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match="found 10 images that cannot be used"):
        load(pets)


def test_the_outline_counts_a_folder_and_decodes_nothing(pets):
    (pets / "cat" / "9.png").write_bytes(b"text")
    spec = DataSpec(dataset=str(pets))
    assert dataset.summarise(spec, seed=0) == DatasetSummary(
        classes={"cat": 6, "dog": 5}, train=7, val=2, test=2
    )
    assert dataset.summarise(DataSpec(), seed=0) is None
    (pets / "eel").mkdir()
    with pytest.raises(DataError, match="eel: found no image in this class folder"):
        dataset.summarise(spec, seed=0)
    (pets / "eel").rename(pets / os.fsdecode(b"\xff"))
    write(pets / os.fsdecode(b"\xff") / "1.png")
    with pytest.raises(DataError, match="expected a name in UTF-8"):
        dataset.summarise(spec, seed=0)


def test_the_outline_keeps_given_parts(tmp_path):
    for part, n in (("train", 8), ("test", 3)):
        for name in "ab":
            for i in range(n):
                write(tmp_path / "set" / part / name / f"{i}.png")
    spec = DataSpec(dataset=str(tmp_path / "set"))
    got, split = dataset.summarise(spec, seed=0), dataset.load(spec).split
    assert got == DatasetSummary(classes={"a": 11, "b": 11}, train=14, val=2, test=6)
    assert (got.train, got.val, got.test) == tuple(map(len, (split.train, split.val, split.test)))


def test_an_image_too_small_is_named(pets):
    write(pets / "dog" / "3.png", size=(7, 30))
    with pytest.raises(DataError, match=r"dog/3\.png: .*shorter side is 7 pixels.* at least 8×8"):
        load(pets)


def test_an_empty_class_folder_is_named(pets):
    (pets / "eel").mkdir()
    with pytest.raises(DataError, match="eel: found no image in this class folder"):
        load(pets)


def test_a_folder_without_two_classes_is_refused(tmp_path):
    with pytest.raises(DataError, match="found 0 class folders, expected at least 2"):
        load(tmp_path)
    write(tmp_path / "one" / "only" / "1.png")
    with pytest.raises(DataError, match="found 1 class folder, expected"):
        load(tmp_path / "one")


def test_a_class_unknown_in_training_is_named(tmp_path):
    for name in ("train/a", "train/b", "val/c"):
        write(tmp_path / "set" / name / "1.png")
    with pytest.raises(DataError, match=r"val/c: found a class that is not in training.*a, b"):
        load(tmp_path / "set")


def test_a_class_with_too_few_images_is_named(pets):
    write(pets / "eel" / "1.png")
    with pytest.raises(DataError, match="class 'eel' has 1 training image, of which"):
        load(pets)


def test_a_long_wait_is_logged_once(pets):
    lines = []
    with messages_to(lines.append):
        for _ in range(2):
            dataset.load(DataSpec(dataset=str(pets)))
    assert lines == ["decoding 10 images of pets (once; later starts use the cache)"]
