"""Who may do what with a web page of ours: reading only, and only after a login."""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import json
import math
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from hpsearch.errors import HpsearchError

FREE = 5  # wrong attempts in a row before the first wait
LONGEST_SECONDS = 300.0  # of a wait: 288 guesses a day
MOST_ADDRESSES = 10_000  # that are remembered


@dataclass(slots=True, kw_only=True)
class _Known:
    """What is known of an address: its wrong attempts in a row, and until when it has to wait."""

    wrong: int = 0
    until: float = 0.0


class LoginThrottle:
    """Counts the wrong attempts of each address, in bounded memory; safe in many threads.

    The fifth in a row has to be followed by a second of waiting, each further one by twice as
    long, up to five minutes. An attempt during the wait is not looked at and costs nothing, a
    right one afterwards clears the address. When there are too many addresses, the one whose last
    attempt lies farthest back is forgotten.

    An address is the peer's own: who is behind one proxy or router shares it. Of IPv6 it is the
    network of 64 bits, which is what one person has.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._known: OrderedDict[str, _Known] = OrderedDict()

    def attempt(self, address: str, *, is_right: bool) -> float:
        """Takes an attempt; returns the seconds still to wait, 0 where the attempt counts.

        Both in one step, so that many attempts at once are no more than one after another.
        """
        key, now = _network(address), self._clock()
        with self._lock:
            known = self._known.get(key, _Known())
            if now < known.until:
                return known.until - now
            if is_right:
                self._known.pop(key, None)
                return 0.0
            known.wrong += 1
            if known.wrong >= FREE:
                known.until = now + min(LONGEST_SECONDS, 2.0 ** min(known.wrong - FREE, 30))
            self._known[key] = known
            self._known.move_to_end(key)
            if len(self._known) > MOST_ADDRESSES:
                self._known.popitem(last=False)
            return 0.0

    def __len__(self) -> int:
        """Returns how many addresses are remembered."""
        return len(self._known)


def _network(address: str) -> str:
    """What counts as one address."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:  # a socket of another kind
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False))


READING = ("GET", "HEAD")
_FILES = ("/artifacts", "/api/artifacts")


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """Who is let in. The password is in no text of it."""

    user: str
    password: str = field(repr=False)

    def __post_init__(self) -> None:
        if not self.user or ":" in self.user:
            raise HpsearchError(
                f"--auth: found {self.user!r}, expected a user's name without a colon; choose one"
            )
        if not self.password:
            raise HpsearchError(
                "found an empty password for the dashboard, expected one of a character or more;"
                " set HPSEARCH_DASHBOARD_PASSWORD"
            )


def check_open(host: str, login: Login | None) -> None:
    """Refuses to be reached from other machines without a login.

    Raises:
        HpsearchError: the address is not this machine's own, and there is no login.
    """
    if login is None and not is_loopback(host):
        raise HpsearchError(
            f"--host: found {host!r}, which other machines can reach, and no login; expected one:"
            " add --auth USER, or leave --host out to be reached from this machine alone"
        )


def is_loopback(host: str) -> bool:
    """Whether an address, or every address of a name, is reached from this machine alone.

    >>> [is_loopback(host) for host in ("127.0.0.1", "::1", "0.0.0.0", "::", "", "192.0.2.1")]
    [True, True, False, False, False, False]
    """
    try:
        found = socket.getaddrinfo(host or None, None, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        return False
    addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    return all(address.is_loopback for address in addresses)


def read_only(app: WSGIApplication) -> WSGIApplication:
    """Returns the app behind a filter that answers every method but GET and HEAD with 405.

    No page of optuna-dashboard 0.21 needs another method to be read; with them it creates, renames
    and deletes studies, and asks nobody who they are. The refusal is the JSON in which it tells
    its own errors, so that the page shows it.
    """

    def filtered(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        method = environ.get("REQUEST_METHOD", "")
        if method in READING:
            return app(environ, start_response)
        return _refused(
            f"{method} was refused: this dashboard is read-only; to change studies from it,"
            " start it with: hpsearch dashboard --writable",
            start_response,
        )

    return filtered


def without_uploads(app: WSGIApplication) -> WSGIApplication:
    """Returns the app behind a filter that refuses to keep or remove files.

    Those that the dashboard shows are drawn from the database when they are asked for.
    """

    def filtered(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        method, path = environ.get("REQUEST_METHOD", ""), environ.get("PATH_INFO", "")
        if method in READING or not path.startswith(_FILES):
            return app(environ, start_response)
        return _refused(
            f"{method} was refused: hpsearch keeps no files with a study; those that are shown"
            " are drawn from what its database holds",
            start_response,
        )

    return filtered


def _refused(reason: str, start_response: StartResponse) -> list[bytes]:
    body = json.dumps({"reason": reason}).encode()
    headers = [
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(body))),
        ("Allow", ", ".join(READING)),
    ]
    start_response("405 Method Not Allowed", headers)
    return [body]


def with_login(
    app: WSGIApplication, login: Login, *, brake: LoginThrottle | None = None
) -> WSGIApplication:
    """Returns the app behind HTTP's basic authentication; browsers ask for it by themselves.

    Repeated failures are delayed, see :class:`LoginThrottle`, by the address of the connection: a
    header such as X-Forwarded-For can be forged.
    """
    expected = f"{login.user}:{login.password}".encode()
    brake = LoginThrottle() if brake is None else brake

    def filtered(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        header = environ.get("HTTP_AUTHORIZATION", "")
        # Takes as long however much of it is right.
        is_right = hmac.compare_digest(_credentials(header), expected)
        if header:  # a browser's first request, which brings none, is no attempt
            seconds = brake.attempt(environ.get("REMOTE_ADDR", ""), is_right=is_right)
            if seconds > 0:
                return _told_to_wait(seconds, start_response)
        if is_right:
            return app(environ, start_response)
        body = b"This dashboard asks for the user and password that it was started with.\n"
        headers = [
            ("Content-Type", "text/plain"),
            ("Content-Length", str(len(body))),
            ("WWW-Authenticate", 'Basic realm="hpsearch dashboard", charset="UTF-8"'),
        ]
        start_response("401 Unauthorized", headers)
        return [body]

    return filtered


def _told_to_wait(seconds: float, start_response: StartResponse) -> list[bytes]:
    whole = math.ceil(seconds)
    body = f"Too many wrong passwords came from this address; try again in {whole} s.\n".encode()
    headers = [
        ("Content-Type", "text/plain"),
        ("Content-Length", str(len(body))),
        ("Retry-After", str(whole)),
    ]
    start_response("429 Too Many Requests", headers)
    return [body]


def _credentials(header: str) -> bytes:
    """The user and password of an Authorization header; empty where there are none."""
    kind, _, encoded = header.partition(" ")
    if kind.lower() != "basic":
        return b""
    try:
        return base64.b64decode(encoded.strip(), validate=True)
    except (binascii.Error, ValueError):
        return b""
