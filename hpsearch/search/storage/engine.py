"""A database before it is opened: its engine, and checks that it is Optuna's and usable."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy
from optuna.storages import RDBStorage
from sqlalchemy import text as sql
from sqlalchemy.engine import URL, Engine
from sqlalchemy.exc import IntegrityError, ProgrammingError
from sqlalchemy.orm import scoped_session, sessionmaker
from sqlalchemy.pool import StaticPool

from hpsearch.errors import NotMadeError, StorageError, mask_text
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
_CONNECT_SECONDS = 10
_MAKING_TRIES = 5
_EXISTS = frozenset({"23505", "42710", "42P07"})  # PostgreSQL: another process created it first
_SMALLEST_DATABASE = 512  # bytes, the smallest page; SQLite reads a shorter file as empty
_UP_FOR = sql("SELECT EXTRACT(EPOCH FROM clock_timestamp() - pg_postmaster_start_time())")
_VERSION = sql("SELECT version_num FROM alembic_version")
_SCHEMA = "v3.2.0.a"  # alembic's version of the tables that this Optuna makes


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


def sqlalchemy_url(url: URL) -> str:
    """Returns the URL for the driver, with its password: never show it."""
    if url.get_backend_name() == "sqlite" and is_read_only(path := Path(url.database or "")):
        file, _, settings = _immutable_uri(path).partition("?")
        # Quoted twice: SQLAlchemy decodes the URL, and SQLite the file: URI in it.
        return f"sqlite:///{quote(file)}?{settings}&uri=true"
    return with_password(url).render_as_string(hide_password=False)


def is_read_only(path: Path) -> bool:
    """Whether neither an SQLite file nor its folder is writable, and no process has it open.

    SQLite writes beside a file even to read it, unless it is opened as immutable.
    """
    writable = os.access(path, os.W_OK) or os.access(path.parent, os.W_OK)
    return path.is_file() and not writable and not Path(f"{path}-wal").exists()


def _immutable_uri(path: Path) -> str:
    return f"file:{quote(str(path.absolute()))}?mode=ro&immutable=1"


def engine_options(url: URL, *, gives_up: Callable[[], bool] = lambda: False) -> dict[str, Any]:
    """Returns the arguments for SQLAlchemy's engine; ``gives_up`` as in :class:`Outage`.

    Raises:
        ImportError: the driver of PostgreSQL is not installed.
    """
    if url.get_backend_name() == "sqlite":
        return {"connect_args": {"timeout": _BUSY_SECONDS}}
    from hpsearch.search.storage.postgres import TCP_OPTIONS, driver  # needs an optional package

    # A prepared statement belongs to one connection; behind a pooler of transactions, the next
    # transaction may get another connection.
    arguments: dict[str, Any] = {"prepare_threshold": None}
    # A database without an encoding, as `initdb` creates in the C locale, returns bytes otherwise.
    arguments["client_encoding"] = "utf8"
    arguments |= {"connect_timeout": _CONNECT_SECONDS, **TCP_OPTIONS}
    for name in url.query:  # the user's own limits
        arguments.pop(name, None)
    # After waiting for the lock, a worker must count the trials as they are then. At a stricter
    # level it would see those from before the wait, and start one trial too many.
    return {
        "module": driver(gives_up),
        "connect_args": arguments,
        "pool_pre_ping": True,
        "isolation_level": "READ COMMITTED",
    }


def optuna_storage(url: URL, options: Mapping[str, Any], *, is_current: bool) -> RDBStorage:
    """Opens Optuna's storage; ``is_current``: the tables are there and of this Optuna's version.

    Otherwise missing tables are created, and those of another version raise an error. ``options``
    are those of :func:`engine_options`.
    """
    address = sqlalchemy_url(url)
    if is_current:
        return _CheckedStorage(address, dict(options))
    is_server = url.get_backend_name() != "sqlite"
    if is_server:
        # Optuna's own creation of tables deadlocks behind a pooler, see make_tables.
        make_tables(url, options)
    return RDBStorage(
        address,
        engine_kwargs=dict(options),
        skip_compatibility_check=is_server,
        skip_table_creation=is_server,
    )


class _CheckedStorage(RDBStorage):
    """Optuna's storage on tables that were found complete.

    Optuna's own constructor checks them once more through alembic, whose import alone takes longer
    than to read the objectives of 5,000 trials.
    """

    def __init__(self, url: str, engine_kwargs: dict[str, Any]) -> None:
        self.url, self.engine_kwargs = url, engine_kwargs
        self.skip_compatibility_check = True
        self.heartbeat_interval = self.grace_period = None
        self.heartbeat_stale_trial_callback = self.failed_trial_callback = None
        self.engine = sqlalchemy.create_engine(url, **engine_kwargs)
        self.scoped_session = scoped_session(sessionmaker(bind=self.engine))


def check_server(url: URL, options: Mapping[str, Any], *, create: bool) -> bool:
    """Raises a StorageError for another program's database, or a missing one unless ``create``.

    ``options`` are those of :func:`engine_options`. Returns whether the tables are complete and of
    this Optuna's version.
    """
    engine = sqlalchemy.create_engine(sqlalchemy_url(url), **options)
    try:
        tables = sqlalchemy.inspect(engine).get_table_names()
        _check_tables(tables, mask(url))
        if not create and not tables:
            raise NotMadeError(f"no study in {mask(url)}; start one with `hpsearch run`")
        version = None
        if "alembic_version" in tables:
            with engine.connect() as connection:
                version = connection.execute(_VERSION).scalar()
        if not create:
            _check_complete(bool(version), mask(url))
        return _is_current(tables, version)
    finally:
        engine.dispose()


def make_tables(url: URL, options: Mapping[str, Any]) -> None:
    """Creates a server's missing tables; raises an error for those of another Optuna version.

    Uses one connection. Optuna would take two, and ask for the second while it holds the first:
    as many processes at once as a pooler has connections would wait for each other forever. Of
    several processes that create the tables at once, one succeeds; the others try again.
    """
    options = {**options, "poolclass": StaticPool, "pool_pre_ping": False}
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


def _is_current(tables: list[str], version: str | None) -> bool:
    return version == _SCHEMA and set(tables) >= OPTUNA_TABLES


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


def check_sqlite(path: Path, *, create: bool) -> bool:
    """Checks an SQLite file; with ``create`` it may be missing, and must be writable.

    Returns whether its tables are complete and of this Optuna's version.

    Raises:
        StorageError: the file is missing, is not a database of Optuna's, or cannot be used.
    """
    masked = mask(URL.create("sqlite", database=str(path)))
    _check_path(path)
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
        _check_writable(path)
        return False
    if not path.is_file():  # SQLite would wait for a writer at the other end of a pipe
        found = "a folder" if path.is_dir() else "a pipe, socket or device"
        raise StorageError(f"found {found} at {masked}, expected an SQLite file; name another")
    try:
        # Read-only, because a check must not create or change the file.
        address = _immutable_uri(path) if is_read_only(path) else f"file:{quote(str(path))}?mode=ro"
        with contextlib.closing(sqlite3.connect(address, uri=True)) as connection:
            rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            tables = [row[0] for row in rows if not row[0].startswith("sqlite_")]
            versioned = "alembic_version" in tables
            version = connection.execute(str(_VERSION)).fetchone() if versioned else None
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
    if create:
        _check_writable(path)
    else:
        _check_complete(bool(version), masked)
    return _is_current(tables, version[0] if version else None)


def _check_path(path: Path) -> None:
    """Refuses a path whose existence cannot be checked."""
    try:
        path.exists()
        if "\0" in str(path):
            raise OSError(0, "it holds a NUL")
    except OSError as exc:
        raise StorageError(
            f"sqlite:///{mask_text(str(path))[:200]!r} cannot be accessed ({exc.strerror}),"
            " expected an SQLite file; name another, or fix the permissions of its folders"
        ) from exc


def _check_writable(path: Path) -> None:
    folder = path.parent
    problem = None
    if not folder.is_dir():
        named = mask_text(str(folder))
        problem = f"the folder {named} does not exist; create it, or name another file"
    elif not os.access(path if path.exists() else folder, os.W_OK):
        problem = "it cannot be written; fix its permissions, or name another file"
    if problem:
        masked = mask(URL.create("sqlite", database=str(path)))
        raise StorageError(f"cannot use {masked}: {problem}")
