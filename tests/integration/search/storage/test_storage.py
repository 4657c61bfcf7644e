"""Opening databases: how SQLite is tuned, which are refused, and that passwords stay hidden."""

import multiprocessing
import sqlite3

import optuna
import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from hpsearch.errors import StorageError
from hpsearch.search.storage.database_file import network_filesystem
from hpsearch.search.storage.engine import engine_options
from hpsearch.search.storage.retry import retry_while_away
from hpsearch.search.storage.storage import check_storage, open_storage
from hpsearch.search.storage.url import mask, parse_url
from hpsearch.search.study.catalog import study_names
from tests.integration import studies


def test_sqlite_is_opened_in_wal_mode_with_normal_synchronisation(tmp_path):
    storage = open_storage(f"{tmp_path}/a.db", create=True)
    with storage.engine.connect() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(text("PRAGMA synchronous")).scalar() == 1
        assert connection.execute(text("PRAGMA busy_timeout")).scalar() == 60_000
    storage.close()


class TestTogether:
    """One transaction for several of Optuna's writes."""

    @pytest.fixture
    def trial(self, storage):
        study = optuna.create_study(storage=storage.backend, study_name="s")
        return study.ask()

    def reread(self, storage_url):
        other = open_storage(storage_url, create=False)
        (trial,) = optuna.load_study(storage=other.backend, study_name="s").trials
        other.close()
        return trial

    def test_nothing_is_seen_by_others_before_the_end_and_all_of_it_after(
        self, storage, storage_url, trial
    ):
        with storage.transaction():
            trial.set_user_attr("a", 1)
            trial.suggest_float("x", 0, 1)
            within = self.reread(storage_url)
        after = self.reread(storage_url)
        assert (within.user_attrs, within.params) == ({}, {})
        assert (after.user_attrs, after.params) == ({"a": 1}, trial.params)

    def test_an_error_takes_all_of_it_back_and_the_next_write_stands(
        self, storage, storage_url, trial
    ):
        def write_and_break():
            with storage.transaction():
                trial.set_user_attr("a", 1)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            write_and_break()
        trial.set_user_attr("b", 2)
        assert self.reread(storage_url).user_attrs == {"b": 2}


def test_a_path_and_a_url_name_the_same_file(tmp_path):
    assert parse_url(f"{tmp_path}/a.db") == parse_url(f"sqlite:///{tmp_path}/a.db")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ann:hush@host:5432/db",
        "postgres://ann:hush@host/db",
        "postgresql+psycopg://ann:hush@host/db",
        "postgresql://ann@host/db?password=hush",
        "postgresql://ann@host/db?sslmode=require&sslpassword=hush",
    ],
)
def test_a_password_is_never_shown(url):
    shown = mask(parse_url(url))
    assert "hush" not in shown
    assert shown.startswith("postgresql://ann")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://u:hush@h/db", "found a 'mysql' storage"),
        ("mysql://u:hu@hush@h/db", r"found a 'mysql' storage \(mysql://u:\*\*\*@h/db\)"),
        ("mysql://u:hu@x/hush@h/db", r"found a 'mysql' storage \(mysql://u:\*\*\*@h/db\)"),
        ("postgresql://ann:hu@hush@h/db", "more than one @ .*write %40 for an @ of the password"),
        ("postgresql://ann:hu@x/hush@h/db", "more than one @ "),
        (
            "host=h user=ann password=hush",
            r"connection settings .*password=\).*write them as a URL",
        ),
        ("host=h PASSWORD = 'hush'", r"connection settings .*PASSWORD=\)"),
        ("sqlite://", "without a file"),
        ("://", "cannot be read"),
    ],
)
def test_a_storage_we_do_not_run_on_is_refused(url, message):
    with pytest.raises(StorageError, match=message) as caught:
        parse_url(url)
    assert "hush" not in str(caught.value)


def test_reading_makes_no_file(tmp_path):
    with pytest.raises(StorageError, match=r"no database at .*run it first"):
        open_storage(f"{tmp_path}/a.db", create=False)
    check_storage(f"{tmp_path}/a.db")
    assert list(tmp_path.iterdir()) == []


def test_another_programs_database_is_refused_and_left_as_it_was(tmp_path):
    path = tmp_path / "theirs.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE customers (name TEXT)")
    connection.close()
    before = path.read_bytes()
    for create in (False, True):
        with pytest.raises(StorageError, match="holds another program's tables"):
            open_storage(str(path), create=create)
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_refused(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("not a database, but long enough to be read as one" * 100)
    with pytest.raises(StorageError, match="cannot be read as an SQLite database"):
        open_storage(str(path), create=True)
    with pytest.raises(StorageError, match="found a folder"):
        open_storage(str(tmp_path), create=True)
    with pytest.raises(StorageError, match="does not exist; create it"):
        open_storage(f"{tmp_path}/no/such.db", create=True)


def test_a_server_that_does_not_answer_is_named_without_its_password():
    with pytest.raises(StorageError, match=r"cannot use postgresql://ann:\*\*\*@127") as caught:
        open_storage("postgresql://ann:hush@127.0.0.1:1/db", create=True)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_a_budget_is_exact_whatever_a_servers_default_isolation_is(postgres, level):
    """Otherwise a worker that has waited for the lock would count the trials of before its wait."""
    import threading

    from sqlalchemy.engine import make_url

    from hpsearch.search.storage.records import StudyStatus
    from hpsearch.search.study.catalog import open_study
    from tests.integration.conftest import fresh_database
    from tests.integration.studies import make_spec, make_study, origin

    url = fresh_database(postgres, f"isolated_{level[:3]}")
    name = make_url(url).database
    first = open_storage(postgres, create=True)
    with first.engine.begin() as connection:
        default = f"ALTER DATABASE {name} SET default_transaction_isolation = '{level}'"
        connection.execute(text(default))
    first.close()
    first, second = open_storage(url, create=True), open_storage(url, create=True)
    study = make_study(first, make_spec(trials=1))
    claims = []

    def claim():
        claims.append(open_study(second).acquire(origin()))
        second.close()

    waiting = threading.Thread(target=claim)
    with first.lock():
        waiting.start()
        waiting.join(1)  # it waits for the lock
        claims.append(study.acquire(origin()))
    waiting.join(600)
    assert claims[1] is StudyStatus.BUSY
    assert len(study.records()) == 1
    first.close()


def test_a_connect_timeout_of_the_url_overrides_the_default():
    """Keeps the promise "Connecting takes at most 10 s …" of docs/workers.md."""

    def waits(query):
        return engine_options(parse_url(f"postgresql://h/d{query}"))["connect_args"]

    assert waits("")["connect_timeout"] == 10
    assert "connect_timeout" not in waits("?connect_timeout=2")


def test_a_database_without_an_encoding_holds_any_name(postgres):
    from tests.integration.conftest import fresh_database

    plain = "ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    storage = open_storage(fresh_database(postgres, "no_encoding", options=plain), create=True)
    study = studies.make_study(storage, studies.make_spec("Vögel 鳥"))
    assert study_names(storage) == ["Vögel 鳥"]
    assert study.records() == []
    storage.close()


def test_reading_an_empty_server_makes_no_tables(postgres):
    from tests.integration.conftest import fresh_database

    url = fresh_database(postgres, "empty")
    for _ in range(2):
        with pytest.raises(StorageError, match=r"no study in .*start one"):
            open_storage(url, create=False)


def _make(url):
    from tests.integration.studies import make_study

    make_study(open_storage(url, create=True))


def test_32_processes_may_make_one_database_and_one_study_at_once(storage_url):
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["tests.integration.studies"])
    processes = [server.Process(target=_make, args=(storage_url,)) for _ in range(32)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(600)
    assert [process.exitcode for process in processes] == [0] * 32
    opened = open_storage(storage_url, create=False)
    assert study_names(opened) == ["s"]
    opened.close()


def test_a_database_that_is_still_being_made_is_neither_refused_nor_joined_in(tmp_path):
    path = tmp_path / "a.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE studies (study_id INTEGER)")
    connection.close()
    check_storage(str(path))
    with pytest.raises(StorageError, match="is still being created; try again"):
        open_storage(str(path), create=False)


@pytest.mark.parametrize(
    ("mounts", "kind"),
    [
        ("22 1 0:4 / {home} rw - 9p C:\\ rw,aname=drvfs,trans=fd,rfd=8,wfd=8\n", "9p"),
        ("22 1 0:4 / / rw - 9p none rw,trans=fd,rfdno=4,wfdno=4,directfs\n", None),  # gVisor's
        ("22 1 0:4 / {home} rw - fuse blobfuse2 rw,user_id=0\n", "fuse.blobfuse2"),
        ("22 1 0:4 / {home} rw - fuse https://dav.example/x rw\n", "fuse.davfs"),
        ("22 1 0:4 / {home} rw - fuse.goofys bucket rw\n", "fuse.goofys"),
        ("22 1 0:4 / {home} rw - fuse /dev/fuse rw\n", None),
        ("22 1 0:4 / {home} rw - wekafs default rw\n", "wekafs"),
        (
            "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n30 22 0:4 / {home} rw - nfs4 server:/x rw\n",
            "nfs4",
        ),
        ("22 1 8:1 / / rw - ext4 /dev/sda1 rw\n30 22 0:4 / /mnt rw - cifs //server/x rw\n", None),
        ("22 1 0:2 / / rw - nfs server:/ rw\n30 22 8:1 / {home} rw - xfs /dev/sdb rw\n", None),
        ("", None),
    ],
)
def test_a_network_file_system_is_distinguished_from_a_local_one(tmp_path, mounts, kind):
    table = tmp_path / "mountinfo"
    table.write_text(mounts.format(home=tmp_path))
    assert network_filesystem(tmp_path / "no" / "such.db", mounts=table) == kind


def test_sqlite_on_a_network_file_system_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("hpsearch.search.storage.engine.network_filesystem", lambda _: "nfs4")
    with pytest.raises(StorageError, match=r"network file system \(nfs4\).*use postgresql://"):
        open_storage(f"{tmp_path}/a.db", create=True)
    assert list(tmp_path.iterdir()) == []


def test_the_lock_lets_one_in_at_a_time(storage):
    order = []
    import threading

    def enter(name):
        with storage.lock():
            order.append(name)
        storage.sessions.remove()

    with storage.lock():
        thread = threading.Thread(target=enter, args=("second",))
        thread.start()
        thread.join(0.3)
        order.append("first")
    thread.join(600)
    assert order == ["first", "second"]


@pytest.mark.parametrize("said", ["database is locked", "locking protocol"])
def test_what_sqlite_says_when_many_are_at_it_is_waited_for(sqlite, said, caplog):
    told = iter([OperationalError("SELECT 1", {}, sqlite3.OperationalError(said))] * 2)

    @retry_while_away
    def action(_storage):
        for error in told:
            raise error
        return "there"

    assert action(sqlite) == "there"
    name = sqlite.masked
    noted = [record.getMessage() for record in caplog.records]
    assert noted == [f"{name} is away ({said}); retrying", f"{name} is back"]


def test_an_action_within_a_transaction_is_not_repeated_alone(sqlite):
    """On another connection, the earlier writes and locks of the transaction would be missing."""
    calls = []

    @retry_while_away
    def action(_storage):
        calls.append(1)
        raise OperationalError("SELECT 1", {}, sqlite3.OperationalError("database is locked"))

    with pytest.raises(OperationalError), sqlite.transaction():
        action(sqlite)
    assert len(calls) == 1


def test_a_database_lost_in_mid_run_is_an_error_without_a_traceback(sqlite):
    with sqlite.engine.begin() as connection:
        connection.execute(text("DROP TABLE studies"))
    with (
        pytest.raises(
            StorageError, match=r"lost sqlite:///.* during the run: no such table.*again"
        ),
        sqlite.translate_errors(),
    ):
        sqlite.backend.get_all_studies()


def test_a_search_on_a_server_prints_no_password(postgres, tmp_path, monkeypatch, capsys):
    from sqlalchemy.engine import make_url

    from hpsearch.cli.main import main
    from tests.integration.conftest import fresh_database

    monkeypatch.chdir(tmp_path)
    url = make_url(fresh_database(postgres, "secretive")).set(password="hush")
    shown = url.render_as_string(hide_password=False)
    study = tmp_path / "small.toml"
    study.write_text(
        '[data]\ndataset = "digits"\n[train]\nepochs = 1\n'
        "[space]\nn_blocks = 1\nbase_width = 4\nbatch_size = 256\n"
    )
    with pytest.raises(SystemExit) as ended:
        main(["run", str(study), "--trials", "2", "--threads", "1", "--storage", shown])
    told = capsys.readouterr()
    assert ended.value.code == 0, told.err
    assert "done, 2 of 2 trials" in told.out
    assert "hush" not in told.out + told.err
    assert "--storage 'postgresql://postgres:***@" in told.out
