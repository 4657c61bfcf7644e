"""Open databases: transactions, the lock, Optuna's cache, and errors in plain words."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import time
from collections.abc import Callable, Collection, Container, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages._base import BaseStorage
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial
from sqlalchemy import text as sql
from sqlalchemy.engine import URL, Engine
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from hpsearch.errors import StorageError
from hpsearch.search.storage import retry
from hpsearch.search.storage.artifacts import Artifacts, check_artifacts, open_artifacts
from hpsearch.search.storage.database_file import (
    LOCK_SECONDS,
    DatabaseFile,
    file_lock,
    is_read_only,
    real_path,
)
from hpsearch.search.storage.engine import (
    check_server,
    check_sqlite,
    engine_options,
    optuna_storage,
    server_age_seconds,
    translate_driver_errors,
)
from hpsearch.search.storage.overviews import frozen_studies
from hpsearch.search.storage.records import CREATED
from hpsearch.search.storage.retry import Outage, retry_while_away
from hpsearch.search.storage.tables import lock_trial, try_writes
from hpsearch.search.storage.url import mask, parse_url

_NO_ID = 2**31 - 1  # above every id: PostgreSQL counts them in 32 bits
_ADVISORY_KEY = 0x68707365617263  # "hpsearc": one lock for all studies of a PostgreSQL database
_ADVISORY_LOCK = sql("SELECT pg_advisory_xact_lock(:key)")
_LOCK_TIMEOUT = "55P03"  # PostgreSQL's code


class _RollbackError(Exception):
    """Ends a transaction without a change."""


class _Session(Session):
    """A database session that ignores commit, rollback and close while it is ``joined``.

    Then :meth:`Storage.transaction` ends it.
    """

    joined = False

    def commit(self) -> None:
        """Commits; while joined, only sends pending statements."""
        if self.joined:
            self.flush()
        else:
            super().commit()

    def rollback(self) -> None:
        """Rolls back; while joined, raises the error that asked for it.

        Optuna would otherwise repeat the creation of a trial, without the lock, which was lost.
        """
        error = sys.exception() if self.joined else None
        if error is not None:
            raise error
        super().rollback()

    def restart(self) -> None:
        """Rolls back a transaction that has written nothing; the next statement begins another."""
        super().rollback()

    def close(self) -> None:
        """Closes; while joined, stays open."""
        if not self.joined:
            super().close()


@dataclass(kw_only=True, eq=False)
class Storage:
    """An open database. Made by :func:`open_storage`.

    ``masked`` is the URL that the user named, without secrets; ``url`` names an SQLite file by its
    real path. ``file`` is that file, None on a server and if it is read-only.
    ``artifacts_location`` is the user's location of the checkpoints, None for the default.
    """

    url: URL
    masked: str
    file: DatabaseFile | None
    backend: BaseStorage
    engine: Engine
    sessions: scoped_session[_Session]
    artifacts_location: str | None
    outage: Outage = field(default_factory=Outage)
    _stamps: dict[int, tuple[str, str | None]] = field(default_factory=dict)  # name and creation

    @property
    def is_sqlite(self) -> bool:
        """Whether it is an SQLite file, else a PostgreSQL server."""
        return self.url.get_backend_name() == "sqlite"

    @property
    def is_in_transaction(self) -> bool:
        """Whether this thread is within :meth:`transaction`."""
        return self.sessions().joined

    @functools.cached_property
    def artifacts(self) -> Artifacts | None:
        """The store of checkpoints; None without a location for them.

        Opened on first use, because a command that only reads a study does not need it.

        Raises:
            StorageError: the location cannot be used.
        """
        return open_artifacts(self.url, self.artifacts_location)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the database's one lock: only for counting trials and creating studies.

        A file lock beside an SQLite file; on PostgreSQL an advisory lock, in one transaction with
        all writes inside. Both end with the process that holds them.

        Raises:
            StorageError: another process held the lock for two minutes.
            MovedError: the SQLite file was moved, removed or replaced.
        """
        if self.file is not None:
            self.file.check()  # the lock would otherwise be made beside another file, or none
        if self.is_sqlite:
            with file_lock(Path(self.url.database or "")):
                yield
            return
        with self.transaction() as session:
            until = time.monotonic() + LOCK_SECONDS
            # The server ends each wait early, so that its silence always means an outage.
            while not _takes_advisory_lock(session, is_last=time.monotonic() > until):
                self.sessions().restart()
            yield

    @contextlib.contextmanager
    def transaction(self, *, trial: int | None = None) -> Iterator[Session]:
        """Makes this thread's writes inside one transaction: all of them are stored, or none.

        Optuna commits after every attribute and parameter. In one transaction, twelve parameters
        take 4 instead of 25 ms (SQLite, an Intel Xeon at 2.3 GHz), and a crash leaves no half.

        Args:
            trial: the id of a trial that nobody else may change until the end, so that a decision
                read inside still holds when it is written.
        """
        session = self.sessions()
        if session.joined:  # within an outer transaction
            if trial is not None:
                self._lock_trial(session, trial)
            yield session
            return
        # Optuna commits after each write: from here on, that only flushes.
        session.joined = True
        try:
            if trial is not None:
                self._lock_trial(session, trial)
            yield session
            session.joined = False
            session.commit()
        except BaseException:
            session.joined = False
            session.rollback()
            raise
        finally:
            session.close()

    def _lock_trial(self, session: Session, trial: int) -> None:
        if self.is_sqlite:  # it has one writer at a time
            session.execute(sql("BEGIN IMMEDIATE"))
        else:
            lock_trial(session, trial)

    def reconnect(self) -> None:
        """Drops all connections, and Optuna's cache of trials, some of which were not committed."""
        self._disconnect()
        backend: Any = self.backend
        with backend._lock:
            self._forget_trials(list(backend._studies))

    def check_writable(self) -> None:
        """Checks that studies and trials can be written; call it before long work.

        Raises:
            StorageError: they cannot be written, or the database stayed away.
        """
        try:
            self._try_writes()
        except StorageError as exc:
            cause = exc.__cause__
            if cause is None or retry.may_pass(cause, is_sqlite=self.is_sqlite):
                raise
            problem = f"{self.masked} cannot be written ({retry.first_line(cause)})"
            advice = "fix its permissions, or name another with --storage"
            raise StorageError(f"{problem}; {advice}") from cause

    @retry_while_away
    def _try_writes(self) -> None:
        # Reading alone would not show missing permissions.
        with contextlib.suppress(_RollbackError), self.transaction() as session:
            try_writes(session)
            raise _RollbackError

    def studies(self) -> list[FrozenStudy]:
        """Returns every study, other programs' too; forgets the trials of deleted ones.

        SQLite reuses the ids of a deleted study and its trials, for which Optuna's cache would
        return the old trials.
        """
        with self.transaction() as session:
            studies = frozen_studies(session)
        stamps = {s._study_id: (s.study_name, s.user_attrs.get(CREATED)) for s in studies}
        backend: Any = self.backend
        with backend._lock:  # a dashboard asks from several threads
            known = self._stamps
            # Another creation time under a known id means that the id was reused.
            if any(i not in known or known[i] != stamps.get(i) for i in backend._studies):
                self._forget_trials(stamps)
            known.clear()
            known.update(stamps)
        return studies

    def trials(self, study_id: int, trial_ids: Collection[int]) -> list[FrozenTrial]:
        """Returns those trials of a study, in as many statements for one trial as for many."""
        backend: Any = self.backend
        # Optuna takes the ids of trials below a limit, and every trial above it.
        found: list[FrozenTrial] = backend._backend._get_trials(
            study_id, states=None, included_trial_ids=set(trial_ids), trial_id_greater_than=_NO_ID
        )
        return found

    def _forget_trials(self, kept: Container[int]) -> None:
        """Empties Optuna's cache, whose lock the caller holds.

        Studies of the ids in ``kept`` stay, without trials: another thread may be reading them.
        """
        backend: Any = self.backend
        for i, cached in list(backend._studies.items()):
            if i in kept:
                backend._studies[i] = type(cached)()
            else:
                del backend._studies[i]
        backend._trial_id_to_study_id_and_number.clear()
        backend._study_id_and_number_to_trial_id.clear()

    @contextlib.contextmanager
    def translate_errors(self) -> Iterator[None]:
        """Turns the libraries' errors during a run into a StorageError that says how to go on."""
        try:
            yield
        except (SQLAlchemyError, StorageInternalError) as exc:
            raise retry.lost_error(self.masked, exc) from exc

    def close(self) -> None:
        """Closes this thread's connection and the idle ones; then an SQLite file holds all data.

        The next use connects again.
        """
        self.sessions.remove()
        if self.file is not None:
            self.file.fold(self.engine)
        self._disconnect()

    def _disconnect(self) -> None:
        self.sessions.remove()
        self.engine.dispose()

    @contextlib.contextmanager
    def closed_on_error(self) -> Iterator[None]:
        """Closes the database if anything is raised inside, Ctrl-C included."""
        try:
            yield
        except BaseException:
            self.close()
            raise


def check_storage(text: str, *, artifacts: str | None = None) -> None:
    """Checks that a database can be created, or is Optuna's and can be reached; changes nothing.

    Checks the location for ``artifacts`` too, if one is given.

    Raises:
        StorageError: the database or the location cannot be used.
    """
    url = parse_url(text)
    if url.get_backend_name() == "sqlite":
        check_sqlite(Path(url.database or ""), create=True)
    else:
        with translate_driver_errors(mask(url)):
            check_server(url, engine_options(url), create=True)
    check_artifacts(url, artifacts)


def exists(text: str) -> bool:
    """Whether there is a database to open: an SQLite file, or any server."""
    url = parse_url(text)
    return url.get_backend_name() != "sqlite" or os.path.exists(url.database or "")


def open_storage(
    text: str,
    *,
    create: bool,
    artifacts: str | None = None,
    gives_up: Callable[[], bool] = lambda: False,
) -> Storage:
    """Opens a database.

    SQLite is opened in WAL mode with synchronous=NORMAL and a busy timeout of a minute, which
    costs two to six times less than its defaults, and is unsafe on a network disk. From then on
    each transaction checks that the path still leads to the file that was opened.

    Args:
        text: a URL, or the path of an SQLite file.
        create: create a missing SQLite file or missing tables.
        artifacts: see :func:`open_artifacts`.
        gives_up: see :class:`Outage`.

    Raises:
        StorageError: the database is missing, cannot be reached or written, or is not Optuna's.
    """
    url = parse_url(text)
    masked, sqlite = mask(url), url.get_backend_name() == "sqlite"
    if sqlite:
        is_current = check_sqlite(Path(url.database or ""), create=create)
        url = url.set(database=str(real_path(url)))  # one lock, whatever name the file is given
    path, file = Path(url.database or ""), None
    # Two processes must not create the tables of one file at the same time.
    with (
        file_lock(path) if sqlite and create else contextlib.nullcontext(),
        translate_driver_errors(masked),
    ):
        options = engine_options(url, gives_up=gives_up)
        if not sqlite:
            is_current = check_server(url, options, create=create)
        rdb = optuna_storage(url, options, is_current=is_current)
        if sqlite and not is_read_only(path):
            file = DatabaseFile.at(path, masked=masked)
            file.guard(rdb.engine)
        # Heartbeats may be old after a restart of the server, like after an outage.
        back_at = None if sqlite else time.monotonic() - server_age_seconds(rdb.engine)
        rdb.engine.dispose()
    sessions = scoped_session(sessionmaker(bind=rdb.engine, class_=_Session))
    rdb.scoped_session = sessions  # type: ignore[assignment]
    return Storage(
        url=url,
        masked=masked,
        file=file,
        backend=optuna.storages.get_storage(rdb),
        engine=rdb.engine,
        sessions=sessions,
        artifacts_location=artifacts,
        outage=Outage(back_at=back_at, gives_up=gives_up),
    )


def _takes_advisory_lock(session: Session, *, is_last: bool) -> bool:
    """Waits for the lock as long as the server permits; returns whether it was free in time.

    Raises:
        StorageError: the attempt ``is_last``, and it was not.
        OperationalError: the server is away.
    """
    try:
        session.execute(_ADVISORY_LOCK, {"key": _ADVISORY_KEY})
    except OperationalError as exc:
        if retry.sqlstate(exc) != _LOCK_TIMEOUT:
            raise
        if is_last:
            problem = f"waited {LOCK_SECONDS:.0f} s for the lock that another process holds"
            raise StorageError(f"{problem}; end that process and try again") from exc
        return False
    return True
