"""Opening a database well: URLs, engines, locks, and clear words when it cannot be had."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import sqlite3
import sys
import time
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import optuna
import sqlalchemy
from filelock import FileLock, Timeout
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.storages._base import BaseStorage
from optuna.study._frozen import FrozenStudy
from sqlalchemy import text as sql
from sqlalchemy.engine import URL, Engine
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from hpsearch.errors import AwayError, StorageError, StudyError
from hpsearch.search.storage.artifacts import Artifacts, check_artifacts, open_artifacts
from hpsearch.search.storage.engine import (
    check_server,
    check_sqlite,
    engine_options,
    is_read_only,
    make_tables,
    server_age_seconds,
    sqlalchemy_url,
)
from hpsearch.search.storage.records import CREATED
from hpsearch.search.storage.retry import Outage, cause_of, may_come_back
from hpsearch.search.storage.tables import NOT_FOUND
from hpsearch.search.storage.url import mask, parse_url

_LOCK_SECONDS = 120.0
AWAY_SECONDS = 120.0  # how long a database may be away
_POSTGRES_NOW = "EXTRACT(EPOCH FROM clock_timestamp())"
_ADVISORY_KEY = 0x68707365617263  # "hpsearc": one lock for all studies of a PostgreSQL database
_ADVISORY_LOCK = sql("SELECT pg_advisory_xact_lock(:key)")
# Frees the locks of a host that is gone without a word, and waits for none without end. For one
# transaction: a pooler gives the same connection to others.
_IMPATIENCE = sql(
    "SELECT set_config('idle_in_transaction_session_timeout', '60s', true),"
    " set_config('lock_timeout', '120s', true)"
)

_REFUSALS = ("authentication", "does not exist", "pg_hba.conf", "certificate", "permission denied")

T = TypeVar("T")
_log = logging.getLogger(__name__)


class _Session(Session):
    """A database session that, while ``joined``, leaves its end to whoever joined it."""

    joined = False

    def commit(self) -> None:
        """Commits; joined, sends what is pending and no more."""
        if self.joined:
            self.flush()
        else:
            super().commit()

    def rollback(self) -> None:
        """Takes back; joined, raises what made that necessary.

        Optuna tries to make a trial again, and would do so after the lock had gone with all else.
        """
        error = sys.exception() if self.joined else None
        if error is not None:
            raise error
        super().rollback()

    def close(self) -> None:
        """Closes; joined, stays open."""
        if not self.joined:
            super().close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """An open database. ``masked`` is its URL as it may be shown.

    ``artifacts_at`` is where checkpoints lie, as the person has named it.
    """

    url: URL
    masked: str
    backend: BaseStorage
    engine: Engine
    sessions: scoped_session[_Session]
    artifacts_at: str | None
    outage: Outage = field(default_factory=Outage)
    _artifacts: list[Artifacts | None] = field(default_factory=list)  # when first asked for
    _stamps: dict[int, tuple[str, str | None]] = field(default_factory=dict)  # of known studies

    @property
    def is_sqlite(self) -> bool:
        """Whether it is an SQLite file, else a PostgreSQL server."""
        return self.url.get_backend_name() == "sqlite"

    @property
    def artifacts(self) -> Artifacts | None:
        """Where checkpoints lie; None where there is no place for them.

        Opened when it is first asked for: who only reads a study has no need of it.

        Raises:
            StorageError: the place cannot be used.
        """
        if not self._artifacts:
            self._artifacts.append(open_artifacts(self.url, self.artifacts_at))
        return self._artifacts[0]

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the database's one lock: for counting trials, creating studies, and no more.

        A file lock beside an SQLite file; on PostgreSQL an advisory lock of one transaction with
        all that is written inside. Both end with the process that holds them.

        Raises:
            StorageError: the lock was not to be had within two minutes.
        """
        if self.is_sqlite:
            with _file_lock(Path(self.url.database or "")):
                yield
            return
        with self.transaction() as session:
            session.execute(_ADVISORY_LOCK, {"key": _ADVISORY_KEY})
            yield

    @contextlib.contextmanager
    def transaction(self, *, trial: int | None = None) -> Iterator[Session]:
        """Makes what this thread writes inside one transaction: all of it stands, or nothing.

        Optuna commits after every attribute and parameter; together, twelve parameters take 4
        instead of 25 ms (SQLite, an Intel Xeon at 2.3 GHz), and a crash leaves no half of them.

        Args:
            trial: the id of a trial that nobody else may change until the end: what is read of it
                inside still holds when it is written.
        """
        session = self.sessions()
        if session.joined:  # within another's
            if trial is not None:
                self._hold(session, trial)
            yield session
            return
        session.joined = True
        try:
            if not self.is_sqlite:
                session.execute(_IMPATIENCE)
            if trial is not None:
                self._hold(session, trial)
            yield session
            session.joined = False
            session.commit()
        except BaseException:
            session.joined = False
            session.rollback()
            raise
        finally:
            session.close()

    def _hold(self, session: Session, trial: int) -> None:
        """Takes a trial's row on PostgreSQL; SQLite has one writer at a time for all."""
        if self.is_sqlite:
            session.execute(sql("BEGIN IMMEDIATE"))
        else:
            taken = sql("SELECT trial_id FROM trials WHERE trial_id = :trial FOR UPDATE")
            session.execute(taken, {"trial": trial})

    def now(self) -> float:
        """Returns the database's clock, in seconds since 1970: the one clock that all share."""
        asked = "CAST(strftime('%s', 'now') AS FLOAT)" if self.is_sqlite else _POSTGRES_NOW
        with self.engine.connect() as connection:
            return float(connection.execute(sql(f"SELECT {asked}")).scalar_one())

    def with_retry(self, action: Callable[[], T]) -> T:
        """Returns what ``action`` returns; while the database is away, waits and does it again.

        With growing pauses, for two minutes in all: a server that is restarted in mid-run costs
        time and nothing else. What was written in part is taken back first.

        Raises:
            StorageError: the database stayed away.
            KeyboardInterrupt: who waits is in a hurry, see ``absence``.
        """
        since, pause = None, 0.25
        while True:
            try:
                result = action()
                if since is not None:
                    self.outage.note()
                    _log.warning("%s is back", self.masked)
                return result
            except KeyError as exc:
                if exc.args != (NOT_FOUND,):
                    raise
                raise StudyError(f"what was asked of {self.masked} has been deleted") from exc
            except (SQLAlchemyError, StorageInternalError) as exc:
                cause = cause_of(exc)
                is_first, since = since is None, since or time.monotonic()
                is_lost = not may_come_back(cause, is_sqlite=self.is_sqlite)
                if is_lost or time.monotonic() + pause > since + AWAY_SECONDS:
                    raise self._lost(exc) from exc
                if is_first:
                    said = first_line(cause or exc)
                    _log.warning("%s is away (%s); it is waited for", self.masked, said)
            self._forget()
            self.outage.wait(pause * random.uniform(0.5, 1.5))  # not all workers at once
            pause = min(2 * pause, 5.0)

    def _forget(self) -> None:
        """Drops connections, and Optuna's memory of trials whose making was never committed."""
        self.sessions.remove()
        self.engine.dispose()
        backend: Any = self.backend
        with backend._lock:
            self._forget_trials(list(backend._studies))

    def studies(self) -> list[FrozenStudy]:
        """Returns every study, other programs' too; forgets the trials of those that are gone.

        SQLite gives the ids of a deleted study and its trials out anew, and Optuna would go on
        telling the trials of the old one.
        """
        studies = self.backend.get_all_studies()
        stamps = {s._study_id: (s.study_name, s.user_attrs.get(CREATED)) for s in studies}
        backend: Any = self.backend
        with backend._lock:  # a dashboard asks with several threads
            known = self._stamps
            if any(i not in known or known[i] != stamps.get(i) for i in backend._studies):
                self._forget_trials(stamps)
            known.clear()
            known.update(stamps)
        return studies

    def _forget_trials(self, kept: Container[int]) -> None:
        """Empties Optuna's memory, whose lock is held; another thread may be at a kept study."""
        backend: Any = self.backend
        for i, memory in list(backend._studies.items()):
            if i in kept:
                backend._studies[i] = type(memory)()
            else:
                del backend._studies[i]
        backend._trial_id_to_study_id_and_number.clear()
        backend._study_id_and_number_to_trial_id.clear()

    def _lost(self, exc: Exception) -> StorageError:
        said = first_line(cause_of(exc) or exc)
        return StorageError(
            f"lost {self.masked} in mid-run: {said}; mend it and run the same command again: the"
            " running trial is taken up again"
        )

    @contextlib.contextmanager
    def translate_errors(self) -> Iterator[None]:
        """Turns the loss of the database in mid-run into a StorageError that says how to go on."""
        try:
            yield
        except (SQLAlchemyError, StorageInternalError) as exc:
            raise self._lost(exc) from exc

    def close(self) -> None:
        """Gives this thread's connection and the idle ones back."""
        self.sessions.remove()
        self.engine.dispose()


def check_storage(text: str, *, artifacts: str | None = None) -> None:
    """Checks that a database can be made or is ours and reached; makes and changes nothing.

    Likewise the place for ``artifacts``, where one is given.

    Raises:
        StorageError: as :func:`open_storage`.
    """
    url = parse_url(text)
    check_artifacts(url, artifacts)
    if url.get_backend_name() == "sqlite":
        check_sqlite(Path(url.database or ""), create=True)
    else:
        with _translated(url):
            check_server(url, create=True)


def exists(text: str) -> bool:
    """Whether there is a database to open: an SQLite file, or any server."""
    url = parse_url(text)
    return url.get_backend_name() != "sqlite" or os.path.exists(url.database or "")


def open_storage(text: str, *, create: bool, artifacts: str | None = None) -> Storage:
    """Opens a database; with ``create`` an SQLite file or the tables are made where missing.

    ``artifacts`` is the place of the checkpoints, see :func:`open_artifacts`.

    SQLite is opened in WAL mode with synchronous=NORMAL and a busy timeout of a minute, which
    costs two to six times less than its defaults; it is unsafe on a network disk.

    Raises:
        StorageError: it is not there, cannot be reached or written, or is not Optuna's.
    """
    url = parse_url(text)
    if url.get_backend_name() == "sqlite":
        path = Path(url.database or "")
        check_sqlite(path, create=create)
        with _file_lock(path) if create else contextlib.nullcontext():
            return _connect(url, create=create, artifacts=artifacts)
    return _connect(url, create=create, artifacts=artifacts)


def _connect(url: URL, *, create: bool, artifacts: str | None) -> Storage:
    sqlite = url.get_backend_name() == "sqlite"
    with _translated(url):
        if not sqlite:
            check_server(url, create=create)
            make_tables(url)
        rdb = RDBStorage(
            sqlalchemy_url(url),
            engine_kwargs=engine_options(url),
            skip_compatibility_check=not sqlite,
            skip_table_creation=not sqlite,
        )
        if sqlite and not is_read_only(Path(url.database or "")):
            sqlalchemy.event.listen(rdb.engine, "connect", _tune_sqlite)
        back_at = None if sqlite else time.monotonic() - server_age_seconds(rdb.engine)
        rdb.engine.dispose()
    sessions = scoped_session(sessionmaker(bind=rdb.engine, class_=_Session))
    rdb.scoped_session = sessions  # type: ignore[assignment]
    return Storage(
        url=url,
        masked=mask(url),
        backend=optuna.storages.get_storage(rdb),
        engine=rdb.engine,
        sessions=sessions,
        artifacts_at=artifacts,
        outage=Outage(back_at=back_at),
    )


@contextlib.contextmanager
def _translated(url: URL) -> Iterator[None]:
    """Turns what a driver raises into a StorageError that shows no password."""
    try:
        yield
    except ImportError as exc:
        raise StorageError(
            f"the driver for {mask(url)} is not installed; pip install 'hpsearch[postgres]'"
        ) from exc
    except (SQLAlchemyError, sqlite3.Error, RuntimeError) as exc:
        kind = AwayError if _is_away(exc) else StorageError
        raise kind(
            f"cannot use {mask(url)}: {first_line(exc)}; expected a database that can be reached"
            " and written; check the URL and that it is up"
        ) from exc


def _is_away(exc: Exception) -> bool:
    """Whether a server does not answer, rather than refuses who asks; SQLite is never away."""
    said = str(exc)
    from_server = isinstance(exc, OperationalError) and "psycopg" in said
    return from_server and not any(words in said for words in _REFUSALS)


def first_line(exc: BaseException) -> str:
    """What the driver itself said, without the statement and its parameters."""
    return next(iter(str(getattr(exc, "orig", None) or exc).strip().splitlines()), repr(exc))


@contextlib.contextmanager
def _file_lock(database: Path) -> Iterator[None]:
    lock = FileLock(f"{database}.lock", timeout=_LOCK_SECONDS)
    try:
        lock.acquire()
    except Timeout as exc:
        raise StorageError(
            f"waited {_LOCK_SECONDS:.0f} s for {database}.lock, which another process holds;"
            " end that process and try again"
        ) from exc
    except OSError as exc:
        raise StorageError(f"cannot lock {database}.lock ({exc}); mend its permissions") from exc
    try:
        yield
    finally:
        lock.release()


def _tune_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
