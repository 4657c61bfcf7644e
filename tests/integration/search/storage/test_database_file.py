"""An SQLite file while it is open: whole after each command, one identity, and never lost."""

import os
import shutil
import sqlite3
import threading
from contextlib import closing

import pytest

from hpsearch.errors import MovedError, StorageError
from hpsearch.search.storage import database_file
from hpsearch.search.storage.storage import check_storage, open_storage
from hpsearch.search.study.catalog import study_names
from tests.integration.studies import make_spec, make_study, origin, search, simulate


def dump(path):
    """The content of a copy of the file alone, without what lies beside it."""
    copy = shutil.copy(path, path.with_suffix(".copy"))
    with closing(sqlite3.connect(copy)) as connection:
        return list(connection.iterdump())


def names_in(path):
    with closing(sqlite3.connect(path)) as connection:
        return [name for (name,) in connection.execute("SELECT study_name FROM studies")]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.db"


@pytest.fixture
def opened(path):
    storage = open_storage(str(path), create=True)
    yield storage
    storage.close()


@pytest.fixture
def looking(opened, path):
    """Another program that has the file open and idles, as a dashboard does."""
    opened.studies()  # the first use switches the file to a write-ahead log
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("SELECT count(*) FROM studies").fetchone()
        yield connection


class TestClosing:
    """The file alone holds everything after a close, although others have it open."""

    def test_a_copy_of_the_file_alone_holds_the_newest_trials(self, opened, path, looking):
        search(make_study(opened, make_spec(trials=3)))
        opened.close()
        assert dump(path) == list(looking.iterdump())
        assert path.with_name("a.db-wal").stat().st_size == 0

    def test_a_log_that_others_still_read_stays_without_an_error(
        self, opened, path, looking, monkeypatch
    ):
        monkeypatch.setattr(database_file, "_FOLD_MS", 1)
        looking.execute("BEGIN")
        looking.execute("SELECT count(*) FROM studies").fetchone()  # holds its snapshot
        make_study(opened)
        opened.close()
        looking.execute("COMMIT")
        assert looking.execute("SELECT study_name FROM studies").fetchall() == [("s",)]
        opened.studies()
        opened.close()
        assert dump(path) == list(looking.iterdump())


def remove(path):
    path.unlink()


def move(path):
    path.rename(path.with_name("elsewhere.db"))


def replace(path):
    copy = path.with_name("other.db")
    with closing(sqlite3.connect(path)) as old, closing(sqlite3.connect(copy)) as new:
        old.backup(new)
    copy.rename(path)


def move_and_link(path):
    move(path)
    path.symlink_to(path.with_name("elsewhere.db"))


def move_folder(path):
    path.parent.rename(path.parent.with_name("moved"))


LOST = r"a\.db is no longer the file that this run opened: .* and run the same command again"


class TestLost:
    """Nothing is written any more once the file was removed, moved or replaced."""

    @pytest.fixture
    def path(self, tmp_path):
        (tmp_path / "folder").mkdir()
        return tmp_path / "folder" / "a.db"

    @pytest.mark.parametrize("lose", [remove, move, move_and_link, replace, move_folder])
    def test_every_use_says_so_and_makes_nothing_in_its_place(self, opened, path, lose):
        study = make_study(opened)
        lease = study.acquire(origin())
        lose(path)
        is_other = path.exists() and not path.is_symlink()  # a link leads to the moved file
        before = path.read_bytes() if is_other else None
        for use in (
            lambda: study.acquire(origin()),
            lambda: simulate(study, lease),
            lease.beat,
            lease.hand_back,
            lambda: study.set_attribute("hpsearch:confirmed:0:0", {}),
            lambda: study.enqueue({}),
            study.request_stop,
            study.reap,
            study.status,
            lambda: make_study(opened, make_spec("another")),
            opened.check_writable,
            opened.close,  # silently: what follows needs a new connection
            study.records,
            lambda: study.acquire(origin()),
        ):
            if use == opened.close:
                use()
                continue
            with pytest.raises(MovedError, match=LOST):
                use()
        assert (path.read_bytes() if is_other else None) == before
        assert is_other or path.is_symlink() or not path.exists()
        assert path.parent.exists() == (lose != move_folder)

    @pytest.mark.parametrize(
        ("lose", "now"), [(move, "folder/elsewhere.db"), (move_folder, "moved/a.db")]
    )
    def test_what_was_moved_is_whole_there_and_goes_on_when_it_is_put_back(
        self, opened, path, tmp_path, looking, lose, now
    ):
        study = make_study(opened)
        search(study, at_most=2)
        expected = list(looking.iterdump())
        lose(path)
        with pytest.raises(MovedError, match="was moved or removed"):
            study.acquire(origin())
        opened.close()
        assert dump(tmp_path / now) == expected
        path.parent.mkdir(exist_ok=True)
        (tmp_path / now).rename(path)
        assert len(study.records()) == 2
        search(study, at_most=1)

    def test_the_write_ahead_log_does_not_get_into_the_file_that_took_its_place(self, opened, path):
        study = make_study(opened)
        replace(path)
        with pytest.raises(MovedError, match="another file or a link has taken its place"):
            study.acquire(origin())
        opened.close()
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert names_in(path) == ["s"]


class TestNames:
    """One file has one lock and one place for checkpoints, whatever name leads to it."""

    @pytest.fixture(params=["link", "link to a link", "folder", "relative", "dots", "URL"])
    def name(self, request, opened, path, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        names = {
            "link": tmp_path / "link.db",
            "link to a link": tmp_path / "second.db",
            "folder": tmp_path / "linked" / "a.db",
            "relative": "a.db",
            "dots": f"{tmp_path}/linked/../{tmp_path.name}/a.db",
            "URL": f"sqlite:///{tmp_path}/link.db",
        }
        (tmp_path / "link.db").symlink_to(path)
        (tmp_path / "second.db").symlink_to("link.db")
        (tmp_path / "linked").symlink_to(tmp_path, target_is_directory=True)
        return str(names[request.param])

    def test_the_lock_and_the_checkpoints_are_those_of_the_file(
        self, opened, path, tmp_path, name, monkeypatch
    ):
        other = open_storage(name, create=True)
        monkeypatch.chdir("/")  # as a training may
        assert other.artifacts.folder == opened.artifacts.folder == path.with_name("a.db.artifacts")
        order = []

        def enter():
            with other.lock():
                order.append("second")

        thread = threading.Thread(target=enter)
        with opened.lock():
            thread.start()
            thread.join(0.2)
            order.append("first")
        thread.join(600)
        assert order == ["first", "second"]
        make_study(other)
        assert study_names(opened) == ["s"]
        assert other.masked == f"sqlite:///{name.removeprefix('sqlite:///')}"  # as it was named
        other.close()
        assert [each.name for each in tmp_path.glob("*.lock")] == ["a.db.lock"]

    def test_a_link_to_a_file_that_is_yet_to_be_made_makes_it_there(self, tmp_path):
        (tmp_path / "data").mkdir()
        (tmp_path / "link.db").symlink_to("data/b.db")
        storage = open_storage(f"{tmp_path}/link.db", create=True)
        make_study(storage)
        storage.close()
        assert {each.name for each in (tmp_path / "data").iterdir()} == {"b.db", "b.db.lock"}
        assert [each.name for each in tmp_path.iterdir()] == ["data", "link.db"]

    def test_a_file_with_two_hard_links_is_refused_under_both_names(self, opened, path, tmp_path):
        opened.close()
        os.link(path, tmp_path / "b.db")
        for name in (path, tmp_path / "b.db"):
            for create in (False, True):
                with pytest.raises(StorageError, match=r"2 names \(hard links\), expected one"):
                    open_storage(str(name), create=create)

    def test_links_that_form_a_circle_are_refused(self, tmp_path):
        (tmp_path / "x.db").symlink_to("y.db")
        (tmp_path / "y.db").symlink_to("x.db")
        for check in (check_storage, lambda name: open_storage(name, create=False)):
            with pytest.raises(StorageError, match="its links form a circle"):
                check(f"{tmp_path}/x.db")


def test_a_role_that_may_only_read_is_refused_before_the_work(postgres):
    import psycopg
    from sqlalchemy.engine import make_url

    from tests.integration.conftest import fresh_database

    url = fresh_database(postgres, "read_only_role")
    storage = open_storage(url, create=True)
    study = make_study(storage)
    storage.check_writable()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE ROLE reader LOGIN")
        connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader")
    reader = open_storage(
        make_url(url).set(username="reader").render_as_string(False), create=False
    )
    with pytest.raises(StorageError, match=r"cannot be written \(permission denied .*; fix its"):
        reader.check_writable()
    assert study_names(reader) == study_names(storage) == ["s"]  # nothing was added
    assert study.records() == []
    storage.close()
    reader.close()
