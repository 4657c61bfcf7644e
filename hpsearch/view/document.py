"""What a report is made of before it becomes a page: words, tables, figures and small print."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import plotly.graph_objects as go

UNKNOWN = "–"
SPAN = re.compile(r"`([^`]+)`")  # code within words


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """A text to be copied: a command, or a file."""

    text: str


Cell = str | Code


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of cells under a header.

    ``marked`` is the index of the row that stands out. A ``folded`` table opens when asked for,
    under that name.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    marked: int | None = None
    folded: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """A figure to be drawn when it is needed.

    ``about`` says what it shows, for who cannot see it. ``rows`` is how many lines it has, where
    its height is to follow from that.
    """

    key: str
    about: str
    draw: Callable[[], go.Figure]
    rows: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the report.

    ``captions`` tell how the figures are read, and stand where the figures do; ``notes`` are the
    small print; ``hidden`` opens when asked for. Words, captions and notes may hold `code`.
    """

    key: str
    title: str
    words: Sequence[str] = ()
    drawings: Sequence[Drawing] = ()
    captions: Sequence[str] = ()
    tables: Sequence[Table] = ()
    notes: Sequence[str] = ()
    hidden: Sequence[tuple[str, Code]] = ()


def markdown(sections: Sequence[Section], *, subject: str, about: str) -> str:
    """Returns the report as Markdown; takes the arguments of ``html.page``."""
    answer, *rest = sections
    lines = [
        f"# {escaped(answer.title)}",
        "",
        f"{escaped(subject[:1].upper() + subject[1:])}. {escaped(about)}",
    ]
    lines += body(answer)
    for section in rest:
        if told := body(section):  # else it holds figures alone
            lines += ["", f"## {escaped(section.title)}", *told]
    return "\n".join(lines) + "\n"


def body(section: Section) -> list[str]:
    """Returns a section's lines but for its title, an empty one before each part."""
    lines: list[str] = []
    for words in section.words:
        lines += ["", _prose(words)]
    for table in section.tables:
        lines += ["", *_table(table)]
    for note in section.notes if section.words or section.tables else ():
        lines += ["", f"*{_prose(note)}*"]
    for summary, code in section.hidden:
        lines += ["", f"{escaped(summary)}:", "", _fenced(code.text, "toml")]
    return lines


def _table(table: Table) -> list[str]:
    if not table.header and all(len(row) == 1 for row in table.rows):
        return [_fenced(_cell_text(row[0]), "bash") for row in table.rows]
    header = table.header or ("what", "value")
    rows = [[_cell(cell) for cell in row] for row in table.rows]
    lines = [[escaped(name) for name in header], ["---"] * len(header), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _fenced(text: str, language: str) -> str:
    """A block of code, in a fence longer than any that it holds."""
    runs = [len(run) for run in re.findall(r"`{3,}", text)]
    fence = "`" * max(3, *(run + 1 for run in runs), 3)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def _cell_text(cell: Cell) -> str:
    return cell.text if isinstance(cell, Code) else cell


def _cell(cell: Cell) -> str:
    if not isinstance(cell, Code):
        return escaped(cell)
    ticks = "``" if "`" in cell.text else "`"
    return ticks + cell.text.replace("|", "\\|").replace("\n", " ") + ticks


def _prose(words: str) -> str:
    """Words as Markdown holds them, with the code that they hold."""
    parts = SPAN.split(" ".join(words.split()))  # every other one is code
    return "".join(f"`{part}`" if i % 2 else _escaped(part) for i, part in enumerate(parts))


def escaped(text: str) -> str:
    """Returns the text such that Markdown takes no character of it for its own."""
    return _escaped(" ".join(text.split()))


def _escaped(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", text)
