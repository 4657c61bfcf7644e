"""Ctrl-C, SIGTERM and kill -9 in the middle of a training, and the same command after."""

from __future__ import annotations

import json
import signal
import subprocess
import time

import psycopg
import pytest

from tests.proxy import proxy
from tests.servers import own_server


@pytest.fixture
def train(slow_study, shell):
    """Starts the slow study as a process and waits until a trial is in training, and held there."""

    def start():
        shell.hold()
        process = shell.start("run", slow_study, "--threads", 1)
        return process, shell.wait_for_training(process)

    return start


def assert_finishes(shell, cli, slow_study, *, number, params):
    """The same command runs the trial again as it was, and ends with exactly two trials."""
    shell.let_go()
    again = cli("run", slow_study, "--threads", 1)
    status, shown = cli("status", "--json").json, cli("show", number, "--json").json
    drawn = [cli("show", n, "--json").json["params"] for n in range(2)]
    beyond = cli("show", 2)
    assert again.code == 0, again.err
    assert (status["complete"], status["running"], status["waiting"]) == (2, 0, 0)
    assert (status["pruned"], status["failed"]) == (0, 0)
    assert beyond.code == 2
    assert "trials 0 to 1" in beyond.err
    assert (shown["state"], shown["params"]) == ("complete", params)
    assert len(shown["curve"]) == 10
    assert drawn[0] != drawn[1]


def test_ctrl_c_hands_the_trial_back_and_the_same_command_finishes(train, shell, cli, slow_study):
    """Keeps the promise "Ctrl-C finishes the current epoch …" of README.

    Keeps the promise "Re-run the same command to resume" of README.
    """
    process, number = train()

    process.send_signal(signal.SIGINT)
    result = shell.wait(process)

    shown = cli("show", number, "--json").json
    assert result.code == 130
    assert shown["state"] == "waiting"
    assert shown["params"]["rate"] > 0
    assert f"slow: interrupted, {number} of 2 trials" in result.out
    assert "# continue" in result.out
    assert len(result.err.splitlines()) == number + 1
    assert f"trial {number}  paused after epoch" in result.err
    assert "Traceback" not in result.err
    assert_finishes(shell, cli, slow_study, number=number, params=shown["params"])


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGHUP])
def test_sigterm_and_sighup_hand_the_trial_back_too(train, shell, cli, signal_number):
    process, number = train()

    process.send_signal(signal_number)
    result = shell.wait(process)

    status = cli("status", "--json").json
    assert result.code == 130
    assert (status["waiting"], status["running"], status["failed"]) == (1, 0, 0)
    assert cli("show", number, "--json").json["state"] == "waiting"
    assert "Traceback" not in result.err


def test_a_second_signal_ends_the_process_at_once(train, shell, cli):
    process, number = train()
    process.send_signal(signal.SIGSTOP)  # so that both signals lie ready when it wakes up
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGCONT)
    result = shell.wait(process)

    assert result.code == 128 + signal.SIGTERM
    assert result.out == ""
    assert "Traceback" not in result.err
    shown = cli("show", number, "--json").json
    assert shown["state"] == "running"  # the next worker reaps it
    assert len(shown["curve"]) <= 2  # after the first signal alone it would have ended its third


def test_after_kill_9_the_same_command_takes_the_trial_up_again(train, shell, cli, slow_study):
    process, number = train()

    process.kill()
    shell.wait(process)

    shown = cli("show", number, "--json").json
    assert shown["state"] == "running"
    assert_finishes(shell, cli, slow_study, number=number, params=shown["params"])
    starts = shown["attributes"]["origin"]["starts"]
    assert cli("show", number, "--json").json["attributes"]["origin"]["starts"] == starts + 1


def test_ctrl_c_at_a_question_is_not_an_answer(copied, shell, cli):
    process = shell.start("delete", "small", stdin=subprocess.PIPE)
    asked = process.stderr.read(len("Delete study 'small'"))

    process.send_signal(signal.SIGINT)
    result = shell.wait(process)

    assert asked == "Delete study 'small'"
    assert result.code == 130
    assert result.err.endswith("interrupted\n")
    assert cli("status", "--json").json["complete"] == 3


def test_ctrl_c_ends_each_command_whose_server_is_silent(shell, slow_study, monkeypatch):
    """In training, while it connects, and while it waits for an answer."""
    with own_server() as server, proxy(server.get_uri()) as network:
        monkeypatch.setenv("HPSEARCH_STORAGE", network.url)
        shell.hold(after=2)
        running = shell.start("run", slow_study, "--threads", 1)
        shell.wait_until(lambda: _epochs(server) == 2, process=running)
        network.hang()
        shell.let_go()
        _assert_interrupted(shell, running)
        # Bytes of answers after which they end: at the first one, or in the middle.
        for command, place in (("status", 0), ("list", 3_000), ("worker", 3_000)):
            network.drop()
            network.flow()
            network.hang_after_bytes = place
            process = shell.start(command)
            shell.wait_until(lambda: network.is_hanging, process=process)
            _assert_interrupted(shell, process)


def _epochs(server):
    """The epochs that the first trial has, as the server itself knows them."""
    with psycopg.connect(server.get_uri()) as connection:
        try:
            found = connection.execute(
                "SELECT value_json FROM trial_user_attributes WHERE key = 'curve'"
            ).fetchone()
        except psycopg.errors.UndefinedTable:
            return 0
    return 0 if found is None else len(json.loads(found[0]).get("epoch", []))


def _assert_interrupted(shell, process):
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    result = shell.wait(process)
    assert result.code == 130, result.err
    assert "Traceback" not in result.err
    assert time.monotonic() - began < 60  # of two minutes and a half that it would wait else
