"""A worker's signs of life: in the database while it runs a trial, and on its own machine."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from hpsearch.search.storage.storage import first_line
from hpsearch.search.study.leases import Lease, LeaseLost
from hpsearch.search.study.study import Study

BEAT_SECONDS = 10.0
ALIVE = "HPSEARCH_ALIVE"  # the environment variable that names a file to touch

_log = logging.getLogger(__name__)


def touch_alive_file() -> None:
    """Touches the file that ``HPSEARCH_ALIVE`` names, if it names one.

    Its age tells a container's health check that the worker goes on: for much less than a command
    that asks the database, which would take time from the trials that are measured.
    """
    path = os.environ.get(ALIVE)
    if path:
        with suppress(OSError):  # then it grows old, and who looks at it sees that
            Path(path).touch()


@contextmanager
def heartbeats(study: Study, claim: Lease, *, seconds: float = BEAT_SECONDS) -> Iterator[None]:
    """Gives a sign of life every ``seconds`` inside the context; the first came with the claim.

    After each one the alive file is touched, see :func:`touch_alive_file`. Optuna's own heartbeats
    run only inside ``study.optimize``, and miss a trial that died before its first.
    """
    done = threading.Event()

    def beat() -> None:
        while not done.wait(seconds):
            try:
                study.beat(claim)
                touch_alive_file()
            except LeaseLost:
                return  # its worker learns of it when it writes
            except (SQLAlchemyError, StorageInternalError) as exc:
                study.storage.outage.note()  # nobody else was heard, either
                said = first_line(exc.__cause__ or exc)
                _log.warning("no sign of life of trial %d: %s", claim.number, said)
        study.storage.sessions.remove()

    thread = threading.Thread(target=beat, name=f"heartbeat-{claim.number}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=1)  # it may hang in a database that is away
