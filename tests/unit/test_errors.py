"""Exceptions of the database libraries become errors with a remedy."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
import sqlalchemy

from hpsearch.errors import database_error


def test_a_database_that_cannot_be_written_is_not_reported_as_lost(tmp_path):
    path = tmp_path / "x.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE pets (name)")
    engine = sqlalchemy.create_engine(f"sqlite:///file:{path}?mode=ro&uri=true")
    with pytest.raises(sqlalchemy.exc.OperationalError) as caught, engine.begin() as connection:
        connection.execute(sqlalchemy.text("INSERT INTO pets VALUES ('rex')"))
    engine.dispose()

    assert str(database_error(caught.value)) == (
        "the database cannot be written (attempt to write a readonly database);"
        " fix its permissions and try again"
    )


def test_an_unreachable_database_is_lost_and_other_errors_are_none(tmp_path):
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/no/x.db")
    with pytest.raises(sqlalchemy.exc.OperationalError) as caught:
        engine.connect()

    assert str(database_error(caught.value)) == (
        "lost the connection to the database (unable to open database file); fix it and try again"
    )
    assert database_error(ValueError("x")) is None


def test_a_driver_without_a_message_is_reported_by_its_name():
    error = sqlalchemy.exc.OperationalError("SELECT 1", {}, sqlite3.OperationalError())

    assert str(database_error(error)) == (
        "lost the connection to the database (OperationalError()); fix it and try again"
    )
