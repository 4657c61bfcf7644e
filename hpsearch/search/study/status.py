"""Why a study gives its workers no more trials."""

from __future__ import annotations

import enum
from collections.abc import Mapping


class StudyStatus(enum.Enum):
    """Why a worker gets no trial now."""

    DONE = "done"  # the budget is met
    USED_UP = "used up"  # every cell of the grid has been tried
    BUSY = "busy"  # others run the last trials; one may yet come back
    STOPPED = "stopped"  # `hpsearch stop` was called
    FAILING = "failing"  # too many failures in a row

    @property
    def words(self) -> str:
        """What may be said of the study."""
        return _WORDS[self]


def exhausted(*, alone: bool) -> StudyStatus:
    """Returns the standing of a grid without a free cell: of those that others run one may return.

    ``alone``: nobody runs any.
    """
    return StudyStatus.USED_UP if alone else StudyStatus.BUSY


_WORDS: Mapping[StudyStatus, str] = {
    StudyStatus.DONE: "needs no more trials",
    StudyStatus.USED_UP: "has tried every cell of its grid",
    StudyStatus.BUSY: "waits for its last trials",
    StudyStatus.STOPPED: "is stopped; `hpsearch run` goes on with it",
    StudyStatus.FAILING: "has ended after too many failures in a row",
}
