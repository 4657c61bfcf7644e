"""Folders that appear whole or not at all."""

import os
from pathlib import Path

import pytest

from hpsearch.errors import HpsearchError
from hpsearch.nn.draft import Kind, check_place, drafted

KIND = Kind(name="box", marks=frozenset({"a"}), files=frozenset({"a", "b"}))


def write(target, *, force=False, content="new"):
    with drafted(target, KIND, force=force) as draft:
        (draft / "a").write_text(content)


def test_a_folder_appears_with_all_folders_above_it(tmp_path):
    write(tmp_path / "deep" / "box")

    assert (tmp_path / "deep" / "box" / "a").read_text() == "new"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["box"]


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "box").mkdir()
    write(tmp_path / "box")

    assert (tmp_path / "box" / "a").read_text() == "new"


@pytest.mark.parametrize("raised", [ValueError, KeyboardInterrupt])
def test_what_is_cut_short_leaves_everything_as_it_was(tmp_path, raised):
    write(tmp_path / "box", content="old")

    def fail(draft):
        (draft / "b").write_text("half")
        raise raised

    with pytest.raises(raised), drafted(tmp_path / "box", KIND, force=True) as draft:
        fail(draft)

    assert [path.name for path in tmp_path.iterdir()] == ["box"]
    assert {path.name: path.read_text() for path in (tmp_path / "box").iterdir()} == {"a": "old"}


def test_one_of_the_same_kind_is_replaced_only_when_told_to(tmp_path):
    write(tmp_path / "box", content="old")
    (tmp_path / "box" / "b").write_text("old")

    with pytest.raises(HpsearchError, match=r"found a box, .* or pass --force to replace it"):
        write(tmp_path / "box")
    assert (tmp_path / "box" / "a").read_text() == "old"

    write(tmp_path / "box", force=True)
    assert {path.name: path.read_text() for path in (tmp_path / "box").iterdir()} == {"a": "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["box"]


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["b"], "found another folder"),
        (["a", "thesis.tex"], "found a folder with 'thesis.tex' in it"),
    ],
)
def test_another_folder_is_never_replaced(tmp_path, force, names, told):
    (tmp_path / "box").mkdir()
    for name in names:
        (tmp_path / "box" / name).write_text("precious")

    with pytest.raises(HpsearchError, match=told):
        write(tmp_path / "box", force=force)

    assert {path.name for path in (tmp_path / "box").iterdir()} == set(names)


def test_a_file_in_the_way_is_told(tmp_path):
    (tmp_path / "file").write_text("precious")

    with pytest.raises(HpsearchError, match="found a file, expected a new folder"):
        check_place(tmp_path / "file", KIND, force=True)
    with pytest.raises(HpsearchError, match=r"cannot be written \(Not a directory\); make room"):
        check_place(tmp_path / "file" / "box", KIND, force=True)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="there is no /proc to write in")
def test_a_place_that_takes_no_folder_is_told_before_the_work():
    with pytest.raises(HpsearchError, match=r"^/proc/box: cannot be written \("):
        check_place(Path("/proc/box"), KIND, force=False)


def test_a_disk_that_fails_is_told_in_a_line(tmp_path):
    with (
        pytest.raises(HpsearchError, match=r"cannot be written \(No space left on device\)"),
        drafted(tmp_path / "box", KIND, force=False),
    ):
        raise OSError(28, "No space left on device")

    assert list(tmp_path.iterdir()) == []
