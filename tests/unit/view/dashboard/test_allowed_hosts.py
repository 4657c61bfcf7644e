"""Which hosts and origins the dashboard answers: by the headers that browsers send."""

import socket

import pytest

from hpsearch.errors import HpsearchError
from hpsearch.view.dashboard.auth import AllowedHosts, HostAndPort, guarded

OTHER = ["evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example"]
MALFORMED = [
    "",
    "a b",
    "localhost:",
    "localhost:x",
    "a@localhost",
    "localhost, evil",
    "http://localhost",
]


def answer(allowed, host, *, method="GET", **headers):
    """The status, headers and text of an app behind the filter."""
    begun = []

    def app(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"in"]

    environ = {"REQUEST_METHOD": method, "PATH_INFO": "/", **headers}
    if host is not None:
        environ["HTTP_HOST"] = host
    body = b"".join(guarded(app, allowed)(environ, lambda *given: begun.extend(given)))
    return int(begun[0][:3]), dict(begun[1]), body.decode()


@pytest.mark.parametrize(
    ("listened", "named", "accepted", "refused"),
    [
        (
            "127.0.0.1",
            [],
            ["127.0.0.1:8080", "LOCALHOST:9", "localhost.", "localhost", "[::1]:8080", "[0::1]"],
            ["192.0.2.7:8080", "[::2]", socket.gethostname() + ".example", None],
        ),
        ("192.0.2.7", [], ["192.0.2.7", "localhost:1"], ["192.0.2.8"]),
        ("here.example", [], ["HERE.example:8080"], ["192.0.2.7", "there.example"]),
        (
            "0.0.0.0",
            [],
            ["192.0.2.7:80", "[2001:db8::1]:8080", socket.gethostname()],
            ["dashboard"],
        ),
        ("::", [], ["192.0.2.7", "[2001:db8::1]"], ["dashboard:8080"]),
        (
            "127.0.0.1",
            ["search.example.org", "192.0.2.7:8443"],
            ["search.example.org", "Search.Example.org:443", "192.0.2.7"],
            ["example.org", "x.search.example.org", "192.0.2.8"],
        ),
    ],
)
def test_only_its_own_hosts_are_answered(listened, named, accepted, refused):
    allowed = AllowedHosts(listened, named=[HostAndPort.parse_option(name) for name in named])

    assert [host for host in accepted if answer(allowed, host)[0] != 200] == []
    for host in [*refused, *OTHER, *MALFORMED]:
        status, headers, text = answer(allowed, host, method="DELETE")
        assert (status, text.count("\n")) == (421, 1), host
        assert "--allowed-host" in text
        assert headers["X-Frame-Options"] == "DENY"


@pytest.mark.parametrize(
    ("origin", "site", "status"),
    [
        (None, None, 200),  # curl
        ("http://127.0.0.1:8080", None, 200),
        ("http://127.0.0.1:8080", "same-origin", 200),
        ("https://search.example.org", "same-origin", 200),  # a proxy that replaced the Host
        ("http://127.0.0.1:9090", None, 403),  # another program's page on this machine
        ("http://localhost:8080", None, 403),
        ("http://evil.example", None, 403),
        ("https://search.example.org:9443", None, 403),
        ("null", None, 403),  # a page in a sandboxed frame
        ("", None, 403),
        ("chrome-extension://127.0.0.1:8080", None, 403),
        (None, "cross-site", 403),
        (None, "same-site", 403),
        ("http://127.0.0.1:8080", "cross-site", 403),
    ],
)
@pytest.mark.parametrize("method", ["DELETE", "POST", "PUT", "PATCH"])
def test_a_change_is_accepted_from_its_own_pages_only(origin, site, status, method):
    allowed = AllowedHosts("127.0.0.1", named=[HostAndPort.parse_option("search.example.org")])
    headers = {"HTTP_ORIGIN": origin, "HTTP_SEC_FETCH_SITE": site}
    sent = {name: value for name, value in headers.items() if value is not None}

    found, _, text = answer(allowed, "127.0.0.1:8080", method=method, **sent)

    assert found == status
    assert status == 200 or "found a change from a page of" in text
    assert answer(allowed, "127.0.0.1:8080", **sent)[0] == 200  # a link to it may be anywhere


@pytest.mark.parametrize("text", ["", "*", "*.example.org", "http://a", "a/b", "a:b", "a b"])
def test_an_allowed_host_that_is_none_is_refused(text):
    with pytest.raises(HpsearchError, match=r"--allowed-host: found '.*', expected .*; name each"):
        HostAndPort.parse_option(text)


def test_an_allowed_address_may_lack_its_brackets():
    assert HostAndPort.parse_option("2001:db8::1") == HostAndPort.parse_option("[2001:db8::1]")
