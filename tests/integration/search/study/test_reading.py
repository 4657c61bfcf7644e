"""What is read of a database to show a study: as much as is shown, however much it holds."""

import contextlib
import json
import subprocess
import sys
from dataclasses import replace

import optuna
import pytest
import sqlalchemy
from optuna.trial import TrialState

from hpsearch.core.analysis.pareto import front
from hpsearch.core.analysis.pruning_stats import counts, study_hypervolume
from hpsearch.core.trial import State
from hpsearch.errors import StudyError
from hpsearch.search.storage import overviews
from hpsearch.search.storage.records import STOP
from hpsearch.search.study.catalog import open_studies, open_study, summaries
from tests.integration import studies

OBJECTIVES = ("accuracy", "train_seconds")


@contextlib.contextmanager
def statements(storage):
    """The statements that are sent meanwhile."""
    sent = []

    def note(_connection, _cursor, statement, *_):
        sent.append(statement)

    sqlalchemy.event.listen(storage.engine, "before_cursor_execute", note)
    yield sent
    sqlalchemy.event.remove(storage.engine, "before_cursor_execute", note)


def fill(study, number):
    """Adds so many trials as workers leave them: one in three pruned, the others complete."""
    curve = [
        {"epoch": n, "train_loss": 1 / n, "train_accuracy": 0.5, "val_loss": 1 / n}
        | {"val_accuracy": 0.5, "train_seconds": 3.0, "wall_seconds": 0.5}
        for n in range(1, 5)
    ]
    columns = {name: [epoch[name] for epoch in curve] for name in curve[0]}
    kind = optuna.distributions.FloatDistribution(1e-4, 1.0)
    with study.storage.transaction():
        for n in range(number):
            pruned = n % 3 == 2
            trial = optuna.create_trial(
                state=TrialState.PRUNED if pruned else TrialState.COMPLETE,
                values=None if pruned else [0.5 + (n * 7 % 10) / 25, 1.0 + n * 3 % 11],
                params={"learning_rate": 0.01},
                distributions={"learning_rate": kind},
                user_attrs={"curve": columns, "cost": {"params": 10.0}, "origin": {"seed": n}},
            )
            study.storage.backend.create_new_trial(study.handle._study_id, template_trial=trial)


def make_studies(storage, number, *, trials=3):
    """Makes so many studies more, each full of trials."""
    made = len(summaries(storage))
    for index in range(made, made + number):
        spec = studies.make_spec(f"study{index}", trials=trials, objectives=OBJECTIVES)
        fill(studies.make_study(storage, spec), trials)


def sent(storage, read):
    """How many statements are sent to read that, the first time in a process."""
    storage.reconnect()
    with statements(storage) as found:
        read()
    return len(found)


@pytest.mark.parametrize(
    "read",
    [
        summaries,
        open_studies,  # as a worker does that waits: none of them has a trial to give
        lambda storage: open_study(storage).summary(),
    ],
    ids=["list", "worker", "status"],
)
def test_thirty_studies_take_as_many_statements_as_three(storage, read):
    make_studies(storage, 3)
    few = sent(storage, lambda: read(storage))

    make_studies(storage, 27)

    assert len(summaries(storage)) == 30
    assert sent(storage, lambda: read(storage)) == few


@pytest.mark.parametrize(
    "read",
    [
        lambda study: study.record(4),
        lambda study: study.summary(),
        lambda study: study.front(),
        lambda study: study.enqueue({}),
    ],
    ids=["show", "status", "front", "enqueue"],
)
def test_a_hundred_trials_take_as_many_statements_and_one_trial_is_read_alone(storage, read):
    study = studies.make_study(storage, studies.make_spec(objectives=OBJECTIVES))
    fill(study, 10)
    few = sent(storage, lambda: read(open_study(storage)))

    fill(study, 90)

    assert sent(storage, lambda: read(open_study(storage))) == few
    with statements(storage) as found:
        open_study(storage).record(4)
    curves = [statement for statement in found if "trial_user_attributes" in statement]
    assert len(curves) == 1
    assert " IN " not in curves[0]


def test_a_summary_is_what_all_records_say(storage):
    study = studies.make_study(storage, studies.make_spec(trials=99, objectives=OBJECTIVES))
    fill(study, 40)
    study.handle.enqueue_trial({})
    study.acquire(studies.origin())
    study.handle.enqueue_trial({})

    (listed,), records = summaries(storage), study.records()

    assert listed == study.summary() == open_study(storage).summary()
    assert {state.value: getattr(listed, state.value) for state in State} == counts(records)
    assert (listed.running, listed.waiting) == (1, 1)
    assert listed.hypervolume == study_hypervolume(records, study.bounds) > 0
    assert listed.front_size == len(front(records, study.objectives).trials) > 1
    assert study.front() == front(records, study.objectives)
    assert [study.record(r.number) for r in records] == records
    assert [open_study(storage).record(r.number) for r in records] == records


def test_an_infinite_value_is_read_as_optuna_reads_it(storage):
    study = studies.make_study(storage, studies.make_spec(objectives=["val_loss", "params"]))
    values = [[float("inf"), 5.0], [1.0, float("-inf")], [2.0, 3.0]]
    for pair in values:
        ours = {"origin": {}, "before": {}}  # as a worker leaves them
        study.handle.add_trial(optuna.create_trial(values=pair, user_attrs=ours))

    with storage.transaction() as session:
        (complete,) = overviews.complete_trials(session, [study.handle._study_id]).values()

    assert [list(trial.values) for trial in complete] == values
    assert study.front() == front(study.records(), study.objectives)


def test_studies_are_read_as_optuna_reads_them(storage):
    make_studies(storage, 2)
    single = studies.make_spec("single", objectives=["val_loss"])
    studies.make_study(storage, single).handle.set_user_attr(STOP, False)
    foreign = optuna.create_study(storage=storage.backend, directions=["minimize"] * 3)
    foreign._storage.set_study_system_attr(foreign._study_id, "theirs", {"a": [1, None]})

    assert storage.studies() == storage.backend.get_all_studies()
    assert len(storage.studies()) == 4


def test_a_trial_that_is_missing_and_a_study_that_was_deleted_are_told_apart(storage):
    study = studies.make_study(storage)
    with pytest.raises(StudyError, match="found no trial 0 in study 's', which has no trials yet"):
        study.record(0)
    fill(study, 2)
    with pytest.raises(StudyError, match="found no trial 2 in study 's', which has trials 0 to 1"):
        study.record(2)
    optuna.delete_study(study_name="s", storage=storage.backend)
    with pytest.raises(StudyError, match="has been deleted"):
        study.record(1)


def test_a_worker_is_given_a_study_again_once_it_has_room(storage):
    make_studies(storage, 2)
    assert open_studies(storage) == []

    spec = studies.make_spec("study1", trials=4, objectives=OBJECTIVES)
    studies.make_study(storage, replace(spec))

    assert [(study.name, status) for study, status in open_studies(storage)] == [("study1", None)]


@pytest.mark.parametrize("command", ["status", "list", "show 1", "front"])
def test_looking_at_a_study_loads_nothing_that_it_does_not_need(sqlite, command):
    fill(studies.make_study(sqlite, studies.make_spec(objectives=OBJECTIVES)), 3)
    unwanted = ("torch", "boto3", "alembic", "PIL", "plotly", "pandas")
    code = f"""
import json, sys
from hpsearch.cli.main import main
try: main({[*command.split(), "--storage", sqlite.url.database]!r})
except SystemExit as end: assert not end.code
print(json.dumps([name for name in {unwanted} if name in sys.modules]), file=sys.stderr)
"""

    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert process.stdout
    assert json.loads(process.stderr.splitlines()[-1]) == []
