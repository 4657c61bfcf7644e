"""Training a trial for use, in this process: on which images, and which files are kept."""

import dataclasses
import io
import json
import math
import re

import numpy as np
import pytest
import torch
from rich.console import Console

import hpsearch
from hpsearch.core.analysis.metrics import as_plain, score
from hpsearch.core.spec import DataSpec, ModelSpec, TrainSpec
from hpsearch.errors import HpsearchError, SpecError
from hpsearch.nn.data.dataset import load
from hpsearch.nn.data.tensors import tensors
from hpsearch.nn.models import build
from hpsearch.nn.training.loop import epochs
from hpsearch.view.model.card import card
from hpsearch.view.terminal.model_output import result

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
NET = {"n_blocks": 1, "base_width": 8, "batch_size": 16}


def train(folder, npz, settings=NET, **options):
    options = {"epochs": 3, "threads": 1, "device": "cpu", **options}
    return hpsearch.train(folder, settings=settings, dataset=str(npz), **options)


@pytest.fixture(scope="module")
def thrice(digits_npz, tmp_path_factory):
    """Three trainings of a small net, and the epochs that were reported."""
    heard = []
    trained = train(
        tmp_path_factory.mktemp("thrice") / "model",
        digits_npz,
        seeds=3,
        tell=lambda number, epoch, total: heard.append((number, epoch, total)),
    )
    return trained, heard


def test_training_without_validation_images_is_the_same_but_for_them(digits):
    images, labels = digits
    train_part, val_part = np.arange(200), np.arange(200, 240)
    spec = TrainSpec(epochs=2, batch_size=32, optimizer="adamw", learning_rate=5e-3, shift=1)
    curves = []
    for val in (val_part, val_part[:0]):
        data = tensors(
            images[..., None],
            labels,
            train_part,
            val,
            mean=(0.3,),
            std=(0.3,),
            classes=10,
            device="cpu",
        )
        model = build(ModelSpec(widths=(8,), dropout=0.2), (1, 8, 8), 10, seed=0)
        curves.append(list(epochs(model, data, spec, device=CPU)))

    for with_val, without in zip(*curves, strict=True):
        assert without.train_loss == with_val.train_loss
        assert without.train_accuracy == with_val.train_accuracy
        assert math.isnan(without.val_loss)
        assert math.isnan(without.val_accuracy)


def test_training_and_validation_images_are_trained_on_and_test_images_are_not(thrice, digits_npz):
    trained, heard = thrice
    data = load(DataSpec(dataset=str(digits_npz)))
    pixels = {bytes(image) for image in data.images[data.split.test]}
    provenance = trained.model.config.provenance

    assert trained.taken.images.shape == (40, 8, 8, 1)
    assert {bytes(image) for image in trained.taken.images} == pixels
    assert provenance["trained_on"] == "training and validation images"
    assert provenance["data"] == data.fingerprint
    assert all(math.isnan(epoch.val_loss) for _, epoch, _ in heard)
    assert [(number, epoch.epoch, total) for number, epoch, total in heard] == [
        (number, epoch, 3) for number in range(3) for epoch in (1, 2, 3)
    ]


@pytest.mark.parametrize(
    ("searched", "words"),
    [
        (None, None),
        ("test", None),
        (0.001, "measured less than the inter"),
        (1.0, "measured more than the"),
    ],
)
def test_a_promise_of_the_search_beyond_the_interval_is_reported(thrice, searched, words):
    taken = thrice[0].taken
    seen = taken.scores.accuracy if searched == "test" else searched
    taken = dataclasses.replace(taken, plan=dataclasses.replace(taken.plan, searched=seen))
    assert taken.scores.interval[1] < 1

    console = Console(width=400, file=io.StringIO())
    console.print(result(taken, folder="model"))
    for text in (console.file.getvalue(), card(taken, params=1)):
        assert words is None or words in text
        assert ("than the interval above allows" in text) is (words is not None)


def test_several_seeds_are_reported_and_the_first_is_kept(thrice, digits_npz, tmp_path):
    trained, _ = thrice
    seeds = trained.metrics["seeds"]
    alone = train(tmp_path / "alone", digits_npz)

    assert len(set(seeds["seeds"])) == len(seeds["test_accuracies"]) == 3
    assert seeds["mean"] == pytest.approx(np.mean(seeds["test_accuracies"]))
    assert seeds["deviation"] == pytest.approx(np.std(seeds["test_accuracies"], ddof=1))
    assert seeds["test_accuracies"][0] == trained.metrics["test_accuracy"]
    assert seeds["kept"].startswith("the first")
    assert trained.model.config.provenance["seed"] == seeds["seeds"][0]
    for name, weights in trained.model.net.state_dict().items():
        assert torch.equal(weights, alone.model.net.state_dict()[name]), name


def test_the_metrics_are_those_of_the_loaded_model_on_the_test_images(thrice):
    trained, _ = thrice
    loaded = hpsearch.load_model(trained.folder, device="cpu")
    taken = trained.taken

    told = loaded.predict(taken.images)

    right = (told.indices == taken.labels).mean()
    metrics = json.loads((trained.folder / "metrics.json").read_text())
    assert metrics == trained.metrics
    assert metrics["test_accuracy"] == pytest.approx(right)
    assert metrics["n"] == 40
    assert sum(each["support"] for each in metrics["classes"]) == 40
    np.testing.assert_array_equal(told.indices, taken.predicted)
    again = as_plain(score(told.probabilities, taken.labels, classes=told.names))
    assert {key: metrics[key] for key in again} == again  # to the bit


def test_the_seed_changes_the_weights_and_not_the_split(thrice, digits_npz, tmp_path):
    trained, _ = thrice
    other = train(tmp_path / "other", digits_npz, seed=5, hold_out_validation=True)

    np.testing.assert_array_equal(other.taken.images, trained.taken.images)
    assert other.metrics["seeds"]["seeds"] != trained.metrics["seeds"]["seeds"][:1]
    assert other.model.config.provenance["trained_on"] == "training images"
    assert 0 <= other.metrics["val_accuracy"] <= 1
    assert trained.metrics["val_accuracy"] is None
    assert "validation accuracy" in (other.folder / "README.md").read_text()


def test_what_was_set_by_hand_is_what_was_trained(digits_npz, tmp_path):
    settings = ["width_1=6", "width_2=10", "optimizer=sgd", "momentum=0.5", "shift=0"]
    trained = train(tmp_path / "model", digits_npz, settings, epochs=1)

    config = trained.model.config
    assert config.model.widths == (6, 10)
    trained_by = config.provenance["train"]
    assert (trained_by["optimizer"], trained_by["momentum"]) == ("sgd", 0.5)
    assert (trained_by["epochs"], trained_by["shift"]) == (1, 0)
    assert config.provenance["study"] is None
    assert config.provenance["chosen"] == [f"--set {text}" for text in settings]


BAD_NUMBERS = {
    "seed": [-4, 2**63, 1.5, "3", True],
    "seeds": [0, -1, 1001, 1.5, "2"],
    "epochs": [0, -1, 10_001, 1.5, "8"],
    "threads": [0, -1, 1025, 1.5, "2"],
    "within_seconds": [-1, float("nan"), float("inf")],
    "within_params": [-1, float("nan"), float("inf")],
    "image_size": [3, 0, 513, 8.5],
    "trial": [1.5, "3"],
}


@pytest.mark.parametrize("name", BAD_NUMBERS)
def test_numbers_out_of_range_are_refused(name, tmp_path):
    way = {} if name in ("within_seconds", "within_params", "trial") else {"settings": ["shift=0"]}
    for number in BAD_NUMBERS[name]:
        with pytest.raises(SpecError, match=f"found {number!r}, expected"):
            hpsearch.train(tmp_path / "model", dataset="digits", **way, **{name: number})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"image_size": 16}, "image_size is 16 for the .npz file"),
        ({"device": "tpu"}, "device: found 'tpu'"),
    ],
)
def test_bad_options_are_refused_and_nothing_is_written(digits_npz, tmp_path, options, told):
    with pytest.raises(HpsearchError, match=told):
        train(tmp_path / "model", digits_npz, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_training_that_diverges_is_an_error_and_nothing_is_written(digits_npz, tmp_path):
    settings = ["optimizer=sgd", "learning_rate=10", "weight_decay=10", "batch_norm=false"]
    with pytest.raises(HpsearchError, match=r"the training diverged: .* --set learning_rate"):
        train(tmp_path / "model", digits_npz, [*settings, "schedule=constant"], epochs=50)
    assert list(tmp_path.iterdir()) == []


def test_a_training_that_is_stopped_leaves_nothing(digits_npz, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "model", digits_npz, stop=lambda: True)
    assert list(tmp_path.iterdir()) == []


def test_the_card_and_the_files_bear_class_names_of_any_kind(digits, tmp_path):
    images, labels = digits
    names = ["a|b", "*c*", "1.", "-", "$x$ & <d>", "日本", "ß", "e`f", "same beginning A", "g  h"]
    half = labels < 9  # of the last class no test image
    np.savez(
        tmp_path / "odd.npz",
        x_train=images,
        y_train=labels,
        x_test=images[half],
        y_test=labels[half],
        classes=np.array(names),
    )
    trained = train(tmp_path / "model", tmp_path / "odd.npz", seeds=2, epochs=1)

    card = (trained.folder / "README.md").read_text(encoding="utf-8")
    rows = [line for line in card.splitlines() if line.startswith("| ") and "---" not in line]
    (start,) = (n for n, row in enumerate(rows) if row.startswith("| class |"))
    told = [re.split(r"(?<!\\)\|", row)[1].strip() for row in rows[start + 1 : start + 11]]
    assert told[:5] == [r"a\|b", r"\*c\*", "1.", "-", r"\$x\$ \& \<d\>"]
    assert told[5:] == ["日本", "ß", r"e\`f", "same beginning A", "g h"]
    assert re.search(r"\| g h \| 0 \| - \|", card)
    assert "| true class | predicted class | test images |" in card
    assert "mean ± deviation" in card
    assert [each["name"] for each in trained.metrics["classes"]] == names
    assert trained.model.config.classes == tuple(names)
    assert hpsearch.load_model(trained.folder).config.classes == tuple(names)


def test_a_missing_choice_is_refused_before_the_database_is_opened(tmp_path):
    with pytest.raises(SpecError, match="no trial selected"):
        hpsearch.train(tmp_path / "model", storage=str(tmp_path / "absent.db"))


@pytest.fixture
def onnx_checked(thrice):
    pytest.importorskip("onnxruntime")
    from hpsearch.nn.serving import onnx

    return onnx, thrice[0]


def test_an_onnx_file_of_another_kind_of_net_agrees_on_images_of_any_shape(tmp_path):
    pytest.importorskip("onnxruntime")
    from hpsearch.nn.serving.model_config import ModelConfig
    from hpsearch.nn.serving.onnx import write_onnx
    from hpsearch.nn.serving.predict import LoadedModel

    spec, shape = (
        ModelSpec(widths=(4, 6, 8), kernel_size=5, batch_norm=False, head="gap"),
        (3, 9, 12),
    )
    config = ModelConfig(
        model=spec,
        input_shape=shape,
        classes=("a", "b"),
        mean=(0.2, 0.4, 0.6),
        std=(0.1, 0.2, 0.3),
    )
    model = LoadedModel(config=config, net=build(spec, shape, 2, seed=0), device=CPU)
    images = np.random.default_rng(0).integers(0, 256, (300, 9, 12, 3), dtype=np.uint8)

    assert write_onnx(tmp_path / "model.onnx", model, images) < 1e-5
    assert (tmp_path / "model.onnx").stat().st_size > 1000


def test_an_onnx_file_that_computes_otherwise_is_not_written(onnx_checked, tmp_path, monkeypatch):
    onnx, trained = onnx_checked
    model, images = trained.model, trained.taken.images
    std = tuple(2 * value for value in model.config.std)
    other = dataclasses.replace(model, config=dataclasses.replace(model.config, std=std))
    content = onnx._exported(other)
    monkeypatch.setattr(onnx, "_exported", lambda _: content)

    with pytest.raises(HpsearchError, match=r"differ from torch's on \d+ of 40 test images"):
        onnx.write_onnx(tmp_path / "model.onnx", model, images)
    assert list(tmp_path.iterdir()) == []


def test_a_net_that_cannot_be_exported_is_kept_without_onnx(digits_npz, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")

    def fail(*_, **__):
        raise torch.onnx.OnnxExporterError("no such operator")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(HpsearchError, match=r"export failed \(no such operator\), .* was not"):
        train(tmp_path / "model", digits_npz, epochs=1, onnx=True)
    model = hpsearch.load_model(tmp_path / "model")
    assert not model.config.onnx
    assert not (tmp_path / "model" / "model.onnx").exists()


def test_a_missing_onnx_package_is_refused_before_training(digits_npz, tmp_path, monkeypatch):
    from hpsearch.nn.serving import onnx

    monkeypatch.setattr(onnx, "_PACKAGES", ("onnx", "onnx_that_is_not_there"))
    with pytest.raises(
        HpsearchError,
        match=r"found no package onnx_that_is_not_there, .* pip install 'hpsearch\[onnx\]'",
    ):
        train(tmp_path / "model", digits_npz, onnx=True)
    assert list(tmp_path.iterdir()) == []
