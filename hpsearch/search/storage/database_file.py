"""An SQLite file as a file: its real path, its identity, its lock and its write-ahead log."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy
from filelock import FileLock, Timeout
from sqlalchemy.engine import URL, Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import QueuePool

from hpsearch.errors import MovedError, StorageError, is_text, mask_text
from hpsearch.search.storage.url import mask

# As Linux names them; on these, locks are unreliable and SQLite's shared memory is not shared.
_NETWORK = frozenset(
    """nfs nfs4 cifs smb3 smbfs ncpfs afs coda ceph glusterfs lustre gpfs beegfs orangefs pvfs2
    9p wekafs panfs
    fuse.sshfs fuse.glusterfs fuse.ceph fuse.s3fs fuse.rclone fuse.gcsfuse fuse.smbnetfs
    fuse.juicefs fuse.mount-s3 fuse.mountpoint-s3 fuse.goofys fuse.blobfuse fuse.blobfuse2
    fuse.davfs""".split()  # noqa: SIM905 (a list of 32 lines)
)
_MOUNTS = Path("/proc/self/mountinfo")
LOCK_SECONDS = 120.0
_FOLD_MS = 2000  # how long the end of a command waits for other processes' transactions


def network_filesystem(path: Path, *, mounts: Path = _MOUNTS) -> str | None:
    """Returns the kind of network file system of a path, which need not exist; None if local.

    None also on systems other than Linux, which have no table of mounts.
    """
    kind = filesystem(path, mounts=mounts)
    return kind if kind in _NETWORK else None


def filesystem(path: Path, *, mounts: Path = _MOUNTS) -> str | None:
    """Returns the kind of file system of a path, which need not exist, by Linux's name for it.

    None on systems other than Linux.
    """
    try:
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return None
    target = path.absolute().resolve()
    nearest: tuple[int, str] = (0, "")
    for line in lines:
        head, _, tail = line.partition(" - ")
        fields, kind = head.split(), _kind(tail)
        if len(fields) < 5 or not kind:
            continue
        mount = Path(fields[4].replace(r"\040", " "))
        if mount == target or mount in target.parents:  # the longest path wins, then the later line
            nearest = max((len(mount.parts), kind), nearest, key=lambda pair: pair[0])
    return nearest[1] or None


def _kind(tail: str) -> str:
    """The kind of a mount, from its type, source and options; empty if they are missing."""
    kind, source = (*tail.split()[:2], "", "")[:2]
    if kind == "fuse":  # its source is the name of the program, or WebDAV's address
        is_address = source.startswith(("http://", "https://"))
        return "fuse.davfs" if is_address else f"fuse.{source}"
    # gVisor passes its host's files to a sandbox this way, without a network between them.
    return "gvisor" if kind == "9p" and "rfdno=" in tail else kind


def real_path(url: URL) -> Path:
    """Returns the absolute path of an SQLite file, without symbolic links; it need not exist.

    The lock and the checkpoints lie beside it. Beside a link, or under a relative path of a process
    that changes its folder, each name of the file would have its own.
    """
    path = url.database or ""
    # The check of the path refuses a NUL. Path.resolve raises for links that form a circle.
    return Path(path if "\0" in path else os.path.realpath(path))


def is_read_only(path: Path) -> bool:
    """Whether neither an SQLite file nor its folder is writable, and no process has it open.

    SQLite writes beside a file even to read it, unless it is opened as immutable.
    """
    writable = os.access(path, os.W_OK) or os.access(path.parent, os.W_OK)
    return path.is_file() and not writable and not Path(f"{path}-wal").exists()


def immutable_uri(path: Path) -> str:
    """Returns the URI by which SQLite reads a file without a log or a lock beside it."""
    return f"file:{quote(str(path.absolute()))}?mode=ro&immutable=1"


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseFile:
    """An SQLite file that is open: its path, and the file that was there when it was opened.

    A process keeps writing to the file that it opened after that was removed, moved or replaced:
    into a file that has another name, or none.
    """

    path: Path
    masked: str
    device: int
    inode: int

    @classmethod
    def at(cls, path: Path, *, masked: str) -> DatabaseFile:
        """Returns the file that is at the path now; ``masked`` is its name in messages."""
        status = path.stat()
        return cls(path=path, masked=masked, device=status.st_dev, inode=status.st_ino)

    def check(self) -> None:
        """Raises a MovedError if another file is at the path now, or none."""
        try:
            status = self.path.stat()
        except OSError:
            problem = "it was moved or removed"
        else:
            # Through a link to it, the next process would keep a log and a lock elsewhere.
            is_there = os.path.realpath(self.path) == str(self.path)
            if is_there and (status.st_dev, status.st_ino) == (self.device, self.inode):
                return
            problem = "another file or a link has taken its place"
        raise MovedError(
            f"{self.masked} is no longer the file that this run opened: {problem}; put the opened"
            " file back and run the same command again, or name another with --storage"
        )

    def guard(self, engine: Engine) -> None:
        """Has the engine check the file at the start and before the end of each transaction."""

        def connect(_dialect: object, _record: object, arguments: list[Any], options: Any) -> None:
            self.check()
            # By default SQLite would create a file that was removed since the check.
            arguments[0] = f"file:{quote(str(self.path))}?mode=rw"
            options["uri"] = True

        _GUARDED.add(self)
        sqlalchemy.event.listen(engine, "do_connect", connect)
        sqlalchemy.event.listen(engine, "connect", _tune_sqlite)
        for moment in ("begin", "commit"):
            sqlalchemy.event.listen(engine, moment, lambda _connection: self.check())

    def fold(self, engine: Engine) -> None:
        """Moves the write-ahead log into the file, as far as other processes permit now.

        SQLite does so only when the last process closes the file, which may be a dashboard. Until
        then, a copy of the file alone would lack the newest trials. A file that was moved is made
        whole through the connection that is still open.
        """
        if not isinstance(engine.pool, QueuePool) or not engine.pool.checkedin():
            return
        refusals = (SQLAlchemyError, sqlite3.Error, MovedError)  # the log stays, and loses nothing
        with contextlib.suppress(*refusals), contextlib.closing(engine.raw_connection()) as raw:
            cursor = raw.cursor()
            cursor.execute(f"PRAGMA busy_timeout={_FOLD_MS}")
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            cursor.close()


_GUARDED: set[DatabaseFile] = set()


def fold_all() -> None:
    """Folds the log of every file that this process opened, by connections of its own.

    For a process that ends at once, while its main thread may hold a connection.
    """
    for file in _GUARDED:
        with contextlib.suppress(sqlite3.Error, MovedError):
            file.check()
            address = f"file:{quote(str(file.path))}?mode=rw"
            with contextlib.closing(sqlite3.connect(address, uri=True, timeout=0.5)) as connection:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


@contextlib.contextmanager
def file_lock(database: Path) -> Iterator[None]:
    """Holds the lock beside an SQLite file.

    Raises:
        StorageError: another process held it for two minutes, or it cannot be made.
    """
    lock = FileLock(f"{database}.lock", timeout=LOCK_SECONDS)
    try:
        lock.acquire()
    except Timeout as exc:
        raise StorageError(
            f"waited {LOCK_SECONDS:.0f} s for {database}.lock, which another process holds;"
            " end that process and try again"
        ) from exc
    except OSError as exc:
        raise StorageError(f"cannot lock {database}.lock ({exc}); fix its permissions") from exc
    try:
        yield
    finally:
        lock.release()


def _tune_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")


def check_path(path: Path) -> None:
    """Refuses a path whose existence cannot be checked."""
    try:
        path.exists()
        if "\0" in str(path):
            raise OSError(0, "it holds a NUL")
        if not is_text(os.path.realpath(path)):
            raise OSError(0, "the name of its folder is not UTF-8")
        if os.path.islink(os.path.realpath(path)):
            raise OSError(0, "its links form a circle")
    except OSError as exc:
        raise StorageError(
            f"sqlite:///{mask_text(str(path))[:200]!r} cannot be accessed ({exc.strerror}),"
            " expected an SQLite file; name another, or fix the permissions of its folders"
        ) from exc


def check_writable(path: Path, named: Path) -> None:
    """Raises a StorageError if a file, or the folder for its log, lock and checkpoints, cannot be
    written.

    ``named`` is the path as the user gave it, perhaps a link.
    """
    folder = path.parent if named.is_symlink() else named.parent
    problem = None
    if not folder.is_dir():
        shown = mask_text(str(folder))
        problem = f"the folder {shown} does not exist; create it, or name another file"
    elif path.exists() and not os.access(path, os.W_OK):
        problem = "it cannot be written; fix its permissions, or name another file"
    elif not os.access(folder, os.W_OK):  # of the lock, the write-ahead log and the checkpoints
        problem = f"the folder {folder} cannot be written; fix its permissions, or name another"
    if problem:
        masked = mask(URL.create("sqlite", database=str(named)))
        raise StorageError(f"cannot use {masked}: {problem}")
