"""PostgreSQL connections whose statements all have a deadline, here and on the server."""

from __future__ import annotations

import threading
import time
import types
from collections.abc import Callable, Generator
from typing import Any, ClassVar, TypeVar

import psycopg
import sqlalchemy
from psycopg import waiting
from sqlalchemy import Engine

ANSWER_SECONDS = 30.0  # of silence, until a server that was asked something counts as away
# A network that loses every packet. The server's end needs no help: it only waits for a client.
TCP_OPTIONS = {
    "tcp_user_timeout": int(1000 * ANSWER_SECONDS),  # milliseconds
    "keepalives_idle": 10,  # seconds
    "keepalives_interval": 5,
    "keepalives_count": 4,
}
# A lock is waited for in several statements, each shorter than the silence that means an outage.
_LIMITS = {
    "lock_timeout": "20s",
    "statement_timeout": "120s",  # of a client that is gone
    "idle_in_transaction_session_timeout": "60s",  # frees the locks of a host that crashed
}

Result = TypeVar("Result")
_Waiting = Generator[Any, Any, Result]  # gives what to wait for, receives what came


def driver(gives_up: Callable[[], bool]) -> types.ModuleType:
    """Returns psycopg with connections that end when the server is silent.

    A statement, or a connection that is being made, is asked about every 0.1 s. It ends with an
    OperationalError after 30 s in which the server sent nothing, and with a KeyboardInterrupt in
    the main thread once ``gives_up()`` returns True. Both close the connection.
    """

    class Connection(_Connection):
        __module__, __qualname__ = "psycopg", "Connection"  # as warnings name it

    Connection.gives_up = staticmethod(gives_up)
    patched = types.ModuleType("psycopg")
    vars(patched).update(vars(psycopg), connect=Connection.connect)
    return patched


def limit_transactions(engine: Engine) -> None:
    """Has the server end statements and waits for locks that take too long, in all transactions.

    Each transaction sets its own limits, because a pooler gives the same connection to others.
    """
    sqlalchemy.event.listen(engine, "begin", _set_limits)


def _set_limits(connection: sqlalchemy.Connection) -> None:
    calls = [f"set_config('{name}', '{value}', true)" for name, value in _LIMITS.items()]
    connection.exec_driver_sql(f"SELECT {', '.join(calls)}")


class _Connection(psycopg.Connection[Any]):
    gives_up: ClassVar[staticmethod[[], bool]]

    @classmethod
    def _connect_gen(cls, *args: Any, **kwargs: Any) -> Any:
        return _watched(super()._connect_gen(*args, **kwargs), cls.gives_up)

    def wait(
        self, gen: _Waiting[Result], interval: float = 0.1, timeout: float | None = None
    ) -> Result:
        try:
            watched = _watched(gen, self.gives_up)
            return waiting.wait(watched, self.pgconn.socket, interval=interval, timeout=timeout)
        except (KeyboardInterrupt, _SilentError):
            # psycopg would ask the server to cancel, and wait ten seconds for the answer.
            self.close()
            raise


class _SilentError(psycopg.OperationalError):
    """The server sent nothing for too long."""


def _watched(gen: _Waiting[Result], gives_up: Callable[[], bool]) -> _Waiting[Result]:
    """Passes on the waits of a statement of psycopg, and ends it if nothing comes."""
    is_main = threading.current_thread() is threading.main_thread()
    heard = time.monotonic()
    try:
        wanted = next(gen)
        while True:
            came = yield wanted  # 0 if nothing came within the interval
            if came:
                heard = time.monotonic()
            elif time.monotonic() - heard > ANSWER_SECONDS:
                raise _SilentError(f"the server sent no answer for {ANSWER_SECONDS:g} s")
            elif is_main and gives_up():  # a heartbeat's thread cannot interrupt a run
                raise KeyboardInterrupt
            wanted = gen.send(came)
    except StopIteration as end:
        result: Result = end.value
        return result
