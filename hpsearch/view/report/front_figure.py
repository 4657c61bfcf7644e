"""The trade-off figure: one objective against another, with the front and its knee."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from hpsearch.core.analysis.pareto import worthy
from hpsearch.core.analysis.recommendation import Pick
from hpsearch.core.analysis.replication import Replication
from hpsearch.core.analysis.study_analysis import RankedTrial
from hpsearch.core.objectives import OBJECTIVES, utility
from hpsearch.core.plural import plural
from hpsearch.core.trial import State
from hpsearch.view.format import describe, format_spread, format_value
from hpsearch.view.report.theme import (
    ACCENT,
    FAINT,
    FAINTER,
    INK,
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

    A pruned trial is drawn at its last measurement. Costs have a logarithmic axis. The accuracies
    of the front have bars of their 95 % intervals, the means of retrained trials bars of one
    standard deviation. The view is on the useful part of the front; a double click shows all.
    """
    shown = [t for t in trials if {x, y} <= set(t.pick.measured)]
    on_front = sorted((t for t in shown if t.is_front), key=lambda t: t.pick.measured[x])
    others = evenly([t for t in shown if not t.is_front], SHOWN_TRIALS)
    pruned = [t for t in others if t.record.state is State.PRUNED]
    dominated = [t for t in others if t.record.state is not State.PRUNED]
    every = [t.pick for t in shown]
    figure = empty(x=log_axis(x, every), y=log_axis(y, every), legend=True)
    # From back to front: the last trace lies on top.
    figure.add_trace(_cloud(pruned, x, y, "stopped early", FAINTER, symbol="x-thin"))
    figure.add_trace(_cloud(dominated, x, y, "complete", FAINT, symbol="circle"))
    figure.add_trace(_front_line(on_front, x, y))
    means = [again for again in confirmed if {x, y} <= set(again.spreads)]
    if means:
        figure.add_trace(_means(means, x, y))
    knee = [t for t in on_front if t.is_knee]
    name = "best" if knee and all(len(t.record.values) == 1 for t in knee) else "knee"
    figure.add_trace(
        go.Scatter(
            name=name,
            mode="markers+text",
            text=[name] * len(knee),
            textposition="bottom right",
            textfont={"color": ACCENT, "size": 14},
            marker={"color": ACCENT, "size": 16, "symbol": "diamond"},
            **_points(knee, x, y),
        )
    )
    if on_front and not OBJECTIVES[y].is_cost:
        good = [on_front[i].pick for i in worthy([t.record.values for t in on_front])]
        numbers = {pick.number for pick in good}
        # The bars of the means must be in view too.
        spreads = [again.spreads[y] for again in means if again.number in numbers]
        ends = [s.mean + side * (s.deviation or 0.0) for s in spreads for side in (-1, 1)]
        figure.update_layout(yaxis_range=around(good, every, y, also=ends))
    return figure


def log_axis(name: str, shown: Sequence[Pick]) -> dict[str, Any]:
    """Returns an axis for an objective; for a cost logarithmic, with ticks for the values shown."""
    made = axis(name, log=True)
    is_log = made.get("type") == "log"
    return {**made, **log_ticks(pick.measured[name] for pick in shown)} if is_log else made


def _cloud(
    trials: Sequence[RankedTrial], x: str, y: str, name: str, colour: str, *, symbol: str
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
        **_points(trials, x, y),
    )


def _front_line(on_front: Sequence[RankedTrial], x: str, y: str) -> go.Scatter:
    picks = [t.pick for t in on_front]
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
        **_points(on_front, x, y),
    )


def _means(means: Sequence[Replication], x: str, y: str) -> go.Scatter:
    bars = {
        f"error_{axis}": {
            "array": [again.spreads[name].deviation or 0.0 for again in means],
            "color": INK,
            "thickness": 1.5,
            "width": 4,
        }
        for axis, name in (("x", x), ("y", y))
    }
    hovers = []
    for again in means:
        lines = [f"trial {again.number}, retrained with {plural(again.repeats, 'fresh seed')}"]
        lines += [f"{word(name)} {format_spread(name, again.spreads[name])}" for name in (y, x)]
        lines += [f"{again.diverged} diverged"] if again.diverged else []
        hovers.append("<br>".join(lines))
    return go.Scatter(
        name="retrained",
        mode="markers",
        marker={
            "color": "rgba(0,0,0,0)",
            "size": 9,
            "symbol": "circle",
            "line": {"color": INK, "width": 1.5},
        },
        x=[again.spreads[x].mean for again in means],
        y=[again.spreads[y].mean for again in means],
        hovertext=hovers,
        hoverinfo="text",
        **bars,
    )


def is_staircase(picks: Sequence[Pick], x: str, y: str) -> bool:
    """Whether these two objectives alone make the front: with a third, a line would zigzag."""
    heights = [utility(y, pick.measured[y]) for pick in picks]
    return heights == sorted(heights, reverse=not OBJECTIVES[x].is_cost)


def _points(trials: Sequence[RankedTrial], x: str, y: str) -> dict[str, Any]:
    hovers = []
    for trial in trials:
        state = ", stopped early" if trial.record.state is State.PRUNED else ""
        lines = [f"trial {trial.record.number}{state}", *measured_lines(trial.pick, y, x)]
        hovers.append("<br>".join([*lines, *safe(describe(trial.record)).split(", ")]))
    return {
        "x": [t.pick.measured[x] for t in trials],
        "y": [t.pick.measured[y] for t in trials],
        "hovertext": hovers,
        "hoverinfo": "text",
    }


def measured_lines(pick: Pick, *names: str) -> list[str]:
    """Returns a line for each measure of a trial."""
    return [f"{word(name)} {format_value(name, pick.measured[name])}" for name in names]


def around(
    picks: Sequence[Pick], shown: Sequence[Pick], y: str, *, also: Sequence[float] = ()
) -> list[float]:
    """Returns the range of y that holds these picks, their bars and as much again below.

    If ``shown`` spans less than that, or there is a single pick, the range holds all that is shown.
    """
    ends = [p.measured[y] for p in picks]
    if y == "accuracy":
        ends += [bound for p in picks for bound in (p.low, p.high) if bound is not None]
    ends += also
    low, high = min(ends), max(ends)
    every = [value for pick in shown if math.isfinite(value := pick.measured[y])]
    spans = (high - low, max(every, default=high) - min(every, default=low))
    # A single pick spans nothing: take the range of all.
    room = spans[len(picks) == 1] or abs(high) * 0.05 or 1.0
    if OBJECTIVES[y].maximize:
        return [max(min([*every, low]), low - room) - room * 0.08, high + room * 0.08]
    return [low - room * 0.08, min(max([*every, high]), high + room) + room * 0.08]
