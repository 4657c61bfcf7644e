"""The server of the dashboard: optuna-dashboard with annotations, read-only by default."""

from __future__ import annotations

import io
import logging
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, BinaryIO, NoReturn
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from hpsearch.errors import HpsearchError, NotMadeError
from hpsearch.search.jobs.analyse import essentials
from hpsearch.search.storage.overlay import annotated
from hpsearch.search.storage.storage import Storage, open_storage
from hpsearch.search.storage.url import mask, parse_url
from hpsearch.search.study.catalog import open_numbered
from hpsearch.view.dashboard.annotations import NOTHING, Annotations, annotate, of_study, of_trial
from hpsearch.view.dashboard.auth import (
    READING,
    AllowedHosts,
    HostAndPort,
    Login,
    check_open,
    guarded,
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
    allowed_hosts: Sequence[HostAndPort] = (),
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
        allowed_hosts: other hosts under which browsers reach the server, e.g. through a proxy.
        storage_options: the options that name the storage, for the commands to type.
        ready: called with the URL once the server listens.

    Raises:
        HpsearchError: the server cannot listen on the address, or other machines can reach it
            without a login.
    """
    check_open(host, login)
    with _listen(host, port) as listening:
        allowed = AllowedHosts(host, listening.getsockname()[0], named=allowed_hosts)
        # Imported once the port is known to be free, as optuna-dashboard takes about 2 s.
        import waitress
        from optuna_dashboard import wsgi

        annotator = Annotator(storage, storage_options=storage_options)
        annotator.start()
        app = annotator.watching(wsgi(annotator.backend, artifact_store=annotator))
        if writable:
            app = without_uploads(hiding(app, UPLOADS))
        else:
            app = read_only(hiding(app, [*UPLOADS, *CHANGES]))
        if login is not None:
            app = with_login(app, login)
        # Outermost, so that a foreign page can neither try passwords nor learn that a login exists.
        app = guarded(app, allowed)
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
    """Lets SIGTERM and SIGHUP raise SystemExit (143, 129) inside a ``with`` block.

    The first process of a container has no default handler and would ignore the signal. SIGHUP
    stays ignored if it is, as nohup wants.
    """

    def leave(number: int, _frame: FrameType | None) -> NoReturn:
        sys.exit(128 + number)

    caught = [signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        caught.append(signal.SIGHUP)
    before = {number: signal.signal(number, leave) for number in caught}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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


REFRESH_SECONDS = 15.0
_SHARE = 50  # refreshes take at most a fiftieth of the time
_FIRST_WAIT_SECONDS = 3.0  # how long a request waits for the first annotations of a study
_STUDY_PATH = re.compile(r"/api/studies/(\d+)/?")

_log = logging.getLogger(__name__)


class Annotator:
    """The notes, figures and files of the studies in a database, made when users view them.

    The first annotations of a study are made at once. They are updated after trials have started
    or ended, at most every 15 seconds and for at most a fiftieth of the time over all studies.
    They stay in memory; nothing is written to the database.

    ``backend`` is the storage of the database with the annotations added. ``due`` is the time of
    the next permitted update, by ``clock``, which returns monotonic seconds.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        storage_options: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.backend: Any = annotated(storage, self)
        self._storage = storage
        self._storage_options = storage_options
        self._clock = clock
        self._made: dict[int, Annotations] = {}
        self._states: dict[int, object] = {}
        self._requested: dict[int, None] = {}  # an ordered set
        self.due = 0.0
        self._changed = threading.Condition()
        self._answering = threading.local()

    def start(self) -> None:
        """Starts the thread, which ends with the process."""
        threading.Thread(target=self._work, name="annotator", daemon=True).start()

    def is_showing(self) -> bool:
        """Whether this thread answers a request that only reads."""
        return getattr(self._answering, "reader", False)

    def shown(self, study_id: int, system_attributes: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the system attributes of a study with its annotations.

        Requests that write get no texts of notes: renaming a study copies its attributes, which
        would store the generated notes in the database.
        """
        made = self._made.get(study_id, NOTHING)
        return made.over(system_attributes, texts=self.is_showing())

    of_study, of_trial = staticmethod(of_study), staticmethod(of_trial)

    def watching(self, app: WSGIApplication) -> WSGIApplication:
        """Returns the app behind a filter that registers which study a request reads."""

        def filtered(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            is_reader = environ.get("REQUEST_METHOD") in READING
            study = _STUDY_PATH.fullmatch(environ.get("PATH_INFO", ""))
            if is_reader and study:
                self.look(int(study[1]))
            self._answering.reader = is_reader
            try:
                return app(environ, start_response)
            finally:
                self._answering.reader = False

        return filtered

    def look(self, study_id: int) -> None:
        """Requests the annotations of a study; waits a little for its first ones."""
        with self._changed:
            self._requested[study_id] = None
            self._changed.notify_all()
            self._changed.wait_for(lambda: study_id in self._made, _FIRST_WAIT_SECONDS)

    def _work(self) -> None:
        while True:
            self.refresh(self._next())

    def _next(self) -> int:
        """Waits until annotations may be made; returns the id of the study to annotate."""
        with self._changed:
            while True:
                left = self.due - self._clock()
                # A study without annotations is annotated at once, and before the others.
                fresh = [study_id for study_id in self._requested if study_id not in self._made]
                if fresh or (self._requested and left <= 0):
                    chosen = (fresh or list(self._requested))[0]
                    del self._requested[chosen]
                    return chosen
                self._changed.wait(left if self._requested else None)

    def refresh(self, study_id: int) -> None:
        """Updates the annotations of a study if it has changed; an error never breaks the page."""
        began = self._clock()
        made = self._made.get(study_id, NOTHING)
        try:
            made = self._annotations(study_id)
        except HpsearchError as exc:
            _log.warning("study %d is not annotated: %s", study_id, exc)
        except Exception:  # a bug in a note must not hide the trials
            _log.exception("study %d is not annotated", study_id)
        ended = self._clock()
        with self._changed:
            self._made[study_id] = made
            self.due = ended + max(REFRESH_SECONDS, _SHARE * (ended - began))
            self._changed.notify_all()

    def _annotations(self, study_id: int) -> Annotations:
        with self._storage.translate_errors():
            study = open_numbered(self._storage, study_id)
            if study is None:
                return NOTHING
            # Cheap to read, and different whenever the annotations may differ.
            state = study.name, dict(study.attributes), dict(study.tally())
            if state != self._states.get(study_id):
                made = annotate(
                    essentials(study), study_id=study_id, storage_options=self._storage_options
                )
                self._made[study_id], self._states[study_id] = made, state
            return self._made[study_id]

    # The interface of an artifact store, as optuna-dashboard uses it.

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """Returns the content of a file.

        Raises:
            FileNotFoundError: the trial has left the front.
        """
        for made in list(self._made.values()):
            if artifact_id in made.files:
                return io.BytesIO(made.files[artifact_id]().encode())
        raise FileNotFoundError(artifact_id)

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Refuses uploads: see :func:`hpsearch.view.dashboard.auth.without_uploads`."""
        raise PermissionError(artifact_id)

    def remove(self, artifact_id: str) -> None:
        """Does nothing: a file disappears together with its trial."""
