"""Access control of the dashboard: hosts, read-only filter, login and login throttle."""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import json
import math
import re
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from hpsearch.errors import HpsearchError

FREE = 5  # failed attempts in a row before the first wait
LONGEST_SECONDS = 300.0  # of a wait: 288 guesses a day
MOST_ADDRESSES = 10_000  # in memory


@dataclass(slots=True, kw_only=True)
class _Failures:
    """The failed attempts in a row of an address, and the time when it may try again."""

    count: int = 0
    until: float = 0.0


class LoginThrottle:
    """Login throttle: delays repeated failed attempts of an address. Thread-safe.

    The fifth failed attempt in a row starts a wait of one second, each further one doubles it, up
    to five minutes. Attempts during the wait are rejected unchecked and do not count; a successful
    one afterwards clears the address. Memory is bounded: the address with the oldest attempt is
    dropped.

    The address is that of the connection, which all users behind a proxy or router share. For
    IPv6 it is the network of 64 bits, the usual allocation of one customer.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failures: OrderedDict[str, _Failures] = OrderedDict()

    def attempt(self, address: str, *, is_right: bool) -> float:
        """Records an attempt; returns the remaining wait in seconds, 0 if the attempt counts.

        Check and count are one atomic step, so that parallel attempts gain nothing.
        """
        key, now = _network(address), self._clock()
        with self._lock:
            failures = self._failures.get(key, _Failures())
            if now < failures.until:
                return failures.until - now
            if is_right:
                self._failures.pop(key, None)
                return 0.0
            failures.count += 1
            if failures.count >= FREE:
                failures.until = now + min(LONGEST_SECONDS, 2.0 ** min(failures.count - FREE, 30))
            self._failures[key] = failures
            self._failures.move_to_end(key)
            if len(self._failures) > MOST_ADDRESSES:
                self._failures.popitem(last=False)
            return 0.0

    def __len__(self) -> int:
        """Returns the number of addresses in memory."""
        return len(self._failures)


def _network(address: str) -> str:
    """Returns the key of an address: IPv4 itself, IPv6 by its network."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:  # no IP socket
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False))


READING = ("GET", "HEAD")


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """User and password of the dashboard; its repr has no password."""

    user: str
    password: str = field(repr=False)

    def __post_init__(self) -> None:
        if not self.user or ":" in self.user:
            raise HpsearchError(
                f"--auth: found {self.user!r}, expected a user name without a colon; choose another"
            )
        if not self.password:
            raise HpsearchError(
                "found an empty password for the dashboard, expected at least one character;"
                " set HPSEARCH_DASHBOARD_PASSWORD"
            )


def check_open(host: str, login: Login | None) -> None:
    """Checks that a dashboard without a login is reachable from this machine only.

    Raises:
        HpsearchError: the address is reachable from other machines, and there is no login.
    """
    if login is None and not is_loopback(host):
        raise HpsearchError(
            f"--host: found {host!r}, which other machines can reach, without a login; expected"
            " a login or a local address; add --auth USER, or omit --host to serve this machine"
            " only"
        )


def is_loopback(host: str) -> bool:
    """Whether an address, or every address of a host name, is reachable from this machine only.

    >>> [is_loopback(host) for host in ("127.0.0.1", "::1", "0.0.0.0", "::", "", "192.0.2.1")]
    [True, True, False, False, False, False]
    """
    try:
        entries = socket.getaddrinfo(host or None, None, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        return False
    addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in entries]
    return all(address.is_loopback for address in addresses)


_AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[^\s/@:\[\]]+)(?::([0-9]{1,5}))?")
_DEFAULT_PORTS = (None, "80", "443")  # a proxy may add or omit its own


@dataclass(frozen=True, slots=True, kw_only=True)
class HostAndPort:
    """A host name or address in its usual spelling, and a port; None for that of http or https."""

    host: str
    port: str | None

    @classmethod
    def parse(cls, text: str) -> HostAndPort | None:
        """Returns the host of a Host header or an origin; None if it is malformed.

        >>> HostAndPort.parse("[0::1]:8080")
        HostAndPort(host='::1', port='8080')
        >>> HostAndPort.parse("Example.org.:443"), HostAndPort.parse("a@b"), HostAndPort.parse("")
        (HostAndPort(host='example.org', port=None), None, None)
        """
        match = _AUTHORITY.fullmatch(text.strip().lower())
        if match is None:
            return None
        host = match[1].strip("[]").removesuffix(".")
        if (address := _address(host)) is not None:
            host = str(address)
        return cls(host=host, port=None if match[2] in _DEFAULT_PORTS else match[2])

    @classmethod
    def parse_option(cls, text: str) -> HostAndPort:
        """Returns the host of an ``--allowed-host``.

        Raises:
            HpsearchError: it is neither a host name nor an address.
        """
        is_bare = text.count(":") > 1 and not text.startswith("[")  # an IPv6 address
        parsed = cls.parse(f"[{text}]" if is_bare else text)
        if parsed is None or "*" in text:
            raise HpsearchError(
                f"--allowed-host: found {text!r}, expected the host name or address in the"
                " browser's address bar, as search.example.org or 192.0.2.7:8443; name each one"
            )
        return parsed


class AllowedHosts:
    """The hosts under which browsers may reach the dashboard, against DNS rebinding.

    A foreign page can have its own host name resolve to this machine, and its scripts then read and
    change the content of the dashboard; the requests carry that name in their Host header. So only
    these hosts are answered: ``localhost`` and its addresses, the ones ``listened`` on, and
    ``named`` ones. If one of these stands for all addresses (0.0.0.0), also this machine's name,
    and any address: an address cannot be rebound, and a container does not know those of its host.

    The port of a Host header may be any, because proxies and containers map ports.
    """

    def __init__(self, *listened: str, named: Iterable[HostAndPort] = ()) -> None:
        addresses = {_address(text) for text in listened}
        self._is_any = any(address and address.is_unspecified for address in addresses)
        self._named = frozenset(named)
        known = ["localhost", "127.0.0.1", "::1", *listened]
        if self._is_any:
            known.append(socket.gethostname())
        parsed = (HostAndPort.parse(f"[{text}]" if ":" in text else text) for text in known)
        self._hosts = {each.host for each in (*parsed, *self._named) if each is not None}

    def answers(self, host: HostAndPort | None) -> bool:
        """Whether to answer a request to that host."""
        if host is None:
            return False
        return host.host in self._hosts or (self._is_any and _address(host.host) is not None)

    def may_write(self, environ: WSGIEnvironment, host: HostAndPort) -> bool:
        """Whether a request that writes comes from a page of the dashboard, or from no page.

        Browsers send the origin of the page with every request that writes. It must equal the host
        that the request went to, or a named one: a proxy may have replaced the Host header.
        """
        if environ.get("HTTP_SEC_FETCH_SITE", "none") not in ("same-origin", "none"):
            return False
        origin = environ.get("HTTP_ORIGIN")
        if origin is None:  # no browser
            return True
        scheme, _, rest = origin.partition("://")
        page = HostAndPort.parse(rest) if scheme in ("http", "https") else None
        return page is not None and (page == host or page in self._named)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None


def guarded(app: WSGIApplication, allowed: AllowedHosts) -> WSGIApplication:
    """Returns the app behind a filter against other sites' pages: put it around all others.

    Refuses requests to other hosts (421) and writes from other origins (403), and lets no page
    show the dashboard in a frame, where users might click what they do not see.
    """

    def filtered(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        def start(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            return start_response(status, [*headers, *_NO_FRAMES], *more)

        found = environ.get("HTTP_HOST", "")
        host = HostAndPort.parse(found)
        if host is None or not allowed.answers(host):
            text = (
                f"found the host {found[:100]!r}, expected the address that the dashboard listens"
                " on; open that, or add --allowed-host to its command\n"
            )
            return _answer(start, "421 Misdirected Request", text, _PLAIN)
        if environ.get("REQUEST_METHOD") not in READING and not allowed.may_write(environ, host):
            origin = environ.get("HTTP_ORIGIN", "another site")[:100]
            text = (
                f"found a change from a page of {origin!r}, expected one of the dashboard at"
                f" {found!r}; if a proxy serves it there, add --allowed-host to its command\n"
            )
            return _answer(start, "403 Forbidden", text, _PLAIN)
        return app(environ, start)

    return filtered


_NO_FRAMES = (
    ("Content-Security-Policy", "frame-ancestors 'none'"),
    ("X-Frame-Options", "DENY"),  # for browsers that do not know the former
)
_PLAIN = ("X-Content-Type-Options", "nosniff")  # the answer quotes the request


def read_only(app: WSGIApplication) -> WSGIApplication:
    """Returns the app behind a filter that answers every method but GET and HEAD with 405.

    The pages of optuna-dashboard 0.21 need no other method to be read; the others create, rename
    and delete studies, without authentication.
    """
    reason = (
        "this dashboard is read-only; to change studies from it, start it with:"
        " hpsearch dashboard --writable"
    )
    return _refusing(app, paths="", reason=reason)


def without_uploads(app: WSGIApplication) -> WSGIApplication:
    """Returns the app behind a filter that refuses to store or remove files.

    The files that the dashboard shows are generated on request.
    """
    reason = (
        "hpsearch stores no files with a study; the files shown are generated from its database"
    )
    return _refusing(app, paths=("/artifacts", "/api/artifacts"), reason=reason)


def _refusing(
    app: WSGIApplication, *, paths: str | tuple[str, ...], reason: str
) -> WSGIApplication:
    """Refuses to change the paths with these beginnings."""

    def filtered(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        method = environ.get("REQUEST_METHOD", "")
        if method in READING or not environ.get("PATH_INFO", "").startswith(paths):
            return app(environ, start_response)
        # In the format of optuna-dashboard's own errors, so that its page shows the reason.
        body = json.dumps({"reason": f"{method} was refused: {reason}"})
        allowed = ("Allow", ", ".join(READING))
        return _answer(
            start_response, "405 Method Not Allowed", body, allowed, kind="application/json"
        )

    return filtered


def _answer(
    start_response: StartResponse,
    status: str,
    text: str,
    header: tuple[str, str],
    *,
    kind: str = "text/plain",
) -> list[bytes]:
    body = text.encode()
    start_response(status, [("Content-Type", kind), ("Content-Length", str(len(body))), header])
    return [body]


def with_login(
    app: WSGIApplication, login: Login, *, throttle: LoginThrottle | None = None
) -> WSGIApplication:
    """Returns the app behind HTTP basic authentication, for which browsers show a dialog.

    :class:`LoginThrottle` delays repeated failures by the address of the connection, as a header
    such as X-Forwarded-For can be forged.
    """
    expected = f"{login.user}:{login.password}".encode()
    throttle = LoginThrottle() if throttle is None else throttle

    def filtered(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        header = environ.get("HTTP_AUTHORIZATION", "")
        # Takes the same time however much of it is right.
        is_right = hmac.compare_digest(_credentials(header), expected)
        if header:  # the first request of a browser has none and is no attempt
            seconds = throttle.attempt(environ.get("REMOTE_ADDR", ""), is_right=is_right)
            if seconds > 0:
                whole = math.ceil(seconds)
                text = f"Too many wrong passwords came from this address; try again in {whole} s.\n"
                wait = ("Retry-After", str(whole))
                return _answer(start_response, "429 Too Many Requests", text, wait)
        if is_right:
            return app(environ, start_response)
        text = "This dashboard needs the user and password that it was started with.\n"
        dialog = ("WWW-Authenticate", 'Basic realm="hpsearch dashboard", charset="UTF-8"')
        return _answer(start_response, "401 Unauthorized", text, dialog)

    return filtered


def _credentials(header: str) -> bytes:
    """Returns ``user:password`` from an Authorization header; empty if there is none."""
    kind, _, encoded = header.partition(" ")
    if kind.lower() != "basic":
        return b""
    try:
        return base64.b64decode(encoded.strip(), validate=True)
    except (binascii.Error, ValueError):
        return b""
