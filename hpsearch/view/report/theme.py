"""The theme of all figures: colours, axes, an empty figure, and how many items are drawn."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import plotly.graph_objects as go

from hpsearch.core.objectives import OBJECTIVES, Quantity
from hpsearch.view.format import visible

INK, MUTED, GRID = "#1c2430", "#5d6877", "#e3e7ed"
ACCENT, FAINT, FAINTER, ALARM = "#1a5fd0", "#a9b3c1", "#cfd6df", "#c0392b"
DARK: Mapping[str, str] = {
    INK: "#e6e9ee",
    MUTED: "#9aa5b4",
    GRID: "#2a323d",
    ACCENT: "#74a9ff",
    FAINT: "#66717f",
    FAINTER: "#3f4854",
    ALARM: "#ff8a7a",
}


def title(name: str) -> str:
    """Returns the title of a measure's axis: of an objective, or of the loss ``gap``."""
    return OBJECTIVES[name].title if name in OBJECTIVES else "loss gap (nats)"


def word(name: str) -> str:
    """Returns the name of a measure within a sentence.

    >>> word("val_loss")
    'validation loss'
    """
    return title(name).partition(" (")[0]


def safe(text: str) -> str:
    """Returns the text with the characters escaped that Plotly or a page would interpret."""
    return html.escape(visible(text), quote=False)


def axis(name: str, *, log: bool = False) -> dict[str, Any]:
    """Returns an axis for a measure: per cent for a share, from 0 or logarithmic for a cost."""
    made: dict[str, Any] = {"title": {"text": title(name)}}
    if name not in OBJECTIVES:
        return made
    if OBJECTIVES[name].quantity is Quantity.SHARE:
        made["tickformat"] = ".1%"
    if OBJECTIVES[name].is_cost:
        made |= {"type": "log"} if log else {"rangemode": "tozero"}
    return made


def log_ticks(values: Iterable[float]) -> dict[str, Any]:
    """Returns ticks at 1, 2 and 5 times the powers of ten (at powers alone over many of them).

    Plotly prints the 2 and the 5 of its own ticks smaller than the 1.

    >>> log_ticks([0.9, 6.8])["tickvals"]
    [0.5, 1.0, 2.0, 5.0, 10.0]
    """
    known = [value for value in values if 0 < value < math.inf]
    if not known:
        return {}
    low, high = math.floor(math.log10(min(known))), math.ceil(math.log10(max(known)))
    steps = (1, 2, 5) if high - low <= 3 else (1,)
    every = [float(f"{step}e{power}") for power in range(low - 1, high + 1) for step in steps]
    # From the last tick at or below the smallest value, so that each value has one on its left.
    first = max((t for t in every if t <= min(known)), default=every[0])
    shown = [tick for tick in every if first <= tick <= 10.0**high]
    units = [("G", 1e9), ("M", 1e6), ("k", 1e3), ("", 1.0)]
    texts = []
    for tick in shown:
        unit, size = next(((u, s) for u, s in units if tick >= s), ("", 1.0))
        texts.append(f"{tick / size:g} {unit}".rstrip())
    return {"tickvals": shown, "ticktext": texts}


def empty(*, x: Mapping[str, Any], y: Mapping[str, Any], legend: bool = False) -> go.Figure:
    """Returns a figure without traces: axes x and y, no background, thin grey lines."""
    plain = {
        "gridcolor": GRID,
        "zeroline": False,
        "linecolor": GRID,
        "tickcolor": GRID,
        "automargin": True,
    }
    return go.Figure(
        layout={
            "template": {},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"color": MUTED, "size": 13, "family": "system-ui, sans-serif"},
            "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
            "showlegend": legend,
            "legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"},
            "hoverlabel": {"align": "left"},
            "hovermode": "closest",
            **{
                f"{name}axis": {**plain, **own, "title": {"standoff": 8, **own.get("title", {})}}
                for name, own in (("x", x), ("y", y))
            },
        }
    )


SHOWN_TRIALS = 1500  # beside the front: more would lie on top of one another
SHOWN_CURVES = 150  # beside those of the front
SHOWN_SPANS = 5000  # of the timeline

T = TypeVar("T")


def evenly(items: Sequence[T], limit: int) -> list[T]:
    """Returns at most ``limit`` of the items, evenly spaced, including the first and the last.

    >>> evenly([0, 1, 2, 3, 4, 5, 6], 3)
    [0, 3, 6]
    """
    if len(items) <= limit:
        return list(items)
    return [items[round(i * (len(items) - 1) / (limit - 1))] for i in range(limit)]
