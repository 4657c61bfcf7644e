"""Model folders: written, loaded, refused if damaged; images converted to the model's size."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import hpsearch
from hpsearch.core.spec import ModelSpec
from hpsearch.errors import DataError, ModelError
from hpsearch.nn.models import build
from hpsearch.nn.serving.inputs import gather
from hpsearch.nn.serving.model_config import ModelConfig
from hpsearch.nn.serving.predict import LoadedModel, load_model, write_model
from hpsearch.util.messages import messages_to

CPU = torch.device("cpu")
# Of a probability, in float32: the order of additions may depend on the size of a batch.
BY_BATCH = 1e-6
DEEP = ModelSpec(widths=(4, 8), dropout=0.5)


def make(spec=DEEP, shape=(1, 8, 8), classes=("zero", "one", "two")):
    """A model with random weights, but for batch-norm statistics that are not the initial ones.

    Channels-last, as after a training: the order of additions depends on the layout.
    """
    net = build(spec, shape, len(classes), seed=3).to(memory_format=torch.channels_last)
    with torch.no_grad():
        net.train()(torch.rand(16, *shape, generator=torch.Generator().manual_seed(0)) * 2)
    config = ModelConfig(
        model=spec,
        input_shape=shape,
        classes=classes,
        mean=(0.4,) * shape[0],
        std=(0.3,) * shape[0],
        provenance={"study": "s", "trial": 3},
    )
    return LoadedModel(config=config, net=net.eval(), device=CPU)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model = make()
    write_model(folder, model.net, model.config)
    return folder, model


@pytest.fixture
def copy(written, tmp_path):
    return shutil.copytree(written[0], tmp_path / "model")


def test_a_loaded_model_predicts_what_the_written_one_did(written, digits):
    folder, model = written
    loaded = hpsearch.load_model(folder, device="cpu")
    images, _ = digits

    predictions = loaded.predict(images)

    assert loaded.config == model.config
    np.testing.assert_array_equal(predictions.probabilities, model.predict(images).probabilities)
    assert predictions.probabilities.dtype == np.float32
    np.testing.assert_allclose(predictions.probabilities.sum(axis=1), 1, atol=1e-6)
    assert predictions.classes[0] == model.config.classes[predictions.indices[0]]
    assert predictions.confidences[0] == predictions.probabilities[0].max()
    best = predictions.top(0, 2)
    assert best[0] == (predictions.classes[0], pytest.approx(float(predictions.confidences[0])))
    assert best[0][1] >= best[1][1]


def test_prediction_is_the_net_without_dropout_on_scaled_images(written, digits):
    _, model = written
    images, _ = digits
    scaled = torch.from_numpy((images / 255 - 0.4) / 0.3).float()[:, None]

    with torch.no_grad():
        expected = model.net.eval()(scaled).softmax(1).numpy()

    np.testing.assert_allclose(model.predict(images).probabilities, expected, atol=1e-5)


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize(("head", "shape"), [("gap", (3, 9, 12)), ("flatten", (4, 16, 8))])
def test_every_kind_of_net_comes_back(tmp_path, batch_norm, head, shape):
    spec = ModelSpec(widths=(4, 4, 4), kernel_size=5, batch_norm=batch_norm, head=head)
    model = make(spec, shape)
    write_model(tmp_path, model.net, model.config)
    channels, height, width = shape
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, height, width, channels), dtype=np.uint8)

    loaded = load_model(tmp_path, device="cpu")

    expected = model.predict(images).probabilities
    np.testing.assert_array_equal(loaded.predict(images).probabilities, expected)
    first = images.transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(loaded.predict(first).probabilities, expected)


def edit(folder, change):
    path = folder / "config.json"
    plain = json.loads(path.read_text())
    change(plain)
    path.write_text(json.dumps(plain))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: shutil.rmtree(f), "found no such folder, expected a folder that"),
        (lambda f: (shutil.rmtree(f), f.write_text("")), "found a file, expected a folder that"),
        (lambda f: (f / "config.json").unlink(), "config.json: is missing"),
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors: is missing"),
        (lambda f: (f / "config.json").write_text("{"), "config.json: cannot be read"),
        (lambda f: (f / "config.json").write_bytes(b"\xff\xfe"), "config.json: cannot be read"),
        (lambda f: (f / "config.json").write_text("[" * 100_000), "config.json: cannot be read"),
        (lambda f: (f / "config.json").write_text("[]"), "found no format 'hpsearch-model'"),
        (lambda f: edit(f, lambda c: c.update(version=2)), "version 2, expected at most 1; upgr"),
        (lambda f: edit(f, lambda c: c.update(version="one")), "found version one"),
        (lambda f: edit(f, lambda c: c.pop("classes")), "found no 'classes'"),
        (lambda f: edit(f, lambda c: c.update(classes=["a"])), "found classes"),
        (lambda f: edit(f, lambda c: c.update(mean=[0.1, 0.2])), r"found mean \[0.1, 0.2\]"),
        (lambda f: edit(f, lambda c: c.update(std=["x"])), "found std"),
        (lambda f: edit(f, lambda c: c.update(mean=[float("nan")])), r"found mean \[nan\]"),
        (lambda f: edit(f, lambda c: c.update(provenance="me")), "found provenance me"),
        (lambda f: edit(f, lambda c: c.update(input_shape=[1, 8, "8"])), "found input_shape"),
        (lambda f: edit(f, lambda c: c.update(input_shape=[2, 8, 8])), "found input_shape"),
        (lambda f: edit(f, lambda c: c.update(input_shape=[1, 8, 2])), "found input_shape"),
        (lambda f: edit(f, lambda c: c["model"].update(widths=[4, 0])), "found model.widths"),
        (lambda f: edit(f, lambda c: c["model"].update(head="attention")), "expected one of fla"),
        (lambda f: edit(f, lambda c: c["model"].update(widths=[])), "found model.widths"),
        (lambda f: edit(f, lambda c: c["model"].update(widths=[4] * 13)), "found model.widths"),
        (lambda f: edit(f, lambda c: c["model"].pop("head")), "found no 'model.head'"),
        (lambda f: edit(f, lambda c: c.update(model={"factory": "f"})), "found no 'model.params'"),
        (lambda f: edit(f, lambda c: c["model"].update(extra=1)), "found model.extra"),
        (lambda f: edit(f, lambda c: c["model"].update(widths=[4, 9])), r"where config.json says"),
        (lambda f: edit(f, lambda c: c["model"].update(widths=[4])), r"where config.json says"),
        (lambda f: edit(f, lambda c: c["model"].update(widths=[4096] * 12)), "where config.json"),
        (lambda f: edit(f, lambda c: c.update(classes=list("abcd"))), r"for 'linear"),
    ],
)
def test_a_damaged_folder_is_refused(copy, damage, message):
    damage(copy)

    with pytest.raises(ModelError, match=message) as caught:
        load_model(copy, device="cpu")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("kept", [0, 5, 100, -1])
def test_truncated_weights_are_refused(copy, kept):
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])

    with pytest.raises(ModelError, match=r"model.safetensors: cannot be read \("):
        load_model(copy, device="cpu")


def test_weights_with_nan_are_refused(copy):
    path = copy / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-4:] = b"\xff\xff\xff\x7f"  # not a number
    path.write_bytes(content)

    with pytest.raises(ModelError, match=r"model.safetensors: found NaN or infinity in '.*'"):
        load_model(copy, device="cpu")


def test_a_pickle_in_place_of_the_weights_is_not_run(copy):
    torch.save({"weights": torch.zeros(3)}, copy / "model.safetensors")

    with pytest.raises(ModelError, match="cannot be read"):
        load_model(copy, device="cpu")


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 8, 8), np.float32), "found float32, expected uint8"),
        (np.zeros((2, 8, 8, 3), np.uint8), "found the shape 2×8×8×3, expected N×H×W, N×H×W×1"),
        (np.zeros((8, 8), np.uint8), "found the shape 8×8"),
        (np.zeros((0, 8, 8), np.uint8), "found none, expected at least 1"),
        (np.zeros((2, 0, 8), np.uint8), "found the shape 2×0×8×1"),
        ([], "found none, expected at least 1"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(written, images, message):
    with pytest.raises(DataError, match=message):
        written[1].predict(images)


@pytest.fixture
def pictures(digits, tmp_path):
    """A folder of PNG files, one of them below, with a text and a broken image among them."""
    images, _ = digits
    (tmp_path / "more" / ".hidden").mkdir(parents=True)
    for name, image in {"b": images[1], "a": images[0], "more/c": images[2]}.items():
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    Image.fromarray(images[0]).save(tmp_path / "more" / ".hidden" / "d.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def test_folders_and_arrays_are_gathered_in_order_and_other_files_are_named(digits, pictures):
    images, _ = digits
    np.savez(pictures / "some.npz", x_test=images[5:7], y_test=np.zeros(2), x_train=images[:9])
    lines = []
    paths = [pictures / "more" / "c.png", pictures / "some.npz", pictures, pictures / "absent.png"]

    with messages_to(lines.append):
        batches = list(gather(paths, size=(8, 8), channels=1))

    assert [name.removeprefix(f"{pictures}/") for batch in batches for name in batch.names] == [
        "more/c.png",
        "some.npz[0]",
        "some.npz[1]",
        "a.png",
        "b.png",
        "more/c.png",
    ]
    pixels = np.concatenate([batch.pixels for batch in batches])[..., 0]
    np.testing.assert_array_equal(pixels, images[[2, 5, 6, 0, 1, 2]])
    assert sorted(line.partition(" (")[0] for line in lines) == [
        f"{pictures}/absent.png: found no such file, expected an image, a folder or an .npz file",
        f"{pictures}/broken.png: cannot be decoded",
        f"skipped, not an image by its name: {pictures}/notes.txt, {pictures}/some.npz",
    ]


def test_paths_are_read_as_a_model_takes_them(written, pictures, digits):
    images, _ = digits
    large = Image.fromarray(images[0]).resize((24, 32), Image.Resampling.NEAREST).convert("RGBA")
    large.crop((0, 4, 24, 28)).save(pictures / "large.webp", lossless=True)
    _, model = written

    predictions = model.predict([pictures / "a.png", pictures / "large.webp"])

    expected = model.predict(images[:1]).probabilities[0]
    np.testing.assert_allclose(predictions.probabilities[0], expected, rtol=0, atol=BY_BATCH)
    assert predictions.indices[0] == expected.argmax()
    assert predictions.probabilities.shape == (2, 3)
    one = model.predict(str(pictures / "a.png"))
    np.testing.assert_array_equal(one.probabilities[0], expected)
    with pytest.raises(DataError, match=r"broken.png: cannot be decoded"):
        model.predict([pictures / "a.png", pictures / "broken.png"])


def test_a_name_that_is_not_utf8_is_shown_with_question_marks(digits, tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")
    Image.fromarray(digits[0][0]).save(path)

    (batch,) = gather([tmp_path], size=(8, 8), channels=1)

    assert batch.names == (f"{tmp_path}/\ufffd.png",)


def test_a_name_that_is_too_long_is_refused_like_a_missing_file():
    lines = []

    assert list(gather(["x" * 5000], size=(8, 8), channels=1, refuse=lines.append)) == []
    assert lines == [
        f"{'x' * 200}: found no such file, expected an image, a folder or an .npz file"
    ]


def test_arrays_of_another_size_are_scaled_as_files_are(written, tmp_path):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (20, 30), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "image.png")
    _, model = written

    of_file = model.predict([tmp_path / "image.png"]).probabilities
    np.testing.assert_array_equal(model.predict(image[None]).probabilities, of_file)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"y": np.zeros(3), "z": np.zeros(3)}, "found y, z, expected one of x, x_test, images"),
        ({}, "found no arrays"),
        ({"x": np.array([{}], dtype=object)}, "cannot be read"),
        ({"pictures": np.zeros((2, 8, 8, 3), np.uint8)}, "pictures: found the shape 2×8×8×3"),
        ({"x": np.zeros((2, 8, 8), np.float32)}, "x: found float32, expected uint8"),
        ({"x": np.uint8(3)}, "x: found the shape of a single number"),
        ({"x": np.zeros((0, 8, 8), np.uint8)}, "x: found no images, expected at least 1"),
    ],
)
def test_an_npz_that_does_not_fit_is_named_and_the_rest_go_on(tmp_path, arrays, message):
    np.savez(tmp_path / "bad.npz", **arrays)
    np.savez(tmp_path / "good.npz", np.zeros((2, 8, 8), np.uint8))
    lines = []
    paths = [tmp_path / "bad.npz", tmp_path / "good.npz"]

    (batch,) = gather(paths, size=(8, 8), channels=1, refuse=lines.append)

    assert batch.names == (f"{paths[1]}[0]", f"{paths[1]}[1]")
    (line,) = lines
    assert line.startswith(f"{paths[0]}: ")
    assert message in line


@pytest.mark.parametrize("cut", [0, 5, 150])
def test_a_damaged_npz_is_named_and_the_rest_go_on(tmp_path, cut):
    np.savez(tmp_path / "good.npz", np.zeros((2, 8, 8), np.uint8))
    content = (tmp_path / "good.npz").read_bytes()
    (tmp_path / "bad.npz").write_bytes(content[:cut])
    lines = []
    paths = [tmp_path / "bad.npz", tmp_path / "good.npz"]

    assert len(list(gather(paths, size=(8, 8), channels=1, refuse=lines.append))) == 1
    assert [line.partition(" (")[0] for line in lines] == [f"{paths[0]}: cannot be read"]


def test_the_only_array_of_an_npz_is_taken_whatever_its_name(tmp_path):
    np.savez(tmp_path / "some.npz", pictures=np.zeros((2, 8, 8), np.uint8))

    (batch,) = gather([tmp_path / "some.npz"], size=(8, 8), channels=1)

    assert batch.pixels.shape == (2, 8, 8, 1)
