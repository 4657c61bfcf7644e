"""The sections of a report, independent of its format, and their rendering as Markdown."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpsearch.view.format import visible

if TYPE_CHECKING:
    import plotly.graph_objects as go

UNKNOWN = "–"
SPAN = re.compile(r"`([^`]+)`")  # code within a sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """A text to copy: a command, or a file."""

    text: str


Cell = str | Code


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of cells under a header.

    ``marked`` is the index of the highlighted row. ``folded`` is the title of a table that a
    click opens; an empty one is always open.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    marked: int | None = None
    folded: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """A figure that is drawn on demand.

    ``about`` describes it for screen readers. ``rows`` is its number of lines, if its height
    depends on that.
    """

    key: str
    about: str
    draw: Callable[[], go.Figure]
    rows: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the report.

    ``captions`` explain the figures and appear only with them; ``notes`` are small print;
    ``hidden`` holds titles and texts that a click opens. Words, captions and notes may contain
    `code`.
    """

    key: str
    title: str
    words: Sequence[str] = ()
    drawings: Sequence[Drawing] = ()
    captions: Sequence[str] = ()
    tables: Sequence[Table] = ()
    notes: Sequence[str] = ()
    hidden: Sequence[tuple[str, Code]] = ()


def markdown(sections: Sequence[Section], *, subject: str, about: str, mark: str) -> str:
    """Returns the report as Markdown, without the figures.

    Args:
        sections: the first one is the answer; its title is the headline.
        subject: the study or studies, by name.
        about: when and by which version the report was written.
        mark: identifies the study, see :func:`hpsearch.view.report.report.mark`; not displayed.
    """
    answer, *rest = sections
    lines = [
        f"# {escaped(answer.title)}",
        "",
        f"<!-- {mark} -->",
        "",
        f"{escaped(subject[:1].upper() + subject[1:])}. {escaped(about)}",
    ]
    lines += body(answer)
    for section in rest:
        if inner := body(section):  # a section of figures alone has none
            lines += ["", f"## {escaped(section.title)}", *inner]
    return "\n".join(lines) + "\n"


def body(section: Section) -> list[str]:
    """Returns the lines of a section without its title, with a blank line before each part."""
    lines: list[str] = []
    for words in section.words:
        lines += ["", _prose(words)]
    for table in section.tables:
        lines += ["", *_table(table)]
    # Alone, the notes are about figures, which Markdown lacks.
    for note in section.notes if section.words or section.tables else ():
        lines += ["", f"*{_prose(note)}*"]
    for summary, code in section.hidden:
        lines += ["", f"{escaped(summary)}:", "", _fenced(code.text, "toml")]
    return lines


def _table(table: Table) -> list[str]:
    if not table.header and all(len(row) == 1 for row in table.rows):  # commands
        cells = [row[0] for row in table.rows]
        return [_fenced(c.text if isinstance(c, Code) else c, "bash") for c in cells]
    header = table.header or ("what", "value")
    rows = [[_cell(cell) for cell in row] for row in table.rows]
    lines = [[escaped(name) for name in header], ["---"] * len(header), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _fenced(text: str, language: str) -> str:
    """Returns a code block, in a fence longer than any inside the text."""
    fence = "`" * max(3, _longest_run(text) + 1)
    return f"{fence}{language}\n{visible(text).rstrip()}\n{fence}"


def _cell(cell: Cell) -> str:
    if not isinstance(cell, Code):
        return escaped(cell)
    return code_span(cell.text).replace("|", "\\|")


def code_span(text: str) -> str:
    """Returns the text as code within a line, between more backticks than it has in a row.

    >>> print(code_span("a``b"), code_span("`"))
    ```a``b``` `` ` ``
    """
    line = visible(" ".join(text.splitlines()))
    # Spaces at both ends are not part of the code.
    line = f" {line} " if not line.strip("`") or "`" in (line[0], line[-1]) else line
    ticks = "`" * (_longest_run(line) + 1)
    return f"{ticks}{line}{ticks}"


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)


def _prose(words: str) -> str:
    """Returns a sentence in Markdown; its code stays code, all else is escaped."""
    parts = SPAN.split(" ".join(words.split()))  # text and code in turn
    return "".join(code_span(part) if i % 2 else _escaped(part) for i, part in enumerate(parts))


def escaped(text: str) -> str:
    """Returns the text in one line, with the characters escaped that Markdown interprets.

    >>> print(escaped("a|b $x$ <c>"))
    a\\|b \\$x\\$ \\<c\\>
    """
    return _escaped(" ".join(text.split()))


def _escaped(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|#&$~])", r"\\\1", visible(text))
