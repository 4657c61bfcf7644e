"""Data sets known by name: shipped, found in the data directory, or downloaded."""

import gzip
import hashlib
import io
import pickle
import tarfile
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from hpsearch.core.spec import DataSpec
from hpsearch.errors import DataError
from hpsearch.nn.data import dataset
from hpsearch.util.messages import messages_to

NOWHERE = "http://127.0.0.1:9/"  # no server listens there


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def digits():
    """Real images, 100 of them, 10 of each digit: (100, 28, 28) uint8 and their labels."""
    got = dataset.load(DataSpec())
    chosen = np.concatenate([np.flatnonzero(got.labels == k)[:10] for k in range(10)])
    return np.asarray(got.images[chosen, ..., 0]), got.labels[chosen]


@pytest.fixture
def server(tmp_path):
    (tmp_path / "served").mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path / "served")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/", tmp_path / "served"
        running.shutdown()


def idx(array):
    head = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes()
    return head + array.astype(np.uint8).tobytes()


def write_idx(folder, prefix, images, labels, *, suffix=""):
    folder.mkdir(parents=True, exist_ok=True)
    pack = gzip.compress if suffix else bytes
    (folder / f"{prefix}-images-idx3-ubyte{suffix}").write_bytes(pack(idx(images)))
    (folder / f"{prefix}-labels-idx1-ubyte{suffix}").write_bytes(pack(idx(labels)))


def load(name, data_dir):
    return dataset.load(DataSpec(dataset=name), data_dir=data_dir)


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def test_the_default_is_five_thousand_digits_that_need_no_network():
    got = dataset.load(DataSpec())
    assert got.images.shape == (5000, 28, 28, 1)
    assert np.bincount(got.labels).tolist() == [500] * 10
    assert [len(p) for p in (got.split.train, got.split.val, got.split.test)] == [3500, 750, 750]
    assert got.mean == pytest.approx((0.1307,), abs=0.005)  # that of MNIST


def test_the_small_digits_use_the_whole_range():
    got = dataset.load(DataSpec(dataset="digits"))
    assert (got.images.shape, got.images.min(), got.images.max()) == ((1797, 8, 8, 1), 0, 255)
    assert len(got.classes) == 10


@pytest.mark.parametrize(
    ("name", "n_classes", "some"),
    [
        ("emnist-balanced", 47, {0: "0", 10: "A", 36: "a", 46: "t"}),
        ("emnist-letters", 26, {0: "a", 25: "z"}),
        ("emnist-byclass", 62, {10: "A", 35: "Z", 36: "a", 61: "z"}),
        ("emnist-mnist", 10, {9: "9"}),
    ],
)
def test_emnist_comes_out_upright_with_its_class_names(tmp_path, digits, name, n_classes, some):
    upright = np.resize(digits[0], (n_classes * 3, 28, 28))
    labels = np.arange(n_classes * 3) % n_classes
    first = 1 if name == "emnist-letters" else 0
    for part, n in (("train", n_classes * 3), ("test", n_classes)):
        turned = upright[:n].transpose(0, 2, 1)  # as the published files are
        write_idx(tmp_path / "EMNIST" / "raw", f"{name}-{part}", turned, labels[:n] + first)
    got = load(name, tmp_path)
    assert len(got.classes) == n_classes
    assert {k: got.classes[k] for k in some} == some
    assert np.array_equal(got.images[: n_classes * 3, ..., 0], upright)
    assert got.labels[got.split.test].tolist() == list(range(n_classes))
    assert (len(got.split.train), len(got.split.val)) == (n_classes * 2, n_classes)


def test_our_class_names_are_those_of_torchvision():
    from torchvision import datasets

    from hpsearch.nn.data import builtin

    for split, ours in builtin._EMNIST.items():
        theirs = datasets.EMNIST.classes_split_dict[split]
        assert list(ours) == [name for name in theirs if name != "N/A"]
    assert list(builtin._MNIST["fashion-mnist"][1]) == datasets.FashionMNIST.classes
    assert list(builtin._MNIST["kmnist"][1]) == datasets.KMNIST.classes


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_mnist_is_found_plain_or_gzipped_with_its_official_test_images(tmp_path, digits, suffix):
    folder = tmp_path / "FashionMNIST" / "raw"
    write_idx(folder, "train", *digits, suffix=suffix)
    write_idx(folder, "t10k", digits[0][:7], digits[1][:7], suffix=suffix)
    got = load("fashion-mnist", tmp_path)
    assert got.classes[9] == "Ankle boot"
    assert np.array_equal(got.images[got.split.test, ..., 0], digits[0][:7])
    assert [len(got.split.train), len(got.split.val)] == [80, 20]


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[:-1], lambda raw: b"", lambda raw: b"<html>" * 9]
)
def test_a_damaged_file_is_named(tmp_path, digits, damage):
    folder = tmp_path / "KMNIST" / "raw"
    write_idx(folder, "train", *digits)
    write_idx(folder, "t10k", *digits)
    file = folder / "t10k-images-idx3-ubyte"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DataError, match="t10k-images-idx3-ubyte is damaged or incomplete"):
        load("kmnist", tmp_path)


def test_labels_out_of_range_are_named(tmp_path, digits):
    write_idx(tmp_path / "MNIST" / "raw", "train", *digits)
    write_idx(tmp_path / "MNIST" / "raw", "t10k", digits[0], digits[1] + 1)
    with pytest.raises(DataError, match="found the label 10 in test, expected 0 to 9"):
        load("mnist", tmp_path)


def unreachable(monkeypatch):
    from torchvision import datasets

    monkeypatch.setattr(datasets.MNIST, "mirrors", [NOWHERE])
    monkeypatch.setattr(datasets.EMNIST, "url", f"{NOWHERE}gzip.zip")
    monkeypatch.setattr(datasets.CIFAR10, "url", f"{NOWHERE}cifar-10-python.tar.gz")
    listed = {p: [NOWHERE + s[1], *s[1:]] for p, s in datasets.SVHN.split_list.items()}
    monkeypatch.setattr(datasets.SVHN, "split_list", listed)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("mnist", "MNIST/raw the files train-images-idx3-ubyte, .* may end in .gz"),
        ("emnist-balanced", "EMNIST/raw the files emnist-balanced-train-images.*, or .*gzip.zip"),
        ("cifar10", "cifar-10-batches-py the files data_batch_1, .*cifar-10-python.tar.gz"),
        ("svhn", "the files train_32x32.mat, test_32x32.mat"),
    ],
)
def test_without_network_the_error_says_what_to_put_where(tmp_path, monkeypatch, name, what):
    unreachable(monkeypatch)
    message = f"{name} is not in {tmp_path}/data and cannot be downloaded .*refused.*{what}"
    with pytest.raises(DataError, match=message) as caught:
        load(name, tmp_path / "data")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "data").exists()


def test_a_data_directory_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "data").write_text("")
    with pytest.raises(DataError, match="data: found a file, expected the directory for data"):
        load("mnist", tmp_path / "data")


def serve_kmnist(server, monkeypatch, digits):
    from torchvision import datasets

    url, served = server
    write_idx(served, "train", *digits, suffix=".gz")
    write_idx(served, "t10k", *digits, suffix=".gz")
    sums = [(file.name, md5(file)) for file in sorted(served.iterdir())]
    monkeypatch.setattr(datasets.KMNIST, "mirrors", [url])
    monkeypatch.setattr(datasets.KMNIST, "resources", sums)


def test_a_download_is_kept_and_found_by_the_next_load(tmp_path, monkeypatch, server, digits):
    serve_kmnist(server, monkeypatch, digits)
    lines = []
    spec, folder = DataSpec(dataset="kmnist"), tmp_path / "data"
    with messages_to(lines.append):
        got = dataset.load(spec, data_dir=folder)
    assert np.array_equal(got.images[:100, ..., 0], digits[0])
    assert lines == [f"downloading kmnist to {folder}"]
    unreachable(monkeypatch)
    assert load("kmnist", folder).content == got.content
    assert [entry.name for entry in folder.iterdir()] == ["KMNIST"]


def test_a_partial_download_leaves_nothing_behind(tmp_path, monkeypatch, server, digits):
    serve_kmnist(server, monkeypatch, digits)
    file = server[1] / "train-labels-idx1-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(DataError, match=r"File not found or corrupted.*put into .*KMNIST/raw"):
        load("kmnist", tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_an_emnist_archive_put_into_place_by_hand_is_used(tmp_path, monkeypatch, digits):
    from torchvision import datasets

    raw = tmp_path / "data" / "EMNIST" / "raw"
    raw.mkdir(parents=True)
    with zipfile.ZipFile(raw / "gzip.zip", "w") as archive:
        for part in ("train", "test"):
            for kind, array in (("images-idx3", digits[0]), ("labels-idx1", digits[1])):
                packed = gzip.compress(idx(array))
                archive.writestr(f"gzip/emnist-digits-{part}-{kind}-ubyte.gz", packed)
    unreachable(monkeypatch)
    with pytest.raises(DataError, match="emnist-digits is not in"):
        load("emnist-digits", tmp_path / "data")  # it is not the published archive
    monkeypatch.setattr(datasets.EMNIST, "md5", md5(raw / "gzip.zip"))
    got = load("emnist-digits", tmp_path / "data")
    assert np.array_equal(got.images[:100, ..., 0], digits[0].transpose(0, 2, 1))
    assert (raw / "gzip.zip").is_file()


def test_cifar10_is_unpacked_checked_and_read(tmp_path, monkeypatch):
    from torchvision import datasets

    rng = np.random.default_rng(0)
    folder = tmp_path / "data" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    pixels = {name: rng.integers(0, 256, (20, 3072), dtype=np.uint8) for name in names}
    for name in names:
        batch = {"data": pixels[name], "labels": [i % 10 for i in range(20)]}
        (folder / name).write_bytes(pickle.dumps(batch))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    sums = [[name, md5(folder / name)] for name in names]
    monkeypatch.setattr(datasets.CIFAR10, "train_list", sums[:5])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", sums[5:])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": md5(folder / "batches.meta")}
    monkeypatch.setattr(datasets.CIFAR10, "meta", meta)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.add(folder, "cifar-10-batches-py")

    got = load("cifar10", tmp_path / "data")
    assert (got.input_shape, got.classes, len(got.split.test)) == (
        (3, 32, 32),
        tuple("abcdefghij"),
        20,
    )
    assert np.array_equal(got.images[0].transpose(2, 0, 1).ravel(), pixels["data_batch_1"][0])

    by_hand = tmp_path / "by-hand"
    by_hand.mkdir()
    (by_hand / "cifar-10-python.tar.gz").write_bytes(packed.getvalue())
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", md5(by_hand / "cifar-10-python.tar.gz"))
    assert load("cifar10", by_hand).content == got.content

    (folder / "data_batch_3").write_bytes(b"cut short")
    with pytest.raises(DataError, match="cifar-10-batches-py/data_batch_3 is damaged"):
        load("cifar10", tmp_path / "data")


def test_svhn_is_checked_and_read(tmp_path, monkeypatch):
    from scipy.io import savemat
    from torchvision import datasets

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (32, 32, 3, 40), dtype=np.uint8)
    labels = (np.arange(40) % 10 + 1)[:, None]  # SVHN says 10 for the digit 0
    splits = {}
    for part in ("train", "test"):
        file = tmp_path / f"{part}_32x32.mat"
        savemat(file, {"X": images, "y": labels})
        splits[part] = [NOWHERE, file.name, md5(file)]
    monkeypatch.setattr(datasets.SVHN, "split_list", splits)
    got = load("svhn", tmp_path)
    assert got.input_shape == (3, 32, 32)
    assert got.labels[:10].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    assert np.array_equal(got.images[5], images[..., 5])
