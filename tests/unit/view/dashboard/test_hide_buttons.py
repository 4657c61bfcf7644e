"""A style in a page hides the refused actions, and touches nothing else."""

import pytest

from hpsearch.view.dashboard.server import CHANGES, UPLOADS, hiding

PAGE = b"<html><head><title>t</title></head><body></body></html>"
STYLE = b"<style>#a{display:none!important}b{display:none!important}</style></head>"


def site(body=PAGE, *, status="200 OK", asked=None, closed=None):
    """An app that serves that body everywhere."""

    class Body(list):
        def close(self):
            closed.append(True)

    def app(environ, start_response):
        if asked is not None:
            asked.append(environ)
        length = ("Content-Length", str(len(body)))
        start_response(status, [("Content-Type", "text/html"), length, ("Last-Modified", "x")])
        return Body([body[:20], body[20:]]) if closed is not None else [body]

    return app


def ask(app, path="/dashboard", method="GET", **environ):
    told = {}

    def start_response(status, headers):
        told.update(status=status, headers=dict(headers))

    body = b"".join(app({"PATH_INFO": path, "REQUEST_METHOD": method, **environ}, start_response))
    return told["status"], told["headers"], body


@pytest.mark.parametrize("path", ["/dashboard", "/dashboard/", "/dashboard/studies/1/trials"])
def test_every_page_has_the_style_and_its_own_length(path):
    asked, closed = [], []
    app = hiding(site(asked=asked, closed=closed), ["#a", "b"])

    status, headers, body = ask(app, path, HTTP_IF_MODIFIED_SINCE="x", HTTP_RANGE="bytes=0-9")

    assert status == "200 OK"
    assert body == PAGE.replace(b"</head>", STYLE)
    assert headers == {"Content-Type": "text/html", "Content-Length": str(len(body))}
    assert not [key for key in asked[0] if key.startswith("HTTP_")]
    assert closed == [True]
    head = ask(app, path, method="HEAD")
    assert head == (status, headers, b"")


@pytest.mark.parametrize(
    ("path", "method"),
    [("/static/bundle.js", "GET"), ("/api/studies", "GET"), ("/dashboard", "DELETE"), ("/", "GET")],
)
def test_nothing_else_is_touched(path, method):
    status, headers, body = ask(hiding(site(), ["#a"]), path, method)

    assert (status, body) == ("200 OK", PAGE)
    assert headers["Last-Modified"] == "x"


def test_a_page_of_another_form_comes_unchanged():
    status, headers, body = ask(hiding(site(b"gone", status="404 Not Found"), ["#a"]))

    assert (status, headers["Content-Length"], body) == ("404 Not Found", "4", b"gone")


def test_no_selector_can_end_its_rule():
    assert not [s for s in (*UPLOADS, *CHANGES) if set("<{};,") & set(s)]
