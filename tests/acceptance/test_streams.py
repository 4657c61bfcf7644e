"""Closed, full and broken stdout and stderr, for every command; text that commands a terminal."""

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from hpsearch.cli.main import app
from hpsearch.view.format import visible
from tests.acceptance import streams
from tests.acceptance.conftest import PATIENCE_SECONDS, copy_database

FAULTS = ("stdout closed", "stdout full", "stdout broken", "stderr closed", "stderr full")
ONE_THREAD = ("--device", "cpu", "--threads", "1")
# The commands that print a result on stdout, and those that only write messages on stderr.
RESULTS = {
    "check": ("small.toml",),
    "list": (),
    "status": ("--json",),
    "show": ("0",),
    "front": (),
    "report": ("-o", "-", "--format", "md"),
    "compare": ("small", "other"),
    "doctor": (),
}
MESSAGES = {
    "worker": (),
    "submit": ("small.toml", "--trials", "3"),
    "enqueue": ("small", "--set", "n_blocks=1"),
    "stop": ("small",),
    "delete": ("other", "--yes"),
    "export": ("small", "-o", "tables"),
    "watch": ("small",),
}
TRAINING = {
    "run": ("small.toml", "--trials", "4", *ONE_THREAD),
    "train": ("--study", "small", "--trial", "{best}", "-o", "model", *ONE_THREAD),
    "rerun": ("{best}", "--study", "small", *ONE_THREAD),
    "confirm": ("small", "--trial", "{best}", "--seeds", "1", *ONE_THREAD),
    "predict": ("trained", "photo.png", *ONE_THREAD),
}
SERVES = {"dashboard"}  # until a signal, and prints nothing on stdout


def test_every_command_is_among_those_that_are_tried():
    names = {command.name or command.callback.__name__ for command in app.registered_commands}
    for group in app.registered_groups:
        commands = group.typer_instance.registered_commands
        names |= {command.name or command.callback.__name__ for command in commands}
    assert names == {*RESULTS, *MESSAGES, *TRAINING, *SERVES}


@pytest.fixture(scope="module")
def outcomes(finished, tmp_path_factory):
    """The exit code, stdout and stderr of each command with each of its faults."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("streams") / "source"
    shutil.copytree(finished.folder, folder)
    copy_database(finished.database, folder / "hpsearch.db")
    Image.new("L", (8, 8)).save(folder / "photo.png")
    front = subprocess.run(
        [sys.executable, "-m", "hpsearch", "front", "--json"],
        cwd=folder,
        capture_output=True,
        check=True,
        timeout=PATIENCE_SECONDS,
    )
    best = str(json.loads(front.stdout)[0]["number"])
    training = {name: [a.format(best=best) for a in given] for name, given in TRAINING.items()}
    for prepared in (
        ("train", *training["train"][:5], "trained", *ONE_THREAD),
        ("run", "small.toml", "--study", "other", "--trials", "1", *ONE_THREAD),
    ):
        subprocess.run(
            [sys.executable, "-m", "hpsearch", *prepared],
            cwd=folder,
            capture_output=True,
            check=True,
            timeout=PATIENCE_SECONDS,
        )
    cases = [
        ([name, *given], fault)
        for name, given in {**RESULTS, **MESSAGES, **training}.items()
        # One command with every fault, the others with one of either stream.
        for fault in (FAULTS if name == "list" else ("stdout full", "stderr closed"))
    ]
    ran = subprocess.run(
        [sys.executable, streams.__file__, folder],
        input=json.dumps(cases),
        env={**os.environ, "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_SECONDS,
    )
    results = json.loads(ran.stdout.splitlines()[-1])
    return {(case[0][0], case[1]): found for case, found in zip(cases, results, strict=True)}


@pytest.mark.parametrize("name", [*RESULTS, *MESSAGES, *TRAINING])
def test_a_command_survives_its_streams(outcomes, name):
    """Without messages the work is done; without the result it says so, and ends with 74."""
    for fault in FAULTS if name == "list" else ("stdout full", "stderr closed"):
        code, shown, said = outcomes[name, fault]
        loses = name not in MESSAGES and fault in ("stdout closed", "stdout full")
        assert (code, "Traceback" in said) == (74 if loses else 0, False), (fault, said)
        lines = [line for line in said.splitlines() if line.startswith("hpsearch: ")]
        assert len(lines) == loses, (fault, said)
        if loses:
            assert "cannot write the result to stdout (" in lines[0]
        if fault.startswith("stderr"):
            assert bool(shown) is (name not in MESSAGES), fault


def test_a_command_that_fails_keeps_its_exit_code_without_a_result(finished):
    for stdout in ("/dev/full", "/dev/null"):
        with open(stdout, "w") as lost:
            ran = subprocess.run(
                [sys.executable, "-m", "hpsearch", "doctor", "--storage", "mysql://ann:hush@db/x"],
                cwd=finished.folder,
                stdout=lost,
                stderr=subprocess.PIPE,
                text=True,
                timeout=PATIENCE_SECONDS,
            )
        assert ran.returncode == 2
        assert "Traceback" not in ran.stderr
        assert "hush" not in ran.stderr


def test_output_in_ascii_replaces_what_it_lacks(finished):
    for arguments in (
        ("check", "small.toml"),
        ("front",),
        ("show", "0", "--json"),
        ("report", "-o", "-", "--format", "md"),
        ("--help",),
    ):
        ran = subprocess.run(
            [sys.executable, "-m", "hpsearch", *arguments],
            cwd=finished.folder,
            env={**os.environ, "PYTHONIOENCODING": "ascii"},
            capture_output=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        assert (ran.returncode, b"Traceback" in ran.stderr) == (0, False), ran.stderr
        if arguments[0] not in ("report", "--help"):  # a document is UTF-8
            assert ran.stdout.isascii()


HOSTILE = "x\x1b[31m\x9b2J\u202e\x00`` |\r\n<b>&lt;"


@pytest.fixture
def hostile(copied):
    """A study whose name, host and failure hold control characters, and a trial that failed."""
    with closing(sqlite3.connect(copied.database)) as database, database:
        database.execute("UPDATE studies SET study_name = ?", (HOSTILE.replace("\x00", ""),))
        query = "SELECT trial_id, value_json FROM trial_user_attributes WHERE key = 'origin'"
        for trial, text in database.execute(query).fetchall():
            origin = json.loads(text)
            origin["process"]["host"] = HOSTILE
            database.execute(
                "UPDATE trial_user_attributes SET value_json = ? WHERE trial_id = ?"
                " AND key = 'origin'",
                (json.dumps(origin), trial),
            )
        (last,) = database.execute("SELECT max(trial_id) FROM trials").fetchone()
        database.execute("UPDATE trials SET state = 'FAIL' WHERE trial_id = ?", (last,))
        failure = {"kind": "bug", "traceback": f"Traceback\n  {HOSTILE}\nValueError: {HOSTILE}"}
        for key, value in {"reason": f"bug: {HOSTILE}", "failure": failure}.items():
            database.execute(
                "INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES (?, ?, ?)",
                (last, key, json.dumps(value)),
            )
    return copied


@pytest.mark.parametrize(
    "arguments",
    [
        ("list",),
        ("list", "--json"),
        ("status",),
        ("show", 0),
        ("show", 2),
        ("show", 2, "--json"),
        ("front",),
        ("front", "--study", "y\x1b[2J"),
        ("report", "-o", "-", "--format", "md"),
        ("report", "-o", "-", "--format", "json"),
        ("report", "-o", "-", "--format", "html"),
        ("worker",),
        ("train", "--trial", 2, "-o", "model"),
        ("-v", "train", "--trial", 2, "-o", "model"),
    ],
    ids=lambda arguments: visible(" ".join(map(str, arguments))),
)
def test_text_of_a_database_cannot_command_the_terminal(hostile, cli, arguments):
    result = cli(*arguments)
    for text in (result.out, result.err):
        assert visible(text) == text, ascii(text)
    assert result.code == (2 if "y\x1b[2J" in arguments or "train" in arguments else 0)


def test_names_stay_inside_their_cells_and_code_in_markdown(hostile, cli):
    lines = cli("report", "-o", "-", "--format", "md").out.splitlines()
    tables = [line for line in lines if line.startswith("| ")]
    assert tables
    assert all(line.endswith(" |") for line in tables)
    assert not any(re.search(r"(?<!\\)<b>", line) for line in lines if "hpsearch " not in line)
