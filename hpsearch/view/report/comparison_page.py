"""A comparison as one page that opens offline: the ranking, the fronts and the numbers."""

from __future__ import annotations

from functools import partial
from typing import Any

import plotly.graph_objects as go

from hpsearch.core.analysis.comparison import Comparison
from hpsearch.core.objectives import OBJECTIVES, utility
from hpsearch.view.document import Drawing, Section, Table
from hpsearch.view.format import listed
from hpsearch.view.report.comparison_tables import rows, small_print, verdict
from hpsearch.view.report.figures import rises, spent_axis
from hpsearch.view.report.front import around, is_staircase, log_axis, measured_lines, pairs
from hpsearch.view.report.report import mark, page, written
from hpsearch.view.report.theme import ACCENT, ALARM, FAINT, INK, MUTED, empty, safe

_COLOURS = (ACCENT, ALARM, INK, FAINT)
_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "star")


def comparison_page(compared: Comparison) -> str:
    """Returns the comparison as HTML."""
    standing, *rest = verdict(compared)
    answer = Section(key="answer", title=standing, words=rest, notes=small_print(compared))
    drawings = [
        Drawing(
            key=f"courses-{against}",
            about=f"hypervolume of each study against {against}",
            draw=partial(courses, compared, against),
        )
        for against in (("trials",) if compared.seconds is None else ("seconds", "trials"))
    ]
    caption = "The dotted line marks the point of comparison, which all studies have reached."
    over_time = Section(
        key="courses", title="Hypervolume over time", drawings=drawings, captions=[caption]
    )
    table, above = [], ""
    for name, cells in rows(compared):
        # An indented name belongs to the row above it.
        if not name.startswith(" "):
            above = name
        table.append((above if name == above else f"{above}: {name.strip()}", *cells))
    header = ("what", *(one.study for one in compared.studies))
    tables = [Table(header=header, rows=tuple(table))]
    numbers = Section(key="numbers", title="The numbers", tables=tables)
    return page(
        [answer, *_fronts(compared), over_time, numbers],
        subject=f"studies {listed([one.study for one in compared.studies])}",
        about=written(),
        mark=mark(*((one.study, one.created) for one in compared.studies)),
    )


def _fronts(compared: Comparison) -> list[Section]:
    """The studies' fronts, a figure for every two objectives; empty with a single objective."""
    drawings = [
        Drawing(
            key=f"fronts-{x}-{y}",
            about=f"{y} against {x} on the front of each study",
            draw=partial(fronts, compared, x=x, y=y),
        )
        for x, y in pairs(compared.objectives)
    ]
    captions = [
        "Filled: on the joint front of all trials. Hollow: dominated by another study.",
        "The view begins below the worst knee; double-click the figure for all trials.",
    ]
    section = Section(key="fronts", title="The fronts", drawings=drawings, captions=captions)
    return [section] if drawings else []


def fronts(compared: Comparison, *, x: str, y: str) -> go.Figure:
    """Returns the studies' fronts, one objective against another; dominated trials are hollow.

    The view is on the trials that are no worse than the worst knee, and as much below; a double
    click shows all.
    """
    every = [pick for one in compared.studies for pick in one.front.trials]
    figure = empty(x=log_axis(x, every), y=log_axis(y, every), legend=True)
    for i, one in enumerate(compared.studies):
        picks = sorted(one.front.trials, key=lambda pick: pick.measured[x])
        beaten = [pick.number not in one.front.unbeaten for pick in picks]
        style = _style(i)
        symbol = style["marker"]["symbol"]
        style["marker"]["symbol"] = [f"{symbol}-open" if lost else symbol for lost in beaten]
        hovers = []
        for pick, lost in zip(picks, beaten, strict=True):
            head = f"{safe(one.study)}, trial {pick.number}{', dominated' if lost else ''}"
            hovers.append("<br>".join([head, *measured_lines(pick, y, x)]))
        figure.add_trace(
            go.Scatter(
                name=safe(one.study),
                mode="lines+markers" if is_staircase(picks, x, y) else "markers",
                x=[pick.measured[x] for pick in picks],
                y=[pick.measured[y] for pick in picks],
                hovertext=hovers,
                hoverinfo="text",
                **style,
            )
        )
    if not OBJECTIVES[y].is_cost:
        worst = min(utility(y, one.front.knee.measured[y]) for one in compared.studies)
        good = [pick for pick in every if utility(y, pick.measured[y]) >= worst]
        figure.update_layout(yaxis_range=around(good, every, y))
    return figure


def courses(compared: Comparison, against: str = "seconds") -> go.Figure:
    """Returns the studies' hypervolumes against the ``seconds`` of training or ``trials`` spent.

    A line marks the point that all of them have reached.
    """
    figure = empty(x=spent_axis(against), y={"title": {"text": "hypervolume"}}, legend=True)
    for i, one in enumerate(compared.studies):
        study, kept = safe(one.study), rises(one.course)
        figure.add_trace(
            go.Scatter(
                name=study,
                mode="lines",
                x=[getattr(at, against) for at in kept],
                y=[at.hypervolume for at in kept],
                hovertext=[f"{study}, trial {at.number}: {at.hypervolume:.4f}" for at in kept],
                hoverinfo="text",
                line=_style(i)["line"] | {"width": 2},
            )
        )
    line = {"color": MUTED, "width": 1, "dash": "dot"}
    return figure.add_vline(x=getattr(compared, against), line=line)


def _style(i: int) -> dict[str, Any]:
    """The style of the i-th study; from the fifth on, the lines are dashed too."""
    colour = _COLOURS[i % len(_COLOURS)]
    dash = "solid" if i < len(_COLOURS) else "dash"
    return {
        "line": {"color": colour, "width": 1.5, "shape": "hv", "dash": dash},
        "marker": {"color": colour, "size": 8, "symbol": _SYMBOLS[i % len(_SYMBOLS)]},
    }
