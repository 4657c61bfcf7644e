"""Studies that a newer hpsearch has made, in one database with ours."""

import json
import re

import pytest

from hpsearch.cli.main import main
from hpsearch.errors import StudyError
from hpsearch.search.storage.records import SPEC
from hpsearch.search.study.catalog import (
    create_or_resume,
    delete,
    open_studies,
    open_study,
    summaries,
)
from hpsearch.util.messages import messages_to
from hpsearch.view.dashboard.annotations import of_study
from tests.integration import studies

TOLD = (
    r"study 'newer' cannot be read by hpsearch \S+ \(.*cooling.*\).*newer version: install that one"
)


def renew(study, section="train"):
    """Has the study's spec hold a key that this version does not know."""
    spec = json.loads(study.attributes[SPEC])
    spec[section]["cooling"] = "slow"
    study.handle.set_user_attr(SPEC, json.dumps(spec))


@pytest.fixture
def newer(storage):
    """A study of a newer version, made after one of ours."""
    studies.make_study(storage, studies.make_spec("ours", trials=2))
    study = studies.make_study(storage, studies.make_spec("newer", trials=2))
    renew(study)
    return study


def test_the_other_studies_are_listed_and_that_one_is_reported(storage, newer):
    told = []
    with messages_to(told.append):
        assert [study.name for study, _ in open_studies(storage)] == ["ours"]
        assert [row.study for row in summaries(storage)] == ["ours"]
        assert open_study(storage).name == "ours"
    assert told.pop() == "study 'ours', the newest of 2; --study names another"
    assert len(told) == 3
    for line in told:
        assert re.fullmatch(TOLD, line)


def test_a_study_that_is_deleted_between_two_looks_ends_no_worker(storage, newer):
    studies.make_study(storage, studies.make_spec("last"))

    told = []

    def delete_the_last(line):
        if not told:
            delete(storage, open_study(storage, "last"))
        told.append(line)

    assert [study.name for study, _ in open_studies(storage, on_unreadable=delete_the_last)] == [
        "ours"
    ]
    assert "has been deleted from" in told[1]


def test_the_dashboard_shows_its_stored_attributes_unchanged(storage, newer):
    kept = newer.handle.user_attrs
    assert of_study(kept) == kept


def test_opening_it_by_name_says_what_to_do(storage, newer):
    with pytest.raises(StudyError, match=TOLD):
        open_study(storage, "newer")
    with pytest.raises(StudyError, match=TOLD):
        create_or_resume(
            storage, studies.make_spec("newer"), data=studies.DATA, reference={}, bounds=dict
        )


def test_a_worker_of_a_study_that_a_newer_version_takes_up_ends_with_that_line(storage):
    study = studies.make_study(storage, studies.make_spec("newer"))
    renew(study, "search")
    with pytest.raises(StudyError, match=TOLD):
        study.acquire(studies.origin())


def test_the_commands_report_it_in_one_line_and_go_on(sqlite, capsys, monkeypatch):
    studies.make_study(sqlite, studies.make_spec("ours", trials=2))
    renew(studies.make_study(sqlite, studies.make_spec("newer", trials=2)))
    database = str(sqlite.url.database)

    def say(*words):
        with pytest.raises(SystemExit) as ended:
            main([*words, "--storage", database])
        return ended.value.code, *capsys.readouterr()

    code, out, err = say("list", "--json")
    assert (code, [row["study"] for row in json.loads(out)]) == (0, ["ours"])
    assert "study 'newer' cannot be read" in err
    code, out, err = say("status", "newer")
    assert (code, out, err.count("\n")) == (2, "", 1)
