"""Retries while a database is away: a restarted server, a lost connection, a locked file."""

from __future__ import annotations

import functools
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, TypeVar

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import (
    DBAPIError,
    InterfaceError,
    OperationalError,
    PendingRollbackError,
    SQLAlchemyError,
)

from hpsearch.errors import StorageError, StudyError
from hpsearch.search.storage.tables import NOT_FOUND

AWAY_SECONDS = 120.0  # how long a database may be away
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 5.0  # seconds
_SETTLE_SECONDS = 30.0  # after an outage, until every live worker has sent a heartbeat again
_JUMP_SECONDS = 10.0  # no two clocks drift apart this far between two looks
_POLL_SECONDS = 0.2
_READ_ONLY = "25006"  # PostgreSQL's code: "cannot execute … in a read-only transaction"

_log = logging.getLogger(__name__)

Owner = TypeVar("Owner")
Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")


@dataclass(slots=True, kw_only=True)
class Outage:
    """The last outage of a database, as far as this process noticed it.

    ``back_at`` is by ``clock``, in monotonic seconds; None: there was no outage. ``gives_up`` is
    asked during a wait; once it returns True, the wait ends with a KeyboardInterrupt.
    """

    back_at: float | None = None
    gives_up: Callable[[], bool] = lambda: False
    clock: Callable[[], float] = time.monotonic
    _ahead: float | None = None  # seconds from this process's clock to the database's

    def note(self) -> None:
        """Records an outage that lasted until now."""
        self.back_at = self.clock()

    def compare(self, now: float) -> None:
        """Compares the database's time with this process's clock; a jump counts as an outage.

        The clocks jump apart when this machine was asleep, and when either clock was set. Then
        the heartbeats of all running trials look old.
        """
        ahead = now - self.clock()
        if self._ahead is not None and abs(ahead - self._ahead) > _JUMP_SECONDS:
            self.note()
        self._ahead = ahead

    def is_recent(self) -> bool:
        """Whether the outage ended too recently for heartbeats to be fresh."""
        return self.back_at is not None and self.clock() - self.back_at < _SETTLE_SECONDS

    def wait(self, seconds: float) -> None:
        """Waits before the next attempt.

        Raises:
            KeyboardInterrupt: ``gives_up()`` returned True.
        """
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if self.gives_up():
                raise KeyboardInterrupt
            time.sleep(min(left, _POLL_SECONDS))


def retry_while_away(
    action: Callable[Concatenate[Owner, Arguments], Result],
) -> Callable[Concatenate[Owner, Arguments], Result]:
    """Decorates a function whose first argument is a Storage, or has one as ``storage``.

    While the database is away, the function is called again, with growing pauses, for two minutes
    in all: a restarted server costs time and nothing else. Within an open transaction it is called
    once, because the transaction has to be repeated as a whole.

    The decorated function raises:
        StorageError: the database stayed away, or failed for another reason.
        StudyError: the study or trial has been deleted.
        KeyboardInterrupt: the storage's ``outage.gives_up()`` returned True.
    """

    @functools.wraps(action)
    def retrying(owner: Owner, /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        storage: Any = getattr(owner, "storage", owner)
        # On a new connection, the first half of the transaction and its locks would be missing.
        if storage.is_in_transaction:
            return action(owner, *args, **kwargs)
        since, pause = None, _FIRST_PAUSE
        while True:
            try:
                result = action(owner, *args, **kwargs)
            except KeyError as exc:
                if exc.args != (NOT_FOUND,):
                    raise
                raise StudyError(
                    f"the study or trial has been deleted from {storage.masked}; `hpsearch list`"
                    " shows the studies that are left"
                ) from exc
            except (SQLAlchemyError, StorageInternalError) as exc:
                cause = _cause(exc)
                is_first, since = since is None, since or time.monotonic()
                is_lasting = not may_pass(cause, is_sqlite=storage.is_sqlite)
                if is_lasting or time.monotonic() + pause > since + AWAY_SECONDS:
                    raise lost_error(storage.masked, exc) from exc
                if is_first:
                    _log.warning("%s is away (%s); retrying", storage.masked, first_line(cause))
            else:
                if since is not None:
                    storage.outage.note()
                    _log.warning("%s is back", storage.masked)
                return result
            # The old connections are broken, and the cache may hold uncommitted trials.
            storage.reconnect()
            storage.outage.wait(pause * random.uniform(0.5, 1.5))  # not all workers at once
            pause = min(2 * pause, _LONGEST_PAUSE)

    return retrying


def lost_error(masked: str, exc: Exception) -> StorageError:
    """Returns the error for a database that failed during a run."""
    return StorageError(
        f"lost {masked} during the run: {first_line(_cause(exc))}; fix it and run the same command"
        " again, which resumes the running trial"
    )


def first_line(exc: BaseException) -> str:
    """Returns the driver's message, without the statement and its parameters."""
    return next(iter(str(getattr(exc, "orig", None) or exc).strip().splitlines()), repr(exc))


def _cause(exc: Exception) -> BaseException:
    """The driver's exception, which Optuna may have wrapped."""
    return exc.__cause__ or exc if isinstance(exc, StorageInternalError) else exc


def sqlstate(exc: BaseException) -> str | None:
    """Returns PostgreSQL's code of an error; None if the server sent none, and on SQLite."""
    return getattr(getattr(exc, "orig", None), "sqlstate", None)


def may_pass(cause: BaseException, *, is_sqlite: bool) -> bool:
    """Whether the connection failed, not the statement; on SQLite, whether the file is locked."""
    # A server reports a connection that it closed for idling in a transaction as internal error.
    was_cut = isinstance(cause, DBAPIError) and cause.connection_invalidated
    kinds = (OperationalError, InterfaceError, PendingRollbackError)
    # A standby, or a server that is being replaced by one.
    if was_cut or sqlstate(cause) == _READ_ONLY:
        return True
    # "database is locked", or "locking protocol" when many connections are opened at once.
    return isinstance(cause, kinds) and (not is_sqlite or "lock" in str(cause))
