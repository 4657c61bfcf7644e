"""The watchdog by a clock that the test sets: what it reports, and which signals are one."""

import signal

import pytest

from hpsearch.search.worker.watchdog import Watchdog, listening
from hpsearch.search.worker.work_loop import StopSignal


@pytest.fixture
def now():
    return [1000.0]


@pytest.fixture
def stop(now):
    return StopSignal(raises=False, exits=False, clock=lambda: now[0])


def test_a_training_that_stands_still_is_reported_once(stop, now, caplog):
    """Keeps the promise "A training that makes no step …" of docs/workers.md."""
    watchdog = Watchdog(stop=stop)
    with stop.limiting("trial 3", None):
        watchdog.look()
        for _ in range(3):
            now[0] += 200
            watchdog.look()
        assert caplog.messages == ["trial 3: no step for 7 min"]
        assert stop.idle_seconds() == 600

        stop.overdue()  # a step
        watchdog.look()
        assert stop.idle_seconds() == 0
        now[0] += 301
        watchdog.look()
        assert caplog.messages[1:] == ["trial 3: no step for 5 min"]
    now[0] += 301
    watchdog.look()
    assert len(caplog.messages) == 2
    assert stop.idle_seconds() == 0


def test_an_epoch_that_is_yielded_is_progress(stop, now):
    """Keeps the promise "A step is a training step …" of docs/workers.md."""
    watchdog = Watchdog(stop=stop)
    with stop.limiting("trial 3", None):
        watchdog.look()
        for _ in stop.drawing(iter(range(2))):
            now[0] += 100
            watchdog.look()
            assert stop.idle_seconds() == 0


def test_the_limit_of_a_trial_counts_from_its_start(stop, now):
    with stop.limiting("trial 3", 60.0):
        now[0] += 59
        assert not stop.overdue()
        now[0] += 1
        assert stop.overdue()
        assert not stop()  # the worker goes on with the next trial
    assert not stop.overdue()


@pytest.mark.parametrize("later", [signal.SIGHUP, signal.SIGTERM])
def test_a_session_that_ends_signals_once(stop, later):
    """A terminal that closes may send SIGHUP twice, and systemd sends SIGHUP and SIGTERM."""
    watchdog = Watchdog(stop=stop)
    watchdog.receive(signal.SIGHUP, None)
    watchdog.receive(later, None)  # raises KeyboardInterrupt if it were a second request
    assert stop.signals == [signal.SIGHUP]


def test_a_hangup_is_never_a_second_request(stop, now):
    watchdog = Watchdog(stop=stop)
    watchdog.receive(signal.SIGTERM, None)
    now[0] += 60
    watchdog.receive(signal.SIGHUP, None)
    with pytest.raises(KeyboardInterrupt):
        watchdog.receive(signal.SIGTERM, None)


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL])
def test_an_ignored_hangup_stays_ignored(stop, handler):
    before = signal.signal(signal.SIGHUP, handler)
    try:
        with listening(stop):
            is_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert is_ignored == (handler is signal.SIG_IGN)
        assert signal.getsignal(signal.SIGHUP) is handler
    finally:
        signal.signal(signal.SIGHUP, before)
