"""``hpsearch dashboard``: the command, its login, and its pages in a real browser."""

from __future__ import annotations

import base64
import io
import itertools
import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpsearch.search.storage.storage import open_storage
from hpsearch.view.format import format_value
from tests.acceptance.browser import Browser
from tests.acceptance.conftest import Shell, assert_one_line, sites_in
from tests.integration.studies import make_spec, make_study, search

PASSWORD = "HPSEARCH_DASHBOARD_PASSWORD"


def ask(url: str, login: str | None = None, host: str = "") -> tuple[int, str]:
    headers = {"Host": host} if host else {}
    if login is not None:
        headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, exc.read().decode()


def test_the_command_serves_until_it_is_interrupted(finished, shell):
    process = shell.start("dashboard", "--storage", finished.database, "--port", 0)
    said = shell.hear(process)
    (site,) = sites_in(said)
    assert "small" in ask(f"{site}/api/studies")[1]
    process.send_signal(signal.SIGINT)
    result = shell.wait(process)
    assert (result.code, result.out, result.err) == (0, "", "")
    assert said == (
        f"dashboard of sqlite:///{finished.database} at {site}/dashboard (Ctrl-C ends it)\n"
    )


FIRST_PROCESS = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")


def can_unshare() -> bool:
    """Whether a process may be the first one of its own namespace, as in a container."""
    if shutil.which(FIRST_PROCESS[0]) is None:
        return False
    return subprocess.run([*FIRST_PROCESS, "true"], capture_output=True).returncode == 0


@pytest.mark.parametrize(
    ("first", "number"),
    [(False, signal.SIGTERM), (True, signal.SIGTERM), (False, signal.SIGHUP)],
    ids=["a process", "a container's first process", "a closed terminal"],
)
def test_a_supervisor_ends_it_at_once(finished, first, number):
    if first and not can_unshare():
        pytest.skip("needs the right to unshare")
    command = [sys.executable, "-m", "hpsearch", "dashboard", "--port", "0"]
    with subprocess.Popen(
        [*(FIRST_PROCESS if first else ()), *command, "--storage", str(finished.database)],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert sites_in(process.stderr.readline())
            served = children(process.pid)[0] if first else process.pid
            os.kill(served, number)
            code = process.wait(60)  # seconds, even of a busy machine
            assert code in (0, 128 + number)  # it may not be waiting for a page yet
            assert process.stderr.read() == ""
        finally:
            process.kill()


def children(pid: int) -> list[int]:
    """The processes that a process of one thread has started."""
    return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_with_a_login_it_may_be_reached_by_others(finished, shell, tmp_path):
    (tmp_path / "password.txt").write_text("psst\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(PASSWORD, raising=False)
        patch.setenv(f"{PASSWORD}_FILE", "password.txt")
        where = ("--storage", finished.database, "--host", "0.0.0.0", "--port", 0)
        named = ("--allowed-host", "search.example.org", "--allowed-host", "dashboard")
        process = shell.start("dashboard", *where, "--auth", "ann", *named)
    said = shell.hear(process)
    (site,) = sites_in(said)
    assert ask(f"{site}/api/studies")[0] == 401
    assert ask(f"{site}/api/studies", "ann:wrong")[0] == 401
    assert ask(f"{site}/api/studies", "ann:psst")[0] == 200
    for host in ("search.example.org", "dashboard:8080", "192.0.2.7:8080"):
        assert ask(f"{site}/api/studies", "ann:psst", host)[0] == 200
    # before the login, so that a foreign page cannot try passwords
    assert ask(f"{site}/api/studies", "ann:psst", "evil.example")[0] == 421
    assert ask(f"{site}/api/studies", None, "evil.example")[0] == 421
    process.send_signal(signal.SIGINT)
    assert "psst" not in said + shell.wait(process).err


def test_a_password_is_asked_for_in_a_terminal_and_not_shown(finished, tmp_path):
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "hpsearch", "dashboard", "--auth", "ann", "--port", "0"]
    process = subprocess.Popen(
        [*command, "--storage", str(finished.database)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        text=True,
        start_new_session=True,
    )
    os.close(theirs)  # so that reading ends when the process does
    try:
        shown = read_until(ours, "Password for ann: ")
        os.write(ours, b"psst\n")
        shown += read_until(ours, "/dashboard (Ctrl-C ends it)")
        (site,) = sites_in(shown)
        assert ask(f"{site}/api/studies")[0] == 401
        assert ask(f"{site}/api/studies", "ann:psst")[0] == 200
        assert "psst" not in shown
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def read_until(terminal: int, words: str) -> str:
    """The output on a terminal up to the words."""
    shown = b""
    while words.encode() not in shown:
        try:
            shown += os.read(terminal, 1000)
        except OSError as exc:
            raise AssertionError(f"it ended after {shown!r}") from exc
    return shown.decode()


def test_a_dashboard_that_cannot_be_served_is_one_line(finished, cli, monkeypatch, tmp_path):
    where = ("dashboard", "--storage", finished.database)
    for name in (PASSWORD, f"{PASSWORD}_FILE"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert_one_line(cli(*where, "--port", port), "cannot listen on", str(port), "--port")
    assert_one_line(cli(*where, "--host", "0.0.0.0"), "other machines can reach", "--auth USER")
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert_one_line(cli(*where, "--auth", "ann"), "found no password for --auth", PASSWORD)
    monkeypatch.setenv(f"{PASSWORD}_FILE", "no.txt")
    assert_one_line(cli(*where, "--auth", "ann"), "cannot read no.txt")
    (tmp_path / "no.txt").write_text("\n")
    assert_one_line(cli(*where, "--auth", "ann"), "empty password")


@pytest.fixture(scope="module")
def sixty(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, list]]:
    """A dashboard on a study of 60 trials, and the study's front as ``front --json`` has it."""
    folder = tmp_path_factory.mktemp("dashboard")
    storage = open_storage(str(folder / "hpsearch.db"), create=True)
    study = make_study(storage, make_spec("sixty", trials=60, pruner="median", sampler="random"))
    search(study)
    storage.close()
    shell = Shell(folder=folder)
    try:
        told = shell.run("front", "--json").json
        process = shell.start("dashboard", "--port", 0)
        (site,) = sites_in(shell.hear(process))
        shell.wait_until(
            lambda: json.loads(ask(f"{site}/api/studies/1")[1])["plotly_graph_objects"],
            process=process,
        )
        yield f"{site}/dashboard/studies/1", told
    finally:
        shell.close()


def graph(name: str) -> str:
    return f"document.getElementById('{name}')"


def test_the_front_and_our_figures_are_on_the_studys_page(browser, sixty):
    page, told = sixty
    ours = graph("user-defined-plot:hpsearch-curves")
    theirs = graph("graph-pareto-front")
    browser.open(page)
    browser.wait(f"{ours} && {ours}.data && {theirs} && {theirs}.data")

    shown = browser.ask(f"{theirs}.data.flatMap(t => t.x.map((x, i) => [x, t.y[i]]))")
    points = {(round(x, 9), round(y, 9)) for x, y in shown if x is not None}
    values = [(p["values"]["accuracy"], p["values"]["train_seconds"]) for p in told]
    assert {(round(a, 9), round(s, 9)) for a, s in values} <= points
    for words in ("accuracy (fraction)", "train_seconds (s)"):
        browser.wait(f"document.body.innerText.includes('{words}')")
    best = "[...document.querySelectorAll('h6, h5, p')].map(e => e.innerText.split('\\n')[0])"
    for point in told:
        browser.wait(f"{best}.includes('Trial {point['number']}')")

    front_line = browser.ask(f"{ours}.data.find(t => t.name == 'front').y")
    ends = [y for y, after in itertools.pairwise(front_line) if after is None]
    assert sorted(ends) == pytest.approx(sorted(a for a, _ in values))
    browser.wait(f"{ours}.querySelectorAll('path.js-line').length >= {len(told)}")
    for name in ("hypervolume", "depth-accuracy", "depth-train-seconds"):
        browser.wait(f"{graph(f'user-defined-plot:hpsearch-{name}')}.querySelector('svg.main-svg')")
    assert browser.complaints() == []


def test_the_note_gives_the_answer(browser, sixty):
    page, told = sixty
    browser.open(f"{page}/note")
    knee = next(point for point in told if point["knee"])
    browser.wait(f"document.body.innerText.includes('Trial {knee['number']} is the ')")
    words = browser.ask("document.body.innerText")
    rows = browser.ask(
        "[...document.querySelectorAll('td:first-child')].map(e => e.innerText.split(' ')[0])"
    )
    assert rows == [str(point["number"]) for point in told]
    assert "hpsearch train --trial" in words
    assert browser.complaints() == []


def test_a_trials_page_shows_its_numbers_its_curve_and_how_to_take_it(browser, sixty):
    page, told = sixty
    point = told[-1]
    browser.open(f"{page}/trials?numbers={point['number']}")
    image = "document.querySelector('img[alt=\"learning curve\"]')"
    browser.wait(f"{image} && {image}.complete")
    assert browser.ask(f"{image}.naturalWidth") == 640
    words = browser.ask("document.body.innerText")
    assert f"Trial {point['number']} (trial_id=" in words
    for name, value in point["values"].items():
        assert str(value) in words  # as the page itself has it
        assert format_value(name, value) in words  # as the note has it
    for name in ("optimizer", "n_blocks"):
        assert f"{name} {point['params'][name]}" in words
    assert f"hpsearch train --trial {point['number']} --study sixty" in words
    assert f"trial-{point['number']}-curve.csv" in words
    width = browser.ask("document.documentElement.scrollWidth")
    assert width == browser.ask("window.innerWidth")
    assert browser.complaints() == []


ICON = "document.querySelector('[data-testid={}]')"
LABEL = "document.querySelector('[aria-label=\"{}\"]')"


def test_no_button_is_shown_that_would_be_refused(browser, sixty):
    """Each is on the page, or the dashboard has changed, and none of them is seen."""
    page, told = sixty
    site = page.removesuffix("/studies/1")
    refused = {
        site: [
            LABEL.format("rename study"),
            LABEL.format("delete study"),
            ICON.format("AddBoxIcon"),
        ],
        page: [ICON.format("UploadFileIcon")],
        f"{page}/note": [ICON.format("EditIcon")],
        f"{page}/trials?numbers={told[0]['number']}": [ICON.format("EditIcon")],
    }
    for address, elements in refused.items():
        browser.open(address)
        for element in elements:
            browser.wait(element)
            assert browser.ask(f"{element}.getClientRects().length") == 0
    seen = "[...document.querySelectorAll('button')].filter(e => e.getClientRects().length).length"
    labels = {
        site: [ICON.format("RefreshIcon"), LABEL.format("open drawer")],
        page: [LABEL.format("next page"), graph("graph-pareto-front")],
        f"{page}/trials?numbers={told[0]['number']}": [
            LABEL.format("show artifact table"),
            LABEL.format("download artifact"),
            LABEL.format("Filter"),
        ],
    }
    for address, elements in labels.items():
        browser.open(address)
        for element in elements:
            browser.wait(f"{element} && {element}.getClientRects().length")
        assert browser.ask(seen) > 1
    assert browser.complaints() == []
