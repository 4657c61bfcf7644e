"""The comparison of studies on a terminal, side by side, with the verdict below."""

from __future__ import annotations

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.text import Text

from hpsearch.core.analysis.comparison import Comparison
from hpsearch.view.report.comparison_tables import rows, small_print, verdict
from hpsearch.view.terminal.rendering import EncodingSafe, EncodingSafeTable


def comparison_table(comparison: Comparison) -> RenderableType:
    """Returns the studies side by side, a column each, with the verdict below."""
    words = [_wrapped(sentence) for sentence in verdict(comparison)]
    small = [_wrapped(sentence, "dim") for sentence in small_print(comparison)]
    return EncodingSafe(Group(_SideBySide(comparison), Text(), *words, Text(), *small))


class _SideBySide:
    """As many studies side by side as fit the width of the console; the others below.

    Names and settings may wrap, numbers never.
    """

    def __init__(self, comparison: Comparison) -> None:
        self.studies, self.rows = comparison.studies, rows(comparison)
        numbers = self.rows[len(comparison.differences) :]
        self.widest = max(len(cell) for _, cells in numbers for cell in cells)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        room = options.max_width - max(len(name) for name, _ in self.rows)
        fit = max(1, room // (self.widest + 2))
        for start in range(0, len(self.studies), fit):
            if start:
                yield Text()
            yield self._table(slice(start, start + fit))

    def _table(self, shown: slice) -> EncodingSafeTable:
        table, least = EncodingSafeTable(""), self.widest
        for each in self.studies[shown]:
            table.add_column(Text(each.study), justify="right", overflow="fold", min_width=least)
        for name, cells in self.rows:
            table.add_row(Text(name), *(Text(cell) for cell in cells[shown]))
        return table


def _wrapped(words: str, style: str = "") -> Text:
    return Text(words, style, no_wrap=False, overflow="fold")  # even under soft_wrap=True
