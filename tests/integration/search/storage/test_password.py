"""The database's password from a file: where it is read, and where it is not wanted."""

import pytest

from hpsearch.errors import StorageError
from hpsearch.search.storage.url import mask, parse_url, with_password

URL = parse_url("postgresql://ann@db/hpsearch")


@pytest.fixture
def secret(tmp_path, monkeypatch):
    """The file, named as a container's secret is."""
    file = tmp_path / "secret.txt"
    file.write_text("hush \n")
    monkeypatch.delenv("PGPASSWORD", raising=False)
    monkeypatch.setenv("PGPASSWORD_FILE", str(file))
    return file


def test_it_is_the_files_line_without_its_end(secret):
    known = with_password(URL)
    assert known.query["password"] == "hush "
    assert "hush" not in mask(known)


def test_what_says_it_nearer_goes_before(secret, monkeypatch):
    monkeypatch.setenv("PGPASSWORD", "mine")
    assert with_password(URL) == URL
    monkeypatch.delenv("PGPASSWORD")
    for url in (URL.set(password="mine"), URL.update_query_dict({"password": "mine"})):
        assert with_password(url) == url


def test_without_a_file_it_is_left_to_the_driver(secret, monkeypatch):
    monkeypatch.setenv("PGPASSWORD_FILE", "")
    assert with_password(URL) == URL


def test_a_file_that_cannot_be_read_is_one_line_that_names_it(secret):
    secret.unlink()
    with pytest.raises(StorageError, match=r"PGPASSWORD_FILE: cannot read .*secret.txt") as caught:
        with_password(URL)
    assert "\n" not in str(caught.value)
