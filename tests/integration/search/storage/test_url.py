"""What names a database: paths are taken literally, and nothing that holds a password is shown."""

import sys
from contextlib import closing
from pathlib import Path

import pytest

from hpsearch.api.run import RunOptions
from hpsearch.config import load_study_file
from hpsearch.errors import NotMadeError, StorageError
from hpsearch.nn.runtime import cpu
from hpsearch.nn.user_code import add_import_path
from hpsearch.search.storage.artifacts import open_artifacts
from hpsearch.search.storage.engine import check_sqlite
from hpsearch.search.storage.storage import open_storage
from hpsearch.search.storage.url import mask, parse_url, with_password
from hpsearch.search.study.catalog import study_names
from hpsearch.search.worker.work_loop import touch_alive_file
from tests.integration.studies import make_study

# Text that is no URL; {} stands for the password.
MISTYPED = [
    "postgresql:/ann:{}@db/x",
    "postgresql:ann:{}@db/x",
    "postgres//ann:{}@db/x",
    "ann:{}@db/x",
    "ann:{}@db:5432",
    "https:/ann:{}@db/x",
    "host=db user=ann password={}",
    "host=db user=ann password = '{} {}'",
    "user=ann PGPASSWORD={}",
    "x.db?password={}",
    "mysql://ann:{}@db/x",
    "mysql://db/x;password={}",
    "https://ann:{}@db/x",
    "sqlite://ann:{}@db/x",
    "postgresql://ann:{}/x",
    "postgresql://ann@db/x&password={}",
    "postgresql://ann@db/x;password={}",
    "postgresql://host=db password={}",
    "postgresql:///host=db password={}",
]


@pytest.mark.parametrize("text", MISTYPED)
def test_a_mistyped_url_is_refused_without_its_password(text, tmp_path, monkeypatch):
    """Keeps the promise "Text that looks like a misspelt URL is refused …" of docs/workers.md."""
    monkeypatch.chdir(tmp_path)

    with pytest.raises(StorageError, match=r"expected .*; ") as caught:
        open_storage(text.replace("{}", "S3CRET"), create=True)

    error: BaseException | None = caught.value
    assert "\n" not in str(error)
    while error is not None:  # --verbose prints the causes, too
        assert "S3CRET" not in f"{error!r} {error}"
        error = error.__cause__
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["host=db user=ann", " dbname=x", "sqlite:x.db", "postgres:x"])
def test_other_spellings_of_a_database_are_not_taken_for_a_file(text):
    with pytest.raises(StorageError, match=r"expected sqlite:///FILE or postgresql://.*\./FILE"):
        parse_url(text)


@pytest.mark.parametrize("text", ["sqlite:///ann:S3CRET@db/x", "./ann:S3CRET@db", "/ann:S3CRET@db"])
def test_a_file_that_does_not_exist_is_shown_without_what_may_be_a_password(text):
    with pytest.raises(StorageError, match=r"ann:\*\*\*@db") as caught:
        open_storage(text, create=False)
    with pytest.raises(StorageError) as unmade:
        open_storage(f"{text}/y/z.db", create=True)
    assert "S3CRET" not in f"{caught.value} {unmade.value}"


NAMES = ["run%201.db", "a?b.db", "a#b.db", "a b.db", "a:b@c.db", "{a}.db", "a+b&c=d.db", "größe.db"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_a_bare_path_is_a_path(name, where, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = f"./{name}" if where == "here" else str(tmp_path / name)

    with closing(open_storage(text, create=True)) as storage:
        make_study(storage)

    files = {path.name for path in tmp_path.iterdir() if path.suffix == ".db"}
    assert files == {name}
    with closing(open_storage(text, create=False)) as storage:
        assert study_names(storage) == ["s"]
        again = storage.masked
    assert name in again or "%" in again
    # what messages show can be typed, and names the same file
    assert Path(str(parse_url(again).database)).resolve() == tmp_path / name
    if where == "here":  # a file that exists needs no ./ any more
        assert parse_url(name).database == name


def test_an_immutable_file_may_have_any_name(tmp_path, monkeypatch):
    """Nobody may write it or its folder, which is simulated, as root may."""
    for name in NAMES:
        with closing(open_storage(str(tmp_path / name), create=True)) as storage:
            make_study(storage)
        Path(f"{tmp_path / name}-wal").unlink(missing_ok=True)
    for module in ("engine", "storage"):
        monkeypatch.setattr(f"hpsearch.search.storage.{module}.is_read_only", lambda path: True)
    for name in NAMES:
        check_sqlite(tmp_path / name, create=False)
        with closing(open_storage(str(tmp_path / name), create=False)) as storage:
            assert study_names(storage) == ["s"]


def test_a_url_of_sqlite_is_decoded_as_before(tmp_path):
    assert parse_url(f"sqlite:///{tmp_path}/run%201.db").database == f"{tmp_path}/run 1.db"
    assert dict(parse_url("sqlite:///a.db?timeout=3").query) == {"timeout": "3"}


@pytest.mark.parametrize("text", ["~/x/a.db", "sqlite:///~/x/a.db"])
def test_a_tilde_is_the_home_directory_unless_such_a_path_exists(text, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home/x").mkdir(parents=True)

    assert parse_url(text).database == f"{tmp_path}/home/x/a.db"
    with pytest.raises(NotMadeError, match=f"sqlite:///{tmp_path}/home/x/a.db"):
        open_storage(text, create=False)
    (tmp_path / "~/x").mkdir(parents=True)
    (tmp_path / "~/x/a.db").touch()
    assert parse_url(text).database == "~/x/a.db"


def test_a_tilde_is_the_home_directory_in_every_place(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("HPSEARCH_CODE", "~/code")
    monkeypatch.setenv("HPSEARCH_DATA", "~/data")
    monkeypatch.setenv("HPSEARCH_CACHE", "~/cache")
    monkeypatch.setenv("HPSEARCH_ALIVE", "~/alive")
    monkeypatch.setenv("PGPASSWORD_FILE", "~/password.txt")
    monkeypatch.delenv("PGPASSWORD", raising=False)
    (tmp_path / "password.txt").write_text("hush")
    (tmp_path / "study.toml").write_text("")

    add_import_path(None)
    touch_alive_file()
    spec = load_study_file("~/study.toml")
    artifacts = open_artifacts(parse_url("postgresql://h/d"), "~/artifacts")

    assert str(tmp_path / "code") in sys.path
    assert RunOptions().worker_options().data_dir == tmp_path / "data"
    assert cpu.cache_directory() == tmp_path / "cache"
    assert (tmp_path / "alive").exists()
    assert with_password(parse_url("postgresql://h/d")).query["password"] == "hush"
    assert artifacts.folder == tmp_path / "artifacts"
    assert spec.name == "study"


def test_secrets_in_the_settings_of_a_url_are_not_shown():
    url = (
        "postgresql://ann@db/x?sslpassword=S3CRET&sslkey=S3CRET&requiretoken=S3CRET&sslmode=require"
    )
    shown = mask(parse_url(url))
    assert shown.startswith("postgresql://ann@db/x?")
    assert "sslpassword=***" in shown
    assert "sslmode=require" in shown
    assert "S3CRET" not in shown
