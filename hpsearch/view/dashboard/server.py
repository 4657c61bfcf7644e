"""The server of the dashboard: optuna-dashboard with annotations, read-only by default."""

from __future__ import annotations

import logging
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from hpsearch.errors import HpsearchError, NotMadeError
from hpsearch.search.storage.storage import Storage, open_storage
from hpsearch.search.storage.url import mask, parse_url
from hpsearch.view.dashboard.auth import (
    READING,
    Login,
    check_open,
    read_only,
    with_login,
    without_uploads,
)

_log = logging.getLogger(__name__)

# Selectors for optuna-dashboard 0.21: labels for screen readers, else names of icons. In another
# version one may match nothing and hide nothing; the server still refuses the request.
UPLOADS = (
    '.MuiCard-root:has(> .MuiCardActionArea-root input[type="file"])',
    '[aria-label="delete artifact"]',
)
CHANGES = (
    'button:has(> .MuiButton-startIcon > [data-testid="AddBoxIcon"])',  # create a study
    '[aria-label="rename study"]',
    '[aria-label="delete study"]',
    'button:has(> [data-testid="EditIcon"])',  # write a note
    'button:has(> .MuiButton-startIcon > [data-testid="StopCircleIcon"])',  # fail a trial
    '[aria-label="skip trial"]',
)
# Without these headers the page arrives whole and uncompressed, so that the style can be added.
_CONDITIONS = ("HTTP_IF_MODIFIED_SINCE", "HTTP_IF_NONE_MATCH", "HTTP_RANGE", "HTTP_ACCEPT_ENCODING")
_FILE_HEADERS = ("content-length", "last-modified", "etag", "accept-ranges")
_WAIT_SECONDS = 1.0  # between two attempts to open a database


def hiding(app: WSGIApplication, selectors: Sequence[str]) -> WSGIApplication:
    """Returns the app behind a filter that adds a style to its pages, which hides those elements.

    A style cannot break the page: a selector without a match has no effect.
    """
    rules = "".join(f"{selector}{{display:none!important}}" for selector in selectors)
    style = f"<style>{rules}</style>".encode()

    def filtered(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if environ.get("REQUEST_METHOD") not in READING or not path.startswith("/dashboard"):
            return app(environ, start_response)
        plain = {key: value for key, value in environ.items() if key not in _CONDITIONS}
        status, headers, page = _response(app, {**plain, "REQUEST_METHOD": "GET"})
        kept = [(name, value) for name, value in headers if name.lower() not in _FILE_HEADERS]
        page = page.replace(b"</head>", style + b"</head>", 1)
        start_response(status, [*kept, ("Content-Length", str(len(page)))])
        return [page] if environ["REQUEST_METHOD"] == "GET" else []

    return filtered


def _response(
    app: WSGIApplication, environ: WSGIEnvironment
) -> tuple[str, list[tuple[str, str]], bytes]:
    """Returns the whole response of an app: status, headers and body."""
    begun: list[Any] = []
    written: list[bytes] = []

    def start(status: str, headers: list[tuple[str, str]], _: Any = None) -> Callable[..., object]:
        begun[:] = [status, headers]
        return written.append

    body = app(environ, start)
    try:
        written += body
    finally:
        if hasattr(body, "close"):
            body.close()
    return begun[0], begun[1], b"".join(written)


def open_with_retry(text: str, *, pause: Callable[[float], None] = time.sleep) -> Storage:
    """Opens a database for reading; retries until a database on a server has a study.

    The first worker creates the tables, never the dashboard. ``pause`` sleeps for some seconds.

    Raises:
        StorageError: the database cannot be read, or is an SQLite file that does not exist.
    """
    url, is_waiting = parse_url(text), False
    while True:
        try:
            return open_storage(text, create=False)
        except NotMadeError:
            if url.get_backend_name() == "sqlite":
                raise
        if not is_waiting:
            _log.info(
                "no study in %s yet; waiting for one to be started (Ctrl-C to stop)", mask(url)
            )
        is_waiting = True
        pause(_WAIT_SECONDS)


def serve(
    storage: Storage,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    writable: bool = False,
    login: Login | None = None,
    storage_options: Sequence[str] = (),
    ready: Callable[[str], None],
) -> None:
    """Serves optuna-dashboard until Ctrl-C, or within :func:`ending_at_sigterm` until SIGTERM.

    Args:
        storage: the database.
        host: the address to listen on.
        port: 1 to 65535, or 0 for any free port.
        writable: whether the page may create, rename and delete studies.
        login: the required login; None for none, which only a loopback address permits.
        storage_options: the options that name the storage, for the commands to type.
        ready: called with the URL once the server listens.

    Raises:
        HpsearchError: the server cannot listen on the address, or other machines can reach it
            without a login.
    """
    check_open(host, login)
    with _listen(host, port) as listening:
        # Imported once the port is known to be free, as optuna-dashboard takes about 2 s.
        import waitress
        from optuna_dashboard import wsgi

        from hpsearch.view.dashboard.annotator import Annotator

        annotator = Annotator(storage, storage_options=storage_options)
        annotator.start()
        app = annotator.watching(wsgi(annotator.backend, artifact_store=annotator))
        if writable:
            app = without_uploads(hiding(app, UPLOADS))
        else:
            app = read_only(hiding(app, [*UPLOADS, *CHANGES]))
        if login is not None:
            app = with_login(app, login)
        # waitress would warn of the many simultaneous requests of a page.
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)
        server = waitress.create_server(app, sockets=[listening], threads=8)
        shown = f"[{host}]" if ":" in host else host
        try:
            ready(f"http://{shown}:{listening.getsockname()[1]}/dashboard")
            server.run()  # until Ctrl-C or SIGTERM
        finally:
            server.close()


@contextmanager
def ending_at_sigterm() -> Iterator[None]:
    """Lets SIGTERM raise SystemExit with code 143 inside a ``with`` block.

    The first process of a container has no default handler and would ignore the signal.
    """

    def leave(number: int, _frame: FrameType | None) -> NoReturn:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        if not 0 <= port <= 65535:
            raise OSError("a port is 0 to 65535")
        return socket.create_server((host, port), family=family)
    except OSError as exc:
        raise HpsearchError(
            f"cannot listen on {host}:{port} ({exc.strerror or exc}); expected an address of this"
            " machine and a free port; stop the program that uses it, or choose another --port"
        ) from exc
