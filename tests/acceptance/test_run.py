"""``hpsearch run`` from an empty folder to a front, and the effect of the same command again."""

from __future__ import annotations

import re
from pathlib import Path


def test_a_run_ends_with_the_front_its_worth_and_what_to_type_next(finished):
    result = finished.result

    assert result.code == 0, result.err
    assert finished.database.exists()
    assert result.out.startswith("study small: done, 3 of 3 trials\n")
    assert re.search(r"^trial +accuracy +train_seconds", result.out, re.MULTILINE)
    assert result.out.count("◀ knee") == 1
    assert re.search(r"^hypervolume +0\.\d+ of 1", result.out, re.MULTILINE)
    assert re.search(r"^pruning +(stopped|saved) ", result.out, re.MULTILINE)
    for command in ("run", "train", "dashboard"):
        assert re.search(rf"^ +hpsearch {command}\b", result.out, re.MULTILINE)


def test_without_a_terminal_stderr_has_one_line_per_trial(finished):
    warning, *lines = finished.result.err.splitlines()

    assert warning == (
        "160 training images at batch 16 are 20 steps in 2 epochs: raise train.epochs or give"
        " space.batch_size smaller values"
    )
    assert [line.split()[0] for line in lines] == ["1/3", "2/3", "3/3"], finished.result.err
    assert all(re.search(rf"trial {n} +complete +accuracy", line) for n, line in enumerate(lines))
    assert "\x1b" not in finished.result.err + finished.result.out


def test_the_same_command_on_a_finished_study_says_done_and_adds_nothing(copied, cli):
    before = cli("status", "--json").json

    again = cli("run", copied.study_file, "--threads", 1)

    assert again.code == 0
    assert again.err == ""
    assert "study small: done, 3 of 3 trials" in again.out
    assert cli("status", "--json").json == before


def test_a_larger_total_adds_exactly_the_difference(copied, cli):
    result = cli("run", copied.study_file, "--threads", 1, "--trials", 5)

    status = cli("status", "--json").json
    assert result.code == 0
    changed, *lines = result.err.splitlines()
    assert changed == "study 'small' continues with changes: search.trials was 3, now 5"
    assert [line.split()[0] for line in lines] == ["4/5", "5/5"]
    assert status["target"] == status["complete"] + status["pruned"] == 5
    assert status["running"] == status["waiting"] == status["failed"] == 0


def test_no_trial_of_a_resumed_search_repeats_another(copied, cli):
    cli("run", copied.study_file, "--threads", 1, "--trials", 5)

    drawn = [cli("show", number, "--json").json["params"] for number in range(5)]
    assert len({str(params) for params in drawn}) == 5


def test_the_command_to_search_on_can_be_pasted_unchanged(copied, cli):
    printed = cli("run", copied.study_file, "--threads", 1).out
    (command,) = re.findall(r"^ +hpsearch (run .*?)  # add trials", printed, re.MULTILINE)

    result = cli(*command.split(), "--threads", 1)

    assert result.code == 0
    assert "done, 6 of 6 trials" in result.out


def test_options_go_over_the_study_file(copied, cli):
    result = cli(
        *("run", copied.study_file, "--threads", 1, "--study", "other", "--storage", "other.db"),
        *("--trials", 1, "--epochs", 1, "--objectives", "accuracy,params", "--sampler", "random"),
    )

    (listed,) = cli("list", "--storage", "other.db", "--json").json
    assert result.code == 0, result.err
    assert (listed["study"], listed["target"]) == ("other", 1)
    assert listed["objectives"] == ["accuracy", "params"]
    assert len(cli("show", 0, "--storage", "other.db", "--json").json["curve"]) == 1


def test_a_study_with_one_objective_runs_and_marks_its_best_trial(copied, cli):
    options = ("--study", "one", "--objectives", "accuracy", "--trials", 2)

    result = cli("run", copied.study_file, "--threads", 1, *options)

    front = cli("front", "--study", "one", "--json").json
    assert result.code == 0
    assert (
        f"--trial {front[0]['number']} --study one -o model  # train the best for use" in result.out
    )
    assert "◀ best" in result.out
    assert "knee" not in result.out
    accuracies = [cli("show", n, "--study", "one", "--json").json["values"] for n in (0, 1)]
    assert front[0]["knee"] is True
    assert front[0]["values"]["accuracy"] == max(v["accuracy"] for v in accuracies)


def test_a_search_ends_cleanly_when_its_time_is_up(slow_study, cli):
    result = cli("run", slow_study, "--threads", 1, "--trials", 1000, "--timeout", "1s")

    status = cli("status", "--json").json
    assert result.code == 0
    assert "timed out" in result.out
    assert "# continue" in result.out
    assert status["running"] == status["failed"] == 0
    assert status["waiting"] <= 1
    assert status["complete"] < 1000
    assert Path("report-slow.html").exists() == (status["complete"] > 0)


def test_the_command_to_search_on_holds_every_option_that_it_needs(cli, digits_npz, monkeypatch):
    monkeypatch.setenv("HPSEARCH_DATA", "elsewhere")  # is said again by the environment
    given = ("--dataset", digits_npz, "--epochs", 1, "--objectives", "accuracy,params")
    given += ("--artifacts", "kept")
    printed = cli("run", *given, "--trials", 1, "--threads", 1, "--sampler", "random").out
    (command,) = re.findall(r"^ +hpsearch (run .*?)  # add trials", printed, re.MULTILINE)
    assert "--artifacts kept" in command
    assert "elsewhere" not in command

    again = cli(*command.split())

    assert again.code == 0, again.err
    assert cli("status", "--json").json["complete"] == 2
