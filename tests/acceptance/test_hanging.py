"""Trainings that hang, and terminals that close: limits of time, Ctrl-C, lost parents."""

from __future__ import annotations

import os
import pty
import signal
import sys
from pathlib import Path

import pytest

from hpsearch.search.worker import watchdog
from tests.acceptance.holding import TINY_SPACE
from tests.acceptance.test_workers import is_alive

HANGING = """
import ctypes
import time
from pathlib import Path

from hpsearch.nn.models import build
from hpsearch.nn.training.loop import epochs
from hpsearch.search.worker import watchdog, work_loop

watchdog.INTERRUPT_SECONDS, watchdog.END_SECONDS, watchdog.HARD_SECONDS = 0.2, 2.0, 4.0
work_loop.FINISH_SECONDS = 0.5


def swallow():
    while True:
        try:
            time.sleep(10**6)
        except BaseException:
            pass


def deadlock():  # in C code that no signal interrupts, without Python's lock
    mutex = ctypes.create_string_buffer(256)
    for _ in range(2):
        ctypes.CDLL(None).pthread_mutex_lock(mutex)


def keep_lock():
    ctypes.PyDLL(None).sleep(10**6)


def hang():
    try:
        how = Path("hang").read_text()
        Path("hang").rename("hung")
    except FileNotFoundError:
        return
    {"sleep": lambda: time.sleep(10**6), "swallow": swallow, "deadlock": deadlock,
     "lock": keep_lock}[how]()


def train(model, data, spec, *, params, device, stop, progress):
    for epoch in epochs(model, data, spec, device=device, stop=stop, progress=progress):
        yield epoch
        if spec.epochs > 1:  # it is no rehearsal
            hang()
"""

STUDY = (
    """
[data]
dataset = "{npz}"

[train]
epochs = 3
function = "hanging:train"

[search]
trials = 2
{limit}
"""
    + TINY_SPACE
)

LIMIT_SECONDS = 6


@pytest.fixture
def hang(shell, digits_npz):
    """Makes a study whose next training hangs in that way after an epoch; returns its file."""

    def make(how, *, limit=False):
        shell.folder.joinpath("hanging.py").write_text(HANGING)
        shell.folder.joinpath("hang").write_text(how)
        line = f'trial_timeout = "{LIMIT_SECONDS}s"' if limit else ""
        file = shell.folder / "study.toml"
        file.write_text(STUDY.format(npz=digits_npz, limit=line))
        return file

    return make


def wait_for_hang(shell, process):
    shell.wait_until((shell.folder / "hung").exists, process=process)


def test_a_trial_beyond_its_limit_fails_and_the_search_goes_on(hang, shell, cli):
    result = shell.run("run", hang("sleep", limit=True), "--threads", 1)

    assert result.code == 0, result.err
    status, shown = cli("status", "--json").json, cli("show", 0, "--json").json
    assert (status["complete"], status["failed"]) == (2, 1)
    assert shown["reason"] == "timeout: not done after 6 s, the study's trial_timeout"
    assert shown["attributes"]["failure"]["kind"] == "timeout"
    assert "hanging.py" in shown["attributes"]["failure"]["traceback"]


def test_code_that_cannot_be_interrupted_ends_its_process(hang, shell, cli):
    """Keeps the promise "Code that ignores the exception …" of docs/workers.md."""
    result = shell.run("run", hang("deadlock", limit=True), "--threads", 1)

    assert result.code == 2, result.err
    last = "trial 0 hangs and cannot be interrupted, so this process ends; run it again to go on"
    assert result.err.splitlines()[-1] == last
    log = shell.folder / "hpsearch.db-wal"
    assert not log.exists() or log.stat().st_size == 0  # the file alone holds everything
    shown = cli("show", 0, "--json").json
    assert (shown["state"], shown["attributes"]["failure"]["kind"]) == ("failed", "timeout")
    assert "hanging.py" in shown["attributes"]["failure"]["traceback"]


def test_code_that_holds_pythons_lock_ends_its_process_with_its_stack(hang, shell, cli):
    """Keeps the promise "Code in C that keeps the GIL …" of docs/workers.md.
    Keeps the promise "Such a process ends with its stack on stderr …" of docs/workers.md.
    Keeps the promise "Its trial counts as lost …" of docs/workers.md.
    """
    result = shell.run("run", hang("lock", limit=True), "--threads", 1)

    assert result.code == 1, result.err
    assert "in keep_lock" in result.err
    assert cli("show", 0, "--json").json["state"] == "running"  # the next run takes it as lost


def test_a_pool_replaces_a_worker_whose_training_hangs(hang, shell, cli):
    study_file = hang("swallow", limit=True)
    result = shell.run("run", study_file, "--threads", 1, "--workers", 2)

    assert result.code == 0, result.err
    assert "ended itself, because a training hung; restarting it" in result.err
    status = cli("status", "--json").json
    assert (status["complete"], status["failed"], status["running"]) == (2, 1, 0)


def test_a_run_ends_in_time_while_its_training_hangs(hang, shell, cli):
    """Keeps the promise "It is ended at `trial_timeout` …" of docs/workers.md."""
    result = shell.run("run", hang("sleep"), "--threads", 1, "--timeout", "2s")

    assert result.code == 0, result.err
    assert "study: timed out, 0 of 2 trials" in result.out
    shown = cli("show", 0, "--json").json
    assert (shown["state"], len(shown["curve"])) == ("waiting", 1)
    (start,) = shown["attributes"]["history"]
    assert start["ended"] == "worker lost"  # the third such loss without a new epoch fails it


@pytest.mark.parametrize("how", ["sleep", "deadlock"])
def test_one_ctrl_c_ends_a_training_that_hangs(hang, shell, cli, how):
    process = shell.start("run", hang(how), "--threads", 1)
    wait_for_hang(shell, process)
    process.send_signal(signal.SIGINT)
    result = shell.wait(process)

    assert result.code == 130, result.err
    assert "Traceback" not in result.err
    assert cli("show", 0, "--json").json["state"] == "waiting"


def test_a_second_ctrl_c_ends_code_that_no_signal_interrupts(hang, shell):
    process = shell.start("run", hang("deadlock"), "--threads", 1)
    wait_for_hang(shell, process)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)

    assert shell.wait(process).code in (128 + signal.SIGINT, 128 + signal.SIGTERM)


def test_a_hanging_worker_ends_after_its_parent_was_killed(hang, shell, cli):
    process = shell.start("run", hang("swallow"), "--threads", 1, "--workers", 2)
    wait_for_hang(shell, process)
    tasks = Path(f"/proc/{process.pid}/task").glob("*/children")
    children = [int(pid) for task in tasks for pid in task.read_text().split()]
    assert children
    process.kill()
    shell.wait_until(lambda: not any(map(is_alive, children)))
    assert cli("status", "--json").json["running"] == 0


def test_custom_code_that_hangs_before_any_trial_is_refused(cli, hang, shell, monkeypatch):
    monkeypatch.setattr(watchdog, "REHEARSAL_SECONDS", 1.0)
    study_file = hang("sleep")
    code = shell.folder / "hanging.py"
    code.write_text(code.read_text().replace("    for epoch in", "    hang()\n    for epoch in"))
    result = cli("run", study_file, "--threads", 1, "--timeout", "1s")

    assert result.code == 2
    assert "hpsearch: the first batch of a trial was not done after 1 s, expected" in result.err
    assert not (shell.folder / "hpsearch.db").exists()


def run_in_terminal(*command, ignores_hangup=False):
    """Starts hpsearch on a terminal of its own; returns its pid and the terminal's other end."""
    pid, terminal = pty.fork()
    if pid == 0:
        if ignores_hangup:  # as nohup does
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        arguments = [sys.executable, "-m", "hpsearch", *map(str, command)]
        os.execv(sys.executable, arguments)
    return pid, terminal


@pytest.mark.parametrize("ignores", [False, True], ids=["closed", "nohup"])
def test_a_closed_terminal_pauses_the_run_unless_it_is_ignored(
    ignores, slow_study, shell, cli, monkeypatch
):
    monkeypatch.chdir(shell.folder)
    shell.hold()
    pid, terminal = run_in_terminal("run", slow_study, "--threads", 1, ignores_hangup=ignores)
    number = shell.wait_for_training(None)
    os.close(terminal)
    if ignores:
        shell.let_go()
    _, status = os.waitpid(pid, 0)

    found = cli("status", "--json").json
    assert found["running"] == 0
    if ignores:
        assert os.waitstatus_to_exitcode(status) == 0
        assert found["complete"] == 2
    else:
        assert os.waitstatus_to_exitcode(status) == 130
        assert cli("show", number, "--json").json["state"] == "waiting"
