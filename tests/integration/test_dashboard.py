"""The dashboard shows a study and changes nothing, unless it is asked to be writable."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest

from hpsearch.errors import HpsearchError
from hpsearch.search.storage import open_storage
from hpsearch.view.dashboard import read_only, serve
from tests.integration.studies import make_spec, make_study, search

SERVER = """
import sys, optuna
from hpsearch.view.dashboard import serve
storage = optuna.storages.get_storage(sys.argv[1])
ready = lambda url: print(url, flush=True)
serve(storage, port=0, writable=sys.argv[2] == "writable", ready=ready)
print("ended", flush=True)
"""


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A database with one study of ours, named quick, of two objectives and three trials."""
    storage = open_storage(f"{tmp_path}/study.db", create=True)
    search(make_study(storage, make_spec("quick", trials=3, sampler="random")))
    storage.close()
    return f"sqlite:///{tmp_path / 'study.db'}"


@contextlib.contextmanager
def serving(url: str, mode: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    command = [sys.executable, "-c", SERVER, url, mode]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        try:
            assert process.stdout is not None
            page = process.stdout.readline().strip()
            assert page.startswith("http://127.0.0.1:")
            yield page.removesuffix("/dashboard"), process
        finally:
            process.kill()


def ask(url: str, *, method: str = "GET", body: dict[str, Any] | None = None) -> tuple[int, Any]:
    """The status and the parsed answer (None: it was not JSON)."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, data=data, headers=headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            status, text = answer.status, answer.read()
    except urllib.error.HTTPError as exc:
        with exc:
            status, text = exc.code, exc.read()
    try:
        return status, json.loads(text)
    except ValueError:
        return status, None


def studies(url: str) -> list[str]:
    return [study.study_name for study in optuna.get_all_study_summaries(url)]


def test_a_read_only_dashboard_shows_the_study_and_refuses_to_change_it(url):
    with serving(url, "read-only") as (site, process):
        status, listing = ask(f"{site}/api/studies")
        assert status == 200
        (study,) = listing["study_summaries"]
        assert study["study_name"] == "quick"
        status, detail = ask(f"{site}/api/studies/{study['study_id']}")
        assert status == 200
        assert detail["objective_names"] == ["accuracy (fraction)", "train_seconds (s)"]
        assert len(detail["trials"]) == 3
        assert ask(f"{site}/dashboard")[0] == 200

        new = {"study_name": "new", "directions": ["minimize"]}
        attempts = [
            ("DELETE", f"{site}/api/studies/{study['study_id']}", {}),
            ("POST", f"{site}/api/studies", new),
            ("PUT", f"{site}/api/studies/{study['study_id']}/note", {"body": "x", "version": 1}),
        ]
        for method, address, body in attempts:
            status, answer = ask(address, method=method, body=body)
            assert status == 405
            assert f"{method} was refused" in answer["reason"]
            assert "hpsearch dashboard --writable" in answer["reason"]
        assert studies(url) == ["quick"]

        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0
        assert process.stdout.read() == "ended\n"


def test_a_writable_dashboard_may_change_studies(url):
    with serving(url, "writable") as (site, _):
        new = {"study_name": "new", "directions": ["minimize"]}
        status, _ = ask(f"{site}/api/studies", method="POST", body=new)
        assert status == 201
        assert studies(url) == ["quick", "new"]
        _, listing = ask(f"{site}/api/studies")
        old = next(s for s in listing["study_summaries"] if s["study_name"] == "quick")
        status, _ = ask(f"{site}/api/studies/{old['study_id']}", method="DELETE", body={})
        assert status == 204
        assert studies(url) == ["new"]


def test_a_taken_port_is_one_line_that_says_what_to_do(url):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        expected = rf"cannot listen on 127\.0\.0\.1:{port} \(Address already in use.*--port"
        with pytest.raises(HpsearchError, match=expected) as caught:
            serve(None, port=port, ready=pytest.fail)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("host", "port"), [("no.such.host.invalid", 0), ("127.0.0.1", 70000)])
def test_an_impossible_address_is_an_error_that_a_person_can_mend(host, port):
    with pytest.raises(HpsearchError, match=rf"cannot listen on {host}:{port} \(.+\); expected"):
        serve(None, host=host, port=port, ready=pytest.fail)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_the_filter_hands_reading_on(method):
    app = read_only(lambda environ, start_response: [environ["REQUEST_METHOD"].encode()])
    assert list(app({"REQUEST_METHOD": method}, pytest.fail)) == [method.encode()]


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW", "get", ""])
def test_the_filter_refuses_every_other_method(method):
    answers = []
    app = read_only(lambda environ, start_response: pytest.fail("reached the app"))
    body = b"".join(app({"REQUEST_METHOD": method}, lambda *answer: answers.append(answer)))
    ((status, headers),) = answers
    assert status == "405 Method Not Allowed"
    assert dict(headers)["Allow"] == "GET, HEAD"
    assert dict(headers)["Content-Length"] == str(len(body))
