"""How a server lets us in: passwords under scram-sha-256, and TLS with a certificate of our own."""

import shutil
import subprocess
import time
from pathlib import Path

import psycopg
import pytest
from sqlalchemy.engine import make_url

from hpsearch.errors import StorageError
from hpsearch.search.storage.storage import open_storage
from hpsearch.search.study.catalog import delete, study_names
from tests.integration.conftest import fresh_database
from tests.integration.studies import make_study
from tests.servers import own_server, pooler

PASSWORD = "hu/s@h"


def with_user(url, name, password=None, **more):
    """The URL as another user's; text."""
    changed = make_url(url).set(username=name, **more)._replace(password=password)
    return changed.render_as_string(hide_password=False)


@pytest.fixture(scope="module")
def guarded():
    """The URL, without a password, of a database that wants ann's."""
    with own_server() as server:
        with psycopg.connect(server.get_uri(), autocommit=True) as master:
            master.execute(f"CREATE ROLE ann LOGIN PASSWORD '{PASSWORD}'")
            master.execute("CREATE DATABASE d OWNER ann")
            rules = "local all ann scram-sha-256\nlocal all all trust\n"
            (Path(server.pgdata) / "pg_hba.conf").write_text(rules)
            master.execute("SELECT pg_reload_conf()")
        url = with_user(server.get_uri(), "ann", database="d")
        deadline = time.monotonic() + 600
        while _lets_in(url):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield url


def _lets_in(url):
    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError:
        return False
    return True


@pytest.mark.parametrize("place", ["URL", "PGPASSWORD", "PGPASSFILE"])
def test_a_password_may_be_in_the_url_the_environment_or_a_file(
    guarded, place, tmp_path, monkeypatch
):
    """Keeps the promise "It can be in the URL, in `PGPASSWORD` …" of docs/workers.md.

    Keeps the promise "It is never printed or stored" of docs/workers.md.
    """
    url, shown = guarded, "postgresql://ann@"
    if place == "URL":
        url, shown = with_user(guarded, "ann", PASSWORD), "postgresql://ann:***@"
    elif place == "PGPASSWORD":
        monkeypatch.setenv(place, PASSWORD)
    else:
        file = tmp_path / "pgpass"
        file.write_text(f"*:*:d:ann:{PASSWORD}\n")
        file.chmod(0o600)
        monkeypatch.setenv(place, str(file))
    storage = open_storage(url, create=True)
    assert storage.backend.get_all_studies() == []
    assert storage.masked.startswith(shown)
    study = make_study(storage)
    assert PASSWORD not in str([vars(study) for study in storage.studies()])
    delete(storage, study)
    storage.close()


@pytest.mark.parametrize(
    ("password", "said"),
    [("not hush", "password authentication failed"), (None, "no password supplied")],
)
def test_a_wrong_or_missing_password_is_one_line(guarded, password, said):
    with pytest.raises(StorageError, match=rf"cannot use postgresql://ann.*{said}") as caught:
        open_storage(with_user(guarded, "ann", password), create=True)
    assert "hush" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_server_that_stays_away_is_one_line(monkeypatch):
    monkeypatch.setattr("hpsearch.search.storage.retry.AWAY_SECONDS", 0.5)
    with own_server() as server:
        url = with_user(server.get_uri(), "postgres", "hush")
        storage = open_storage(url, create=True)
        server.stop()
        lost = r"lost postgresql://postgres:\*\*\*@.* during the run: .*; fix it and run the same"
        with pytest.raises(StorageError, match=lost) as caught:
            study_names(storage)
        storage.close()
    assert "hush" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """Certificates that sign themselves, with their keys: the server's and another one."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    folder = tmp_path_factory.mktemp("tls")
    for name in ("own", "other"):
        subprocess.run(
            f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
            f" -addext subjectAltName=DNS:localhost -keyout {name}.key -out {name}.crt".split(),
            cwd=folder, check=True, capture_output=True,
        )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def encrypted(postgres, roots):
    """The URL of a database reached by TLS alone: our servers have none, a pgbouncer has."""
    more = (
        "client_tls_sslmode = require\n"
        f"client_tls_key_file = {roots}/own.key\nclient_tls_cert_file = {roots}/own.crt\n"
    )
    with pooler(fresh_database(postgres, "tls"), roots, size=2, more=more) as url:
        yield with_user(url, "postgres", "hush", host="localhost")


@pytest.mark.parametrize("asked", ["require", "verify-full&sslrootcert={roots}/own.crt"])
def test_an_encrypted_connection_works(encrypted, roots, asked):
    url = f"{encrypted}?sslmode={asked.format(roots=roots)}"
    storage = open_storage(url, create=True)
    assert storage.backend.get_all_studies() == []
    storage.close()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("verify-full&sslrootcert={roots}/other.crt", "certificate verify failed"),
        ("disable", "(?i:TLS|SSL) required"),
    ],
)
def test_a_wrong_root_and_no_encryption_are_refused_in_a_line(encrypted, roots, asked, said):
    url = f"{encrypted}?sslmode={asked.format(roots=roots)}"
    with pytest.raises(StorageError, match=rf"cannot use postgresql://.*{said}") as caught:
        open_storage(url, create=True)
    assert "hush" not in str(caught.value)
    assert "\n" not in str(caught.value)
