"""optuna-dashboard on a database of studies: annotated, and read-only unless asked otherwise."""

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

# As optuna-dashboard 0.21 marks them: what it tells screen readers, or else the icon's name. One
# that matches nothing in another version hides nothing, and what it would ask for is refused still.
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
# A page that comes from a browser's memory, or in part or compressed, could not be added to.
_CONDITIONS = (
    "HTTP_IF_MODIFIED_SINCE",
    "HTTP_IF_NONE_MATCH",
    "HTTP_RANGE",
    "HTTP_ACCEPT_ENCODING",
)
_OF_THE_FILE = ("content-length", "last-modified", "etag", "accept-ranges")


def hiding(app: WSGIApplication, selectors: Sequence[str]) -> WSGIApplication:
    """Returns the app behind a filter that adds a style to its page, which hides those elements.

    A style cannot break the page: whatever it does not match stays as it is.
    """
    rules = "".join(f"{selector}{{display:none!important}}" for selector in selectors)
    style = f"<style>{rules}</style>".encode()

    def filtered(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if environ.get("REQUEST_METHOD") not in READING or not path.startswith("/dashboard"):
            return app(environ, start_response)
        asked = {key: value for key, value in environ.items() if key not in _CONDITIONS}
        status, headers, page = _answer(app, {**asked, "REQUEST_METHOD": "GET"})
        kept = [(name, value) for name, value in headers if name.lower() not in _OF_THE_FILE]
        page = page.replace(b"</head>", style + b"</head>", 1)
        start_response(status, [*kept, ("Content-Length", str(len(page)))])
        return [page] if environ["REQUEST_METHOD"] == "GET" else []

    return filtered


def _answer(
    app: WSGIApplication, environ: WSGIEnvironment
) -> tuple[str, list[tuple[str, str]], bytes]:
    """The app's whole answer: its status, headers and body."""
    told: list[Any] = []
    written: list[bytes] = []

    def start(status: str, headers: list[tuple[str, str]], _: Any = None) -> Callable[..., object]:
        told[:] = [status, headers]
        return written.append

    body = app(environ, start)
    try:
        written += body
    finally:
        if hasattr(body, "close"):
            body.close()
    return told[0], told[1], b"".join(written)


_WAIT_SECONDS = 1.0


def open_patiently(
    text: str,
    *,
    pause: Callable[[float], None] = time.sleep,
) -> Storage:
    """Opens a database to read it; one on a server that has yet to be made is waited for.

    Whoever works there first makes it: a dashboard that is up before any worker changes nothing
    either. ``pause`` waits for so many seconds.

    Raises:
        StorageError: it cannot be read, or is an SQLite file that is not there.
    """
    url, waits = parse_url(text), False
    while True:
        try:
            return open_storage(text, create=False)
        except NotMadeError:
            if url.get_backend_name() == "sqlite":
                raise
        if not waits:
            _log.info(
                "no study in %s yet; waiting for one to be started (Ctrl-C ends it)", mask(url)
            )
        waits = True
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
        port: 1 to 65535, or 0 for any that is free.
        writable: whether the page may create, rename and delete studies.
        login: who is let in; None: everyone, which only this machine's own address allows.
        storage_options: the options that name the storage, for the commands to type.
        ready: is told the URL once it is being listened on.

    Raises:
        HpsearchError: the address cannot be listened on, or is open to others without a login.
    """
    check_open(host, login)
    with _listen(host, port) as listening:
        # Slow to import (about 2 s), so only here, and only once the port is known to be free.
        import waitress

        app = _application(storage, writable=writable, storage_options=storage_options)
        served = with_login(app, login) if login is not None else app
        # A page asks for several things at once, which waitress would warn of.
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)
        server = waitress.create_server(served, sockets=[listening], threads=8)
        shown = f"[{host}]" if ":" in host else host
        try:
            ready(f"http://{shown}:{listening.getsockname()[1]}/dashboard")
            server.run()  # ends at Ctrl-C, and where the process is to end
        finally:
            server.close()


@contextmanager
def ending_at_sigterm() -> Iterator[None]:
    """Has SIGTERM end the process in order, with code 143 where nothing catches that.

    A container's first process, which has no other's default, would not even hear of it.
    """

    def leave(number: int, _frame: FrameType | None) -> NoReturn:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _application(
    storage: Storage, *, writable: bool, storage_options: Sequence[str]
) -> WSGIApplication:
    from optuna_dashboard import wsgi

    from hpsearch.view.dashboard.annotator import Annotator

    annotator = Annotator(storage, storage_options=storage_options)
    annotator.start()
    app: WSGIApplication = wsgi(annotator.backend, artifact_store=annotator)
    watched = annotator.watching(app)
    if writable:
        return without_uploads(hiding(watched, UPLOADS))
    return read_only(hiding(watched, [*UPLOADS, *CHANGES]))


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
