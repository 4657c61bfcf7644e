"""A worker's heartbeats: in the database while it runs a trial, and in a file on its own host."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from hpsearch.search.storage.retry import first_line
from hpsearch.search.study.leases import Lease, LeaseLost

BEAT_SECONDS = 10.0
ALIVE = "HPSEARCH_ALIVE"  # the environment variable that names a file to touch

_log = logging.getLogger(__name__)


def touch_alive_file() -> None:
    """Touches the file that ``HPSEARCH_ALIVE`` names, if it names one.

    A container's health check reads the file's age. A command that asks the database would take
    processor time from the trials, which are timed.
    """
    path = os.environ.get(ALIVE)
    if path:
        with suppress(OSError):  # then the file grows old, and the health check detects it
            Path(path).touch()


@contextmanager
def heartbeats(lease: Lease, *, seconds: float = BEAT_SECONDS) -> Iterator[None]:
    """Writes a heartbeat every ``seconds`` inside the context; the first came with the lease.

    Touches the alive file after each one, see :func:`touch_alive_file`. Optuna's own heartbeats
    run only inside ``study.optimize``, and miss a trial that died before its first one.
    """
    done = threading.Event()

    def beat() -> None:
        while not done.wait(seconds):
            try:
                lease.beat()
                touch_alive_file()
            except LeaseLost:
                return  # the worker notices with its next write
            except (SQLAlchemyError, StorageInternalError) as exc:
                lease.storage.outage.note()  # other workers' heartbeats were not written either
                message = first_line(exc.__cause__ or exc)
                _log.warning("no heartbeat of trial %d: %s", lease.number, message)
        lease.storage.sessions.remove()

    # Daemon: a heartbeat that hangs must not keep the process alive.
    thread = threading.Thread(target=beat, name=f"heartbeat-{lease.number}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=1)  # it may hang in a database that is away
