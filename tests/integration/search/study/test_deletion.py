"""A deleted study and its successor, which gets the same ids from SQLite, seen by older readers."""

from contextlib import contextmanager

import pytest

from hpsearch.core.dimensions import ChoiceDim, IntDim
from hpsearch.core.trial import State
from hpsearch.errors import StudyError
from hpsearch.search.storage.artifacts import Artifacts
from hpsearch.search.storage.records import StudyStatus
from hpsearch.search.storage.storage import open_storage
from hpsearch.search.study import catalog
from hpsearch.search.study.catalog import delete, open_numbered, open_studies, open_study
from hpsearch.search.study.leases import Lease
from tests.integration import studies

GRID = {"n_blocks": IntDim(low=1, high=3), "optimizer": ChoiceDim(choices=("sgd", "adam"))}


@pytest.fixture
def elsewhere(sqlite):
    """The same file as another process opens it."""
    opened = open_storage(str(sqlite.url.database), create=False)
    yield opened
    opened.close()


def succeed(elsewhere, spec, *, name="a"):
    """Deletes a study and makes another one that gets its id."""
    old = open_study(elsewhere, name)
    delete(elsewhere, old)
    new = studies.make_study(elsewhere, spec)
    assert new.handle._study_id == old.handle._study_id


def test_a_waiting_worker_runs_every_cell_of_a_grid_that_follows_another(sqlite, elsewhere):
    def spec(name, seed):
        return studies.make_spec(
            name, sampler="grid", grid=tuple(GRID), trials=50, space=GRID, pruner="none", seed=seed
        )

    assert studies.search(studies.make_study(sqlite, spec("a", 0))) is StudyStatus.USED_UP
    assert open_studies(sqlite) == []
    succeed(elsewhere, spec("b", 1))

    ((study, standing),) = open_studies(sqlite)

    assert (study.records(), standing) == ([], None)
    assert studies.search(study) is StudyStatus.USED_UP
    assert study.tally()[State.COMPLETE] == 6


@pytest.mark.parametrize("name", ["a", "b"])
def test_the_trials_of_a_deleted_study_have_no_owner(sqlite, elsewhere, name):
    studies.search(studies.make_study(sqlite, studies.make_spec("a", trials=12)))
    succeed(elsewhere, studies.make_spec(name, trials=12, seed=5))

    study = open_study(sqlite, name)
    by_number = open_numbered(sqlite, study.handle._study_id)

    assert (study.records(), by_number.records()) == ([], [])
    studies.search(study)
    fresh = open_study(elsewhere, name).records()
    assert [(r.number, r.state, r.params) for r in study.records()] == [
        (r.number, r.state, r.params) for r in fresh
    ]


def test_a_trial_whose_id_was_a_deleted_studys_is_the_living_studys(sqlite, elsewhere):
    living = studies.make_study(sqlite, studies.make_spec("living"))
    old = studies.make_study(sqlite, studies.make_spec("old"))
    studies.search(old, at_most=3)
    last = old.records()[-1]
    delete(elsewhere, open_study(elsewhere, "old"))
    fresh = [open_study(elsewhere, "living").acquire(studies.origin()) for _ in range(3)]
    assert last.attributes["trial_id"] in [lease.trial_id for lease in fresh]
    open_study(sqlite, "living")
    for lease in fresh:
        assert sqlite.backend.get_trial(lease.trial_id).number == lease.number
    assert [r.state for r in living.records()] == [State.RUNNING] * 3


def test_a_worker_between_two_trials_does_not_take_up_the_successor(sqlite, elsewhere):
    study = studies.make_study(sqlite, studies.make_spec("a"))
    studies.search(study, at_most=2)
    succeed(elsewhere, studies.make_spec("a", seed=5))
    with pytest.raises(StudyError, match="study 'a' has been deleted"):
        study.acquire(studies.origin())
    assert isinstance(open_study(sqlite, "a").acquire(studies.origin()), Lease)


def test_a_study_whose_trial_began_after_the_first_look_is_not_deleted(storage, monkeypatch):
    study = studies.make_study(storage)
    reap = type(study).reap

    def reap_then_claim(self):
        reap(self)
        assert isinstance(self.acquire(studies.origin()), Lease)

    monkeypatch.setattr(type(study), "reap", reap_then_claim)
    with pytest.raises(StudyError, match=r"is being worked on \(trial 0\)"):
        delete(storage, study)
    assert study.record(0).state is State.RUNNING


def test_a_study_deleted_while_it_is_opened_is_created_again(sqlite, elsewhere, monkeypatch):
    studies.make_study(sqlite, studies.make_spec("a"))
    look = catalog.study_names

    def look_and_be_too_late(storage):
        names = look(storage)
        monkeypatch.undo()
        delete(elsewhere, open_study(elsewhere, "a"))
        return names

    monkeypatch.setattr(catalog, "study_names", look_and_be_too_late)
    study = studies.make_study(sqlite, studies.make_spec("a"))

    assert study.bounds == studies.make_study(elsewhere, studies.make_spec("a")).bounds != {}
    assert isinstance(study.acquire(studies.origin()), Lease)


def test_a_successor_that_is_made_at_once_is_no_deletion_that_failed(
    sqlite, elsewhere, monkeypatch
):
    study = studies.make_study(sqlite, studies.make_spec("a"))
    lock = type(sqlite).lock

    @contextmanager
    def lock_and_be_succeeded(self):
        with lock(self):
            yield
        monkeypatch.undo()
        studies.make_study(elsewhere, studies.make_spec("a", seed=5))

    monkeypatch.setattr(type(study), "reap", lambda self: None)
    monkeypatch.setattr(type(sqlite), "lock", lock_and_be_succeeded)
    delete(sqlite, study)

    assert open_study(sqlite, "a").spec.search.seed == 5


def test_only_the_checkpoints_that_are_there_are_removed_with_a_study(sqlite):
    """On S3 each removal is a request, and a study may have thousands of trials."""
    removed = []

    class Counted(Artifacts):
        def remove(self, key):
            removed.append(key)
            super().remove(key)

    study = studies.make_study(sqlite)
    studies.search(study, at_most=3)
    kept = sqlite.artifacts
    sqlite.artifacts = Counted(store=kept.store, folder=kept.folder)
    for key in (study.checkpoint_key(1), "study-99-trial-1.pt"):
        kept.save(key, b"late")

    delete(sqlite, study)

    assert removed == [study.checkpoint_key(1)]
    assert [path.name for path in kept.folder.iterdir()] == ["study-99-trial-1.pt"]


def test_the_dashboards_store_distinguishes_a_successor(sqlite, elsewhere):
    from hpsearch.search.storage.overlay import annotated

    class Nothing:
        def is_showing(self):
            return False

        def shown(self, study_id, system_attributes):
            return dict(system_attributes)

    shown = annotated(sqlite, Nothing())
    studies.search(studies.make_study(sqlite, studies.make_spec("a", trials=4)))
    (before,) = shown.get_all_studies()
    assert len(shown.get_all_trials(before._study_id)) == 4
    succeed(elsewhere, studies.make_spec("a", seed=5))
    (after,) = shown.get_all_studies()
    assert after._study_id == before._study_id
    assert shown.get_all_trials(after._study_id) == []


def test_a_reader_of_trials_is_not_disturbed_by_a_thread_that_forgets_them(sqlite, monkeypatch):
    """As a dashboard's threads do: one lists the studies between another's two steps."""
    study = studies.make_study(sqlite, studies.make_spec(trials=3))
    studies.search(study)
    number, read = study.handle._study_id, sqlite.backend._read_trials_from_remote_storage

    def read_and_be_interrupted(study_id):
        read(study_id)
        sqlite._stamps.clear()  # as before the first look
        sqlite.studies()

    monkeypatch.setattr(sqlite.backend, "_read_trials_from_remote_storage", read_and_be_interrupted)
    sqlite.backend.get_all_trials(number)
    monkeypatch.undo()
    assert len(sqlite.backend.get_all_trials(number)) == 3
