"""Figures of several studies at once: their fronts, and how their searches came on."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from hpsearch.core.analysis.comparison import Comparison, Performance
from hpsearch.core.analysis.recommendation import Pick
from hpsearch.core.objectives import OBJECTIVES, utility
from hpsearch.view.format import format_value
from hpsearch.view.report.figures import rises, spent_axis
from hpsearch.view.report.front_figure import around, is_staircase, log_axis
from hpsearch.view.report.theme import ACCENT, ALARM, FAINT, INK, MUTED, empty, safe, word

_COLOURS = (ACCENT, ALARM, INK, FAINT)
_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "star")


def fronts(found: Comparison, *, x: str, y: str) -> go.Figure:
    """Returns the studies' fronts, one objective against another; what others beat is hollow.

    The view is on what is no worse than the worst knee, and as much below; a double click shows
    all.
    """
    every = [pick for one in found.studies for pick in one.front.trials]
    figure = empty(x=log_axis(x, every), y=log_axis(y, every), legend=True)
    for place, one in enumerate(found.studies):
        picks = sorted(one.front.trials, key=lambda pick: pick.measured[x])
        style = _style(place)
        hollow = ["" if _holds(one, pick) else "-open" for pick in picks]
        style["marker"]["symbol"] = [style["marker"]["symbol"] + end for end in hollow]
        figure.add_trace(
            go.Scatter(
                name=safe(one.study),
                mode="lines+markers" if is_staircase(picks, x, y) else "markers",
                x=[pick.measured[x] for pick in picks],
                y=[pick.measured[y] for pick in picks],
                hovertext=[_hover(one, pick, x, y) for pick in picks],
                hoverinfo="text",
                **style,
            )
        )
    if not OBJECTIVES[y].is_cost:
        knees = min(utility(y, one.front.knee.measured[y]) for one in found.studies)
        good = [pick for pick in every if utility(y, pick.measured[y]) >= knees]
        figure.update_layout(yaxis_range=around(good, every, y))
    return figure


def courses(found: Comparison, against: str = "seconds") -> go.Figure:
    """Returns the studies' hypervolumes against the ``seconds`` of training or ``trials`` spent.

    A line marks what all of them have spent.
    """
    figure = empty(x=spent_axis(against), y={"title": {"text": "hypervolume"}}, legend=True)
    for place, one in enumerate(found.studies):
        kept = rises(one.course)
        figure.add_trace(
            go.Scatter(
                name=safe(one.study),
                mode="lines",
                x=[getattr(now, against) for now in kept],
                y=[now.hypervolume for now in kept],
                hovertext=[_course_hover(one, now.number, now.hypervolume) for now in kept],
                hoverinfo="text",
                line=_style(place)["line"] | {"width": 2},
            )
        )
    figure.add_vline(x=getattr(found, against), line={"color": MUTED, "width": 1, "dash": "dot"})
    return figure


def _style(place: int) -> dict[str, Any]:
    """How the study in that place is drawn: of more than four by another dash, too."""
    colour = _COLOURS[place % len(_COLOURS)]
    dash = "solid" if place < len(_COLOURS) else "dash"
    return {
        "line": {"color": colour, "width": 1.5, "shape": "hv", "dash": dash},
        "marker": {"color": colour, "size": 8, "symbol": _SYMBOLS[place % len(_SYMBOLS)]},
    }


def _holds(one: Performance, pick: Pick) -> bool:
    return pick.number in one.front.unbeaten


def _hover(one: Performance, pick: Pick, x: str, y: str) -> str:
    parts = [f"{safe(one.study)}, trial {pick.number}" + ", beaten" * (not _holds(one, pick))]
    parts += [f"{word(name)} {format_value(name, pick.measured[name])}" for name in (y, x)]
    return "<br>".join(parts)


def _course_hover(one: Performance, number: int, hypervolume: float) -> str:
    return f"{safe(one.study)}, trial {number}: {hypervolume:.4f}"
