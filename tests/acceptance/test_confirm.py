"""Confirming a front: trained again with fresh seeds, stored at once, printed and drawn."""

from __future__ import annotations

import json
import signal
import sqlite3
import time
from contextlib import closing

import pytest

from hpsearch.errors import HpsearchError
from hpsearch.search.storage.storage import open_storage
from hpsearch.search.study.catalog import open_study


def kept(database):
    """The trainings that the study holds, by trial and place."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        query = "SELECT value_json FROM study_user_attributes WHERE key LIKE 'hpsearch:confirmed:%'"
        found = [json.loads(value) for (value,) in connection.execute(query)]
    return {(one["trial"], one["place"]): one for one in found}


def front_numbers(cli):
    return [one["number"] for one in cli("front", "--json").json]


def test_the_front_is_trained_again_and_the_same_command_trains_nothing_twice(copied, cli):
    numbers = front_numbers(cli)
    first = cli("confirm", cli("status", "--json").json["study"], "--seeds", 1, "--json")
    assert first.code == 0, first.err
    assert f"{len(numbers)} training" in first.err
    assert {one["number"]: one["repeats"] for one in first.json} == dict.fromkeys(numbers, 1)

    before = kept(copied.database)
    second = cli("confirm", "--seeds", 2, "--json")
    after = kept(copied.database)
    assert f"{len(numbers)} training" in second.err
    assert {key: after[key] for key in before} == before
    assert set(after) == {(number, place) for number in numbers for place in (0, 1)}
    assert len({one["seed"] for one in after.values()}) == len(after)

    third = cli("confirm", "--seeds", 2)
    assert (third.code, kept(copied.database)) == (0, after)
    assert "trainings" not in third.err
    for one in second.json:
        number = one["number"]
        seen = [after[number, place]["values"]["accuracy"] for place in (0, 1)]
        assert one["spreads"]["accuracy"]["mean"] == pytest.approx(sum(seen) / 2)
        shown = cli("show", number, "--json").json
        assert one["searched"] == shown["values"]
        assert shown["seed"] not in [after[number, place]["seed"] for place in (0, 1)]


def test_a_seed_gives_the_same_accuracy_again_and_another_gives_another(copied, cli):
    number = str(front_numbers(cli)[-1])
    first = cli("confirm", "--trial", number, "--json").json[0]["spreads"]["val_loss"]["values"]
    with closing(sqlite3.connect(copied.database)) as connection, connection:
        connection.execute("DELETE FROM study_user_attributes WHERE key LIKE '%:confirmed:%'")
    again = cli("confirm", "--trial", number, "--json").json[0]["spreads"]["val_loss"]["values"]

    assert again == first
    assert len(set(first)) == 3


def test_the_report_and_the_table_show_them(copied, cli):
    told = cli("confirm", "--seeds", 2)
    assert "(fresh seeds)" in told.out
    assert "±" in told.out
    assert "seed 2/2" in told.err
    assert "`hpsearch report --study small` shows them in the trade-off\n" in told.err

    cli("report", "-o", "r.json", "--format", "json")
    report = json.loads((copied.folder / "r.json").read_text())
    confirmed = {one["number"]: one for one in report["confirmed"]}
    assert set(confirmed) == set(front_numbers(cli))
    assert all(one["repeats"] == 2 for one in confirmed.values())
    assert report["flattery"] == pytest.approx(
        sum(one["flattered"] for one in confirmed.values()) / len(confirmed)
    )
    cli("report", "-o", "r.html")
    page = (copied.folder / "r.html").read_text()
    assert "Retrained with 2 fresh seeds, trial" in page
    assert "retrained with 2 fresh seeds" in page  # on the rings of the figure


def test_a_training_that_diverges_is_reported_and_the_others_go_on(copied, cli):
    number = front_numbers(cli)[0]
    with closing(sqlite3.connect(copied.database)) as connection, connection:
        connection.execute(
            "UPDATE trial_params SET param_value = 1e30 WHERE param_name = 'learning_rate'"
            " AND trial_id = (SELECT trial_id FROM trials WHERE number = ?)",
            (number,),
        )
    result = cli("confirm", "--trial", number, "--seeds", 2, "--json")
    assert result.code == 0, result.err
    assert result.err.count("diverged") == 2
    (found,) = result.json
    assert (found["repeats"], found["diverged"], found["spreads"]) == (2, 2, {})


def test_a_closed_terminal_keeps_what_was_trained_and_the_command_goes_on(slow_study, shell, cli):
    assert shell.run("run", slow_study, "--threads", 1).code == 0
    database = shell.folder / "hpsearch.db"
    command = ("confirm", "--allow-code", "--trial", 0, "--trial", 1, "--threads", 1)
    process = shell.start(*command)
    deadline = time.monotonic() + 120
    while not kept(database):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGHUP)
    result = shell.wait(process)
    done = kept(database)

    assert result.code == 130
    assert "Traceback" not in result.err
    assert 0 < len(done) < 6, "the signal came too late"
    again = shell.run(*command)
    assert again.code == 0, again.err
    assert f"{6 - len(done)} training" in again.err
    assert {key: kept(database)[key] for key in done} == done


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--study", "none"), "none"),
        (("--device", "tpu"), "tpu"),
        (("--dataset", "nowhere.npz"), "nowhere.npz"),
    ],
)
def test_nonsense_is_refused_in_one_line_and_nothing_is_kept(copied, cli, options, told):
    result = cli("confirm", *options)

    assert (result.code, result.out) == (2, "")
    assert told in result.err.splitlines()[-1]
    assert kept(copied.database) == {}


def test_other_hardware_is_refused_unless_it_may_and_its_times_are_left_out(copied, cli):
    database = copied.database
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(
            "UPDATE study_user_attributes"
            " SET value_json = replace(value_json, 'cpu: ', 'cpu: not ')"
            " WHERE key = 'hpsearch:reference'"
        )
    refused = cli("confirm", "--seeds", 1)
    assert refused.code == 2
    assert "--mixed-hardware" in refused.err
    taken = cli("confirm", "--seeds", 1, "--mixed-hardware", "--json")
    assert taken.code == 0, taken.err
    assert all("train_seconds" not in one["spreads"] for one in taken.json)
    assert all("accuracy" in one["spreads"] for one in taken.json)


def test_an_empty_study_has_nothing_to_confirm(copied, cli):
    cli("submit", copied.study_file, "--study", "empty")
    result = cli("confirm", "--study", "empty")
    assert result.code == 2
    assert "none complete, expected a front to confirm" in result.err


def test_what_was_confirmed_goes_with_its_study(copied, cli):
    cli("confirm", "--seeds", 1)
    assert kept(copied.database)
    cli("delete", "small", "--yes")
    assert kept(copied.database) == {}
    with pytest.raises(HpsearchError):
        open_study(open_storage(str(copied.database), create=False), "small")
