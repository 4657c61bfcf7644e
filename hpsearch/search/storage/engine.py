"""A database before it is opened: how it is reached, and whether it is one of Optuna's."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy
from optuna.storages import RDBStorage
from sqlalchemy import text as sql
from sqlalchemy.engine import URL, Engine
from sqlalchemy.exc import IntegrityError, ProgrammingError
from sqlalchemy.pool import StaticPool

from hpsearch.errors import NotMadeError, StorageError
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


def network_filesystem(path: Path, *, mounts: Path = _MOUNTS) -> str | None:
    """Returns the kind of network file system that the path lies, or would lie, on; else None.

    None too where the system does not tell (it is asked by Linux's table of mounts).
    """
    kind = filesystem(path, mounts=mounts)
    return kind if kind in _NETWORK else None


def filesystem(path: Path, *, mounts: Path = _MOUNTS) -> str | None:
    """Returns the kind of file system that the path lies, or would lie, on, as Linux names it.

    None where the system does not tell.
    """
    try:
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return None
    target = path.expanduser().absolute().resolve()
    found: tuple[int, str] = (0, "")
    for line in lines:
        head, _, tail = line.partition(" - ")
        fields, kind = head.split(), _kind(tail)
        if len(fields) < 5 or not kind:
            continue
        place = Path(fields[4].replace(r"\040", " "))
        if place == target or place in target.parents:  # of two, the longer; of equals, the later
            found = max((len(place.parts), kind), found, key=lambda pair: pair[0])
    return found[1] or None


def _kind(described: str) -> str:
    """The kind of a mount, as its type, source and options tell it; empty where they do not."""
    kind, source = (*described.split()[:2], "", "")[:2]
    if kind == "fuse":  # some give their name as the source, WebDAV an address
        is_address = source.startswith(("http://", "https://"))
        return "fuse.davfs" if is_address else f"fuse.{source}"
    # gVisor hands the files of its own host to a sandbox in this way: no network is in between.
    return "gvisor" if kind == "9p" and "rfdno=" in described else kind


_BUSY_SECONDS = 60
_CONNECT_SECONDS = 10
_MAKING_TRIES = 5
_ALREADY_THERE = frozenset({"23505", "42710", "42P07"})  # PostgreSQL's codes: another made it
_SMALLEST_DATABASE = 512  # bytes, its smallest page; SQLite takes what is shorter for empty


def sqlalchemy_url(url: URL) -> str:
    """Returns the URL as a driver takes it, its password included: never to be shown."""
    if url.get_backend_name() == "sqlite" and is_read_only(path := Path(url.database or "")):
        return f"sqlite:///{_still_uri(path)}&uri=true"
    return with_password(url).render_as_string(hide_password=False)


def is_read_only(path: Path) -> bool:
    """Whether an SQLite file can be read and nothing more: neither it nor its folder is writable.

    And nobody else has it open. SQLite wants to write beside a file even to read it, unless it
    is told that the file stays as it is.
    """
    writable = os.access(path, os.W_OK) or os.access(path.parent, os.W_OK)
    return path.is_file() and not writable and not Path(f"{path}-wal").exists()


def _still_uri(path: Path) -> str:
    return f"file:{quote(str(path.absolute()))}?mode=ro&immutable=1"


def engine_options(url: URL) -> dict[str, Any]:
    """Returns what SQLAlchemy's engine is to be made with."""
    if url.get_backend_name() == "sqlite":
        return {"connect_args": {"timeout": _BUSY_SECONDS}}
    # Statements that a server has prepared are one connection's: behind a pooler of transactions
    # the next one finds none of that name, or another's.
    arguments: dict[str, Any] = {"prepare_threshold": None}
    # A database without an encoding, as `initdb` makes them in the C locale, tells bytes otherwise.
    arguments["client_encoding"] = "utf8"
    if "connect_timeout" not in url.query:
        arguments["connect_timeout"] = _CONNECT_SECONDS
    # Who has waited for the lock counts what is there then: at any stricter level it would see
    # what was there before it waited, and start one trial too many.
    return {
        "connect_args": arguments,
        "pool_pre_ping": True,
        "isolation_level": "READ COMMITTED",
    }


def check_server(url: URL, *, create: bool) -> None:
    """Refuses a database that holds another program's tables, or that has yet to be made."""
    engine = sqlalchemy.create_engine(sqlalchemy_url(url), **engine_options(url))
    try:
        tables = sqlalchemy.inspect(engine).get_table_names()
        _check_tables(tables, mask(url))
        if not create:
            if not tables:
                raise NotMadeError(f"no study in {mask(url)}; start one with `hpsearch run`")
            with engine.connect() as connection:
                made = "alembic_version" in tables and connection.execute(_VERSION).first()
            _check_made(bool(made), mask(url))
    finally:
        engine.dispose()


def make_tables(url: URL) -> None:
    """Makes a server's tables where they are missing, and refuses those of another Optuna.

    By one connection: where Optuna has its own two, it asks for the second while it holds the
    first, and as many such at once as a pooler has connections wait for one another without end.
    Of several that make the tables at once, unguarded, one succeeds; the others find what it made.
    """
    options = {**engine_options(url), "poolclass": StaticPool, "pool_pre_ping": False}
    for rest in reversed(range(_MAKING_TRIES)):
        try:
            RDBStorage(sqlalchemy_url(url), engine_kwargs=options).engine.dispose()
            return
        except (IntegrityError, ProgrammingError) as exc:
            if rest == 0 or getattr(exc.orig, "sqlstate", None) not in _ALREADY_THERE:
                raise


def server_age_seconds(engine: Engine) -> float:
    """Returns how long a server has been up, in seconds."""
    with engine.connect() as connection:
        return float(connection.execute(_UP_FOR).scalar_one())


_UP_FOR = sql("SELECT EXTRACT(EPOCH FROM clock_timestamp() - pg_postmaster_start_time())")
_VERSION = sql("SELECT version_num FROM alembic_version")


def _check_made(made: bool, masked: str) -> None:
    """Refuses to read a database whose making has not ended: a reader would join in it."""
    if not made:
        raise NotMadeError(f"{masked} is still being made; try again in a second")


def _check_tables(tables: list[str], masked: str) -> None:
    """Refuses another program's database; one of Optuna's may be half made."""
    half_made = set(tables) <= {*OPTUNA_TABLES, "alembic_version"}
    if not half_made and not {"studies", "trials", "version_info"} <= set(tables):
        raise StorageError(
            f"{masked} holds another program's tables ({', '.join(sorted(tables)[:3])}, …),"
            " expected a database of hpsearch or Optuna; name another one"
        )


def check_sqlite(path: Path, *, create: bool) -> None:
    """Refuses a file that is no database of ours, cannot be written, or has yet to be made.

    Raises:
        StorageError: likewise.
    """
    masked = f"sqlite:///{path}"
    _look_at(path)
    kind = network_filesystem(path)
    if kind is not None:
        raise StorageError(
            f"{masked} lies on a network file system ({kind}), where SQLite loses data when two"
            " processes write; put it on a local disk, or use postgresql://"
        )
    if not path.exists():
        if not create:
            raise NotMadeError(
                f"no database at {masked}; expected one that `hpsearch run` made: run it first,"
                " or name yours with --storage"
            )
        _check_writable(path)
        return
    if path.is_dir():
        raise StorageError(
            f"found a folder at {masked}, expected an SQLite file; name a file in it"
        )
    try:
        address = _still_uri(path) if is_read_only(path) else f"file:{quote(str(path))}?mode=ro"
        with contextlib.closing(sqlite3.connect(address, uri=True)) as connection:
            rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            tables = [row[0] for row in rows if not row[0].startswith("sqlite_")]
            asked = "alembic_version" in tables and connection.execute(str(_VERSION)).fetchone()
    except sqlite3.Error as exc:
        raise StorageError(
            f"{masked} cannot be read as an SQLite database ({exc}); name another file"
        ) from exc
    _check_tables(tables, masked)
    if not tables and 0 < path.stat().st_size < _SMALLEST_DATABASE:
        raise StorageError(
            f"{masked} cannot be read as an SQLite database (it is shorter than any, and not"
            " empty); name another file"
        )
    if not tables and path.stat().st_size == 0 and not create:
        raise NotMadeError(f"found an empty file at {masked}; run `hpsearch run` first")
    if not create:
        _check_made(bool(asked), masked)
    if create:
        _check_writable(path)


def _look_at(path: Path) -> None:
    """Refuses a path that cannot even be asked for."""
    try:
        path.exists()
        if "\0" in str(path):
            raise OSError(0, "it holds a NUL")
    except OSError as exc:
        raise StorageError(
            f"sqlite:///{str(path)[:200]!r} cannot be looked at ({exc.strerror}), expected an"
            " SQLite file; name another, or mend the permissions above it"
        ) from exc


def _check_writable(path: Path) -> None:
    folder = path.parent
    problem = None
    if not folder.is_dir():
        problem = f"the folder {folder} is not there; make it, or name another file"
    elif not os.access(path if path.exists() else folder, os.W_OK):
        problem = "it cannot be written; mend its permissions, or name another file"
    if problem:
        raise StorageError(f"cannot use sqlite:///{path}: {problem}")
