"""What optuna-dashboard's pages are not to show: the buttons whose requests are refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from hpsearch.view.dashboard.auth import READING

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
