"""A worker's signs of life while it runs a trial."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from hpsearch.search.claim import Claim
from hpsearch.search.ownership import GivenAway
from hpsearch.search.storage import first_line
from hpsearch.search.study import Study

BEAT_SECONDS = 10.0

_log = logging.getLogger(__name__)


@contextmanager
def beating(study: Study, claim: Claim, *, seconds: float = BEAT_SECONDS) -> Iterator[None]:
    """Gives a sign of life every ``seconds`` inside the context; the first came with the claim.

    Optuna's own heartbeats run only inside ``study.optimize``, and are silent about a trial that
    died before its first.
    """
    done = threading.Event()

    def beat() -> None:
        while not done.wait(seconds):
            try:
                study.beat(claim)
            except GivenAway:
                return  # its worker learns of it when it writes
            except (SQLAlchemyError, StorageInternalError) as exc:
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
