"""The commands that steer: enqueue, stop, delete and check."""

from __future__ import annotations

import io

import pytest

from tests.acceptance.conftest import assert_one_line


def test_an_enqueued_configuration_is_run_next_and_exactly_as_given(copied, cli):
    given = {"n_blocks": 2, "base_width": 7, "learning_rate": 0.012345, "dropout": 0.125}
    settings = [part for name, value in given.items() for part in ("--set", f"{name}={value}")]

    queued = cli("enqueue", "small", *settings)
    waiting = cli("show", 3, "--json").json
    ran = cli("run", copied.study_file, "--threads", 1, "--trials", 4)

    shown = cli("show", 3, "--json").json
    assert queued.code == 0
    assert "queued as trial 3" in queued.err
    assert waiting["state"] == "waiting"
    assert ran.code == 0
    assert shown["state"] == "complete"
    assert {name: shown["params"][name] for name in given} == given
    assert len(cli("list", "--json").json) == 1
    assert cli("status", "--json").json["complete"] == 4


def test_enqueue_says_when_the_study_has_no_room_left(copied, cli):
    result = cli("enqueue", "small", "--set", "n_blocks=1")

    assert result.code == 0
    assert result.err == (
        "queued as trial 3, but the budget of 3 trials is used up; run the study with a larger"
        " --trials\n"
    )


def test_stop_lets_the_running_trial_end(slow_study, shell, cli):
    shell.hold()
    process = shell.start("run", slow_study, "--threads", 1)
    shell.wait_for_training(process)

    asked = cli("stop", "--study", "slow")
    shell.let_go()
    ended = shell.wait(process)

    stopped = cli("status", "--json").json
    assert asked.code == ended.code == 0
    assert "slow: stopped, 1 of 2 trials" in ended.out
    assert (stopped["complete"], stopped["running"], stopped["waiting"]) == (1, 0, 0)


def test_run_goes_on_with_a_study_that_was_stopped(slow_study, cli):
    assert cli("stop").err == "study 'slow' is stopped; `hpsearch run` resumes it\n"
    assert cli("watch").err.splitlines()[-2] == (
        "study 'slow' is stopped; `hpsearch run` goes on with it"
    )

    assert cli("run", slow_study, "--threads", 1, "--trials", 1).code == 0
    assert cli("status", "--json").json["complete"] == 1


def test_there_is_nothing_to_stop_when_a_study_is_done(copied, cli):
    told = cli("stop")

    assert (told.code, told.err) == (
        0,
        "study 'small' needs no more trials: there is nothing to stop\n",
    )


def test_a_total_below_the_trials_done_leaves_the_study_unchanged(copied, cli):
    ran = cli("run", copied.study_file, "--threads", 1, "--trials", 2)
    queued = cli("submit", copied.study_file, "--trials", 1)

    assert ran.code == queued.code == 0
    assert "study 'small' has 3 trials already, nothing to do\n" in ran.err
    assert "done, 3 of 3 trials" in ran.out
    assert queued.err == "study 'small' has 3 trials already, nothing to do\n"
    assert cli("status", "--json").json["target"] == 3


@pytest.mark.parametrize("named", [("small",), ("--study", "small")])
def test_a_study_is_named_by_its_place_or_by_the_option(copied, cli, named):
    cli("run", copied.study_file, "--threads", 1, "--study", "newer", "--trials", 1)

    assert cli("status", *named, "--json").json["study"] == "small"
    assert cli("front", *named).out.startswith("study small\n")
    assert cli("report", *named).err == "wrote report-small.html\n"
    assert cli("watch", *named).err.endswith("\n`hpsearch front --study small` shows the result\n")
    assert "has trials 0 to 2" in cli("confirm", *named, "--trial", 9).err
    assert "study 'small'" in cli("stop", *named).err
    assert cli("enqueue", *named, "--set", "n_blocks=1").code == 0
    assert cli("delete", *named, "--yes").err == "study 'small' is deleted\n"


@pytest.mark.parametrize("answer", ["n\n", "\n"])
def test_delete_asks_first_and_no_means_no(copied, cli, monkeypatch, answer):
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))

    result = cli("delete", "small")

    assert result.code == 0
    assert "Delete study 'small' with its 3 trials?" in result.err
    assert "nothing was deleted" in result.err
    assert cli("status", "--json").json["complete"] == 3


def test_delete_without_anyone_to_ask_says_how_to_do_it(copied, cli, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(""))

    result = cli("delete", "small")

    assert result.code == 2
    assert "--yes" in result.err
    assert cli("status", "--json").json["complete"] == 3


def test_delete_with_yes_deletes_and_only_that_study(copied, cli, monkeypatch):
    cli("run", copied.study_file, "--threads", 1, "--study", "other", "--trials", 1)

    assert cli("delete", "small", "--yes").code == 0

    assert [study["study"] for study in cli("list", "--json").json] == ["other"]


def test_check_prints_what_would_be_searched_and_writes_nothing(finished, cli, tmp_path):
    result = cli("check", finished.study_file)

    assert result.code == 0
    for words in ("3 trials", "2 epochs", "accuracy, train_seconds", "n_blocks", "always adam"):
        assert words in result.out
    assert list(tmp_path.iterdir()) == []


def test_check_without_a_file_shows_the_built_in_default(cli, tmp_path):
    result = cli("check")

    assert result.code == 0
    assert "mnist5k" in result.out
    assert "100 trials" in result.out
    assert list(tmp_path.iterdir()) == []


def test_check_counts_the_images_of_a_folder_and_names_its_faults(cli, tmp_path):
    from PIL import Image

    (tmp_path / "my.toml").write_text('[data]\ndataset = "pets"\n[space]\nbatch_size = 32\n')
    for name, told in (("cat", "found 1 class folder, expected"), ("dog", "found no image in")):
        (tmp_path / "pets" / name).mkdir(parents=True)
        assert_one_line(cli("check", "my.toml"), told)
        for number in range(20):
            Image.new("L", (8, 8)).save(tmp_path / "pets" / name / f"{number}.png")

    result = cli("check", "my.toml")

    told = "40 in 2 classes (cat: 20, dog: 20): 28 to train on, 6 to validate, 6 to test"
    assert result.code == 0
    assert told in " ".join(result.out.split())
    assert result.err.startswith("28 training images at batch 32 are 8 steps in 8 epochs: raise")


def test_check_takes_images_without_a_study_file(digits_npz, cli):
    result = cli("check", "--dataset", digits_npz)

    assert result.code == 0, result.err
    assert str(digits_npz) in result.out
    assert "did you mean 'mnist5k'?" in cli("check", "--dataset", "mnits5k").err


def test_check_says_where_a_search_would_find_the_cheapest_net_alone(cli, tmp_path):
    (tmp_path / "cheap.toml").write_text('[search]\nobjectives = ["train_seconds", "params"]\n')

    result = cli("check", "cheap.toml")

    assert result.code == 0
    assert "train_seconds, params: the cheapest net wins, whatever it has learnt" in result.err
