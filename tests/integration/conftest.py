"""Real databases: SQLite files, and a PostgreSQL server that the tests start; one thread."""

import pytest

from hpsearch.search.storage.storage import open_storage
from tests.servers import own_server


@pytest.fixture(scope="module")
def one_thread():
    """One thread for torch, so that none spins against whatever else runs on the machine."""
    import torch

    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            patch.setenv(name, "1")
        torch.set_num_threads(1)
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def postgres():
    """The URL of a real PostgreSQL server, started for the session."""
    with own_server() as server:
        yield server.get_uri()


@pytest.fixture(params=["sqlite", "postgres"])
def storage_url(request, tmp_path):
    """The URL of an empty database, of each kind in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/study.db"
    server = request.getfixturevalue("postgres")
    return fresh_database(server, f"test_{abs(hash(str(tmp_path))) % 10**12}")


def fresh_database(server_url, name, *, options=""):
    """Makes an empty database on the server and returns its URL."""
    import psycopg
    from sqlalchemy.engine import make_url

    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}" {options}')
    return make_url(server_url).set(database=name).render_as_string(hide_password=False)


@pytest.fixture
def storage(storage_url):
    """An open storage on an empty database, of each kind in turn."""
    opened = open_storage(storage_url, create=True)
    opened.outage.back_at = None  # the server may have started a moment ago
    yield opened
    opened.close()


@pytest.fixture
def sqlite(tmp_path):
    """An open storage on an empty SQLite file, for what does not depend on the database."""
    opened = open_storage(f"{tmp_path}/study.db", create=True)
    yield opened
    opened.close()
