"""When a database was away, and for whom it is waited for no longer."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, PendingRollbackError

_SETTLE_SECONDS = 30.0  # after it was away, for signs of life to come in again
_JUMP_SECONDS = 10.0  # that no two clocks drift apart between two looks
_ASK_SECONDS = 0.2


@dataclass(slots=True, kw_only=True)
class Outage:
    """What this process knows of the last time that the database was away.

    ``back_at`` is by ``clock``, in monotonic seconds; None: it never was. Who waits for it can ask
    nobody else whether to stop: once ``is_hurried()`` is true, the waiting ends by a
    KeyboardInterrupt.
    """

    back_at: float | None = None
    is_hurried: Callable[[], bool] = lambda: False
    clock: Callable[[], float] = time.monotonic
    _ahead: float | None = None  # seconds from this process's clock to the database's

    def note(self) -> None:
        """Notes that it was away until now."""
        self.back_at = self.clock()

    def compare(self, now: float) -> None:
        """Takes the database's clock; one that has jumped against ours is as if it had been away.

        It does where this machine was asleep, and where a server's clock, or ours of an SQLite
        file, was set: then all who run a trial look as if they had been silent.
        """
        ahead = now - self.clock()
        if self._ahead is not None and abs(ahead - self._ahead) > _JUMP_SECONDS:
            self.note()
        self._ahead = ahead

    def is_recent(self) -> bool:
        """Whether it is so lately back that nobody's signs of life are fresh yet."""
        return self.back_at is not None and self.clock() - self.back_at < _SETTLE_SECONDS

    def wait(self, seconds: float) -> None:
        """Waits so long before the next try.

        Raises:
            KeyboardInterrupt: ``is_hurried()`` was true.
        """
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if self.is_hurried():
                raise KeyboardInterrupt
            time.sleep(min(left, _ASK_SECONDS))


def cause_of(exc: Exception) -> BaseException | None:
    """What the driver raised, where Optuna has wrapped it."""
    return exc.__cause__ if isinstance(exc, StorageInternalError) else exc


def may_come_back(cause: BaseException | None, *, is_sqlite: bool) -> bool:
    """Whether it was the connection that failed, not what was asked; SQLite is only locked.

    A server that cuts off who was silent in a transaction calls that an internal error.
    """
    was_cut = isinstance(cause, DBAPIError) and cause.connection_invalidated
    kinds = (OperationalError, InterfaceError, PendingRollbackError)
    if not was_cut and not isinstance(cause, kinds):
        return False
    # "database is locked", or the "locking protocol" when many begin at once.
    return not is_sqlite or "lock" in str(cause)
