"""How a run ends, and what is told and done then."""

from __future__ import annotations

import enum
from collections.abc import Callable

from hpsearch.core.trial import State
from hpsearch.errors import StudyError
from hpsearch.search.study.status import StudyStatus
from hpsearch.search.study.study import Study
from hpsearch.search.worker.work_loop import StopSignal


class Ending(enum.Enum):
    """How a run ended."""

    DONE = "done"  # the budget is met, or the grid used up
    TIMED_OUT = "timed out"
    BUSY = "left to others"  # who run its last trials
    INTERRUPTED = "interrupted"  # Ctrl-C or SIGTERM
    STOPPED = "stopped"  # `hpsearch stop`
    FAILING = "failing"  # too many failures in a row


def ending_of(standing: StudyStatus | None, stop: StopSignal) -> Ending:
    """Returns how a run ended, by why the study gave no more trials; None: it was asked to stop."""
    if standing is None:
        return Ending.TIMED_OUT if stop.timed_out and not stop.signals else Ending.INTERRUPTED
    return _ENDINGS[standing]


_ENDINGS = {
    StudyStatus.DONE: Ending.DONE,
    StudyStatus.BUSY: Ending.BUSY,
    StudyStatus.USED_UP: Ending.DONE,
    StudyStatus.STOPPED: Ending.STOPPED,
    StudyStatus.FAILING: Ending.FAILING,
}


def close(study: Study, ending: Ending, *, notify: Callable[[str], None]) -> None:
    """Closes the study's database; SQLite folds its write-ahead log into the file.

    Of a run that failures ended, it tells the traceback of the last one, and asks every worker to
    leave the study alone until a person runs it again.

    Raises:
        StudyError: the run ended because too many trials failed in a row.
    """
    if ending is not Ending.FAILING:
        study.storage.close()
        return
    failures = study.failures() or [r for r in study.records() if r.state is State.FAILED]
    study.storage.with_retry(lambda: study.request_stop())
    study.storage.close()
    last = failures[-1]
    if told := last.attributes.get("failure", {}).get("traceback"):
        notify(told.rstrip())
    raise StudyError(
        f"{len(failures)} trials failed in a row, the last one, trial {last.number}, with"
        f" {last.reason}; see `hpsearch show {last.number} --study {study.name}` for where, mend it"
        " and run again"
    )
