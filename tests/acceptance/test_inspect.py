"""The commands that look: list, status, show and front, for people and for programs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


@pytest.fixture
def read(finished, cli):
    """Runs a reading command on the shared study, which must succeed without a complaint."""

    def call(*arguments):
        result = cli(*arguments, "--storage", finished.database)
        assert result.code == 0, result.err
        assert result.err == ""
        return result

    return call


def test_status_as_json_has_the_promised_keys(read, finished):
    status = read("status", "--json").json

    assert status["study"] == "small"
    assert status["storage"] == f"sqlite:///{finished.database}"
    assert status["target"] == status["complete"] + status["pruned"] == 3
    assert (status["failed"], status["running"], status["waiting"]) == (0, 0, 0)
    assert 1 <= status["front_size"] <= 3
    assert 0 < status["hypervolume"] <= 1


@pytest.mark.parametrize("command", ["list", "status", "show 0", "front", "check", "doctor"])
def test_lines_in_a_pipe_are_no_longer_than_what_they_say(command, finished, cli):
    place = [] if command == "check" else ["--storage", finished.database]

    lines = cli(*command.split(), *place).out.split("\n")

    assert len(lines) > 2
    assert [line for line in lines if line != line.rstrip()] == []


def test_show_as_json_holds_all_that_is_known_of_a_trial(read):
    shown = read("show", 0, "--json").json

    assert shown["number"] == 0
    assert shown["state"] == "complete"
    assert set(shown["values"]) == {"accuracy", "train_seconds"}
    assert {"params", "flops", "latency_ms", "train_seconds"} <= set(shown["cost"])
    assert [epoch["epoch"] for epoch in shown["curve"]] == [1, 2]
    assert shown["curve"][-1]["val_accuracy"] == shown["values"]["accuracy"]
    assert isinstance(shown["seed"], int)
    assert {"processor", "threads", "versions"} <= set(shown["attributes"]["origin"])


def test_the_front_of_a_study_without_a_complete_trial_is_an_empty_list(slow_study, cli):
    as_json, for_people = cli("front", "--json"), cli("front")

    assert (as_json.code, as_json.json) == (0, [])
    assert for_people.code == 0
    assert for_people.out == ""
    assert "no trial of study 'slow' is complete yet" in for_people.err


def test_a_command_without_a_name_takes_the_newest_study(copied, cli):
    cli("run", copied.study_file, "--threads", 1, "--study", "newer", "--trials", 1)

    newest = cli("status", "--json")
    assert newest.json["study"] == "newer"
    assert newest.err == "study 'newer', the newest of 2; --study names another\n"
    for command in (
        ("front",),
        ("show", 0),
        ("confirm", "--trial", 9),
        ("train", "--trial", 9, "-o", "m"),
    ):
        told = cli(*command)
        assert told.err.startswith(newest.err)
        assert told.code or "newer" in told.out
    assert cli("front", "--study", "small").err == ""
    assert cli("status", "--json", "--study", "small").json["study"] == "small"
    assert [study["study"] for study in cli("list", "--json").json] == ["small", "newer"]


def test_the_storage_may_come_from_the_environment(finished, cli, monkeypatch):
    monkeypatch.setenv("HPSEARCH_STORAGE", f"sqlite:///{finished.database}")

    assert cli("status", "--json").json["study"] == "small"


def test_the_reading_commands_import_no_torch(finished, tmp_path):
    script = """
import json, sys
from hpsearch.cli.main import main
for arguments in json.loads(sys.argv[1]):
    try:
        main(arguments)
    except SystemExit as exc:
        assert exc.code == 0, (arguments, exc.code)
loaded = sorted({"torch", "torchvision", "sklearn"} & set(sys.modules))
assert not loaded, loaded
"""
    commands = [["list"], ["status"], ["show", "0"], ["front"]]
    all_ = [[*command, *json_] for command in commands for json_ in ([], ["--json"])]
    all_ += [["report", "--format", kind] for kind in ("html", "md", "json")]
    placed = [[*command, "--storage", str(finished.database)] for command in all_]
    process = subprocess.run(
        [sys.executable, "-c", script, json.dumps(placed)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )

    assert process.returncode == 0, process.stderr
