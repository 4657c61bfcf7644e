"""Renderables that every table and view shares: safe for any encoding, names beside facts."""

from __future__ import annotations

from collections.abc import Iterable

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from hpsearch.view.format import encodable


class EncodingSafe:
    """A renderable in the characters that the encoding of the console has."""

    def __init__(self, inner: RenderableType) -> None:
        self.inner = inner

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        return _encodable(console.render(self.inner, options), options.encoding)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement.get(console, options, self.inner)


class EncodingSafeTable(Table):
    """A table without a frame, in the characters that the encoding of the console has."""

    def __init__(self, *headers: str) -> None:
        super().__init__(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
        for header in headers:
            self.add_column(header, no_wrap=True)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rendered = super().__rich_console__(console, options)
        return _encodable((s for s in rendered if isinstance(s, Segment)), options.encoding)


def _encodable(segments: Iterable[Segment], encoding: str) -> Iterable[Segment]:
    for segment in segments:
        if segment.control:  # codes of the terminal, not text
            yield segment
        else:
            yield Segment(encodable(segment.text, encoding), segment.style)


def print_line(console: Console, line: Text | str) -> None:
    """Prints a line that is not interpreted, in the characters of the console's encoding."""
    console.print(EncodingSafe(Text(line) if isinstance(line, str) else line), soft_wrap=True)


def facts() -> Table:
    """Returns an empty table of two columns: dim names, and their values, which may wrap."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    return table
