"""A database before it is opened: its engine, and checks that it is Optuna's and usable."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy
from optuna.storages import RDBStorage
from sqlalchemy import text as sql
from sqlalchemy.engine import URL, Engine
from sqlalchemy.exc import IntegrityError, ProgrammingError, SQLAlchemyError
from sqlalchemy.orm import scoped_session, sessionmaker
from sqlalchemy.pool import StaticPool

from hpsearch.errors import AwayError, NotMadeError, StorageError
from hpsearch.search.storage.database_file import (
    check_path,
    check_writable,
    immutable_uri,
    is_read_only,
    network_filesystem,
    real_path,
)
from hpsearch.search.storage.retry import first_line, may_pass
from hpsearch.search.storage.tables import OPTUNA_TABLES
from hpsearch.search.storage.url import mask, with_password

_BUSY_SECONDS = 60
_REFUSALS = ("authentication", "does not exist", "pg_hba.conf", "certificate", "permission denied")
_CONNECT_SECONDS = 10
_MAKING_TRIES = 5
_EXISTS = frozenset({"23505", "42710", "42P07"})  # PostgreSQL: another process created it first
_SMALLEST_DATABASE = 512  # bytes, the smallest page; SQLite reads a shorter file as empty
_UP_FOR = sql("SELECT EXTRACT(EPOCH FROM clock_timestamp() - pg_postmaster_start_time())")
_VERSION = sql("SELECT version_num FROM alembic_version")
_SCHEMA = "v3.2.0.a"  # alembic's version of the tables that this Optuna makes


def sqlalchemy_url(url: URL) -> str:
    """Returns the URL for the driver, with its password: never show it."""
    if url.get_backend_name() == "sqlite" and is_read_only(path := real_path(url)):
        file, _, settings = immutable_uri(path).partition("?")
        # Quoted twice: SQLAlchemy decodes the URL, and SQLite the file: URI in it.
        return f"sqlite:///{quote(file)}?{settings}&uri=true"
    return with_password(url).render_as_string(hide_password=False)


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
    address, is_server = sqlalchemy_url(url), url.get_backend_name() != "sqlite"
    if is_server and not is_current:
        # Optuna's own creation of tables deadlocks behind a pooler, see make_tables.
        make_tables(url, options)
    if is_server or is_current:
        rdb: RDBStorage = _CheckedStorage(address, dict(options))
    else:
        rdb = RDBStorage(address, engine_kwargs=dict(options))
    if is_server:
        from hpsearch.search.storage.postgres import limit_transactions  # needs psycopg

        limit_transactions(rdb.engine)
    return rdb


class _CheckedStorage(RDBStorage):
    """Optuna's storage on tables that were found complete.

    Optuna's own constructor checks them once more through alembic, whose import alone takes longer
    than to read the objectives of 5,000 trials.
    """

    def __init__(self, url: str, engine_kwargs: dict[str, Any]) -> None:
        self.url, self.engine_kwargs = url, engine_kwargs
        self.skip_compatibility_check = True
        self._version_manager: Any = None  # would import alembic
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
    check_path(path)
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
        check_writable(path, named)
        return False
    if not path.is_file():  # SQLite would wait for a writer at the other end of a pipe
        found = "a folder" if path.is_dir() else "a pipe, socket or device"
        raise StorageError(f"found {found} at {masked}, expected an SQLite file; name another")
    # SQLite keeps a write-ahead log for each name: two processes would overwrite each other.
    if (names := path.stat().st_nlink) > 1 and not is_read_only(path):
        raise StorageError(
            f"{masked} has {names} names (hard links), expected one, because each would have its"
            " own log and lock; copy it with cp and name the copy"
        )
    if create:  # before it is read, which fails with other words in such a folder
        check_writable(path, named)
    try:
        # Read-only, because a check must not create or change the file.
        address = immutable_uri(path) if is_read_only(path) else f"file:{quote(str(path))}?mode=ro"
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
    if not create:
        _check_complete(bool(version), masked)
    return _is_current(tables, version[0] if version else None)


@contextlib.contextmanager
def translate_driver_errors(masked: str) -> Iterator[None]:
    """Turns a driver's exception into a StorageError that shows no password."""
    try:
        yield
    except ImportError as exc:
        raise StorageError(
            f"the driver for {masked} is not installed; pip install 'hpsearch[postgres]'"
        ) from exc
    except (SQLAlchemyError, sqlite3.Error, RuntimeError) as exc:
        # A server that does not answer is away, one that refuses the user is not; SQLite never is.
        is_refused = any(words in str(exc) for words in _REFUSALS)
        is_away = not masked.startswith("sqlite") and may_pass(exc, is_sqlite=False)
        kind = AwayError if is_away and not is_refused else StorageError
        raise kind(
            f"cannot use {masked}: {first_line(exc)}; expected a database that can be reached"
            " and written; check the URL and that it is up"
        ) from exc
