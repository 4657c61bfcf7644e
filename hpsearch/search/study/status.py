"""Why a study gives its workers no more trials."""

from __future__ import annotations

import enum
from collections.abc import Mapping


class Standing(enum.Enum):
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


def used_up(*, alone: bool) -> Standing:
    """Returns the standing of a grid without a free cell: of those that others run one may return.

    ``alone``: nobody runs any.
    """
    return Standing.USED_UP if alone else Standing.BUSY


_WORDS: Mapping[Standing, str] = {
    Standing.DONE: "needs no more trials",
    Standing.USED_UP: "has tried every cell of its grid",
    Standing.BUSY: "waits for its last trials",
    Standing.STOPPED: "is stopped; `hpsearch run` goes on with it",
    Standing.FAILING: "has ended after too many failures in a row",
}
