"""Files and folders that appear whole or not at all, and files that are read with limits.

Files and folders are written beside the target, then renamed. :func:`open_regular` reads files that
others made.

Temporary files and folders are named ``.hpsearch-tmp-…``. Every temporary folder holds a marker
file, locked by the process that writes it. Only a folder whose marker names the same target, and
whose lock is free, is removed as the remains of a killed process.

Other users may plant links and named pipes in a shared folder: :func:`open_regular` can refuse
both, and :func:`check_private_folder` finds folders that others can write.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Literal

from hpsearch.errors import HpsearchError

if sys.platform != "win32":
    import fcntl

PREFIX = ".hpsearch-tmp-"
MARKER = "hpsearch-target"  # holds the name of the target
_NEW, _OLD = "new", "old"  # the folder that is written, and the one that it replaces
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a link",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def atomic_write(path: Path, data: str | bytes) -> None:
    """Writes a file, text as UTF-8; readers see the old content or the new, never a part of it.

    Raises:
        OSError: the file cannot be written; the old one is unchanged and nothing else is left.
    """
    temporary = path.with_name(f"{PREFIX}{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as file:  # unlike mkstemp, with the permissions of any new file
            file.write(data.encode() if isinstance(data, str) else data)
        temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def check_file(path: Path) -> None:
    """Checks that :func:`atomic_write` can write the file; call it before long work.

    Raises:
        OSError: its folder is missing, or no file can be made there.
    """
    # Permissions alone do not show whether a file can be made: make one.
    tempfile.NamedTemporaryFile(prefix=PREFIX, dir=path.parent).close()


@contextlib.contextmanager
def temporary_folder(target: Path) -> Iterator[Path]:
    """Yields an empty folder on the target's file system; removes it at the end, unless renamed.

    Leftovers of killed processes that wrote the same target are removed first.

    Raises:
        OSError: the folder cannot be made.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(target)
    outer = Path(tempfile.mkdtemp(prefix=PREFIX, dir=target.parent))
    with _locked(outer / MARKER, "xb") as marker:
        try:
            if marker is not None:  # an unlocked folder keeps an empty marker: never removed
                marker.write(os.fsencode(target.name))
                marker.flush()
            (outer / _NEW).mkdir()  # one level down: mkdtemp closes its folder to other users
            yield outer / _NEW
        finally:
            _remove(outer, target)


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderKind:
    """A kind of folder: its name in messages, and the names of all files that it may hold.

    ``marks`` are the files by which such a folder is recognised.
    """

    name: str
    marks: frozenset[str]
    files: frozenset[str]


@contextlib.contextmanager
def atomic_folder(target: Path, kind: FolderKind, *, force: bool) -> Iterator[Path]:
    """Yields a folder to write in, and renames it to ``target`` at the end.

    If anything is raised inside, Ctrl-C included, nothing is left and ``target`` is unchanged.

    Raises:
        HpsearchError: as :func:`check_target`, or the disk fails.
    """
    check_target(target, kind, force=force)
    target = Path(os.path.expanduser(target)).resolve()
    try:
        with temporary_folder(target) as new:
            yield new
            check_target(target, kind, force=force)  # another process may have been faster
            if target.exists():
                target.rename(new.with_name(_OLD))  # put back by _remove if the next line fails
            new.rename(target)
    except OSError as exc:
        raise _unwritable(target, exc) from exc


def check_target(target: Path, kind: FolderKind, *, force: bool) -> None:
    """Checks that :func:`atomic_folder` can write the target; call it before long work.

    A folder that is not empty is replaced only with ``force``, and only if it is of the same kind
    and holds nothing else. Leftovers of killed processes are removed first, and a folder that one
    of them was replacing is put back.

    Raises:
        HpsearchError: the target is something else, must not be replaced or cannot be written.
    """
    target = Path(os.path.expanduser(target)).resolve()
    try:
        _remove_leftovers(target)
        if target.exists() and not target.is_dir():
            raise HpsearchError(
                f"{target}: found a file, expected a new folder; name another with -o"
            )
        present = {entry.name for entry in target.iterdir()} if target.exists() else set()
        foreign = sorted(present - kind.files)
        if present and (foreign or not kind.marks <= present):
            what = f"a folder with {foreign[0]!r} in it" if foreign else "another folder"
            raise HpsearchError(
                f"{target}: found {what}, expected no folder, an empty one or a {kind.name} and"
                " nothing else; name another with -o"
            )
        if present and not force:
            raise HpsearchError(
                f"{target}: found a {kind.name}, expected no folder or an empty one; name another"
                " with -o, or pass --force to replace it"
            )
        # Moving a folder aside takes the right to write in it, too: found out before the work.
        if present and not os.access(target, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        # Permissions alone do not show whether a folder can be made: make one.
        above = next((parent for parent in target.parents if parent.exists()), target)
        Path(tempfile.mkdtemp(prefix=PREFIX, dir=above)).rmdir()
    except OSError as exc:
        raise _unwritable(target, exc) from exc


def _remove_leftovers(target: Path) -> None:
    """Removes leftovers of killed processes beside the target; puts back a folder set aside."""
    try:
        names = [name for name in os.listdir(target.parent) if name.startswith(PREFIX)]
    except OSError:
        return
    for outer in (target.parent / name for name in names):
        try:
            check_private_folder(outer)  # as mkdtemp makes it
        except OSError:
            continue  # of another user, or a link to another place
        with _locked(outer / MARKER, "rb") as marker:
            if marker is not None and marker.read() == os.fsencode(target.name):
                _remove(outer, target)


def _remove(outer: Path, target: Path) -> None:
    """Removes a temporary folder; the old target inside goes back first if no new one exists."""
    if (outer / _OLD).exists() and not target.exists():
        (outer / _OLD).rename(target)
    shutil.rmtree(outer, ignore_errors=True)


@contextlib.contextmanager
def _locked(path: Path, mode: Literal["rb", "xb"]) -> Iterator[IO[bytes] | None]:
    """Yields the opened file, locked until the context or the process ends, however it ends.

    Yields None if another process holds the lock, the file cannot be opened, or the system
    (Windows) or the disk (some network disks) has no such locks.
    """
    with contextlib.ExitStack() as stack:
        file: IO[bytes] | None = None
        if sys.platform != "win32":
            with contextlib.suppress(OSError):
                opened = stack.enter_context(open_regular(path, mode, follow_links=False))
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
                file = opened
        yield file


def _unwritable(target: Path, exc: OSError) -> HpsearchError:
    return HpsearchError(
        f"{target}: cannot be written ({exc.strerror or exc}); make room or name another with -o"
    )


def open_regular(
    path: str | Path, mode: Literal["rb", "xb"] = "rb", *, follow_links: bool = True
) -> IO[bytes]:
    """Opens a regular file to read it, or a new one to write it; never waits for another process.

    Args:
        follow_links: whether the last part of the path may be a symbolic link; False in folders
            where others may plant one.

    Raises:
        OSError: the file cannot be opened, or is a folder, pipe, socket or device; ``strerror``
            names the kind.
    """
    # without O_NONBLOCK, a pipe that took the file's place since would wait for a writer
    extra = getattr(os, "O_NONBLOCK", 0)
    extra |= 0 if follow_links else getattr(os, "O_NOFOLLOW", 0)
    try:
        if mode == "rb":  # before opening, which may act on a device
            check_regular(path, os.stat(path, follow_symlinks=follow_links))
        opener = partial(_open, extra=extra)
        file = open(path, mode, opener=opener)  # noqa: SIM115 (the caller closes it)
    except ValueError as exc:  # a NUL, or characters that no path can have
        raise OSError(errno.EINVAL, "not a path", str(path)) from exc
    with contextlib.ExitStack() as stack:
        stack.enter_context(file)
        # on the opened file: a path could be replaced between a check and the opening
        check_regular(path, os.fstat(file.fileno()))
        stack.pop_all()
    return file


def _open(path: str, flags: int, *, extra: int) -> int:
    return os.open(path, flags | extra, 0o666)


def check_regular(path: str | Path, status: os.stat_result) -> None:
    """Refuses a file whose ``status`` is not that of a regular file.

    Raises:
        OSError: its ``strerror`` names the kind of file.
    """
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "a special file")
        raise OSError(errno.EINVAL, f"not a regular file but {kind}", str(path))


def read_regular(path: str | Path, *, most: int) -> bytes:
    """Returns the content of a regular file of at most ``most`` bytes.

    Raises:
        OSError: as :func:`open_regular`, or the file is larger.
    """
    with open_regular(path) as file:
        content = file.read(most + 1)  # not the size from stat: it is 0 for files of /proc
    if len(content) > most:
        raise OSError(errno.EFBIG, f"larger than {most:,} bytes", str(path))
    return content


def make_private_folder(folder: Path) -> None:
    """Makes a folder that only this user can write, with the folders above it, if it is missing.

    Raises:
        OSError: it cannot be made, or as :func:`check_private_folder`.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    check_private_folder(folder)


def check_private_folder(folder: Path) -> None:
    """Checks that a path is a folder, not a link to one, which only this user can write.

    Raises:
        OSError: it is something else, or missing.
    """
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        what = "a link" if stat.S_ISLNK(found.st_mode) else "a file"
    elif hasattr(os, "getuid") and found.st_uid != os.getuid():
        what = f"a folder of user {found.st_uid}"
    elif hasattr(os, "getuid") and found.st_mode & 0o022:
        what = f"a folder with the permissions {stat.S_IMODE(found.st_mode):o}"
    else:
        return
    raise PermissionError(f"{folder}: found {what}, expected a folder that only you can write")
