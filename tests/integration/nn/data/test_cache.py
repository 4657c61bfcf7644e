"""The cache of decoded images: shared, rebuilt, never in the way."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from hpsearch.core.spec import DataSpec
from hpsearch.nn.data import dataset
from hpsearch.nn.runtime.cpu import cache_directory
from hpsearch.util.atomic import MARKER, PREFIX
from hpsearch.util.messages import messages_to

ROOT = Path(__file__).parents[4]
X = np.random.default_rng(0).integers(0, 256, (60, 9, 9), dtype=np.uint8)
Y = np.arange(60) % 3


@pytest.fixture
def spec(tmp_path):
    np.savez(tmp_path / "set.npz", x_train=X, y_train=Y)
    return DataSpec(dataset=str(tmp_path / "set.npz"))


def same(a, b):
    return a.fingerprint == b.fingerprint and np.array_equal(a.images, b.images)


def arrays(cached):
    return next((cached / "v1" / "arrays").iterdir())


def test_images_are_mapped_read_only(spec):
    got = dataset.load(spec)
    assert isinstance(got.images, np.memmap)
    assert not got.images.flags.writeable
    assert not got.labels.flags.writeable


def test_a_second_load_maps_the_same_file(spec, cached):
    first, second = dataset.load(spec), dataset.load(spec)
    assert first.images.filename == second.images.filename == arrays(cached) / "images.npy"
    assert same(first, second)


def test_the_content_does_not_depend_on_where_the_file_lies(spec, cached, tmp_path):
    (tmp_path / "else").mkdir()
    shutil.copy(tmp_path / "set.npz", tmp_path / "else" / "other.npz")
    other = dataset.load(DataSpec(dataset=str(tmp_path / "else" / "other.npz")))
    assert same(dataset.load(spec), other)
    assert len(list((cached / "v1" / "arrays").iterdir())) == 1


def test_the_content_depends_on_labels_names_and_parts(spec, tmp_path):
    keys = {dataset.load(spec).content}
    for change in (
        {"y_train": (Y + 1) % 3},
        {"classes": np.array(["a", "b", "c"])},
        {"x_train": X[3:], "y_train": Y[3:], "x_val": X[:3], "y_val": Y[:3]},
    ):
        np.savez(tmp_path / "set.npz", **({"x_train": X, "y_train": Y} | change))
        keys.add(dataset.load(spec).content)
    assert len(keys) == 4


def test_the_cache_may_be_deleted_while_its_arrays_are_in_use(spec, cached):
    first = dataset.load(spec)
    shutil.rmtree(cached)
    assert np.array_equal(first.images[..., 0], X)
    assert same(first, dataset.load(spec))
    assert arrays(cached).is_dir()


@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "moments.npy", "meta.json"])
def test_a_missing_or_damaged_file_is_built_again(spec, cached, name):
    expected = dataset.load(spec).fingerprint
    file = arrays(cached) / name
    whole = file.read_bytes()
    flipped = whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:]
    for damaged in (b"", whole[: len(whole) // 2], flipped if name != "meta.json" else b"{}", None):
        if damaged is None:
            file.unlink()
        else:
            file.write_bytes(damaged)
            os.utime(file, ns=(1, 1))
        again = dataset.load(spec)
        assert again.fingerprint == expected
        assert np.array_equal(again.images[..., 0], X)
        assert isinstance(again.images, np.memmap)
        assert name == "meta.json" or file.read_bytes() == whole


def test_a_copied_cache_gives_the_same_images(spec, cached, tmp_path, monkeypatch):
    first = dataset.load(spec)
    shutil.copytree(cached, tmp_path / "copy", copy_function=shutil.copyfile)
    monkeypatch.setenv("HPSEARCH_CACHE", str(tmp_path / "copy"))
    again = dataset.load(spec)
    assert same(first, again)
    assert again.images.filename == arrays(tmp_path / "copy") / "images.npy"


def test_a_cache_that_cannot_be_written_costs_one_line(spec, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("HPSEARCH_CACHE", str(tmp_path / "file" / "cache"))
    lines = []
    with messages_to(lines.append):
        got = dataset.load(spec)
    assert np.array_equal(got.images[..., 0], X)
    assert not got.images.flags.writeable
    (line,) = lines
    assert "cannot write the cache" in line
    assert "Set HPSEARCH_CACHE" in line


def test_the_cache_lies_where_the_user_keeps_caches(monkeypatch, tmp_path):
    monkeypatch.delenv("HPSEARCH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_directory() == tmp_path / "hpsearch"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_directory() == Path.home() / ".cache" / "hpsearch"


def test_what_a_killed_process_left_is_removed_by_the_next(spec, cached):
    content = dataset.load(spec).content
    folder = arrays(cached)
    left = folder.with_name(f"{PREFIX}left")
    left.mkdir()
    (left / MARKER).write_text(content)
    shutil.rmtree(folder)
    dataset.load(spec)
    assert [path.name for path in folder.parent.iterdir()] == [content]


BUILD = """
import sys, time
from pathlib import Path
from hpsearch.core.spec import DataSpec
from hpsearch.nn.data import dataset as data
Path(sys.argv[2] + ".ready").touch()
while not Path(sys.argv[3]).exists():
    time.sleep(0.001)
for _ in range(5):
    got = data.load(DataSpec(dataset=sys.argv[1]))
print(got.content, type(got.images).__name__, int(got.images.sum()))
"""


def test_processes_that_build_at_once_agree(cached, tmp_path):
    x = np.random.default_rng(1).integers(0, 256, (3000, 28, 28), dtype=np.uint8)
    np.savez(tmp_path / "big.npz", x_train=x, y_train=np.arange(3000) % 10)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    marks = [tmp_path / f"mark{i}" for i in range(3)]
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", BUILD, tmp_path / "big.npz", mark, tmp_path / "go"],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for mark in marks
    ]
    deadline = time.monotonic() + 600
    while not all(Path(f"{mark}.ready").exists() for mark in marks):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    (tmp_path / "go").touch()
    outputs = {worker.communicate(timeout=600)[0].strip() for worker in workers}
    assert all(worker.returncode == 0 for worker in workers)
    assert outputs == {f"{arrays(cached).name} memmap {x.sum()}"}
    assert [entry.name for entry in (cached / "v1" / "arrays").iterdir()] == [arrays(cached).name]


def test_a_warm_start_reads_nothing_but_the_cache_and_imports_nothing_heavy(cached):
    """Both would make it slow; the arrays are mapped, not read."""
    code = """
import json, sys
from hpsearch.core.spec import DataSpec
from hpsearch.nn.data import cache, dataset as data
cache.content_key = None
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
data.load(DataSpec())
heavy = {"torch", "torchvision", "sklearn", "mlxtend", "pandas", "PIL", "scipy"} & set(sys.modules)
print(json.dumps([sorted(heavy), [name for name in opened if not name.endswith((".py", ".pyc"))]]))
"""
    dataset.load(DataSpec())
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    heavy, opened = json.loads(ran.stdout)
    assert heavy == []
    assert opened
    assert [name for name in opened if not name.startswith(str(cached))] == []
