"""The same again: two runs of one seed, and a trial trained again from its record."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing

import pytest

MEASURED = ("epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy")


def curves(cli, *where):
    """Every trial's parameters and curve, times left out."""
    found = []
    for number in range(3):
        shown = cli("show", number, "--json", *where).json
        found.append((shown["params"], [[e[k] for k in MEASURED] for e in shown["curve"]]))
    return found


def test_two_runs_of_one_seed_are_the_same_where_nothing_is_timed(copied, shell, cli):
    for name in ("one.db", "two.db"):
        options = ("--objectives", "accuracy,params", "--threads", 1, "--storage", name)
        assert shell.run("run", copied.study_file, *options).code == 0
    assert curves(cli, "--storage", "one.db") == curves(cli, "--storage", "two.db")


def test_a_trial_trained_again_is_the_same_to_the_last_bit(copied, cli):
    result = cli("rerun", 0)
    assert result.code == 0, result.err
    assert "identical to the last bit, 2 epochs" in result.err
    assert len(result.out.splitlines()) == 2


def _tamper(database, key, change):
    with closing(sqlite3.connect(database)) as connection, connection:
        where = "trial_id = 1 AND key = ?"
        query = f"SELECT value_json FROM trial_user_attributes WHERE {where}"
        value = json.loads(connection.execute(query, (key,)).fetchone()[0])
        change(value)
        update = f"UPDATE trial_user_attributes SET value_json = ? WHERE {where}"
        connection.execute(update, (json.dumps(value), key))


@pytest.mark.parametrize(
    ("change", "elsewhere", "code", "told"),
    [
        (1e-6, False, 2, "does not reproduce its record"),
        (1e-6, True, 0, "training loss of the first epoch 0.0 % apart, within 2 %"),
        (0.1, True, 2, " % apart, expected within 2 %"),
    ],
)
def test_a_record_that_is_not_reproduced_is_reported(copied, cli, change, elsewhere, code, told):
    def shift(curve):
        curve["train_loss"] = [loss + change for loss in curve["train_loss"]]

    _tamper(copied.database, "curve", shift)
    if elsewhere:
        _tamper(copied.database, "origin", lambda origin: origin.update(processor="another"))
    result = cli("rerun", 0)
    assert result.code == code
    assert told in result.err
