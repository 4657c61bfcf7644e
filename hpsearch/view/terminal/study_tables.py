"""The studies of a database, a row each."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.text import Text

from hpsearch.core.analysis.pruning_stats import StudySummary
from hpsearch.view.terminal.trial_tables import EncodingSafeTable, made, worth

_LEAST_NAME = 8  # columns of a study's name


def study_list(summaries: Sequence[StudySummary]) -> RenderableType:
    """Returns the studies as a table, one row each.

    Where the room is scarce, objectives go below one another, and only then are names folded.
    """
    if not summaries:
        return Text("No study yet; start one with: hpsearch run --trials 100")
    return _StudyList(summaries)


class _StudyList:
    """The studies, a row each: what is folded depends on how wide the console is."""

    def __init__(self, summaries: Sequence[StudySummary]) -> None:
        self.summaries = summaries

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        name, unbounded = max(len(s.study) for s in self.summaries), options.update_width(10**6)
        for between in (", ", ",\n"):
            table = self._table(name, between)
            over = Measurement.get(console, unbounded, table).maximum - options.max_width
            if over <= 0:
                break
        else:
            table = self._table(max(_LEAST_NAME, name - over), between)
        yield table

    def _table(self, name: int, between: str) -> EncodingSafeTable:
        table = EncodingSafeTable()
        table.add_column("study", overflow="fold", width=max(name, len("study")))
        for header in ("trials", "running", "front", "hypervolume"):
            table.add_column(header, justify="right", no_wrap=True)
        table.add_column("objectives", overflow="fold")
        table.add_column("created", no_wrap=True)
        for s in self.summaries:
            table.add_row(
                Text(s.study),
                f"{s.complete + s.pruned}/{s.target}",
                str(s.running),
                str(s.front_size),
                worth(s),
                between.join(s.objectives),
                made(s).partition(" ")[0],
            )
        return table
