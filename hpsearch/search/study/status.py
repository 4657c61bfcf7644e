"""Why a study gives its workers no more trials, and how a run on it ended."""

from __future__ import annotations

import enum


class StudyStatus(enum.Enum):
    """Why a worker gets no trial now, and so how its run ended.

    ``label`` is the run's end in a word, as `hpsearch run` prints it; ``words`` is the predicate of
    a sentence about the study.
    """

    DONE = "done", "needs no more trials"
    USED_UP = "done", "has tried every cell of its grid"
    # Other workers run the last trials; one of these may come back.
    BUSY = "left to others", "waits for its last trials"
    STOPPED = "stopped", "is stopped; `hpsearch run` goes on with it"  # by `hpsearch stop`
    FAILING = "failing", "has ended after too many failures in a row"
    TIMED_OUT = "timed out", "is left at the end of the run's time"  # the study would go on
    INTERRUPTED = "interrupted", "was interrupted"  # by Ctrl-C or SIGTERM; the study would go on

    def __init__(self, label: str, words: str) -> None:
        self.label = label
        self.words = words
