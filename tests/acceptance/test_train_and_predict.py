"""From the best trial to a model: train, predict and export on the command line."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.acceptance.conftest import Result, Shell, assert_one_line

FILES = {
    "README.md",
    "config.json",
    "confused.png",
    "confusion.csv",
    "confusion.png",
    "metrics.json",
    "model.onnx",
    "model.safetensors",
}


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """A model folder, trained from the finished study as a process, and what that printed."""

    folder: Path
    result: Result

    def read(self, name: str):
        return json.loads((self.folder / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def trained(finished, tmp_path_factory) -> TrainedModel:
    """The knee, trained twice and longer, with ONNX; to be read only."""
    folder = tmp_path_factory.mktemp("trained")
    shell = Shell(folder=folder)
    options = ("--storage", finished.database, "--epochs", 30, "--seeds", 2, "--threads", 1)
    try:
        result = shell.run("train", "--knee", *options, "--onnx", "-o", "model")
    finally:
        shell.close()
    return TrainedModel(folder=folder / "model", result=result)


@pytest.fixture(scope="session")
def pictures(digits, tmp_path_factory) -> Path:
    """A folder of ten digits as PNG files, one of them below, with a broken one among them."""
    images, labels = digits
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "below").mkdir()
    for label in range(10):
        place = folder / "below" if label == 9 else folder
        image = images[np.flatnonzero(labels == label)[0]]
        Image.fromarray(image).save(place / f"{label}.png")
    (folder / "broken.png").write_bytes(b"no image")
    return folder


def test_training_ends_with_a_model_folder_its_score_and_the_next_command(trained):
    result, metrics = trained.result, trained.read("metrics.json")

    assert result.code == 0, result.err
    assert {path.name for path in trained.folder.iterdir()} == FILES
    assert [path.name for path in trained.folder.parent.iterdir()] == ["model"]
    assert "test accuracy" in result.out
    assert "95 % interval" in result.out
    assert "the first is kept, not the best" in result.out
    assert "hpsearch predict model IMAGES…" in result.out
    lines = result.err.splitlines()
    assert len(lines) == 2 * 30 + 1
    assert lines[0].startswith("seed 1/2  epoch  1/30  train_loss")
    assert lines[-1] == "writing model.onnx and checking it on 40 test images"
    assert metrics["test_accuracy"] >= 0.8
    low, high = metrics["test_accuracy_interval_95"]
    assert low < metrics["test_accuracy"] < high
    assert (metrics["n"], metrics["epochs"], len(metrics["classes"])) == (40, 30, 10)
    assert 0 <= metrics["calibration_error"] < 0.5
    assert metrics["seeds"]["test_accuracies"][0] == metrics["test_accuracy"]


def test_the_config_describes_the_model_and_its_origin(trained, finished, cli):
    config = trained.read("config.json")
    (knee,) = (
        point
        for point in cli("front", "--json", "--storage", finished.database).json
        if point["knee"]
    )

    assert (config["format"], config["version"]) == ("hpsearch-model", 1)
    assert config["classes"] == list("0123456789")
    assert config["input_shape"] == [1, 8, 8]
    assert config["preprocessing"]["size"] == [8, 8]
    provenance = config["provenance"]
    assert (provenance["study"], provenance["trial"]) == ("small", knee["number"])
    assert provenance["params"] == knee["params"]
    assert provenance["searched_accuracy"] == knee["values"]["accuracy"]
    assert "in the search" in trained.result.out
    assert "validation accuracy in the search" in (trained.folder / "README.md").read_text("utf-8")
    assert provenance["train"]["epochs"] == 30
    assert provenance["data"]["test"] == 40
    assert {"torch", "optuna", "hpsearch"} <= set(provenance["versions"])
    assert config["onnx"]["checked"]["images"] == 40
    assert config["onnx"]["checked"]["largest_difference"] <= 1e-3


def test_the_card_has_the_numbers_the_data_and_the_limits_and_links_its_pictures(trained):
    card = (trained.folder / "README.md").read_text(encoding="utf-8")
    metrics = trained.read("metrics.json")

    assert "hpsearch predict" in card
    assert "hpsearch.load_model" in card
    assert f"of {metrics['n']} test images" in card
    assert "## Limits" in card
    for name in ("confusion.png", "confused.png", "metrics.json", "config.json"):
        assert f"({name})" in card
        assert (trained.folder / name).exists()
    with (trained.folder / "confusion.csv").open(encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert sum(int(cell) for row in rows[1:] for cell in row[1:]) == metrics["n"]
    for name in ("confusion.png", "confused.png"):
        with Image.open(trained.folder / name) as picture:
            picture.load()


def test_the_onnx_file_eats_bytes_in_any_batch_and_agrees_with_torch(trained, digits):
    onnxruntime = pytest.importorskip("onnxruntime")
    import hpsearch

    session = onnxruntime.InferenceSession(trained.folder / "model.onnx")
    told = trained.read("config.json")["onnx"]
    images = digits[0][..., None]
    expected = hpsearch.load_model(trained.folder, device="cpu").predict(images)
    *_, second, first = np.sort(expected.probabilities).T
    clear = first - second > 2e-3  # else the tolerance decides the class

    (taken,) = session.get_inputs()
    assert (taken.name, taken.type) == (told["input"]["name"], "tensor(uint8)")
    assert taken.shape == told["input"]["shape"] == ["batch", 8, 8, 1]
    for count in (1, 7, 240):
        (found,) = session.run(["probabilities"], {"images": images[:count]})
        np.testing.assert_allclose(found, expected.probabilities[:count], atol=1e-3)
        same = found.argmax(1) == expected.indices[:count]
        assert same[clear[:count]].all()
    assert clear.mean() > 0.9


def test_predictions_of_a_process_are_json_and_broken_files_are_named(
    trained, pictures, digits_npz, shell
):
    result = shell.run("predict", trained.folder, pictures, digits_npz, "--json", "--threads", 1)

    assert result.code == 0, result.err
    rows = result.json
    assert [Path(row["file"]).name for row in rows[:10]] == [f"{n}.png" for n in range(10)]
    assert rows[10]["file"] == f"{digits_npz}[0]"
    assert len(rows) == 10 + 240
    assert all(set(row) == {"file", "class", "probability"} for row in rows)
    assert all(0 < row["probability"] <= 1 for row in rows)
    right = [row["class"] == str(n // 24) for n, row in enumerate(rows[10:])]
    assert np.mean(right) >= 0.9
    told, count = result.err.splitlines()
    assert f"{pictures}/broken.png: cannot be decoded" in told
    assert count == "skipped 1 file that could not be read"


@pytest.mark.parametrize(("columns", "lines"), [(None, 1), ("60", 3)])
def test_what_goes_into_a_file_is_folded_only_where_columns_are_set(
    trained, pictures, cli, tmp_path, monkeypatch, columns, lines
):
    monkeypatch.delenv("COLUMNS")
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    image = Path(shutil.copy(pictures / "3.png", tmp_path / f"{'x' * 100}.png")).name

    told = cli("predict", trained.folder, image)

    assert (told.code, len(told.out.splitlines())) == (0, 2 + lines)
    assert (f"\n{image}  " in told.out) == (columns is None)


def test_predictions_as_a_table_show_the_runners_up(trained, pictures, cli):
    plain = cli("predict", trained.folder, pictures / "3.png")
    three = cli("predict", trained.folder, pictures / "3.png", "--top", 3)
    told = cli("predict", trained.folder, pictures / "3.png", "--top", 3, "--json").json[0]

    assert (plain.code, plain.err) == (0, "")
    assert f"{pictures}/3.png" in plain.out
    assert len(told["top"]) == 3
    assert told["top"][0] == {"class": told["class"], "probability": told["probability"]}
    assert f"{told['top'][2]['class']} {100 * told['top'][2]['probability']:.1f} %" in three.out


def test_images_of_which_none_can_be_read_end_with_2(trained, pictures, cli, tmp_path):
    np.savez(tmp_path / "color.npz", x=np.zeros((3, 8, 8, 3), np.uint8))
    for images, told in {
        pictures / "broken.png": "broken.png",
        tmp_path / "absent.png": "absent.png: found no such file, expected an image, a folder",
        tmp_path / "color.npz": "color.npz: x: found the shape 3×8×8×3, expected N×H×W, N×H×W×1",
    }.items():
        assert_one_line(cli("predict", trained.folder, images), told)
    for several in ([tmp_path], [pictures / "broken.png", tmp_path / "absent.png"]):
        result = cli("predict", trained.folder, *several)
        assert (result.code, result.out) == (2, "")
        assert "found no readable image" in result.err.splitlines()[-1]


def test_a_damaged_model_folder_ends_with_2(trained, pictures, cli, tmp_path):
    copy = shutil.copytree(trained.folder, tmp_path / "model")
    (copy / "config.json").write_bytes(b"{")

    assert_one_line(cli("predict", copy, pictures), "config.json: cannot be read")


def test_an_existing_model_folder_is_replaced_only_with_force(trained, cli, tmp_path, digits_npz):
    copy = shutil.copytree(trained.folder, tmp_path / "model")
    before = (copy / "config.json").read_bytes()
    net = ("--dataset", digits_npz, "--set", "n_blocks=1", "--epochs", 1, "--threads", 1)

    refused = cli("train", *net, "-o", copy)
    assert (refused.code, refused.out) == (2, "")
    assert "found a model folder" in refused.err
    assert "--force" in refused.err
    assert (copy / "config.json").read_bytes() == before

    replaced = cli("train", *net, "-o", copy, "--force", "--json")
    assert replaced.code == 0, replaced.err
    assert replaced.json == json.loads((copy / "metrics.json").read_text())
    assert {path.name for path in copy.iterdir()} == FILES - {"model.onnx"}
    assert json.loads((copy / "config.json").read_text())["onnx"] is None

    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("precious")
    result = cli("train", *net, "-o", tmp_path / "thesis", "--force")
    assert result.code == 2
    assert "found a folder with 'chapter.tex' in it" in result.err


def test_a_chosen_trial_takes_single_values_by_hand(finished, cli, tmp_path):
    options = ("--storage", finished.database, "--threads", 1, "--epochs", 1)
    result = cli("train", "--trial", 0, "--set", "learning_rate=0.5", *options, "-o", "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    shown = cli("show", 0, "--json", "--storage", finished.database).json

    assert result.code == 0, result.err
    assert config["provenance"]["params"] == {**shown["params"], "learning_rate": 0.5}
    assert config["provenance"]["chosen"] == ["--trial 0", "--set learning_rate=0.5"]
    assert config["provenance"]["searched_accuracy"] is None  # of another configuration


def test_a_study_without_a_choice_gives_its_data_and_recipe(finished, cli, tmp_path):
    options = ("--storage", finished.database, "--study", "small", "--threads", 1)
    result = cli("train", "--set", "n_blocks=1", *options, "-o", "model")
    provenance = json.loads((tmp_path / "model" / "config.json").read_text())["provenance"]

    assert result.code == 0, result.err
    assert (provenance["study"], provenance["trial"]) == ("small", None)
    assert provenance["data"]["shape"] == [1, 8, 8]
    assert provenance["train"]["epochs"] == 2  # the study's, not the built-in 8


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--study", "other", "--knee"], "found no study 'other'"),
        (["--knee", "--set", "speed=9"], "--set speed: found an unknown name"),
        (["--knee", "--image-size", "16"], "--image-size: found 16 with a study"),
        (["--knee", "--dataset", "digits"], "study 'small' searched other images (160 for tr"),
    ],
)
def test_a_choice_that_cannot_be_trained_ends_with_2_and_writes_nothing(
    finished, cli, tmp_path, arguments, told
):
    result = cli("train", *arguments, "--storage", finished.database, "-o", "model")

    assert_one_line(result, told)
    assert not (tmp_path / "model").exists()


def test_an_empty_study_and_a_waiting_trial_have_no_trial_to_train(slow_study, cli):
    for arguments, told in {
        ("--knee",): "found 0 trials and none complete",
        ("--trial", 0): "the study has no trials yet",
    }.items():
        result = cli("train", *arguments, "-o", "model")
        assert result.code == 2
        assert told in result.err
    assert cli("enqueue", "slow", "--set", "base_width=4").code == 0
    waiting = cli("train", "--trial", 0, "-o", "model")
    assert waiting.code == 2
    assert "trial 0 is waiting, expected a complete one" in waiting.err


def test_ctrl_c_ends_a_training_and_leaves_nothing(shell, digits_npz):
    net = ("--dataset", digits_npz, "--set", "n_blocks=1", "--epochs", 10000, "--threads", 1)
    process = shell.start("train", *net, "-o", "model")
    first = shell.hear(process)

    process.send_signal(signal.SIGINT)
    result = shell.wait(process)

    assert first.startswith("epoch     1/10000")
    assert (result.code, result.out) == (130, "")
    assert result.err.endswith("interrupted\n")
    assert "Traceback" not in result.err
    assert list(shell.folder.iterdir()) == []


def test_an_export_holds_the_trials_the_curves_and_a_study_file_that_checks(
    finished, cli, tmp_path
):
    from pyarrow import parquet

    from hpsearch.config import load_study_file
    from hpsearch.core.spec_text import identity

    where = ("--storage", finished.database)
    result = cli("export", "small", "-o", "tables", *where)
    front = cli("front", "--json", *where).json

    assert (result.code, result.out) == (0, "")
    tables = tmp_path / "tables"
    assert sorted(path.name for path in tables.iterdir()) == [
        "curves.csv",
        "curves.parquet",
        "study.toml",
        "trials.csv",
        "trials.parquet",
    ]
    trials = parquet.read_table(tables / "trials.parquet").to_pydict()
    assert trials["number"] == [0, 1, 2]
    for point in front:
        assert trials["front"][point["number"]] is True
        assert trials["knee"][point["number"]] is point["knee"]
        for name, value in point["values"].items():
            assert trials[f"values_{name}"][point["number"]] == value
        for name, value in point["params"].items():
            assert trials[f"params_{name}"][point["number"]] == value
    for name in ("trials", "curves"):
        with (tables / f"{name}.csv").open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        table = parquet.read_table(tables / f"{name}.parquet")
        assert list(rows[0]) == table.column_names
        assert len(rows) == table.num_rows
    shown = cli("show", 0, "--json", *where).json
    assert [float(r["val_loss"]) for r in rows if r["number"] == "0"] == [
        epoch["val_loss"] for epoch in shown["curve"]
    ]
    assert cli("check", tables / "study.toml").code == 0
    written, original = (load_study_file(p) for p in (tables / "study.toml", finished.study_file))
    assert identity(written) == identity(original)


def test_an_export_can_be_repeated_and_names_one_study(finished, cli, tmp_path):
    where = ("--storage", finished.database, "-o", "tables")
    assert cli("export", *where).code == 0
    refused = cli("export", *where)
    assert refused.code == 2
    assert "found a folder of an earlier export" in refused.err
    assert cli("export", "--study", "small", "--force", *where).code == 0
    two = cli("export", "small", "--study", "large", *where)
    assert two.code == 2
    assert "found the studies 'small' and 'large', expected one" in two.err


def test_an_export_does_not_load_torch(finished, tmp_path):
    code = f"""
import sys
from hpsearch.cli.main import main
try: main(["export", "-o", {str(tmp_path / "t")!r}, "--storage", {str(finished.database)!r}])
except SystemExit as exc: assert exc.code == 0, exc.code
sys.stderr.write("torch" * ("torch" in sys.modules))
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert process.returncode == 0
    assert process.stderr.splitlines()[1:] == []
