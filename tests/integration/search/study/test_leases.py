"""Whose a trial is: workers that die, fall silent, come back late, and databases that go away."""

import dataclasses
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from datetime import datetime

import pytest
from sqlalchemy import text

from hpsearch.core.analysis.history import HandoffReason, timeline
from hpsearch.core.trial import Outcome, State
from hpsearch.errors import StudyError
from hpsearch.search.storage.records import StudyStatus
from hpsearch.search.storage.storage import open_storage
from hpsearch.search.study import leases
from hpsearch.search.study.catalog import delete, open_study
from hpsearch.search.study.leases import Lease, LeaseLost, process_identity, process_is_gone
from hpsearch.search.worker.watchdog import Watchdog
from hpsearch.search.worker.work_loop import StopSignal, heartbeats
from tests.integration import studies
from tests.integration.conftest import fresh_database
from tests.servers import own_server, restart

DONE = Outcome(state=State.COMPLETE, values={"accuracy": 0.5, "train_seconds": 1.0})
ELSEWHERE = {**studies.origin(), "process": {"host": "elsewhere", "pid": 1, "boot": "x"}}
OTHER = {**ELSEWHERE["process"], "pid": 2}


def fall_silent(study, lease, *, seconds=leases.STALE_SECONDS + 5):
    """Makes the last sign of life of the trial's worker that old."""
    beat = studies.database_time(study) - seconds
    study.storage.backend.set_trial_user_attr(lease.trial_id, "beat", beat)


def train_one_epoch(study, lease):
    lease.write_cost(studies.cost_of(lease))
    lease.write_epoch(studies.curve_of(lease)[:1])


class TestSilence:
    """On both databases: a worker on another host, of which only its beats are known."""

    @pytest.fixture
    def study(self, storage):
        return studies.make_study(storage, studies.make_spec(trials=1, pruner="none"))

    def test_a_silent_workers_trial_goes_to_the_next_as_it_was(self, study):
        """Keeps the promise "After 60 s of silence …" of docs/workers.md.

        Keeps the promise "`hpsearch show TRIAL` shows the history" of docs/workers.md.
        """
        first = study.acquire(ELSEWHERE)
        train_one_epoch(study, first)
        assert study.acquire(studies.origin()) is StudyStatus.BUSY
        fall_silent(study, first)

        second = study.acquire(studies.origin())

        assert isinstance(second, Lease)
        assert (second.number, second.params, second.spec) == (0, first.params, first.spec)
        assert second.start == first.start + 1
        (passage,) = study.record(0).attributes["history"]
        begun, until = (datetime.fromisoformat(passage.pop(key)) for key in ("from", "until"))
        assert begun <= until <= study.record(0).started.astimezone()
        assert passage == {
            "start": 1, "host": "elsewhere", "pid": 1, "epochs": 1, "ended": "worker lost",
        }  # fmt: skip

    def test_a_worker_that_was_only_slow_drops_its_trial_and_nothing_counts_twice(self, study):
        """Keeps the promise "A running trial belongs to the worker …" of docs/workers.md.

        Keeps the promise "A slow worker that has lost its lease …" of docs/workers.md.
        """
        slow = study.acquire(ELSEWHERE)
        fall_silent(study, slow)
        fast = study.acquire(studies.origin())
        late = (
            lambda: slow.beat(),
            lambda: slow.write_cost({}),
            lambda: slow.write_epoch(studies.curve_of(slow)),
            lambda: slow.hand_back(),
            lambda: slow.finish(DONE),
        )
        for write in late:
            with pytest.raises(LeaseLost):
                write()
        assert study.record(0).state is State.RUNNING

        fast.finish(DONE)

        with pytest.raises(LeaseLost):
            slow.finish(DONE)
        assert study.summary().complete == 1
        assert study.acquire(studies.origin()) is StudyStatus.DONE

    def test_a_sign_of_life_keeps_the_trial(self, study):
        lease = study.acquire(ELSEWHERE)
        fall_silent(study, lease)
        with heartbeats(lease, seconds=0.01):
            deadline = time.monotonic() + 600
            while studies.database_time(study) - study.record(0).attributes["beat"] > 30:
                assert time.monotonic() < deadline
        assert study.acquire(studies.origin()) is StudyStatus.BUSY

    def test_the_first_sign_of_life_comes_with_the_claim(self, study):
        before = studies.database_time(study)
        study.acquire(ELSEWHERE)
        beat = study.record(0).attributes["beat"]
        assert before - 1 <= beat <= studies.database_time(study) + 1  # one clock has whole seconds

    def test_a_training_that_was_cut_off_three_times_in_vain_is_failed_as_lost(self, study):
        """Keeps the promise "A trial that was cut off …" of docs/workers.md."""
        for ending in (State.WAITING, State.WAITING, State.FAILED):
            record = study.acquire(studies.origin()).take_back()
            assert record.state is ending
        assert record.reason.startswith("lost: 3 workers in a row")

    def test_a_training_that_another_worker_has_is_not_taken_back(self, study):
        slow = study.acquire(ELSEWHERE)
        fall_silent(study, slow)
        study.acquire(studies.origin())
        with pytest.raises(LeaseLost):
            slow.take_back()

    def test_a_trial_that_loses_three_workers_in_vain_is_failed_as_lost(self, study):
        """Keeps the promise "A trial whose worker dies three times …" of docs/workers.md."""
        for _ in range(3):  # the first may gain an epoch, the others none
            fall_silent(study, study.acquire(ELSEWHERE))
        study.acquire(ELSEWHERE)  # reaps, and finds the next trial
        lost = study.record(0)
        assert lost.state is State.FAILED
        assert lost.reason.startswith("lost: 3 workers in a row")
        assert lost.attributes["failure"] == {"kind": "lost"}
        assert study.record(1).state is State.RUNNING

    def test_a_trial_whose_workers_are_killed_is_failed_as_killed(self, study):
        """Keeps the promise "A trial whose worker dies three times …" of docs/workers.md."""
        for _ in range(3):
            gone = subprocess.Popen([sys.executable, "-c", ""])
            gone.wait()
            process = {**process_identity(), "pid": gone.pid, "started": 0}
            study.acquire({**studies.origin(), "process": process})
            study.reap(signals={gone.pid: 9})
        failed = study.record(0)
        assert failed.attributes["failure"] == {"kind": "killed"}
        assert failed.reason.startswith("killed: 3 workers in a row were lost with it, the last by")
        assert [p["signal"] for p in failed.attributes["history"]] == [9, 9, 9]

    def test_a_trial_that_was_handed_back_while_it_was_reaped_keeps_its_checkpoint(
        self, study, storage_url, monkeypatch
    ):
        for _ in range(3):
            slow = study.acquire(ELSEWHERE)
            fall_silent(study, slow)
        other = open_study(open_storage(storage_url, create=False))
        read, removed = leases.read, []

        def read_just_before(*arguments):
            monkeypatch.setattr(leases, "read", read)  # the hand-back reads the trial, too
            record = read(*arguments)
            dataclasses.replace(slow, storage=other.storage).hand_back()
            return record

        monkeypatch.setattr(leases, "read", read_just_before)
        monkeypatch.setattr(
            type(study), "_remove_checkpoints", lambda _, numbers: removed.extend(numbers)
        )
        study.reap()
        assert study.record(0).state is State.WAITING
        assert removed == []
        other.storage.close()

    def test_a_trial_that_gains_epochs_is_never_given_up(self, study):
        for epochs in range(1, 5):
            lease = study.acquire(ELSEWHERE)
            lease.write_cost(studies.cost_of(lease), studies.curve_of(lease)[: epochs - 1])
            lease.write_epoch(studies.curve_of(lease)[:epochs])
            fall_silent(study, lease)
        last = study.acquire(studies.origin())
        assert (last.number, last.start) == (0, 5)

    def test_a_change_whose_answer_was_lost_is_not_made_twice(self, study):
        lease = study.acquire(studies.origin())
        lease.finish(DONE)
        assert lease.finish(DONE).state is State.COMPLETE
        assert study.summary().complete == 1

    def test_a_handed_back_trial_records_where_it_was(self, study):
        lease = study.acquire(ELSEWHERE)
        train_one_epoch(study, lease)
        (passage,) = lease.hand_back().attributes["history"]
        assert (passage["host"], passage["epochs"]) == ("elsewhere", 1)
        assert passage["ended"] == "handed back"
        (span,) = timeline(study.records())  # it waits, and still was there
        assert (span.worker, span.state) == ("elsewhere, process 1", HandoffReason.HANDED_BACK)

    def test_the_timeline_has_a_bar_for_every_start(self, study):
        study.acquire(ELSEWHERE).hand_back()
        fall_silent(study, study.acquire({**ELSEWHERE, "process": OTHER}))
        study.acquire(studies.origin()).finish(DONE)

        spans = timeline(study.records())

        assert [(s.number, s.state.value) for s in spans] == [
            (0, "handed back"), (0, "worker lost"), (0, "complete"),
        ]  # fmt: skip
        assert [s.worker for s in spans[:2]] == ["elsewhere, process 1", "elsewhere, process 2"]
        assert all(s.started <= s.ended for s in spans)
        assert spans[0].ended <= spans[1].started <= spans[2].started


def test_a_heartbeat_that_fails_is_logged_in_one_line(postgres, monkeypatch, caplog):
    storage = open_storage(fresh_database(postgres, f"beats_{time.time_ns()}"), create=True)
    study = studies.make_study(storage)
    lease = study.acquire(studies.origin())

    def beat(*_, **__):
        with storage.transaction() as session:
            session.execute(text("SELECT nothing FROM nowhere"))

    monkeypatch.setattr(Lease, "beat", beat)
    with heartbeats(lease, seconds=0.01):
        deadline = time.monotonic() + 600
        while not caplog.records:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    said = caplog.records[0].getMessage()
    assert said == 'no heartbeat of trial 0: relation "nowhere" does not exist'
    storage.close()


@pytest.fixture
def restartable():
    """A PostgreSQL server of the test's own, and the URL of an empty database on it."""
    with own_server() as server:
        yield server, fresh_database(server.get_uri(), "study")


def test_a_restart_of_the_server_costs_time_and_nothing_else(restartable):
    """Keeps the promise "If the database is unreachable, workers retry …" of docs/workers.md."""
    server, url = restartable
    storage = open_storage(url, create=True)
    study = studies.make_study(storage, studies.make_spec(trials=12))
    ended = []

    def work():
        ended.append(_search_slowly(study))
        storage.close()

    worker = threading.Thread(target=work)
    worker.start()
    while study.summary().complete < 2 and worker.is_alive():
        time.sleep(0.05)
    restart(server)
    worker.join(600)
    summary = study.summary()
    storage.close()
    assert ended == [StudyStatus.DONE]
    assert summary.complete + summary.pruned == 12
    assert (summary.failed, summary.running, summary.waiting) == (0, 0, 0)


def _search_slowly(study):
    while isinstance(lease := study.acquire(studies.origin()), Lease):
        lease.finish(studies.simulate(study, lease, pause=0.05))
    return lease


def test_a_half_made_trial_is_forgotten_when_the_database_comes_back(sqlite):
    """Optuna's cache would keep a trial whose making was never committed, as running for ever."""
    study = studies.make_study(sqlite, studies.make_spec(trials=1))

    def break_off():
        with sqlite.transaction() as session:
            study.handle.ask()
            session.execute(text("SELECT 1"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        break_off()
    sqlite.reconnect()
    assert study.records() == []
    assert isinstance(study.acquire(studies.origin()), Lease)


def test_what_another_command_raised_is_taken_up_by_those_at_work(storage):
    early = studies.make_study(storage, studies.make_spec(trials=1))
    assert studies.search(early) is StudyStatus.DONE
    studies.make_study(storage, studies.make_spec(trials=3, sampler="random"))
    assert studies.search(early) is StudyStatus.DONE
    assert len(early.records()) == 3
    assert early.spec.search.sampler == "random"


def test_a_worker_of_a_deleted_study_never_writes_into_its_successor(storage):
    """SQLite gives the ids of a deleted study and its trials out again."""
    old = studies.make_study(storage, studies.make_spec(trials=1))
    late = old.acquire(studies.origin())
    with pytest.raises(StudyError, match="is being worked on \\(trial 0\\); end it with"):
        delete(storage, old)
    late.hand_back()
    delete(storage, old)
    new = studies.make_study(storage, studies.make_spec(trials=1))
    fresh = new.acquire(studies.origin())

    with pytest.raises((LeaseLost, StudyError)):
        late.finish(DONE)

    assert new.record(fresh.number).state is State.RUNNING
    fresh.finish(DONE)


def test_a_deleted_study_is_an_error_of_one_line(storage):
    study = studies.make_study(storage)
    delete(storage, study)
    with pytest.raises(StudyError, match="has been deleted"):
        study.acquire(studies.origin())


def test_no_worker_is_taken_for_gone_just_after_the_database_was_away(storage):
    """Keeps the promise "After an outage, sleep or clock change …" of docs/workers.md."""
    study = studies.make_study(storage, studies.make_spec(trials=1))
    lease = study.acquire(ELSEWHERE)
    fall_silent(study, lease)
    storage.outage.back_at = time.monotonic()
    assert study.acquire(studies.origin()) is StudyStatus.BUSY
    storage.outage.back_at = time.monotonic() - 31
    assert isinstance(study.acquire(studies.origin()), Lease)


@pytest.mark.parametrize("hours", [1, -1])
def test_no_worker_is_taken_for_gone_just_after_the_clock_has_jumped(storage, hours):
    """As after a night in which the laptop was closed: its own clock of seconds stood still.

    Keeps the promise "After an outage, sleep or clock change …" of docs/workers.md.
    """
    study = studies.make_study(storage, studies.make_spec(trials=1))
    lease = study.acquire(ELSEWHERE)
    assert study.acquire(studies.origin()) is StudyStatus.BUSY
    fall_silent(study, lease)

    storage.outage.clock = lambda: time.monotonic() - hours * 3600

    assert study.acquire(studies.origin()) is StudyStatus.BUSY
    storage.outage.back_at -= 31
    assert isinstance(study.acquire(studies.origin()), Lease)


def test_a_machine_cloned_from_the_same_image_is_another_machine():
    here = process_identity()
    assert process_is_gone({**here, "boot": "an earlier one"})
    assert not process_is_gone({**here, "boot": "its own", "node": (here["node"] or 0) + 1})


def test_a_supervisors_and_the_parents_signal_are_one():
    now = [100.0]
    stop = StopSignal(raises=False, exits=False, clock=lambda: now[0], parent=1)
    watchdog = Watchdog(stop=stop)
    watchdog.receive(signal.SIGTERM, None)
    now[0] += 4.9  # the parent looked at a large study, on a busy machine
    watchdog.receive(signal.SIGTERM, None)  # the process would have ended here
    assert stop.signals == [signal.SIGTERM]
    now[0] += 0.2
    with pytest.raises(KeyboardInterrupt):
        watchdog.receive(signal.SIGTERM, None)


def test_a_worker_that_waits_for_work_receives_a_signal():
    stop, began = StopSignal(raises=False, exits=False), time.monotonic()
    timer = threading.Timer(0.2, Watchdog(stop=stop).receive, (signal.SIGTERM, None))
    timer.start()
    stop.wait(60)
    assert stop()
    assert time.monotonic() - began < 30
    timer.join()


def test_a_second_signal_to_a_process_without_a_parent_is_never_an_echo():
    stop = StopSignal(raises=False, exits=False, clock=lambda: 100.0)
    watchdog = Watchdog(stop=stop)
    watchdog.receive(signal.SIGTERM, None)
    with pytest.raises(KeyboardInterrupt):
        watchdog.receive(signal.SIGTERM, None)


def test_a_process_is_known_where_there_is_no_network_card(monkeypatch):
    """Python makes up an address there, another one in each process, and marks it so."""
    monkeypatch.setattr(uuid, "getnode", lambda: random.getrandbits(48) | 1 << 40)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert process_is_gone({**process_identity(), "pid": gone.pid})
    assert not process_is_gone(process_identity())
