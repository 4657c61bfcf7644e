"""Files that others made: whatever they are or claim to hold, one line refuses them, at once."""

from __future__ import annotations

import gzip
import inspect
import json
import os
import signal
import socket
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hpsearch.config import load_study_file
from hpsearch.core.spec import DataSpec, ModelSpec
from hpsearch.errors import DataError, ModelError, SpecError
from hpsearch.nn.data import dataset, image_folder
from hpsearch.nn.data.builtin import find, read_idx
from hpsearch.nn.data.image_folder import FORMATS, read_image
from hpsearch.nn.models import build
from hpsearch.nn.serving.inputs import gather
from hpsearch.nn.serving.model_config import ModelConfig
from hpsearch.nn.serving.predict import load_model, write_model
from tests.benchmarks import fuzz_files

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no named pipes")


@pytest.fixture(autouse=True)
def _no_hang():
    """Fails a test that waits for the other end of a pipe, instead of the whole suite."""

    def fail(*_):
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def make_pipe(path):
    os.mkfifo(path)


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as server, pytest.MonkeyPatch.context() as patch:
        patch.chdir(path.parent)  # a socket's name has at most 100 bytes
        server.bind(path.name)


def link_device(path):
    path.symlink_to("/dev/zero")


SPECIAL = {
    "a named pipe": make_pipe,
    "a socket": make_socket,
    "a device": link_device,
    "a folder": lambda path: path.mkdir(),
}
special = pytest.mark.parametrize("kind", SPECIAL)


@special
def test_a_study_file_must_be_a_regular_file(kind, tmp_path):
    path = tmp_path / "study.toml"
    SPECIAL[kind](path)

    with pytest.raises(SpecError, match=rf"(not a regular file but|found) {kind}"):
        load_study_file(path)


@special
def test_an_image_to_predict_must_be_a_regular_file(kind, tmp_path):
    """Named by its path, or found in a folder; a folder named as an image is searched."""
    path = tmp_path / "image.png"
    SPECIAL[kind](path)
    lines = []

    with pytest.raises(DataError, match=rf"image\.png: cannot be decoded \(not .* but {kind}\)"):
        read_image(path, size=8, channels=1)
    assert list(gather([path, tmp_path], size=(8, 8), channels=1, refuse=lines.append)) == []
    assert len(lines) == (0 if kind == "a folder" else 2)
    assert all(f"not a regular file but {kind}" in line for line in lines)


@special
def test_an_image_of_a_class_folder_must_be_a_regular_file(kind, tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(5):
            Image.new("L", (8, 8), i).save(tmp_path / "pets" / name / f"{i}.png")
    SPECIAL[kind](tmp_path / "pets" / "cat" / "x.png")
    spec = DataSpec(dataset=str(tmp_path / "pets"))

    if kind == "a folder":
        assert dataset.summarise(spec, seed=0).classes == {"cat": 5, "dog": 5}
        return
    for read in (dataset.load, lambda spec: dataset.summarise(spec, seed=0)):
        with pytest.raises(DataError, match=rf"cat/x\.png: cannot be read \(not .* but {kind}\)"):
            read(spec)


def test_a_link_to_a_missing_image_is_refused_rather_than_left_out(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.new("L", (8, 8)).save(tmp_path / name / "1.png")
    (tmp_path / "cat" / "2.png").symlink_to("moved-away.png")

    with pytest.raises(DataError, match=r"cat/2\.png: cannot be read \(No such file"):
        image_folder.read_labels(tmp_path)


def test_folders_may_lie_deeper_in_each_other_than_python_recurses(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.new("L", (8, 8)).save(tmp_path / name / "1.png")
    (tmp_path / "cat" / Path(*"d" * 300)).mkdir(parents=True)
    before = sys.getrecursionlimit()

    sys.setrecursionlimit(len(inspect.stack(0)) + 200)
    try:
        _, classes = image_folder.read_labels(tmp_path)
    finally:
        sys.setrecursionlimit(before)

    assert classes == ("cat", "dog")


@special
def test_an_npz_must_be_a_regular_file(kind, tmp_path):
    path = tmp_path / "set.npz"
    SPECIAL[kind](path)
    lines = []

    assert list(gather([path], size=(8, 8), channels=1, refuse=lines.append)) == []
    if kind != "a folder":
        with pytest.raises(DataError, match=r"not a regular file, expected an \.npz file"):
            dataset.check(DataSpec(dataset=str(path)))
        assert f"not a regular file but {kind}" in lines[0]


@special
def test_the_files_of_a_named_data_set_must_be_regular(kind, tmp_path):
    """They are neither read nor replaced by a download."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    path = raw / "train-images-idx3-ubyte"
    SPECIAL[kind](path)

    with pytest.raises(DataError, match="ubyte: not a regular file, expected a file of mnist"):
        find("mnist", data_dir=tmp_path)
    with pytest.raises(DataError, match=f"cannot be read .*not a regular file but {kind}"):
        read_idx(path, dimensions=3)


@pytest.fixture
def model(tmp_path):
    """A small model folder."""
    config = ModelConfig(
        model=ModelSpec(widths=(4,)),
        input_shape=(1, 8, 8),
        classes=("zero", "one"),
        mean=(0.4,),
        std=(0.3,),
    )
    (tmp_path / "model").mkdir()
    write_model(tmp_path / "model", build(config.model, (1, 8, 8), 2, seed=0), config)
    return tmp_path / "model"


@special
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_the_files_of_a_model_must_be_regular(kind, name, model):
    (model / name).unlink()
    SPECIAL[kind](model / name)

    with pytest.raises(ModelError, match=rf"{name}: cannot be read \(not a .* but {kind}\)"):
        load_model(model, device="cpu")


def npz(path, shape, *, data=b"", name="x_train", descr="'|u1'", method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr(f"{name}.npy", fuzz_files.npy(shape, data, descr))


@pytest.mark.parametrize("shape", ["(1000000000000, 8, 8)", "(1000000000, 8)", "(-1, -64)"])
def test_an_npz_must_hold_as_much_as_its_header_claims(shape, tmp_path):
    """Before memory is allocated: a file of 400 bytes claimed 58 TiB."""
    npz(tmp_path / "set.npz", shape)

    with pytest.raises(DataError, match=r"x_train.npy claims [\d,]+ bytes and holds 128\)"):
        dataset.load(DataSpec(dataset=str(tmp_path / "set.npz")))


def test_a_member_of_an_npz_cannot_unpack_to_more_than_deflate_can_pack(tmp_path):
    npz(tmp_path / "set.npz", "(1000, 8, 8)", data=bytes(64_000), method=zipfile.ZIP_DEFLATED)
    content = (tmp_path / "set.npz").read_bytes()
    entry = content.index(b"PK\1\2")  # the directory's size of the member, unpacked
    lie = content[: entry + 24] + struct.pack("<I", 2**31) + content[entry + 28 :]
    (tmp_path / "set.npz").write_bytes(lie)

    with pytest.raises(DataError, match=r"claims 2,147,483,648 bytes, expected at most"):
        dataset.load(DataSpec(dataset=str(tmp_path / "set.npz")))


@pytest.mark.parametrize(
    ("shape", "descr"), [("(" * 4000, "'|u1'"), ("-" * 8000 + "1", "'|u1'"), ("(8,)", "'|u1")]
)
def test_a_header_that_numpy_cannot_parse_is_one_line(shape, descr, tmp_path):
    npz(tmp_path / "set.npz", shape, descr=descr)

    with pytest.raises(DataError, match=r"set.npz: cannot be read \(.*\), expected plain arrays"):
        dataset.load(DataSpec(dataset=str(tmp_path / "set.npz")))


@pytest.mark.parametrize(
    "names", [np.array([b"\xff", b"a"]), np.array([0x7FFFFFFF, 97], np.uint32).view("U1")]
)
def test_class_names_of_an_npz_must_be_text(names, tmp_path):
    images, labels = np.zeros((40, 8, 8), np.uint8), np.arange(40) % 2
    np.savez(tmp_path / "set.npz", x_train=images, y_train=labels, classes=names)

    with pytest.raises(DataError, match=r"set.npz: .*expected a? ?names? in UTF-8"):
        dataset.load(DataSpec(dataset=str(tmp_path / "set.npz")))


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_an_idx_file_must_hold_as_much_as_its_header_claims(suffix, tmp_path):
    path = tmp_path / f"images{suffix}"
    claims = struct.pack(">4B3I", 0, 0, 8, 3, 2**32 - 1, 2**20, 8)
    path.write_bytes(gzip.compress(claims) if suffix else claims)

    with pytest.raises(DataError, match=f"images{suffix} is damaged or incomplete: found"):
        read_idx(path, dimensions=3)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("kind", ["EPS", "PDF", "ICO", "TGA", "JPEG2000", "AVIF"])
def test_only_the_promised_formats_are_opened_whatever_the_suffix(kind, suffix, tmp_path):
    """Pillow starts Ghostscript for EPS; here it may not even get to look for it."""
    path = tmp_path / f"image{suffix}"
    try:
        fuzz_files.picture("RGB").save(path, kind)
    except (KeyError, OSError):
        pytest.skip(f"this Pillow does not write {kind}")

    with pytest.raises(DataError, match=r"cannot be decoded \(it is none of JPEG, PNG, BMP"):
        read_image(path, size=8, channels=3)


def test_the_promised_formats_are_those_of_the_suffixes_that_folders_are_searched_for():
    Image.init()
    formats = {Image.registered_extensions()[suffix] for suffix in image_folder.SUFFIXES}

    assert formats == set(FORMATS)


@pytest.mark.parametrize("error", [RuntimeError, OverflowError, MemoryError, RecursionError])
def test_any_exception_of_a_decoder_names_the_file_in_one_line(error, tmp_path, monkeypatch):
    """A damaged AVIF raised RuntimeError; which format raises what is up to its decoder."""
    Image.new("L", (8, 8)).save(tmp_path / "image.png")

    def fail(image, *_, **__):
        raise error("no such\nluck")

    monkeypatch.setattr(Image.Image, "convert", fail)
    with pytest.raises(DataError, match=r"image\.png: cannot be decoded \(no such luck\), expec"):
        read_image(tmp_path / "image.png", size=8, channels=3)


def edit(folder, change):
    plain = json.loads((folder / "config.json").read_text())
    change(plain)
    (folder / "config.json").write_text(json.dumps(plain))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(mean=[10**400]), "mean: found a whole number of 1329 bits"),
        (lambda c: c.update(version=10**400), "version: found a whole number of 1329 bits"),
        (lambda c: c.update(mean=[1e308]), "found mean"),
        (lambda c: c.update(std=[0.0]), "found std"),
        (lambda c: c.update(classes=["\ud800", "a"]), "expected text in UTF-8"),
        (lambda c: c.update(classes=["a", "a"]), "found two equal classes"),
        (lambda c: c.update(extra=json.loads("[" * 400 + "]" * 400)), "nested more than 32 deep"),
        (lambda c: c.update(weights_sha256="0" * 64), "found other weights than those"),
    ],
)
def test_a_model_folder_with_values_that_cannot_be_is_refused(change, message, model):
    edit(model, change)

    with pytest.raises(ModelError, match=message):
        load_model(model, device="cpu")


def test_a_flipped_bit_in_the_weights_is_found(model):
    content = bytearray((model / "model.safetensors").read_bytes())
    content[-2] ^= 1
    (model / "model.safetensors").write_bytes(content)

    with pytest.raises(ModelError, match="safetensors: found other weights than those that config"):
        load_model(model, device="cpu")


def test_a_model_folder_of_an_earlier_version_has_no_hash_and_loads(model):
    edit(model, lambda c: c.pop("weights_sha256"))

    assert load_model(model, device="cpu").config.weights_sha256 is None


@pytest.mark.parametrize(
    ("kind", "name", "cases"),
    [("study", "study", 200), ("model", "model", 60)]
    + [("images", name, 40) for name in fuzz_files.FORMATS],
)
def test_damaged_files_are_refused_in_one_line_or_lose_nothing(kind, name, cases):
    """A sample of `tests/benchmarks/fuzz_files.py`, with other damage than its default seed."""
    found = dict(fuzz_files.answers(name, kind, range(cases), seed=12))

    assert {number: what for number, what in found.items() if what.startswith("FAULT")} == {}
    assert "refused" in found.values()


def test_the_fuzzer_reports_an_exception_and_a_file_that_was_wrongly_accepted(tmp_path):
    def crash(folder, rng):
        raise KeyError("dtype")

    def accept(folder, rng):
        return fuzz_files.outcome_of(lambda: 3, lambda it: fuzz_files.expect(it == 4, "three"))

    def refuse(folder, rng):
        return fuzz_files.outcome_of(lambda: read_image("none.png", size=8, channels=1), print)

    answers = [
        fuzz_files.answer(case, "name", 0, seed=0, folder=tmp_path)
        for case in (crash, accept, refuse)
    ]

    assert answers[0].startswith("FAULT KeyError at test_untrusted_files.py")
    assert answers[1].startswith("FAULT WronglyAcceptedError")
    assert answers[2] == "refused"
