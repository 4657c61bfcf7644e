"""optuna-dashboard on a study's storage, read-only unless asked otherwise."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from hpsearch.errors import HpsearchError

_READING = ("GET", "HEAD")


def read_only(app: WSGIApplication) -> WSGIApplication:
    """Returns the app behind a filter that answers every method but GET and HEAD with 405.

    No page of optuna-dashboard 0.21 needs another method to be read; with them it creates, renames
    and deletes studies, and asks nobody who they are. The refusal is the JSON in which it tells
    its own errors, so that the page shows it.
    """

    def filtered(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        method = environ.get("REQUEST_METHOD", "")
        if method in _READING:
            return app(environ, start_response)
        reason = (
            f"{method} was refused: this dashboard is read-only; to change studies from it,"
            " start it with: hpsearch dashboard --writable"
        )
        body = json.dumps({"reason": reason}).encode()
        headers = [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("Allow", ", ".join(_READING)),
        ]
        start_response("405 Method Not Allowed", headers)
        return [body]

    return filtered


def serve(
    storage: Any,  # optuna.storages.BaseStorage; this room does not import Optuna
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    writable: bool = False,
    ready: Callable[[str], None],
) -> None:
    """Serves optuna-dashboard until Ctrl-C.

    Args:
        storage: an open Optuna storage (a ``BaseStorage``).
        host: the address to listen on; there is no login, so others than this machine should
            reach it only where everyone may read the studies.
        port: 1 to 65535, or 0 for any that is free.
        writable: whether the page may create, rename and delete studies.
        ready: is told the URL once it is being listened on.

    Raises:
        HpsearchError: the address cannot be listened on.
    """
    with _listen(host, port) as listening:
        # Slow to import (about 2 s), so only here, and only once the port is known to be free.
        import waitress
        from optuna_dashboard import wsgi

        app = wsgi(storage)
        server = waitress.create_server(
            app if writable else read_only(app), sockets=[listening], threads=4
        )
        shown = f"[{host}]" if ":" in host else host
        try:
            ready(f"http://{shown}:{listening.getsockname()[1]}/dashboard")
            server.run()  # ends at Ctrl-C
        finally:
            server.close()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        if not 0 <= port <= 65535:
            raise OSError("a port is 0 to 65535")
        return socket.create_server((host, port), family=family)
    except OSError as exc:
        why = exc.strerror or exc
        raise HpsearchError(
            f"cannot listen on {host}:{port} ({why}); expected an address of this machine and a"
            " free port; end what uses it, or choose another with --port"
        ) from exc
