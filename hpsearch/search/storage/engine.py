"""A database before it is opened: its engine, and checks that it is Optuna's and usable."""

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
from optuna.storages import RDBStorage
from sqlalchemy import text as sql
from sqlalchemy.engine import URL, Engine
from sqlalchemy.exc import IntegrityError, ProgrammingError, SQLAlchemyError
from sqlalchemy.pool import QueuePool, StaticPool

from hpsearch.errors import MovedError, NotMadeError, StorageError
from hpsearch.search.storage.tables import OPTUNA_TABLES
from hpsearch.search.storage.url import mask, with_password

# As Linux names them; on these, locks are unreliable and SQLite's shared memory is not shared.
_NETWORK = frozenset(
    """nfs nfs4 cifs smb3 smbfs ncpfs afs coda ceph glusterfs lustre gpfs beegfs orangefs pvfs2
    9p wekafs panfs
    fuse.sshfs fuse.glusterfs fuse.ceph fuse.s3fs fuse.rclone fuse.gcsfuse fuse.smbnetfs
    fuse.juicefs fuse.mount-s3 fuse.mountpoint-s3 fuse.goofys fuse.blobfuse fuse.blobfuse2
    fuse.davfs""".split()  # noqa: SIM905 (a list of 32 lines)
)
_MOUNTS = Path("/proc/self/mountinfo")
_BUSY_SECONDS = 60
_LOCK_SECONDS = 120.0
_FOLD_MS = 2000  # how long the end of a command waits for other processes' transactions
_CONNECT_SECONDS = 10
_MAKING_TRIES = 5
_EXISTS = frozenset({"23505", "42710", "42P07"})  # PostgreSQL: another process created it first
_SMALLEST_DATABASE = 512  # bytes, the smallest page; SQLite reads a shorter file as empty
_UP_FOR = sql("SELECT EXTRACT(EPOCH FROM clock_timestamp() - pg_postmaster_start_time())")
_VERSION = sql("SELECT version_num FROM alembic_version")


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
    target = path.expanduser().absolute().resolve()
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


def sqlalchemy_url(url: URL) -> str:
    """Returns the URL for the driver, with its password: never show it."""
    if url.get_backend_name() == "sqlite" and is_read_only(path := real_path(url)):
        return f"sqlite:///{_immutable_uri(path)}&uri=true"
    return with_password(url).render_as_string(hide_password=False)


def is_read_only(path: Path) -> bool:
    """Whether neither an SQLite file nor its folder is writable, and no process has it open.

    SQLite writes beside a file even to read it, unless it is opened as immutable.
    """
    writable = os.access(path, os.W_OK) or os.access(path.parent, os.W_OK)
    return path.is_file() and not writable and not Path(f"{path}-wal").exists()


def _immutable_uri(path: Path) -> str:
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
            if (status.st_dev, status.st_ino) == (self.device, self.inode):
                return
            problem = "another file has taken its place"
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


@contextlib.contextmanager
def file_lock(database: Path) -> Iterator[None]:
    """Holds the lock beside an SQLite file.

    Raises:
        StorageError: another process held it for two minutes, or it cannot be made.
    """
    lock = FileLock(f"{database}.lock", timeout=_LOCK_SECONDS)
    try:
        lock.acquire()
    except Timeout as exc:
        raise StorageError(
            f"waited {_LOCK_SECONDS:.0f} s for {database}.lock, which another process holds;"
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


def engine_options(url: URL) -> dict[str, Any]:
    """Returns the arguments for SQLAlchemy's engine."""
    if url.get_backend_name() == "sqlite":
        return {"connect_args": {"timeout": _BUSY_SECONDS}}
    # A prepared statement belongs to one connection; behind a pooler of transactions, the next
    # transaction may get another connection.
    arguments: dict[str, Any] = {"prepare_threshold": None}
    # A database without an encoding, as `initdb` creates in the C locale, returns bytes otherwise.
    arguments["client_encoding"] = "utf8"
    if "connect_timeout" not in url.query:
        arguments["connect_timeout"] = _CONNECT_SECONDS
    # After waiting for the lock, a worker must count the trials as they are then. At a stricter
    # level it would see those from before the wait, and start one trial too many.
    return {
        "connect_args": arguments,
        "pool_pre_ping": True,
        "isolation_level": "READ COMMITTED",
    }


def check_server(url: URL, *, create: bool) -> None:
    """Raises a StorageError for another program's database, or a missing one unless ``create``."""
    engine = sqlalchemy.create_engine(sqlalchemy_url(url), **engine_options(url))
    try:
        tables = sqlalchemy.inspect(engine).get_table_names()
        _check_tables(tables, mask(url))
        if not create:
            if not tables:
                raise NotMadeError(f"no study in {mask(url)}; start one with `hpsearch run`")
            with engine.connect() as connection:
                version = "alembic_version" in tables and connection.execute(_VERSION).first()
            _check_complete(bool(version), mask(url))
    finally:
        engine.dispose()


def make_tables(url: URL) -> None:
    """Creates a server's missing tables; raises an error for those of another Optuna version.

    Uses one connection. Optuna would take two, and ask for the second while it holds the first:
    as many processes at once as a pooler has connections would wait for each other forever. Of
    several processes that create the tables at once, one succeeds; the others try again.
    """
    options = {**engine_options(url), "poolclass": StaticPool, "pool_pre_ping": False}
    for rest in reversed(range(_MAKING_TRIES)):
        try:
            RDBStorage(sqlalchemy_url(url), engine_kwargs=options).engine.dispose()
            return
        except (IntegrityError, ProgrammingError) as exc:
            if rest == 0 or getattr(exc.orig, "sqlstate", None) not in _EXISTS:
                raise


def server_age_seconds(engine: Engine) -> float:
    """Returns how long a server has been up, in seconds."""
    with engine.connect() as connection:
        return float(connection.execute(_UP_FOR).scalar_one())


def _check_complete(complete: bool, masked: str) -> None:
    """Refuses to read a database that is still being created: a reader would take part in it."""
    if not complete:
        raise NotMadeError(f"{masked} is still being created; try again in a second")


def _check_tables(tables: list[str], masked: str) -> None:
    """Refuses another program's database; one of Optuna's may lack tables."""
    may_be_ours = set(tables) <= {*OPTUNA_TABLES, "alembic_version"}
    if not may_be_ours and not {"studies", "trials", "version_info"} <= set(tables):
        raise StorageError(
            f"{masked} holds another program's tables ({', '.join(sorted(tables)[:3])}, …),"
            " expected a database of hpsearch or Optuna; name another one"
        )


def check_sqlite(path: Path, *, create: bool) -> None:
    """Checks an SQLite file; with ``create`` it may be missing, and must be writable.

    Raises:
        StorageError: the file is missing, is not a database of Optuna's, or cannot be used.
    """
    masked = f"sqlite:///{path}"
    _check_path(path)
    # SQLite writes beside the file, not beside a link to it.
    named, path = path, Path(os.path.realpath(path))
    kind = network_filesystem(path)
    if kind is not None:
        raise StorageError(
            f"{masked} lies on a network file system ({kind}), where SQLite loses data when two"
            " processes write; put it on a local disk, or use postgresql://"
        )
    if not path.exists():
        if not create:
            raise NotMadeError(
                f"no database at {masked}; expected one that `hpsearch run` created: run it first,"
                " or name yours with --storage"
            )
        _check_writable(path, named)
        return
    if path.is_dir():
        raise StorageError(
            f"found a folder at {masked}, expected an SQLite file; name a file in it"
        )
    # SQLite keeps a write-ahead log for each name: two processes would overwrite each other.
    if (names := path.stat().st_nlink) > 1 and not is_read_only(path):
        raise StorageError(
            f"{masked} has {names} names (hard links), expected one, because each would have its"
            " own log and lock; copy it with cp and name the copy"
        )
    if create:  # before it is read, which fails with other words in such a folder
        _check_writable(path, named)
    try:
        # Read-only, because a check must not create or change the file.
        address = _immutable_uri(path) if is_read_only(path) else f"file:{quote(str(path))}?mode=ro"
        with contextlib.closing(sqlite3.connect(address, uri=True)) as connection:
            rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            tables = [row[0] for row in rows if not row[0].startswith("sqlite_")]
            version = "alembic_version" in tables and connection.execute(str(_VERSION)).fetchone()
    except sqlite3.Error as exc:
        raise StorageError(
            f"{masked} cannot be read as an SQLite database ({exc}); name another file"
        ) from exc
    _check_tables(tables, masked)
    if not tables and 0 < path.stat().st_size < _SMALLEST_DATABASE:
        raise StorageError(
            f"{masked} cannot be read as an SQLite database (it is too short, and not empty); name"
            " another file"
        )
    if not tables and path.stat().st_size == 0 and not create:
        raise NotMadeError(f"found an empty file at {masked}; run `hpsearch run` first")
    if not create:
        _check_complete(bool(version), masked)


def _check_path(path: Path) -> None:
    """Refuses a path whose existence cannot be checked."""
    try:
        path.exists()
        if "\0" in str(path):
            raise OSError(0, "it holds a NUL")
        if os.path.islink(os.path.realpath(path)):
            raise OSError(0, "its links form a circle")
    except OSError as exc:
        raise StorageError(
            f"sqlite:///{str(path)[:200]!r} cannot be accessed ({exc.strerror}), expected an"
            " SQLite file; name another, or fix the permissions of its folders"
        ) from exc


def _check_writable(path: Path, named: Path) -> None:
    folder = path.parent if named.is_symlink() else named.parent
    problem = None
    if not folder.is_dir():
        problem = f"the folder {folder} does not exist; create it, or name another file"
    elif path.exists() and not os.access(path, os.W_OK):
        problem = "it cannot be written; fix its permissions, or name another file"
    elif not os.access(folder, os.W_OK):  # of the lock, the write-ahead log and the checkpoints
        problem = f"the folder {folder} cannot be written; fix its permissions, or name another"
    if problem:
        raise StorageError(f"cannot use sqlite:///{named}: {problem}")
