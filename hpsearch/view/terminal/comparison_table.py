"""Compared studies side by side on a terminal, with the verdict below."""

from __future__ import annotations

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.text import Text

from hpsearch.core.analysis.comparison import Comparison
from hpsearch.view.report.comparison_tables import rows, small_print, verdict
from hpsearch.view.terminal.trial_tables import EncodingSafe, EncodingSafeTable


def comparison_table(found: Comparison) -> RenderableType:
    """Returns the studies side by side, a column each, and below them who is ahead."""
    words = [_wrapped(sentence) for sentence in verdict(found)]
    small = [_wrapped(sentence, "dim") for sentence in small_print(found)]
    return EncodingSafe(Group(_SideBySide(found), Text(), *words, Text(), *small))


class _SideBySide:
    """As many studies beside one another as the console is wide for; the others below them.

    Names and settings may be folded, numbers never.
    """

    def __init__(self, found: Comparison) -> None:
        self.found, self.rows = found, rows(found)
        numbers = self.rows[len(found.differences) :]
        self.widest = max(len(cell) for _, cells in numbers for cell in cells)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        room = options.max_width - max(len(name) for name, _ in self.rows)
        fit = max(1, room // (self.widest + 2))
        for start in range(0, len(self.found.studies), fit):
            yield from [Text()] * bool(start)
            yield self._table(slice(start, start + fit))

    def _table(self, shown: slice) -> EncodingSafeTable:
        table, least = EncodingSafeTable(""), self.widest
        for one in self.found.studies[shown]:
            table.add_column(Text(one.study), justify="right", overflow="fold", min_width=least)
        for name, cells in self.rows:
            table.add_row(Text(name), *(Text(cell) for cell in cells[shown]))
        return table


def _wrapped(words: str, style: str = "") -> Text:
    return Text(words, style, no_wrap=False, overflow="fold")  # whatever the console is told
