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
