"""Folders that appear whole or not at all."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hpsearch.errors import HpsearchError
from hpsearch.util import atomic as drafts
from hpsearch.util.atomic import FolderKind, atomic_folder, check_target

KIND = FolderKind(name="box", marks=frozenset({"a"}), files=frozenset({"a", "b"}))


def write(target, *, force=False, content="new"):
    with atomic_folder(target, KIND, force=force) as draft:
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

    with pytest.raises(raised), atomic_folder(tmp_path / "box", KIND, force=True) as draft:
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
        check_target(tmp_path / "file", KIND, force=True)
    with pytest.raises(HpsearchError, match=r"cannot be written \(Not a directory\); make room"):
        check_target(tmp_path / "file" / "box", KIND, force=True)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="there is no /proc to write in")
def test_a_place_that_takes_no_folder_is_told_before_the_work():
    with pytest.raises(HpsearchError, match=r"^/proc/box: cannot be written \("):
        check_target(Path("/proc/box"), KIND, force=False)


def test_a_disk_that_fails_is_told_in_a_line(tmp_path):
    with (
        pytest.raises(HpsearchError, match=r"cannot be written \(No space left on device\)"),
        atomic_folder(tmp_path / "box", KIND, force=False),
    ):
        raise OSError(28, "No space left on device")

    assert list(tmp_path.iterdir()) == []


# Writes a folder as `write` does, and is killed by itself where it is told to.
KILLED = """
import os, signal, sys
from pathlib import Path
from hpsearch.util.atomic import FolderKind, atomic_folder

kind = FolderKind(name="box", marks=frozenset({"a"}), files=frozenset({"a", "b"}))
target, renames = Path(sys.argv[1]), int(sys.argv[2])
rename = Path.rename

def counted(path, to):
    global renames
    rename(path, to)
    renames -= 1
    if renames == 0:
        os.kill(os.getpid(), signal.SIGKILL)

Path.rename = counted
with atomic_folder(target, kind, force=True) as draft:
    (draft / "a").write_text("new")
    if renames == 0:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="nothing is swept on Windows")
@pytest.mark.parametrize(
    ("renames", "left", "content"),
    [
        (0, ["draft", "box"], "old"),  # killed while it wrote
        (1, ["draft", "old"], "old"),  # between the renames: the old one is put back
        (2, ["old", "box"], "new"),  # before the old one was removed
    ],
)
def test_what_a_killed_process_left_is_swept_by_the_next(tmp_path, renames, left, content):
    write(tmp_path / "box", content="old")
    killed = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "box", str(renames)])
    assert killed.returncode == -signal.SIGKILL
    kinds = {".box": "draft", "box": "box"}
    found = ["old" if n.endswith("-old") else kinds[n.partition("-")[0]] for n in names(tmp_path)]
    assert sorted(found) == sorted(left)

    check_target(tmp_path / "box", KIND, force=True)

    assert names(tmp_path) == ["box"]
    assert (tmp_path / "box" / "a").read_text() == content


def test_what_a_live_process_writes_is_not_swept_nor_what_only_looks_alike(tmp_path):
    others = [".box-notes", ".box-0123456789", ".other-01234567"]
    for name in others:
        (tmp_path / name).mkdir()
    with atomic_folder(tmp_path / "box", KIND, force=False) as draft:
        (draft / "a").write_text("slow")
        check_target(tmp_path / "box", KIND, force=False)
        assert draft.exists()

    assert names(tmp_path) == sorted(["box", *others])


@pytest.mark.parametrize("renames", [1, 2])
def test_ctrl_c_between_the_renames_leaves_one_whole_folder(tmp_path, monkeypatch, renames):
    write(tmp_path / "box", content="old")
    rename, done = Path.rename, []

    def interrupted(path, to):
        rename(path, to)
        done.append(to)
        if len(done) == renames:
            raise KeyboardInterrupt

    monkeypatch.setattr(drafts.Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "box", force=True)

    assert names(tmp_path) == ["box"]
    assert (tmp_path / "box" / "a").read_text() == ("old" if renames == 1 else "new")
