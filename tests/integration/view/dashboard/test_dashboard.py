"""The dashboard shows a study, annotated, and changes nothing, unless it is to be writable."""

from __future__ import annotations

import base64
import contextlib
import ctypes
import http.client
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import optuna
import pytest

from hpsearch.core.analysis.pareto import front
from hpsearch.errors import HpsearchError, NotMadeError
from hpsearch.search.jobs.analyse import essentials
from hpsearch.search.storage.records import CONFIRMED
from hpsearch.search.storage.storage import open_storage
from hpsearch.search.study.catalog import open_study, study_names
from hpsearch.util.messages import messages_to
from hpsearch.view.dashboard import server as annotating
from hpsearch.view.dashboard.auth import Login, read_only
from hpsearch.view.dashboard.server import Annotator, open_with_retry, serve
from hpsearch.view.report import narrative
from tests.integration.conftest import fresh_database
from tests.integration.studies import dump, make_spec, make_study, origin, search, simulate

SERVER = """
import os, sys
from hpsearch.search.storage import engine as database
from hpsearch.search.storage.storage import open_storage
from hpsearch.view.dashboard.server import serve
from hpsearch.view.dashboard.auth import Login
database._BUSY_SECONDS = 3600  # what waits for a busy database waits longer than any test
password = os.environ.get("TEST_PASSWORD")
login = Login(user="ann", password=password) if password else None
ready = lambda url: print(url, flush=True)
storage = open_storage(sys.argv[1], create=False)
serve(storage, port=0, writable=sys.argv[2] == "writable", login=login, ready=ready)
assert "torch" not in sys.modules
print("ended", flush=True)
"""
PATIENCE_SECONDS = 600
FIGURES = {f"hpsearch-{k}" for k in ("curves", "hypervolume", "depth-accuracy")}
FIGURES |= {"hpsearch-depth-train-seconds"}


def make_database(folder: Path) -> Path:
    """A database with one study of ours, named quick, of two objectives and twelve trials."""
    path = folder / "study.db"
    storage = open_storage(str(path), create=True)
    search(make_study(storage, make_spec("quick", trials=12, pruner="none", sampler="random")))
    storage.close()
    return path


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Such a database of the test's own."""
    return make_database(tmp_path)


@pytest.fixture
def url(database: Path) -> str:
    """Its URL."""
    return f"sqlite:///{database}"


@contextlib.contextmanager
def serving(
    url: str, mode: str, *, password: str = "", before: Any = None
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    command = [sys.executable, "-c", SERVER, url, mode]
    root = Path(__file__).parents[4]
    environment = {**os.environ, "TEST_PASSWORD": password}
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
        env=environment,
        preexec_fn=before,
    ) as process:
        try:
            assert process.stdout is not None
            page = process.stdout.readline().strip()
            assert page.startswith("http://127.0.0.1:")
            yield page.removesuffix("/dashboard"), process
        finally:
            process.kill()


def ask(
    url: str,
    *,
    method: str = "GET",
    body: dict[str, Any] | None = None,
    login: str | None = None,
) -> tuple[int, Any]:
    """The status and the answer, parsed if it was JSON, else its text."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    if login is not None:
        headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
    request = urllib.request.Request(url, data=data, headers=headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
            status, text = answer.status, answer.read()
    except urllib.error.HTTPError as exc:
        with exc:
            status, text = exc.code, exc.read()
    try:
        return status, json.loads(text)
    except ValueError:
        return status, text.decode()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The URL of such a database, and the site of a dashboard on it, for those that only look."""
    path = make_database(tmp_path_factory.mktemp("served"))
    with serving(f"sqlite:///{path}", "read-only") as (site, _):
        yield f"sqlite:///{path}", site


def study_detail(site: str, number: int = 1) -> dict[str, Any]:
    """The JSON that a study's page asks for, once it is annotated."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        status, detail = ask(f"{site}/api/studies/{number}")
        assert status == 200
        if detail["plotly_graph_objects"]:
            return detail
        assert time.monotonic() < deadline
        time.sleep(0.2)


def studies(url: str) -> list[str]:
    return [study.study_name for study in optuna.get_all_study_summaries(url)]


def test_a_read_only_dashboard_shows_the_study_and_refuses_to_change_it(url, database):
    before = dump(database)
    with serving(url, "read-only") as (site, process):
        status, listing = ask(f"{site}/api/studies")
        assert status == 200
        (study,) = listing["study_summaries"]
        assert study["study_name"] == "quick"
        detail = study_detail(site)
        assert detail["objective_names"] == ["accuracy (fraction)", "train_seconds (s)"]
        assert len(detail["trials"]) == 12
        assert ask(f"{site}/dashboard")[0] == 200

        new = {"study_name": "new", "directions": ["minimize"]}
        attempts = [
            ("DELETE", f"{site}/api/studies/{study['study_id']}", {}),
            ("POST", f"{site}/api/studies", new),
            ("PUT", f"{site}/api/studies/{study['study_id']}/note", {"body": "x", "version": 2}),
        ]
        for method, address, body in attempts:
            status, answer = ask(address, method=method, body=body)
            assert status == 405
            assert f"{method} was refused" in answer["reason"]
            assert "hpsearch dashboard --writable" in answer["reason"]

        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=PATIENCE_SECONDS) == 0
        assert process.stdout.read() == "ended\n"
    assert dump(database) == before


def test_the_study_has_the_answer_in_words_and_our_figures(served):
    url, site = served
    found = essentials(open_study(open_storage(url, create=False)))
    detail = study_detail(site)

    note = detail["note"]["body"]
    assert note.startswith(f"## {narrative.headline(found.answer)}\n")
    assert f"| {found.front[0].record.number} |" in note
    assert f"hpsearch train --trial {found.answer.knee.number} --study quick -o model" in note
    drawn = {g["id"]: json.loads(g["graph_object"]) for g in detail["plotly_graph_objects"]}
    assert set(drawn) == FIGURES
    (line,) = (t for t in drawn["hpsearch-curves"]["data"] if t["name"] == "front")
    ends = [y for y, after in zip(line["y"], line["y"][1:], strict=False) if after is None]
    assert ends == pytest.approx([s.record.values["accuracy"] for s in found.trials if s.is_front])
    steps = drawn["hpsearch-hypervolume"]["data"][0]["y"]
    assert steps[-1] == pytest.approx(found.hypervolume)
    attributes = {a["key"]: a["value"] for a in detail["user_attrs"]}
    assert (attributes["trials"], attributes["sampler"]) == ("12", "random")


def test_each_trial_of_the_front_has_a_note_and_its_curve_and_no_other_has(served):
    url, site = served
    study = open_study(open_storage(url, create=False))
    chosen = front(study.records(), study.objectives).trials
    trials = study_detail(site)["trials"]
    noted = [t for t in trials if t["note"]["body"]]
    assert {t["number"] for t in noted} == {record.number for record in chosen}
    assert {t["number"] for t in trials if t["artifacts"]} == {t["number"] for t in noted}
    record, trial = chosen[-1], noted[[t["number"] for t in noted].index(chosen[-1].number)]
    assert (
        f"| validation accuracy | {100 * record.values['accuracy']:.1f} % |"
        in (trial["note"]["body"])
    )
    assert f"hpsearch train --trial {record.number} --study quick" in trial["note"]["body"]
    names = [artifact["filename"] for artifact in trial["artifacts"]]
    assert names == [f"trial-{record.number}-curve.{kind}" for kind in ("svg", "csv")]
    place = f"{site}/artifacts/1/{trial['trial_id']}"
    files = [ask(f"{place}/{artifact['artifact_id']}") for artifact in trial["artifacts"]]
    (_, picture), (_, table) = files
    assert [status for status, _ in files] == [200, 200]
    assert f"![learning curve](/artifacts/1/{trial['trial_id']}/" in trial["note"]["body"]
    assert ElementTree.fromstring(picture).tag.endswith("svg")
    rows = table.splitlines()
    assert rows[0].startswith("epoch,train_loss,")
    assert len(rows) == 1 + len(record.curve)
    attributes = {a["key"]: a["value"] for a in trial["user_attrs"]}
    assert float(attributes["params"]) == record.cost["params"]
    assert attributes["epochs"] == "4"
    assert not {"curve", "origin", "spec", "beat"} & set(attributes)


def test_a_writable_dashboard_may_change_studies(url):
    with serving(url, "writable") as (site, _):
        new = {"study_name": "new", "directions": ["minimize"]}
        status, _ = ask(f"{site}/api/studies", method="POST", body=new)
        assert status == 201
        assert studies(url) == ["quick", "new"]
        study_detail(site)
        status, _ = ask(f"{site}/api/studies/1", method="DELETE", body={})
        assert status == 204
        assert studies(url) == ["new"]
        status, detail = ask(f"{site}/api/studies/2")
        assert (status, detail["note"]["body"]) == (200, "")


def test_a_foreign_page_can_neither_read_nor_delete_nor_frame_it(url):
    """A page whose name resolves to this machine: its requests bear that name (DNS rebinding)."""
    with serving(url, "writable") as (site, _):
        address = site.removeprefix("http://")
        evil = f"evil.example:{address.rpartition(':')[2]}"
        for method, status, headers in [
            ("DELETE", 421, {"Host": evil}),
            ("DELETE", 421, {"Host": evil, "Origin": f"http://{evil}"}),
            ("GET", 421, {"Host": evil}),
            ("DELETE", 403, {"Host": address, "Origin": "http://evil.example"}),
            ("DELETE", 403, {"Host": address, "Sec-Fetch-Site": "cross-site"}),
        ]:
            answer, text = requested(address, method, "/api/studies/1", headers)
            assert (answer.status, text.count("\n")) == (status, 1)
        assert studies(url) == ["quick"]
        for path in ("/dashboard", "/", "/api/studies", "/api/studies/9", "/nothing"):
            answer, _ = requested(address, "GET", path, {})
            assert "frame-ancestors 'none'" in answer.getheader("Content-Security-Policy")
            assert answer.getheader("X-Frame-Options") == "DENY"
        own = {"Origin": site, "Sec-Fetch-Site": "same-origin"}
        assert requested(address, "DELETE", "/api/studies/1", own)[0].status == 204


def requested(
    address: str, method: str, path: str, headers: dict[str, str]
) -> tuple[http.client.HTTPResponse, str]:
    with contextlib.closing(
        http.client.HTTPConnection(address, timeout=PATIENCE_SECONDS)
    ) as connection:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer, answer.read().decode()


def test_a_users_note_stays_whatever_it_says(url):
    with serving(url, "writable") as (site, _):
        detail = study_detail(site)
        chosen = next(t for t in detail["trials"] if t["note"]["body"])
        notes = [f"{site}/api/studies/1/note", f"{site}/api/studies/1/{chosen['trial_id']}/note"]
        for address, text in zip(notes, ("mine", ""), strict=True):
            status, _ = ask(address, method="PUT", body={"body": text, "version": 2})
            assert status == 204
        detail = study_detail(site)
        assert detail["note"] == {"version": 2, "body": "mine"}
        again = next(t for t in detail["trials"] if t["number"] == chosen["number"])
        assert again["note"] == {"version": 2, "body": ""}
        others = [t for t in detail["trials"] if t["note"]["body"]]
        assert others
        status, answer = ask(notes[0], method="PUT", body={"body": "x", "version": 2})
        assert (status, answer["note"]["body"]) == (409, "mine")


def test_a_study_is_renamed_whole_and_keeps_none_of_our_texts(url, database):
    with serving(url, "writable") as (site, _):
        study_detail(site)
        body = {"study_name": "renamed"}
        status, _ = ask(f"{site}/api/studies/1/rename", method="POST", body=body)
        assert status == 201
        (study,) = ask(f"{site}/api/studies")[1]["study_summaries"]
        assert study_detail(site, study["study_id"])["note"]["body"].startswith("## Trial")
    renamed = open_study(open_storage(url, create=False), "renamed")
    assert [len(record.curve) for record in renamed.records()] == [4] * 12
    assert not any("best trade-off" in line for line in dump(database))


def test_files_are_neither_kept_nor_removed(url):
    with serving(url, "writable") as (site, _):
        file = {"file": "data:text/plain;base64,eA==", "filename": "x.txt"}
        for method, address in (("POST", "artifacts/1"), ("DELETE", "artifacts/1/2/ab")):
            status, answer = ask(f"{site}/api/{address}", method=method, body=file)
            assert status == 405
            assert "hpsearch stores no files" in answer["reason"]


def without_override() -> None:
    """Lets even root be refused by a file's permissions; before a process starts."""
    ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)  # PR_CAPBSET_DROP, CAP_DAC_OVERRIDE


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's capabilities")
def test_a_database_that_cannot_be_written_opens_and_is_annotated(database):
    database.chmod(0o444)
    for leftover in database.parent.glob("study.db?*"):
        leftover.unlink()
    database.parent.chmod(0o555)
    try:
        with serving(str(database), "read-only", before=without_override) as (site, _):
            assert study_detail(site)["note"]["body"].startswith("## Trial")
        assert [path.name for path in database.parent.iterdir()] == ["study.db"]
    finally:
        database.parent.chmod(0o755)


def test_a_busy_database_is_shown_without_waiting_for_it(url, database):
    with (
        contextlib.closing(sqlite3.connect(database, isolation_level=None)) as writer,
        serving(url, "read-only") as (site, _),
    ):
        writer.execute("BEGIN EXCLUSIVE")
        assert study_detail(site)["note"]["body"].startswith("## Trial")


@pytest.fixture
def growing(tmp_path: Path):
    """A study of which five trials have run and more can."""
    storage = open_storage(str(tmp_path / "grow.db"), create=True)
    study = make_study(storage, make_spec("grow", trials=30, pruner="none", sampler="random"))
    search(study, at_most=5)
    yield study
    storage.close()


def test_annotations_are_made_when_the_study_has_changed_and_no_sooner(growing):
    now = [100.0]
    annotator = Annotator(growing.storage, clock=lambda: now[0])
    told = lambda: annotator.shown(1, {}).get("dashboard:plot_data:hpsearch-hypervolume:0")  # noqa: E731

    def look_until_it_is_not(before: object) -> object:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (found := told()) is before:
            assert time.monotonic() < deadline
            annotator.look(1)
            time.sleep(0.05)
        return found

    assert told() is None  # before the first request
    annotator.start()
    first = look_until_it_is_not(None)

    search(growing, at_most=1)
    now[0] += annotating.REFRESH_SECONDS - 0.1
    annotator.look(1)
    time.sleep(0.1)
    assert told() is first  # too soon
    now[0] += 0.2
    second = look_until_it_is_not(first)

    annotator.refresh(1)
    assert told() is second  # nothing has ended since
    knee = front(growing.records(), growing.objectives).knee
    values = {"accuracy": 0.5, "train_seconds": 2.0}
    again = {"trial": knee, "place": 0, "seed": 1, "values": values}
    kept = {**again, "reason": None, "elsewhere": False}
    growing.handle.set_user_attr(f"{CONFIRMED}:{knee}:0", kept)
    annotator.refresh(1)
    assert told() is not second  # the front was trained again


def test_a_slow_refresh_is_rare(growing, monkeypatch):
    def slow(*arguments: Any, **options: Any) -> Any:
        now[0] += 0.5
        return annotate(*arguments, **options)

    now, annotate = [100.0], annotating.annotate
    monkeypatch.setattr(annotating, "annotate", slow)
    annotator = Annotator(growing.storage, clock=lambda: now[0])
    annotator.refresh(1)
    assert annotator.due - now[0] == 0.5 * 50


def test_what_goes_wrong_with_a_note_leaves_the_last_one(growing, monkeypatch):
    annotator = Annotator(growing.storage)
    annotator.refresh(1)
    before = annotator.shown(1, {})
    search(growing, at_most=1)
    monkeypatch.setattr(annotating, "essentials", lambda study: 1 / 0)
    annotator.refresh(1)
    assert annotator.shown(1, {}) == before
    annotator.refresh(77)  # there is no such study
    assert annotator.shown(77, {"a": 1}) == {"a": 1}


def test_workers_go_on_while_a_page_is_looked_at(growing):
    annotator = Annotator(growing.storage)
    annotator.start()
    for _ in range(5):
        lease = growing.acquire(origin())
        annotator.look(1)
        assert len(annotator.backend.get_all_trials(1)) == lease.number + 1
        lease.finish(simulate(growing, lease))
    assert growing.summary().complete == 10


def test_a_server_without_tables_is_waited_for_and_left_unchanged(postgres):
    text, said = fresh_database(postgres, "waited_for"), []

    def others_make_it(seconds: float) -> None:
        (line,) = said
        assert re.fullmatch(r"no study in postgresql://\S+ yet; waiting for one .*", line)
        with pytest.raises(NotMadeError):
            open_storage(text, create=False)  # it has made nothing
        open_storage(text, create=True).close()

    with messages_to(said.append):
        opened = open_with_retry(text, pause=others_make_it)
    assert study_names(opened) == []
    assert len(said) == 1
    opened.close()


def test_a_file_that_is_not_there_is_not_waited_for(tmp_path):
    with pytest.raises(NotMadeError, match="no database at"), messages_to(pytest.fail):
        open_with_retry(str(tmp_path / "none.db"))


def test_a_login_admits_only_its_user_and_password(url):
    password = "pässwörd: 1"
    with serving(url, "read-only", password=password) as (site, _):
        for address in (
            "/api/studies",
            "/dashboard",
            "/",
            "/artifacts/1/1/ab",
            "/static/bundle.js",
        ):
            for login in (None, "ann:", f"ann:{password}x", f"bob:{password}", "ann"):
                status, answer = ask(site + address, login=login)
                assert status == 401
                assert "user and password" in answer
            assert ask(f"{site}/api/meta", login=f"ann:{password}")[0] == 200  # clears the brake
        status, listing = ask(f"{site}/api/studies", login=f"ann:{password}")
        assert (status, len(listing["study_summaries"])) == (200, 1)
        assert ask(f"{site}/api/studies/1", method="DELETE", login=f"ann:{password}")[0] == 405


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.7", "no.such.host.invalid"])
def test_others_are_not_served_without_a_login(host):
    with pytest.raises(HpsearchError, match=r"which other machines can reach.*--auth USER"):
        serve(None, host=host, port=0, ready=pytest.fail)


@pytest.mark.parametrize("user", ["", "a:b"])
def test_a_users_name_has_no_colon(user):
    with pytest.raises(HpsearchError, match="without a colon"):
        Login(user=user, password="x")


def test_a_password_is_not_shown_and_not_empty():
    assert "hush" not in repr(Login(user="ann", password="hush"))
    with pytest.raises(HpsearchError, match="empty password"):
        Login(user="ann", password="")


def test_a_taken_port_is_one_line_that_says_what_to_do(url):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        expected = rf"cannot listen on 127\.0\.0\.1:{port} \(Address already in use.*--port"
        with pytest.raises(HpsearchError, match=expected) as caught:
            serve(None, port=port, ready=pytest.fail)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("host", "port"), [("no.such.host.invalid", 0), ("127.0.0.1", 70000)])
def test_an_impossible_address_is_an_error_with_a_remedy(host, port):
    login = Login(user="ann", password="x")
    with pytest.raises(HpsearchError, match=rf"cannot listen on {host}:{port} \(.+\); expected"):
        serve(None, host=host, port=port, login=login, ready=pytest.fail)


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


def test_guessing_is_braked_by_the_real_server_until_the_wait_is_over(url):
    with serving(url, "read-only", password="psst") as (site, _):
        address = f"{site}/api/studies"
        assert [ask(address, login=f"ann:{n}")[0] for n in range(5)] == [401] * 5
        status, told = ask(address, login="ann:psst")  # right, but not looked at
        assert status == 429
        assert "try again in 1 s" in told
        assert ask(address)[0] == 401
        time.sleep(1.1)
        assert ask(address, login="ann:psst")[0] == 200
        assert ask(address, login="ann:wrong")[0] == 401  # and it counts from the beginning
        assert ask(address, login="ann:psst")[0] == 200
