"""Behind a pgbouncer in transaction mode: each transaction may be on another connection."""

import multiprocessing
import time

import psycopg
import pytest

from hpsearch.search.storage.records import StudyStatus
from hpsearch.search.storage.storage import open_storage
from tests.integration import studies
from tests.integration.conftest import fresh_database
from tests.servers import pooler


@pytest.fixture(params=[1, 3])
def pooled(request, postgres, tmp_path):
    """The URL of an empty database behind a pooler of few connections."""
    url = fresh_database(postgres, f"pooled_{request.param}")
    with pooler(url, tmp_path, size=request.param) as through:
        yield through


def _search(url):
    storage = open_storage(url, create=True)
    study = studies.make_study(storage, studies.make_spec(trials=12))
    while (ended := studies.search(study)) is StudyStatus.BUSY:
        time.sleep(0.05)
    assert ended is StudyStatus.DONE
    storage.close()


def test_more_workers_than_the_pooler_has_connections_make_one_study_and_end_it(pooled):
    """Keeps the promise "For more, raise `max_connections` …" of docs/workers.md."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.integration.studies"])
    workers = [context.Process(target=_search, args=(pooled,)) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(600)
    assert [worker.exitcode for worker in workers] == [0] * 6
    with psycopg.connect(pooled) as others:
        settings = [
            others.execute(f"SHOW {name}").fetchone()[0]
            for name in ("lock_timeout", "idle_in_transaction_session_timeout")
        ]
        prepared = others.execute("SELECT count(*) FROM pg_prepared_statements").fetchone()[0]
    assert (settings, prepared) == (["0", "0"], 0)
    storage = open_storage(pooled, create=False)
    tally = studies.make_study(storage, studies.make_spec(trials=12)).summary()
    storage.close()
    assert (tally.complete + tally.pruned, tally.failed) == (12, 0)
