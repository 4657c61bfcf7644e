"""Files and folders that appear whole or not at all."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hpsearch.errors import HpsearchError
from hpsearch.util import atomic
from hpsearch.util.atomic import (
    MARKER,
    PREFIX,
    FolderKind,
    atomic_folder,
    atomic_write,
    check_target,
    make_private_folder,
    open_regular,
    read_regular,
    temporary_folder,
)

KIND = FolderKind(name="box", marks=frozenset({"a"}), files=frozenset({"a", "b"}))


def write(target, *, force=False, content="new"):
    with atomic_folder(target, KIND, force=force) as draft:
        (draft / "a").write_text(content)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_appears_with_all_folders_above_it(tmp_path):
    write(tmp_path / "deep" / "box")

    assert (tmp_path / "deep" / "box" / "a").read_text() == "new"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["box"]


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "box").mkdir()
    write(tmp_path / "box")

    assert (tmp_path / "box" / "a").read_text() == "new"


@pytest.mark.parametrize("raised", [ValueError, KeyboardInterrupt])
def test_an_interrupted_write_leaves_everything_unchanged(tmp_path, raised):
    write(tmp_path / "box", content="old")

    def fail(draft):
        (draft / "b").write_text("half")
        raise raised

    with pytest.raises(raised), atomic_folder(tmp_path / "box", KIND, force=True) as draft:
        fail(draft)

    assert [path.name for path in tmp_path.iterdir()] == ["box"]
    assert {path.name: path.read_text() for path in (tmp_path / "box").iterdir()} == {"a": "old"}


def test_a_folder_of_the_same_kind_is_replaced_only_with_force(tmp_path):
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
    ("present", "message"),
    [
        (["b"], "found another folder"),
        (["a", "thesis.tex"], "found a folder with 'thesis.tex' in it"),
    ],
)
def test_another_folder_is_never_replaced(tmp_path, force, present, message):
    (tmp_path / "box").mkdir()
    for name in present:
        (tmp_path / "box" / name).write_text("precious")

    with pytest.raises(HpsearchError, match=message):
        write(tmp_path / "box", force=force)

    assert names(tmp_path / "box") == sorted(present)


def test_a_file_in_the_way_is_reported(tmp_path):
    (tmp_path / "file").write_text("precious")

    with pytest.raises(HpsearchError, match="found a file, expected a new folder"):
        check_target(tmp_path / "file", KIND, force=True)
    with pytest.raises(HpsearchError, match=r"cannot be written \(Not a directory\); make room"):
        check_target(tmp_path / "file" / "box", KIND, force=True)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="no /proc to write in")
def test_a_parent_that_cannot_be_written_is_reported_before_the_work():
    with pytest.raises(HpsearchError, match=r"^/proc/box: cannot be written \("):
        check_target(Path("/proc/box"), KIND, force=False)


def test_a_disk_that_fails_is_reported_in_one_line(tmp_path):
    with (
        pytest.raises(HpsearchError, match=r"cannot be written \(No space left on device\)"),
        atomic_folder(tmp_path / "box", KIND, force=False),
    ):
        raise OSError(28, "No space left on device")

    assert list(tmp_path.iterdir()) == []


# Writes a folder as `write` does, and kills itself after a number of renames.
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


@pytest.mark.skipif(sys.platform == "win32", reason="nothing is removed on Windows")
@pytest.mark.parametrize(
    ("renames", "left", "content"),
    [
        (0, ["box", "tmp", "tmp/new"], "old"),  # killed while it wrote
        (1, ["tmp", "tmp/new", "tmp/old"], "old"),  # between the renames: the old one is put back
        (2, ["box", "tmp", "tmp/old"], "new"),  # before the old one was removed
    ],
)
def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path, renames, left, content):
    write(tmp_path / "box", content="old")
    killed = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "box", str(renames)])
    assert killed.returncode == -signal.SIGKILL
    (outer,) = tmp_path.glob(f"{PREFIX}*")
    (outer / MARKER).rename(tmp_path / "marker")
    folders = {path for path in tmp_path.rglob("*") if path.is_dir()}
    shown = {str(path.relative_to(tmp_path)).replace(outer.name, "tmp") for path in folders}
    assert sorted(shown) == left
    (tmp_path / "marker").rename(outer / MARKER)

    check_target(tmp_path / "box", KIND, force=True)

    assert names(tmp_path) == ["box"]
    assert (tmp_path / "box" / "a").read_text() == content


def test_what_a_live_process_writes_is_not_removed(tmp_path):
    with atomic_folder(tmp_path / "box", KIND, force=False) as draft:
        (draft / "a").write_text("slow")
        check_target(tmp_path / "box", KIND, force=False)
        assert draft.exists()

    assert names(tmp_path) == ["box"]


@pytest.mark.parametrize(
    "name",
    [".box-01234567", ".box-01234567-old", f"{PREFIX}01234567", f"{PREFIX}of-another-target"],
)
def test_a_folder_without_our_mark_is_never_removed_whatever_its_name(tmp_path, name):
    """Before, any hidden folder .NAME-XXXXXXXX with eight hexadecimal digits was removed."""
    write(tmp_path / "box", content="old")
    (tmp_path / name / "old").mkdir(parents=True)
    (tmp_path / name / "thesis.tex").write_text("precious")
    if "another" in name:
        (tmp_path / name / MARKER).write_text("other")

    check_target(tmp_path / "box", KIND, force=True)
    write(tmp_path / "box", force=True)

    assert names(tmp_path) == sorted([name, "box"])
    assert (tmp_path / name / "thesis.tex").read_text() == "precious"


@pytest.mark.parametrize("renames", [1, 2])
def test_ctrl_c_between_the_renames_leaves_one_whole_folder(tmp_path, monkeypatch, renames):
    write(tmp_path / "box", content="old")
    rename, done = Path.rename, []

    def interrupted(path, to):
        rename(path, to)
        done.append(to)
        if len(done) == renames:
            raise KeyboardInterrupt

    monkeypatch.setattr(atomic.Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "box", force=True)

    assert names(tmp_path) == ["box"]
    assert (tmp_path / "box" / "a").read_text() == ("old" if renames == 1 else "new")


def test_files_and_folders_get_the_permissions_of_ordinary_ones(tmp_path):
    before = os.umask(0o027)
    try:
        write(tmp_path / "box")
        atomic_write(tmp_path / "file", "text")
    finally:
        os.umask(before)

    assert (tmp_path / "box").stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    atomic_write(tmp_path / "file", "grün")
    assert (tmp_path / "file").read_bytes() == "grün".encode()

    def fail(path, to):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.Path, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        atomic_write(tmp_path / "file", b"new")

    assert names(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == "grün".encode()


def test_a_temporary_folder_is_removed_whatever_happens_inside(tmp_path):
    def fail(folder):
        (folder / "half").write_text("half")
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"), temporary_folder(tmp_path / "box") as folder:
        fail(folder)

    assert names(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="no links without privileges")
def test_links_and_pipes_that_others_planted_are_left_alone(tmp_path):
    """In a shared folder anybody may make a folder that looks like a leftover of ours."""
    precious = tmp_path / "precious"
    (precious / "old").mkdir(parents=True)
    (precious / MARKER).write_text("box")
    (tmp_path / f"{PREFIX}link").symlink_to(precious)
    (tmp_path / f"{PREFIX}open").mkdir(mode=0o777)
    (tmp_path / f"{PREFIX}open").chmod(0o777)
    (tmp_path / f"{PREFIX}open" / MARKER).write_text("box")
    (tmp_path / f"{PREFIX}pipe").mkdir(mode=0o700)
    os.mkfifo(tmp_path / f"{PREFIX}pipe" / MARKER)
    before = sorted(tmp_path.rglob("*"))

    check_target(tmp_path / "box", KIND, force=True)  # the pipe does not block it

    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(sys.platform == "win32", reason="no pipes, no modes")
def test_only_regular_files_and_folders_of_ours_are_trusted(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe"):
        with pytest.raises(OSError, match=r"not a regular file but a (link|named pipe)"):
            open_regular(tmp_path / name, follow_links=False)
    with open_regular(tmp_path / "file") as file:
        assert file.read() == b"content"

    make_private_folder(tmp_path / "deep" / "own")
    assert (tmp_path / "deep" / "own").stat().st_mode & 0o777 == 0o700
    (tmp_path / "own").symlink_to("deep/own")
    (tmp_path / "deep").chmod(0o777)
    for name, found in [("own", "a link"), ("file", "a file"), ("deep", "permissions 777")]:
        with pytest.raises(PermissionError, match=f"{found}.*, expected a folder that only you"):
            make_private_folder(tmp_path / name)
    assert (tmp_path / "file").read_bytes() == b"content"


def test_a_pipe_that_takes_a_files_place_is_refused_too(tmp_path, monkeypatch):
    """Opened without waiting for a writer, although it was a regular file when it was looked at."""
    (tmp_path / "file").write_text("text")
    os.mkfifo(tmp_path / "pipe")
    status = os.stat(tmp_path / "file")
    monkeypatch.setattr(atomic.os, "stat", lambda path, **_: status)

    with pytest.raises(OSError, match="not a regular file but a named pipe"):
        read_regular(tmp_path / "pipe", most=10)


def test_a_file_larger_than_the_limit_is_refused(tmp_path):
    (tmp_path / "file").write_text("text")

    assert read_regular(tmp_path / "file", most=4) == b"text"
    with pytest.raises(OSError, match="larger than 3 bytes"):
        read_regular(tmp_path / "file", most=3)


@pytest.mark.parametrize("path", ["a\0b", "\ud800"])
def test_a_text_that_no_path_can_be_is_an_error_of_the_system_as_well(path):
    with pytest.raises(OSError, match="not a path"):
        read_regular(path, most=10)
