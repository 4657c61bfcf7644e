"""The view of a study on a terminal, as its worker leaves it."""

import io

from rich.console import Console

from hpsearch.search.study.catalog import delete
from hpsearch.view.terminal.live import watch
from tests.integration.studies import make_spec, make_study, search


def test_the_last_line_counts_what_others_ended_meanwhile(sqlite):
    study, stream = make_study(sqlite, make_spec(trials=3, pruner="none")), io.StringIO()
    search(study, at_most=1)
    with watch(Console(file=stream, force_terminal=True, _environ={}), study):
        search(study)
    assert "3 of 3 trials:" in stream.getvalue()


def test_a_study_that_was_deleted_meanwhile_leaves_what_was_known(sqlite):
    study, stream = make_study(sqlite, make_spec(trials=3, pruner="none")), io.StringIO()
    search(study, at_most=1)
    with watch(Console(file=stream, force_terminal=True, _environ={}), study):
        delete(sqlite, study)
    assert "1 of 3 trials:" in stream.getvalue()
