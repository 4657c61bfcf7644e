"""The private hooks of Optuna that hpsearch depends on: a canary for each.

A canary fails when a new version changes what it guards, and names the files to fix. A hook without
one fails tests/integration/test_private_hooks.py.
"""

import ast
import copy
import inspect
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import optuna
import psycopg
import psycopg.waiting
import pytest
import sqlalchemy
from optuna.artifacts._protocol import ArtifactStore
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.samplers import GPSampler, NSGAIISampler, QMCSampler, TPESampler
from optuna.storages._base import BaseStorage
from optuna.storages._cached_storage import _CachedStorage
from optuna.storages._rdb import models
from optuna.study._frozen import FrozenStudy
from optuna.trial import TrialState

from hpsearch.search.storage.engine import check_sqlite, engine_options, optuna_storage
from hpsearch.search.storage.url import parse_url
from tests.integration.canaries import GUARDED, canary

__all__ = ["GUARDED"]

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
]


@pytest.fixture
def study(sqlite):
    """A study of two objectives in a storage as hpsearch opens it."""
    return optuna.create_study(storage=sqlite.backend, directions=["maximize", "minimize"])


# -- Optuna's tables

TABLES = {
    "StudyModel": "studies: study_id INTEGER, study_name VARCHAR(512)",
    "StudyDirectionModel": "study_directions: study_direction_id INTEGER,"
    " direction VARCHAR(8), study_id INTEGER, objective INTEGER",
    "StudyUserAttributeModel": "study_user_attributes: study_user_attribute_id INTEGER,"
    " study_id INTEGER, key VARCHAR(512), value_json TEXT",
    "StudySystemAttributeModel": "study_system_attributes: study_system_attribute_id INTEGER,"
    " study_id INTEGER, key VARCHAR(512), value_json TEXT",
    "TrialModel": "trials: trial_id INTEGER, number INTEGER, study_id INTEGER, state VARCHAR(8),"
    " datetime_start DATETIME, datetime_complete DATETIME",
    "TrialUserAttributeModel": "trial_user_attributes: trial_user_attribute_id INTEGER,"
    " trial_id INTEGER, key VARCHAR(512), value_json TEXT",
    "TrialParamModel": "trial_params: param_id INTEGER, trial_id INTEGER,"
    " param_name VARCHAR(512), param_value FLOAT, distribution_json TEXT",
    "TrialValueModel": "trial_values: trial_value_id INTEGER, trial_id INTEGER,"
    " objective INTEGER, value FLOAT, value_type VARCHAR(7)",
    "TrialIntermediateValueModel": "trial_intermediate_values: trial_intermediate_value_id INTEGER,"
    " trial_id INTEGER, step INTEGER, intermediate_value FLOAT,"
    " intermediate_value_type VARCHAR(7)",
}


@canary(
    "optuna.storages._rdb.models",
    *(f"optuna.storages._rdb.models.{name}" for name in TABLES),
    fix=["hpsearch/search/storage/tables.py"],
)
def test_the_tables_have_the_columns_that_are_written():
    """What the rows mean is compared in tests/integration/search/storage/test_tables.py."""
    for name, expected in TABLES.items():
        table = getattr(models, name).__table__
        assert f"{table}: {', '.join(f'{c.name} {c.type}' for c in table.columns)}" == expected


@canary(fix=["hpsearch/search/storage/tables.py"])
@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("TrialUserAttributeModel", ["key", "trial_id"]),
        ("TrialIntermediateValueModel", ["step", "trial_id"]),
    ],
)
def test_an_attribute_and_a_step_are_unique_in_a_trial(name, columns):
    """An upsert names the columns of the constraint."""
    found = getattr(models, name).__table__.constraints
    unique = [c for c in found if isinstance(c, sqlalchemy.UniqueConstraint)]
    assert [sorted(column.name for column in c.columns) for c in unique] == [columns]


@canary(fix=["hpsearch/search/storage/tables.py"])
def test_values_are_stored_with_the_kind_finite():
    assert models.TrialValueModel.TrialValueType.FINITE.value == 1
    assert models.TrialIntermediateValueModel.TrialIntermediateValueType.FINITE.value == 1


@canary(
    "optuna.storages._rdb.models.BaseModel",
    "optuna.storages._rdb.models.BaseModel.metadata",
    fix=["hpsearch/search/storage/tables.py"],
)
def test_the_metadata_lists_the_tables_of_a_database(tmp_path):
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path}/plain.db")
    there = set(sqlalchemy.inspect(storage.engine).get_table_names())
    storage.engine.dispose()
    assert set(models.BaseModel.metadata.tables) == there - {"alembic_version"}
    assert {"studies", "trials", "version_info", "alembic_version"} <= there


@canary("optuna.storages._rdb.models.NOT_FOUND_MSG", fix=["hpsearch/search/storage/tables.py"])
def test_a_deleted_study_and_trial_are_reported_by_one_message(sqlite, study):
    trial_id = study.ask()._trial_id
    optuna.delete_study(study_name=study.study_name, storage=sqlite.backend)
    for read, number in [
        (sqlite.backend.get_trial, trial_id),
        (sqlite.backend.get_study_user_attrs, study._study_id),
    ]:
        with pytest.raises(KeyError) as caught:
            read(number)
        assert caught.value.args == (models.NOT_FOUND_MSG,)


# -- Optuna's storages


@canary(fix=["hpsearch/search/storage/storage.py"])
def test_every_write_goes_through_the_replaced_session_and_ends_with_it(sqlite):
    """``RDBStorage.scoped_session`` is replaced; its sessions ignore commit, rollback and close."""

    def counted():
        with closing(sqlite3.connect(sqlite.url.database)) as other:
            return [other.execute(f"SELECT COUNT(*) FROM {t}").fetchone()[0] for t in names]

    names = ["studies", "study_system_attributes", "study_user_attributes", "trials"]
    backend = sqlite.backend
    with sqlite.transaction() as session:
        study = optuna.create_study(storage=backend, directions=["maximize", "minimize"])
        study.set_metric_names(["a", "b"])
        study.set_user_attr("key", 1)
        trial_id = backend.create_new_trial(study._study_id)
        backend.set_trial_state_values(trial_id, TrialState.WAITING)
        assert backend.get_trial(trial_id).state is TrialState.WAITING
        assert sqlite.sessions() is session
        within = counted()
    assert (within, counted()) == ([0, 0, 0, 0], [1, 1, 1, 1])
    assert backend._backend.engine is sqlite.engine


def memories(backend):
    return [
        backend._studies,
        backend._trial_id_to_study_id_and_number,
        backend._study_id_and_number_to_trial_id,
    ]


@canary(
    "._studies",
    "._trial_id_to_study_id_and_number",
    "._study_id_and_number_to_trial_id",
    fix=["hpsearch/search/storage/storage.py"],
)
def test_what_the_cache_remembers_can_be_emptied(sqlite, study):
    backend = sqlite.backend
    study.tell(study.ask(), [1.0, 2.0])
    (trial,) = study.trials
    assert [len(memory) for memory in memories(backend)] == [1, 1, 1]
    with sqlite.engine.begin() as connection:
        attribute = {"trial_id": trial._trial_id, "key": "new", "value_json": "1"}
        connection.execute(models.TrialUserAttributeModel.__table__.insert(), attribute)
    assert study.trials[0].user_attrs == {}  # remembered

    backend._studies[study._study_id] = type(backend._studies[study._study_id])()
    for memory in memories(backend)[1:]:
        memory.clear()
    assert study.trials[0].user_attrs == {"new": 1}
    assert [len(memory) for memory in memories(backend)] == [1, 1, 1]


@canary("._backend", "._get_trials", fix=["hpsearch/search/storage/storage.py"])
def test_the_cache_has_a_storage_that_reads_trials_by_their_ids(sqlite, study):
    for _ in range(4):
        study.tell(study.ask(), [1.0, 2.0])
    trials = study.trials
    found = sqlite.backend._backend._get_trials(
        study._study_id,
        states=None,
        included_trial_ids={trials[1]._trial_id, trials[3]._trial_id},
        trial_id_greater_than=2**31 - 1,
    )
    assert found == [trials[1], trials[3]]
    assert sqlite.trials(study._study_id, []) == []


def test_a_storage_on_checked_tables_is_one_that_checked_them_itself(tmp_path):
    """The canary of ``_CheckedStorage`` in storage/engine.py, which skips Optuna's constructor."""
    url = parse_url(f"{tmp_path}/study.db")
    options = engine_options(url)
    theirs = optuna_storage(url, options, is_current=False)
    ours = optuna_storage(url, options, is_current=True)
    try:
        assert vars(ours).keys() == vars(theirs).keys()
        assert check_sqlite(tmp_path / "study.db", create=False)
        assert theirs.get_current_version() == theirs.get_head_version()
    finally:
        theirs.engine.dispose()
        ours.engine.dispose()


@canary("._lock", fix=["hpsearch/search/storage/storage.py"])
def test_the_caches_lock_keeps_readers_out(sqlite, study):
    read = []
    reader = threading.Thread(target=lambda: read.append(study.get_trials()))
    with sqlite.backend._lock:
        reader.start()
        reader.join(0.2)
        assert reader.is_alive()
    reader.join(60)
    assert read == [[]]


@canary(
    "optuna.storages._cached_storage._CachedStorage",
    ".__dict__",
    fix=["hpsearch/search/storage/overlay.py", "hpsearch/search/storage/storage.py"],
)
def test_a_cached_storage_is_its_dictionary(sqlite, study):
    """The dashboard's storage is a subclass with the same ``__dict__``: one memory, one lock."""

    class Copied(_CachedStorage):
        def __init__(self, backend):
            self.__dict__.update(backend.__dict__)

    study.tell(study.ask(), [1.0, 2.0])
    copied = Copied(sqlite.backend)
    assert type(sqlite.backend) is _CachedStorage
    assert vars(copied).keys() == {
        "_backend",
        "_lock",
        "_studies",
        "_study_id_and_number_to_trial_id",
        "_trial_id_to_study_id_and_number",
    }
    shared = [s.get_all_trials(study._study_id, deepcopy=False) for s in (sqlite.backend, copied)]
    assert shared[0][0] is shared[1][0]
    assert optuna.storages.get_storage(copied) is copied


@canary(
    "._trial_id",
    fix=[
        "hpsearch/search/storage/overlay.py",
        "hpsearch/search/storage/records.py",
        "hpsearch/search/study/study.py",
    ],
)
def test_a_trial_has_the_id_of_its_row_and_takes_another(sqlite, study):
    asked = study.ask()
    frozen = sqlite.backend.get_trial(asked._trial_id)
    assert frozen._trial_id == asked._trial_id == study.trials[0]._trial_id
    made = optuna.create_trial(state=TrialState.RUNNING)
    made.number, made._trial_id = 3, 7
    assert (made.number, made._trial_id, copy.copy(made)._trial_id) == (3, 7, 7)


@canary(
    "._study_id",
    fix=[
        "hpsearch/search/storage/overlay.py",
        "hpsearch/search/study/catalog.py",
        "hpsearch/search/storage/storage.py",
        "hpsearch/search/study/study.py",
    ],
)
def test_a_study_has_the_id_of_its_row(sqlite, study):
    (frozen,) = sqlite.backend.get_all_studies()
    assert frozen._study_id == study._study_id
    assert sqlite.backend.get_study_name_from_id(study._study_id) == study.study_name


@canary(fix=["hpsearch/search/study/leases.py", "hpsearch/search/study/leases.py"])
def test_a_running_trial_can_be_set_back_to_waiting_and_keeps_what_it_has(study):
    trial = study.ask()
    value = trial.suggest_float("x", 0, 1)
    study._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)
    again = study.ask()
    assert (again.number, again.suggest_float("x", 0, 1)) == (trial.number, value)


@canary(
    "optuna.storages._base.BaseStorage",
    "optuna.study._frozen.FrozenStudy",
    "optuna.artifacts._protocol.ArtifactStore",
    fix=[
        "hpsearch/search/storage/overlay.py",
        "hpsearch/search/storage/artifacts.py",
        "hpsearch/search/storage/storage.py",
        "hpsearch/search/storage/overviews.py",
        "hpsearch/search/study/catalog.py",
    ],
)
def test_the_types_that_are_imported_are_those_of_the_objects(sqlite, study, tmp_path):
    (frozen,) = sqlite.backend.get_all_studies()
    frozen.system_attrs, frozen.user_attrs = {"a": 1}, {"b": 2}
    store = optuna.artifacts.FileSystemArtifactStore(tmp_path)
    assert isinstance(sqlite.backend, BaseStorage)
    assert isinstance(frozen, FrozenStudy)
    assert (frozen.system_attrs, frozen.user_attrs) == ({"a": 1}, {"b": 2})
    needed = {name for name in vars(ArtifactStore) if not name.startswith("_")}
    assert needed == {"open_reader", "remove", "write"}
    assert all(callable(getattr(store, name)) for name in needed)


# -- Optuna's studies, samplers and importance


@canary("._get_trials", fix=["hpsearch/search/samplers.py"])
@pytest.mark.parametrize(
    ("kind_of", "options"),
    [
        (TPESampler, {"n_startup_trials": 2}),
        (NSGAIISampler, {"population_size": 4}),
        (GPSampler, {"n_startup_trials": 2}),
        (QMCSampler, {}),
    ],
)
def test_samplers_read_trials_by_one_method_of_the_study(study, kind_of, options, monkeypatch):
    """A sampler is given a study whose trials are read once, and with logarithms of costs."""
    sampler = kind_of(seed=0, **options)
    kind, reads, trials = FloatDistribution(0, 1), [], []
    for number in range(8):
        known = {"params": {"x": number / 8}, "distributions": {"x": kind}}
        trials.append(optuna.create_trial(values=[float(number), -float(number)], **known))
        trials[-1].number = number

    def get_trials(deepcopy=True, states=None, use_cache=False):
        reads.append(states)
        return [t for t in trials if states is None or t.state in states]

    running = study._storage.get_trial(study.ask()._trial_id)
    monkeypatch.setattr(study._storage, "get_all_trials", None)
    seen = copy.copy(study)
    seen._get_trials = get_trials
    space = sampler.infer_relative_search_space(seen, running)
    drawn = sampler.sample_relative(seen, running, space)
    drawn = drawn or {"x": sampler.sample_independent(seen, running, "x", kind)}
    assert reads
    assert 0 <= drawn["x"] <= 1
    arguments = list(inspect.signature(optuna.Study._get_trials).parameters)
    assert arguments == ["self", "deepcopy", "states", "use_cache"]


@canary("._contains", fix=["hpsearch/search/samplers.py"])
def test_a_distribution_knows_what_it_contains():
    """It decides whether a joint draw fits."""
    kind = IntDistribution(1, 3)
    assert (kind._contains(2.0), kind._contains(4.0)) == (True, False)


@canary("._find_sample_id", fix=["hpsearch/search/samplers.py"])
def test_qmc_asks_for_its_points_number():
    class Third(QMCSampler):
        def _find_sample_id(self, study, search_space):
            asked.append(search_space)
            return 3

    asked, kind = [], FloatDistribution(0, 1)
    study = optuna.create_study(sampler=Third(seed=0))
    study.tell(study.ask({"x": kind}), 1.0)
    points = [study.ask({"x": kind}).params["x"] for _ in range(2)]
    assert asked == [{"x": kind}] * 2
    assert points[0] == points[1]


@canary("._sample_relative_impl", fix=["hpsearch/search/samplers.py"])
def test_gp_learns_from_the_trials_it_is_handed():
    class Spy(GPSampler):
        def _sample_relative_impl(self, study, completed_trials, running_trials, search_space):
            asked.append((len(completed_trials), len(running_trials), search_space))
            return super()._sample_relative_impl(
                study, completed_trials, running_trials, search_space
            )

    asked, kind = [], FloatDistribution(0, 1)
    study = optuna.create_study(sampler=Spy(seed=0, n_startup_trials=1))
    for value in (0.0, 1.0):
        study.tell(study.ask({"x": kind}), value)
    assert asked == [(1, 0, {"x": kind})]


@canary(fix=["hpsearch/search/samplers.py", "hpsearch/search/storage/records.py"])
def test_an_enqueued_trial_keeps_its_values_as_fixed_params(study):
    study.enqueue_trial({"x": 0.25})
    (trial,) = study.trials
    assert trial.state is TrialState.WAITING
    assert trial.system_attrs["fixed_params"] == {"x": 0.25}


@canary(fix=["hpsearch/search/study/leases.py", "hpsearch/search/samplers.py"])
def test_reporting_in_a_multi_objective_study_is_still_refused(study):
    """Curves are kept in a trial attribute for this reason; Optuna may support it some day."""
    with pytest.raises(NotImplementedError):
        study.ask().report(1.0, 1)


@canary("optuna.importance._ped_anova.evaluator", fix=["hpsearch/search/jobs/analyse.py"])
def test_ped_anova_needs_no_scikit_learn_and_takes_a_study_and_a_target():
    names, seen = ["optuna.importance._ped_anova.evaluator"], set()
    while names:
        path = Path(optuna.__file__).parents[1].joinpath(*names.pop().split(".")).with_suffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                seen.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module not in seen:
                seen.add(node.module)
                names += [node.module] * node.module.startswith("optuna.importance.")
    assert "optuna.importance._base" in seen
    assert not [name for name in seen if name.startswith("sklearn")]
    evaluator = optuna.importance.PedAnovaImportanceEvaluator
    assert evaluator.__module__ == "optuna.importance._ped_anova.evaluator"
    assert list(inspect.signature(evaluator.evaluate).parameters) == [
        "self",
        "study",
        "params",
        "target",
    ]
    assert callable(optuna.importance.get_param_importances)


@canary("._connect_gen", fix=["hpsearch/search/storage/postgres.py"])
def test_psycopg_connects_and_waits_by_generators():
    """TestSilence in tests/integration/search/storage/test_outage.py shows what they are for."""
    assert inspect.isgeneratorfunction(psycopg.Connection._connect_gen)
    assert [*inspect.signature(psycopg.waiting.wait).parameters][:2] == ["gen", "fileno"]
