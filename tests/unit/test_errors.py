"""What the database's libraries raise is told with what to mend."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
import sqlalchemy

from hpsearch.errors import lost_database


def test_a_database_that_cannot_be_written_is_not_told_as_lost(tmp_path):
    path = tmp_path / "x.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE pets (name)")
    engine = sqlalchemy.create_engine(f"sqlite:///file:{path}?mode=ro&uri=true")
    with pytest.raises(sqlalchemy.exc.OperationalError) as caught, engine.begin() as connection:
        connection.execute(sqlalchemy.text("INSERT INTO pets VALUES ('rex')"))
    engine.dispose()

    assert lost_database(caught.value) == (
        "the database cannot be written (attempt to write a readonly database);"
        " mend its permissions"
    )


def test_one_that_is_gone_is_lost_and_other_errors_are_none(tmp_path):
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/no/x.db")
    with pytest.raises(sqlalchemy.exc.OperationalError) as caught:
        engine.connect()

    assert lost_database(caught.value) == "lost the database: unable to open database file; mend it"
    assert lost_database(ValueError("x")) is None


def test_a_driver_that_says_nothing_is_told_by_its_name():
    error = sqlalchemy.exc.OperationalError("SELECT 1", {}, sqlite3.OperationalError())

    assert lost_database(error) == "lost the database: OperationalError(); mend it"
