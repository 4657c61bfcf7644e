"""The figure that a search is for: one objective against another, its front and its knee."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from hpsearch.core.analysis.comparison import Comparison, Performance
from hpsearch.core.analysis.pareto import worthy
from hpsearch.core.analysis.recommendation import Pick
from hpsearch.core.analysis.replication import Replication
from hpsearch.core.analysis.statistics import MeanAndDeviation
from hpsearch.core.analysis.study_analysis import RankedTrial
from hpsearch.core.objectives import OBJECTIVES, utility
from hpsearch.core.plural import plural
from hpsearch.core.trial import State
from hpsearch.view.format import describe, format_spread, format_value
from hpsearch.view.report.figures import rises, spent_axis
from hpsearch.view.report.theme import (
    ACCENT,
    ALARM,
    FAINT,
    FAINTER,
    INK,
    MUTED,
    SHOWN_TRIALS,
    axis,
    empty,
    evenly,
    log_ticks,
    safe,
    word,
)


def front(
    trials: Sequence[RankedTrial], *, x: str, y: str, confirmed: Sequence[Replication] = ()
) -> go.Figure:
    """Returns one objective against another: the front, its knee, and the other trials faint.

    A pruned trial stands where it was stopped. Costs have a logarithmic axis. The accuracies of
    the front have their 95 % intervals; the means of trials that were trained again have bars of
    one standard deviation either way. The view is on the front, but for trials that are no bargain
    at any price, and its surroundings; a double click shows all.
    """
    shown = [s for s in trials if {x, y} <= set(s.pick.measured)]
    chosen = sorted((s for s in shown if s.is_front), key=lambda s: s.pick.measured[x])
    others = evenly([s for s in shown if not s.is_front], SHOWN_TRIALS)
    pruned = [s for s in others if s.record.state is State.PRUNED]
    dominated = [s for s in others if s.record.state is not State.PRUNED]
    every = [s.pick for s in shown]
    figure = empty(x=log_axis(x, every), y=log_axis(y, every), legend=True)
    figure.add_trace(_cloud(pruned, x, y, "stopped early", FAINTER, symbol="x-thin"))
    figure.add_trace(_cloud(dominated, x, y, "complete", FAINT, symbol="circle"))
    figure.add_trace(_front_line(chosen, x, y))
    again = [one for one in confirmed if {x, y} <= set(one.spreads)]
    if again:
        figure.add_trace(_means(again, x, y))
    figure.add_trace(_knee([s for s in chosen if s.is_knee], x, y))
    if chosen and not OBJECTIVES[y].is_cost:
        good = [chosen[i].pick for i in worthy([s.record.values for s in chosen])]
        numbers = {pick.number for pick in good}
        ends = [end for one in again if one.number in numbers for end in _bar(one.spreads[y])]
        figure.update_layout(yaxis_range=around(good, every, y, also=ends))
    return figure


def log_axis(name: str, shown: Sequence[Pick]) -> dict[str, Any]:
    """Returns an axis for an objective, a cost's logarithmic with ticks for what is shown."""
    made = axis(name, log=True)
    is_log = made.get("type") == "log"
    return {**made, **log_ticks(pick.measured[name] for pick in shown)} if is_log else made


def _cloud(
    standings: Sequence[RankedTrial], x: str, y: str, name: str, colour: str, *, symbol: str
) -> go.Scatter:
    return go.Scatter(
        name=name,
        mode="markers",
        marker={
            "color": colour,
            "size": 6,
            "symbol": symbol,
            "line": {"color": colour, "width": 1.2 if symbol == "x-thin" else 0},
        },
        **_places(standings, x, y),
    )


def _front_line(chosen: Sequence[RankedTrial], x: str, y: str) -> go.Scatter:
    picks = [s.pick for s in chosen]
    bars: dict[str, Any] | None = None
    if y == "accuracy" and picks and all(p.low is not None for p in picks):
        values = [p.measured[y] for p in picks]
        bars = {
            "array": [(p.high or v) - v for p, v in zip(picks, values, strict=True)],
            "arrayminus": [v - (p.low or v) for p, v in zip(picks, values, strict=True)],
            "color": ACCENT,
            "thickness": 1,
            "width": 0,
        }
    return go.Scatter(
        name="front",
        mode="lines+markers" if is_staircase(picks, x, y) else "markers",
        line={"color": ACCENT, "width": 1.5, "shape": "hv"},
        marker={"color": ACCENT, "size": 8},
        error_y=bars,
        **_places(chosen, x, y),
    )


def _means(again: Sequence[Replication], x: str, y: str) -> go.Scatter:
    bars = {
        f"error_{axis}": {
            "array": [one.spreads[name].deviation or 0.0 for one in again],
            "color": INK,
            "thickness": 1.5,
            "width": 4,
        }
        for axis, name in (("x", x), ("y", y))
    }
    return go.Scatter(
        name="trained again",
        mode="markers",
        marker={
            "color": "rgba(0,0,0,0)",
            "size": 9,
            "symbol": "circle",
            "line": {"color": INK, "width": 1.5},
        },
        x=[one.spreads[x].mean for one in again],
        y=[one.spreads[y].mean for one in again],
        hovertext=[_mean_hover(one, x, y) for one in again],
        hoverinfo="text",
        **bars,
    )


def _mean_hover(one: Replication, x: str, y: str) -> str:
    seeds = plural(one.repeats, "fresh seed")
    parts = [f"trial {one.number}, trained again with {seeds}"]
    parts += [f"{word(name)} {format_spread(name, one.spreads[name])}" for name in (y, x)]
    return "<br>".join([*parts, *[f"{one.diverged} diverged"] * bool(one.diverged)])


def _bar(of: MeanAndDeviation) -> tuple[float, float]:
    wide = of.deviation or 0.0
    return of.mean - wide, of.mean + wide


def is_staircase(picks: Sequence[Pick], x: str, y: str) -> bool:
    """Whether these two objectives alone make the front: with a third, a line would zigzag."""
    heights = [utility(y, pick.measured[y]) for pick in picks]
    return heights == sorted(heights, reverse=not OBJECTIVES[x].is_cost)


def _knee(knee: Sequence[RankedTrial], x: str, y: str) -> go.Scatter:
    name = "best" if all(len(s.record.values) == 1 for s in knee) and knee else "knee"
    return go.Scatter(
        name=name,
        mode="markers+text",
        text=[name] * len(knee),
        textposition="bottom right",
        textfont={"color": ACCENT, "size": 14},
        marker={"color": ACCENT, "size": 16, "symbol": "diamond"},
        **_places(knee, x, y),
    )


def _places(standings: Sequence[RankedTrial], x: str, y: str) -> dict[str, Any]:
    return {
        "x": [s.pick.measured[x] for s in standings],
        "y": [s.pick.measured[y] for s in standings],
        "hovertext": [_hover(s, x, y) for s in standings],
        "hoverinfo": "text",
    }


def _hover(standing: RankedTrial, x: str, y: str) -> str:
    record, pick = standing.record, standing.pick
    parts = [f"trial {record.number}" + ", stopped early" * (record.state is State.PRUNED)]
    parts += [f"{word(name)} {format_value(name, pick.measured[name])}" for name in (y, x)]
    return "<br>".join([*parts, *safe(describe(record)).split(", ")])


def around(
    picks: Sequence[Pick], shown: Sequence[Pick], y: str, *, also: Sequence[float] = ()
) -> list[float]:
    """Returns the range of y that holds the front, its bars and as much again below.

    It holds all that is shown where that is less, and where the front is a single trial.
    """
    ends = [v for p in picks for v in (p.measured[y], p.low, p.high) if v is not None]
    if y != "accuracy":
        ends = [p.measured[y] for p in picks]
    ends += also
    low, high = min(ends), max(ends)
    every = [value for pick in shown if math.isfinite(value := pick.measured[y])]
    spans = (high - low, max(every, default=high) - min(every, default=low))
    room = spans[len(picks) == 1] or abs(high) * 0.05 or 1.0
    if OBJECTIVES[y].maximize:
        return [max(min([*every, low]), low - room) - room * 0.08, high + room * 0.08]
    return [low - room * 0.08, min(max([*every, high]), high + room) + room * 0.08]


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
                hovertext=[_comparison_hover(one, pick, x, y) for pick in picks],
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


def _comparison_hover(one: Performance, pick: Pick, x: str, y: str) -> str:
    parts = [f"{safe(one.study)}, trial {pick.number}" + ", beaten" * (not _holds(one, pick))]
    parts += [f"{word(name)} {format_value(name, pick.measured[name])}" for name in (y, x)]
    return "<br>".join(parts)


def _course_hover(one: Performance, number: int, hypervolume: float) -> str:
    return f"{safe(one.study)}, trial {number}: {hypervolume:.4f}"
