"""Why a study gives no trials now, as who only looks sees it: of dead workers, raised totals."""

import threading
import time

import pytest

from hpsearch.core.dimensions import ChoiceDim
from hpsearch.errors import StudyError
from hpsearch.search.storage.records import StudyStatus
from hpsearch.search.storage.storage import open_storage
from hpsearch.search.study.catalog import delete, open_studies, open_study
from hpsearch.search.study.leases import Lease
from hpsearch.search.worker import pool
from tests.integration import studies
from tests.integration.search.study.test_leases import ELSEWHERE, fall_silent


def test_a_study_whose_last_worker_is_gone_is_open_to_the_next(storage):
    """Who looks for work would else leave it to the dead, for ever."""
    study = studies.make_study(storage, studies.make_spec(trials=1))
    lease = study.acquire(ELSEWHERE)
    assert [standing for _, standing in open_studies(storage)] == [StudyStatus.BUSY]

    fall_silent(study, lease)

    ((found, standing),) = open_studies(storage)
    assert standing is None
    assert isinstance(found.acquire(studies.origin()), Lease)


def test_a_grid_whose_last_cells_others_run_is_busy(sqlite):
    """Open, it would be joined again and again, its images loaded each time."""
    space = {"optimizer": ChoiceDim(choices=("sgd", "adam"))}
    spec = studies.make_spec(sampler="grid", grid=("optimizer",), trials=50, space=space)
    study = studies.make_study(sqlite, spec)
    last = [study.acquire(ELSEWHERE), study.acquire(ELSEWHERE)]

    assert study.acquire(studies.origin()) is StudyStatus.BUSY
    assert [standing for _, standing in open_studies(sqlite)] == [StudyStatus.BUSY]

    last[0].hand_back()
    assert [standing for _, standing in open_studies(sqlite)] == [None]
    for lease in (study.acquire(ELSEWHERE), last[1]):
        lease.finish(studies.simulate(study, lease))
    assert study.status() is StudyStatus.USED_UP


def test_a_reader_sees_a_total_that_another_command_has_changed(storage):
    study = studies.make_study(storage, studies.make_spec(trials=1))
    studies.search(study)
    early = open_study(storage)
    assert early.status() is StudyStatus.DONE

    studies.make_study(storage, studies.make_spec(trials=3))

    assert early.status() is None
    assert early.summary().target == 3


def test_a_total_is_not_lowered_below_what_others_run(storage):
    """Else more trials than the total would count: "done, 9 of 7"."""
    study = studies.make_study(storage, studies.make_spec(trials=9))
    studies.search(study, at_most=2)
    running, gone = study.acquire(studies.origin()), study.acquire(ELSEWHERE)
    fall_silent(study, gone)

    lower = studies.make_study(storage, studies.make_spec(trials=2))

    assert lower.spec.search.trials == 3
    assert lower.status() is StudyStatus.BUSY
    running.finish(studies.simulate(study, running))
    assert study.acquire(studies.origin()) is StudyStatus.DONE
    assert (study.summary().complete + study.summary().pruned, study.summary().target) == (3, 3)


def test_a_study_is_watched_for_as_long_as_its_total_is_raised(sqlite, monkeypatch):
    monkeypatch.setattr(pool, "_FOLLOW_SECONDS", 0.01)
    study = studies.make_study(sqlite, studies.make_spec(trials=2))
    ended = []

    class Watching:
        def __getattr__(self, _):
            return lambda *_: None

    def watch():
        opened = open_storage(str(sqlite.url.database), create=False)
        ended.append(pool.follow(open_study(opened), Watching()))
        opened.close()

    watching = threading.Thread(target=watch)
    watching.start()
    studies.search(study, at_most=1)
    larger = studies.make_study(sqlite, studies.make_spec(trials=4))
    studies.search(larger, at_most=2)  # more than the watch was begun with
    time.sleep(0.3)
    assert ended == []
    studies.search(larger)
    watching.join(600)
    assert ended == [StudyStatus.DONE]


def test_a_study_deleted_while_it_is_watched_is_reported(storage):
    study = studies.make_study(storage)
    delete(storage, study)
    studies.make_study(storage)
    with pytest.raises(StudyError, match="has been deleted"):
        study.status()
