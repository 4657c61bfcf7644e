"""Several workers: started by one command, by hand, killed, interrupted, orphaned."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import pytest

from hpsearch.core.analysis.study_analysis import as_plain
from hpsearch.search.storage.storage import open_storage
from hpsearch.search.study.catalog import open_study
from tests.acceptance.holding import HELD, TINY_SPACE
from tests.servers import halt, own_server, start

EPOCHS = 10

SHARED = (
    """
[data]
dataset = "{npz}"

[train]
epochs = {epochs}
function = "held:train"

[search]
trials = 6
"""
    + TINY_SPACE
)


@pytest.fixture
def study_file(tmp_path, digits_npz):
    path = tmp_path / "shared.toml"
    path.write_text(SHARED.format(npz=digits_npz, epochs=EPOCHS))
    (tmp_path / "held.py").write_text(HELD)
    return path


@pytest.fixture
def records(cli):
    """Every trial of the study, by number, as ``show --json`` prints it."""

    def read():
        with closing(open_storage("hpsearch.db", create=False)) as opened:
            return [as_plain(record) for record in open_study(opened).records()]

    return read


def assert_exact(records, *, trials):
    """This number of complete trials with whole curves, no other, and no draw twice."""
    assert [r["state"] for r in records] == ["complete"] * trials
    for record in records:
        assert [e["epoch"] for e in record["curve"]] == list(range(1, EPOCHS + 1))
    assert len({str(r["params"]) for r in records}) == trials


@pytest.fixture
def two(shell, study_file):
    """Starts a command of two workers; returns it and their pids, each held in a trial."""

    def start():
        shell.hold()
        process = shell.start("run", study_file, "--workers", 2, "--threads", 1)
        database = shell.folder / "hpsearch.db"
        pids = shell.wait_until(
            lambda: len(running := running_pids(database)) == 2 and running, process=process
        )
        shell.wait_for_training(process)
        return process, pids

    return start


def running_pids(database):
    """The processes that run a trial now, by their own account."""
    query = """
        SELECT attribute.value_json FROM trials JOIN trial_user_attributes AS attribute
        ON attribute.trial_id = trials.trial_id
        WHERE trials.state = 'RUNNING' AND attribute.key = 'origin'
    """
    try:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            return [json.loads(row[0])["process"]["pid"] for row in connection.execute(query)]
    except sqlite3.OperationalError:  # not there yet
        return []


def is_alive(pid):
    with suppress(OSError):  # an orphan that has ended may wait for an init that never asks
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def test_two_workers_share_one_budget_exactly(two, shell, records):
    """Keeps the promise "`--workers 2` shares the trials among two processes" of README."""
    process, _ = two()
    shell.let_go()
    result = shell.wait(process)

    found = records()
    assert result.code == 0, result.err
    assert_exact(found, trials=6)
    assert len({r["attributes"]["origin"]["process"]["pid"] for r in found}) == 2
    assert "6/6" in result.err
    assert "shared: done, 6 of 6 trials" in result.out
    assert not (shell.folder / "hpsearch.db.artifacts").exists() or not list(
        (shell.folder / "hpsearch.db.artifacts").iterdir()
    )


def test_two_commands_on_one_study_at_once_cooperate(shell, study_file, records):
    first = shell.start("run", study_file, "--threads", 1)
    second = shell.start("run", study_file, "--threads", 1)
    results = [shell.wait(first), shell.wait(second)]
    assert [r.code for r in results] == [0, 0], [r.err for r in results]
    assert_exact(records(), trials=6)


def test_a_submitted_study_is_worked_on_by_any_worker(shell, study_file, cli, records):
    """Keeps the promise "A worker reads everything except the images …" of docs/workers.md."""
    submitted = cli("submit", study_file, "--trials", 3)
    assert submitted.code == 0
    assert "study 'shared' waits for workers" in submitted.err
    assert cli("status", "--json").json["target"] == 3

    worked = shell.run("worker", "--allow-code", "--threads", 1)
    again = cli("worker", "--study", "shared")

    assert worked.code == 0, worked.err
    assert "study 'shared': done" in worked.err
    assert "no open study in sqlite:///hpsearch.db: 'shared' needs no more trials" in worked.err
    assert_exact(records(), trials=3)
    assert (again.code, again.err) == (0, "study 'shared' needs no more trials\n")
    cli("submit", study_file, "--trials", 4)
    cli("stop", "--study", "shared")
    for command in ("worker", "watch"):
        assert (
            "study 'shared' is stopped; `hpsearch run` goes on"
            in cli(command, "--study", "shared").err
        )


def test_a_study_is_submitted_where_the_checkpoints_cannot_be_reached(
    study_file, cli, tmp_path, monkeypatch
):
    """Its workers write them, perhaps in a network that this machine is not in."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("HPSEARCH_ARTIFACTS", str(tmp_path / "file" / "checkpoints"))
    assert cli("submit", study_file, "--trials", 3).code == 0


def test_a_submitted_study_is_checked_like_one_that_is_run(shell, cli):
    (shell.folder / "dark.toml").write_text("[data]\ndataset = 'digits'\n[train]\nshift = 4\n")
    refused = cli("submit", "dark.toml")
    assert refused.code == 2
    assert "train.shift: found 4 on images of 8×8 pixels" in refused.err
    (shell.folder / "cheap.toml").write_text(
        "[data]\ndataset = 'digits'\n[search]\nobjectives = ['params']\n"
    )
    cheap = cli("submit", "cheap.toml", "--trials", 2)
    assert cheap.code == 0
    assert "objective params: the cheapest net wins" in cheap.err
    again = cli("submit", "cheap.toml", "--trials", 5)
    assert "study 'cheap' continues with changes: search.trials was 2, now 5" in again.err


def test_a_killed_worker_is_replaced_at_once_and_its_trial_goes_on(two, shell, records):
    """Keeps the promise "A killed trial resumes from its last checkpoint" of README.

    Keeps the promise "After 60 s of silence …" of docs/workers.md.
    """
    process, (victim, _) = two()
    (before,) = [
        r for r in records() if r["attributes"]["origin"]["process"]["pid"] == victim and r["curve"]
    ]
    os.kill(victim, signal.SIGKILL)
    shell.let_go()
    result = shell.wait(process)

    found = records()
    assert result.code == 0, result.err
    assert "was killed by signal 9, often a sign of too little memory; restarting it" in result.err
    assert_exact(found, trials=6)
    (lost,) = [r for r in found if "history" in r["attributes"]]
    assert lost["attributes"]["history"][0]["pid"] == victim
    assert lost["attributes"]["origin"]["starts"] == 2
    # Its first epoch was kept: trained again it would have taken another time.
    assert lost["curve"][0] == before["curve"][0]


def test_a_worker_ended_by_the_user_hands_its_trial_back_and_is_replaced(two, shell, records):
    process, (victim, _) = two()
    os.kill(victim, signal.SIGTERM)
    shell.wait_until(lambda: not is_alive(victim), process=process)
    shell.let_go()
    result = shell.wait(process)
    assert result.code == 0, result.err
    assert "was interrupted; restarting it" in result.err
    assert_exact(records(), trials=6)
    histories = [r["attributes"]["history"] for r in records() if "history" in r["attributes"]]
    assert [(p["pid"], p["ended"]) for (p,) in histories] == [(victim, "handed back")]


def test_workers_end_when_the_time_is_up(shell, study_file, cli):
    shell.hold(after=0)
    result = shell.run("run", study_file, "--workers", 2, "--threads", 1, "--timeout", 3)
    assert result.code == 0, result.err
    assert "timed out, 0 of 6 trials" in result.out
    assert cli("status", "--json").json["running"] == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_parent_hands_every_trial_back_with_its_epochs(
    two, shell, study_file, records, number
):
    process, workers = two()
    process.send_signal(number)
    result = shell.wait(process)

    assert result.code == 130, result.err
    assert not any(map(is_alive, workers))
    states = {r["state"] for r in records()}
    assert "running" not in states
    assert "waiting" in states
    assert "# continue" in result.out
    assert "Traceback" not in result.err
    shell.let_go()
    kept = [r for r in records() if r["state"] == "waiting" and r["curve"]]
    again = shell.run("run", study_file, "--threads", 1)
    assert again.code == 0, again.err
    assert_exact(records(), trials=6)
    for before in kept:  # not an epoch of them was trained again
        after = records()[before["number"]]
        assert after["curve"][: len(before["curve"])] == before["curve"]


def test_workers_whose_parent_is_killed_hand_their_trials_back_and_end(two, shell, cli):
    process, workers = two()
    process.kill()
    shell.wait(process)
    shell.wait_until(lambda: not any(map(is_alive, workers)))
    states = cli("status", "--json").json
    assert (states["running"], states["waiting"]) == (0, 2)


def test_other_data_than_the_studys_is_refused(shell, study_file, cli, digits, tmp_path):
    """Keeps the promise "It finds the images by name …" of docs/workers.md."""
    import numpy as np

    cli("submit", study_file, "--trials", 1)
    assert shell.run("worker", "--allow-code", "--threads", 1).code == 0
    cli("submit", study_file, "--trials", 2)
    np.savez(tmp_path / "other.npz", x_train=255 - digits[0], y_train=digits[1])
    refused = cli(
        "worker", "--allow-code", "--study", "shared", "--dataset", "other.npz", "--threads", 1
    )
    assert refused.code == 2
    assert "study 'shared' has changed: the images (same number, different content)" in refused.err


def test_a_worker_that_waits_serves_the_next_study_and_ends_when_asked(shell, study_file, cli):
    cli("submit", study_file, "--study", "first", "--trials", 1)
    process = shell.start("worker", "--allow-code", "--forever", "--threads", 1)

    def is_done(study):
        return cli("status", "--study", study, "--json").json["complete"] == 1

    shell.wait_until(lambda: is_done("first"), process=process)
    cli("submit", study_file, "--study", "second", "--trials", 1)
    shell.wait_until(lambda: is_done("second"), process=process)
    process.send_signal(signal.SIGTERM)
    assert shell.wait(process).code == 130


def test_a_study_that_others_finish_is_left_while_another_is_open(shell, study_file, cli):
    cli("submit", study_file, "--study", "first", "--trials", 1)
    shell.hold()
    first = shell.start("worker", "--allow-code", "--study", "first", "--threads", 1)
    shell.wait_for_training(first)
    cli("submit", study_file, "--study", "second", "--trials", 1)
    second = shell.start("worker", "--allow-code", "--threads", 1)

    def is_running():
        return cli("status", "--study", "second", "--json").json["running"] == 1

    shell.wait_until(is_running, process=second)
    assert cli("status", "--study", "first", "--json").json["running"] == 1
    shell.let_go()
    assert shell.wait(first).code == 0
    assert shell.wait(second).code == 0


@pytest.mark.parametrize("kind", ["child", "forever"])
def test_a_server_that_is_away_is_waited_for_when_a_worker_starts(
    shell, study_file, cli, monkeypatch, kind
):
    """Keeps the promise "If the database is unreachable, workers retry …" of docs/workers.md."""
    with own_server() as server:
        monkeypatch.setenv("HPSEARCH_STORAGE", server.get_uri())
        cli("submit", study_file, "--trials", 1)
        halt(server)
        if kind == "child":
            monkeypatch.setenv("HPSEARCH_PARENT", str(os.getpid()))
        options = ("--forever",) if kind == "forever" else ()
        process = shell.start(
            "worker", "--allow-code", "--study", "shared", "--threads", 1, *options
        )
        assert shell.hear(process).rstrip().endswith("waiting for it")
        start(server)
        shell.wait_until(
            lambda: cli("status", "--json").json["complete"] == 1,
            process=process if kind == "forever" else None,
        )
        if kind == "forever":
            process.send_signal(signal.SIGTERM)
        assert shell.wait(process).code == (130 if kind == "forever" else 0)


def test_workers_to_come_leave_a_study_alone_that_failures_ended(shell, study_file, cli, tmp_path):
    """Keeps the promise "Five failures in a row end a run with the reason …" of docs/workers.md.

    Keeps the promise "Workers then ignore the study until …" of docs/workers.md.
    """
    (tmp_path / "held.py").write_text(
        "from hpsearch.nn.training.loop import epochs\n"
        "def train(model, data, spec, *, params, device, stop, progress):\n"
        "    if spec.epochs > 1:\n"
        "        raise ValueError('no such layer')\n"
        "    yield from epochs(model, data, spec, device=device, stop=stop, progress=progress)\n"
    )
    ended = shell.run("run", study_file, "--workers", 2, "--threads", 1)
    assert ended.code == 2
    assert "Traceback" in ended.err
    assert "ValueError: no such layer" in ended.err
    failed = cli("status", "--json").json["failed"]
    assert failed >= 5
    assert "is stopped" in cli("worker", "--study", "shared").err
    assert "is stopped" in cli("watch").err
    assert cli("status", "--json").json["failed"] == failed


def test_a_study_is_watched_until_it_is_done(shell, study_file, cli):
    cli("submit", study_file, "--trials", 2)
    watching = shell.start("watch", "shared")
    assert "watching study 'shared'" in shell.hear(watching)
    assert shell.run("worker", "--allow-code", "--threads", 1).code == 0
    result = shell.wait(watching)
    assert result.code == 0
    assert "2/2  trial" in result.err
    assert "needs no more trials" in result.err
