"""A network between a client and a PostgreSQL server that a test cuts, stops or slows down."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from sqlalchemy.engine import make_url

_CHUNK = 1 << 16  # bytes that are read at once


@dataclass(kw_only=True, eq=False)
class _Link:
    """One connection: the client's end and the server's, and how many bytes may still pass."""

    client: socket.socket
    server: socket.socket
    bytes_left: int | None = None  # from the server to the client

    def cut(self) -> None:
        """Closes both ends at once."""
        for end in (self.client, self.server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@dataclass(kw_only=True, eq=False)
class Proxy:
    """Forwards TCP connections to a server's socket. Made by :func:`proxy`.

    ``delay_seconds`` is the time by which each piece of data is late. ``cut_share`` is the share,
    0 to 1, of pieces before or after which the connection is cut. ``cut_after_bytes`` is the number
    of bytes that a new connection gets from the server until it is cut; None: no limit.
    ``hang_after_bytes`` is the number that all connections get together until they hang.
    """

    url: str  # of the server, through the proxy
    server_socket: str
    listener: socket.socket
    delay_seconds: float = 0.0
    cut_share: float = 0.0
    cut_after_bytes: int | None = None
    hang_after_bytes: int | None = None
    cuts: int = 0
    _is_flowing: threading.Event = field(default_factory=threading.Event)
    _is_refusing: bool = False
    _chance: random.Random = field(default_factory=lambda: random.Random(0))
    _links: list[_Link] = field(default_factory=list)

    def hang(self) -> None:
        """Keeps all connections and accepts more, but forwards nothing until :meth:`flow`."""
        self._is_flowing.clear()

    @property
    def is_hanging(self) -> bool:
        """Whether nothing is forwarded now."""
        return not self._is_flowing.is_set()

    def flow(self) -> None:
        """Forwards again, also the data that was held back."""
        self._is_refusing = False
        self._is_flowing.set()

    def drop(self) -> None:
        """Cuts all connections; new ones are accepted."""
        while self._links:
            self._links.pop().cut()
            self.cuts += 1

    def refuse(self) -> None:
        """Cuts all connections, and each new one at once, until :meth:`flow`."""
        self._is_refusing = True
        self.drop()

    def serve(self) -> None:
        """Accepts connections until the listener is closed."""
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            if self._is_refusing:
                client.close()
                continue
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(self.server_socket)
            except OSError:  # it is stopped
                client.close()
                server.close()
                continue
            link = _Link(client=client, server=server, bytes_left=self.cut_after_bytes)
            self._links.append(link)
            for source, sink in ((client, server), (server, client)):
                arguments = (link, source, sink)
                threading.Thread(target=self._forward, args=arguments, daemon=True).start()

    def _forward(self, link: _Link, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError), source:
            while piece := source.recv(_CHUNK):
                if self.hang_after_bytes is not None and sink is link.client:
                    self.hang_after_bytes -= len(piece)
                    if self.hang_after_bytes < 0:
                        self.hang_after_bytes = None
                        self.hang()
                self._is_flowing.wait()
                time.sleep(self.delay_seconds)
                is_cut = self._chance.random() < self.cut_share
                if is_cut and self._chance.random() < 0.5:
                    break
                if sink is link.client and link.bytes_left is not None:
                    piece = piece[: link.bytes_left]
                    link.bytes_left -= len(piece)
                    is_cut = is_cut or link.bytes_left == 0
                sink.sendall(piece)
                if is_cut:
                    break
            else:
                is_cut = False
            self.cuts += is_cut
        link.cut()


@contextlib.contextmanager
def proxy(server_url: str) -> Iterator[Proxy]:
    """A proxy in front of a server that listens on a Unix socket, until the context is left."""
    url = make_url(server_url)
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        port = listener.getsockname()[1]
        through = url.set(host="127.0.0.1", port=port, query={})
        running = Proxy(
            url=through.render_as_string(hide_password=False),
            server_socket=f"{url.query['host']}/.s.PGSQL.{url.port or 5432}",
            listener=listener,
        )
        running.flow()
        threading.Thread(target=running.serve, daemon=True).start()
        yield running
        listener.shutdown(socket.SHUT_RDWR)  # closing alone does not end accept()
    running.refuse()
    running.flow()
