"""The times and counts that docs/workers.md promises, against the constants of the code."""

from hpsearch.core.spec import SearchSpec
from hpsearch.core.trial import LOSSES
from hpsearch.search.storage import retry
from hpsearch.search.study.leases import STALE_SECONDS
from hpsearch.search.worker import service, work_loop


def test_the_times_and_counts_of_the_pages_are_those_of_the_code():
    """The tests of each mechanism shorten the times.

    Keeps the promise "Workers send a heartbeat every 10 s" of docs/workers.md.
    Keeps the promise "After 60 s of silence …" of docs/workers.md.
    Keeps the promise "A trial whose worker dies three times …" of docs/workers.md.
    Keeps the promise "Five failures in a row …" of docs/workers.md.
    Keeps the promise "If the database is unreachable, workers retry for two …" of docs/workers.md.
    Keeps the promise "After an outage, sleep or clock change …" of docs/workers.md.
    Keeps the promise "`worker --forever` skips a study …" of docs/workers.md.
    """
    assert work_loop.BEAT_SECONDS == 10
    assert STALE_SECONDS == 60
    assert LOSSES == 3
    assert SearchSpec().max_failures == 5
    assert retry.AWAY_SECONDS == 120
    assert retry._SETTLE_SECONDS == 30
    assert service._RETRY_SECONDS == 300
