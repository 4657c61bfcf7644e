"""The report's first sections: the answer, the front as figure and table, and what trains it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from functools import partial
from itertools import combinations
from typing import Any

import plotly.graph_objects as go

from hpsearch.core.analysis.pareto import worthy
from hpsearch.core.analysis.recommendation import Pick
from hpsearch.core.analysis.statistics import Replication
from hpsearch.core.analysis.study_analysis import RankedTrial, StudyAnalysis
from hpsearch.core.objectives import OBJECTIVES, costs_first, utility
from hpsearch.core.trial import State
from hpsearch.errors import plural
from hpsearch.view.document import UNKNOWN, Cell, Code, Drawing, Section, Table
from hpsearch.view.format import (
    describe,
    format_interval,
    format_spread,
    format_value,
    net,
    training,
    unworthy,
    unworthy_text,
)
from hpsearch.view.report import narrative
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


def front_figure(
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


def answer(analysis: StudyAnalysis) -> Section:
    """Returns the answer in words."""
    knee = analysis.knee
    words = [
        *narrative.answer_words(analysis.answer, knee=knee.record if knee else None),
        *narrative.confirmed_words(analysis),
        narrative.state_words(analysis) + ".",
    ]
    if analysis.failures:
        reason, count = next(iter(analysis.failures.items()))
        words.append(
            f"The most frequent failure ({count} of {analysis.counts['failed']}): {reason}."
        )
    notes = []
    if knee is not None and knee.pick.low is not None:
        notes.append(
            "The intervals show the noise of a finite number of validation images. Accuracy also"
            " varies with the seed, and the best of many trials is partly lucky:"
            " `hpsearch confirm` retrains the front with fresh seeds. Test the trial that you"
            " choose once, on the test images."
        )
    return Section(
        key="answer", title=narrative.headline(analysis.answer), words=words, notes=notes
    )


def front(analysis: StudyAnalysis) -> Section | None:
    """Returns the front among all trials, one figure for every two objectives."""
    if not analysis.trials:
        return None
    names, captions = analysis.objectives, ["Each point is a trial."]
    knee = "; the knee is the best trade-off" if analysis.answer.is_bargain else ""
    words = f"The front holds the trials that no other complete trial dominates{knee}."
    title, axes = "The trade-off", pairs(names)
    if len(names) == 1:
        # A single objective needs another measure to be drawn against.
        x = next(o for o in ("train_seconds", "params", "accuracy") if o != names[0])
        words = "The study has one objective, so its front is its best trial."
        title, axes, captions = "The trials", [(x, names[0])], []
    drawings = [
        Drawing(
            key=f"front-{x}-{y}",
            about=f"{y} against {x} of all trials",
            draw=partial(front_figure, analysis.trials, x=x, y=y, confirmed=analysis.confirmed),
        )
        for x, y in axes
    ]
    captions.append("The view is on the front; double-click the figure for all trials.")
    if analysis.confirmed:
        captions.append(
            "Rings are the means of trials retrained with fresh seeds, their bars one standard"
            " deviation."
        )
    others = sum(not trial.is_front for trial in analysis.trials)
    if others > SHOWN_TRIALS:
        captions.append(
            f"Beside the front, {SHOWN_TRIALS:,} of {others:,} trials are drawn, evenly spaced."
        )
    return Section(key="front", title=title, words=[words], drawings=drawings, captions=captions)


def pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """Returns every two objectives as x and y; a cost is x of a pair with a quality."""
    return list(combinations(costs_first(names), 2))


def winners(analysis: StudyAnalysis, storage_options: Sequence[str]) -> Section | None:
    """Returns a table of the front, with the command that trains each."""
    if not analysis.front:
        return None
    names = costs_first(analysis.objectives)
    replications = {again.number: again for again in analysis.confirmed}
    # Columns that only some studies have.
    has_interval = any(trial.pick.low is not None for trial in analysis.front)
    has_again = any(trial.record.number in replications for trial in analysis.front)
    header = ["trial", *map(word, names)]
    header += ["95 % interval"] * has_interval + ["retrained"] * has_again
    mark = " ◀ knee" if len(names) > 1 else " ◀ best"
    rows: list[tuple[Cell, ...]] = []
    for trial in analysis.front:
        number = trial.record.number
        cells: list[Cell] = [f"{number}{mark if trial.is_knee else ''}"]
        cells += [format_value(name, trial.pick.measured[name]) for name in names]
        if has_interval:
            cells.append(format_interval(trial.pick.low, trial.pick.high) or UNKNOWN)
        if has_again:
            cells.append(_replication_cell(replications.get(number), names))
        command = train_command(number, analysis.study, storage_options)
        cells += [net(trial.record), training(trial.record), Code(text=command)]
        rows.append(tuple(cells))
    words = ["The front, cheapest first, with the command that trains each trial for use."]
    if poor := unworthy([trial.record for trial in analysis.front]):
        words.append(unworthy_text(poor))
    marked = next((i for i, trial in enumerate(analysis.front) if trial.is_knee), None)
    table = Table(header=(*header, "net", "trained by", "command"), rows=tuple(rows), marked=marked)
    return Section(key="winners", title="Train a model", words=words, tables=[table])


def train_command(number: int, study: str, storage_options: Sequence[str]) -> str:
    """Returns the command that trains a trial for use."""
    chosen = ["--trial", str(number), "--study", study, *storage_options]
    return shlex.join(["hpsearch", "train", *chosen, "-o", f"model-{number}"])


def _replication_cell(again: Replication | None, names: Sequence[str]) -> str:
    """The means of a retrained trial and the number of its seeds."""
    if again is None:
        return UNKNOWN
    varying = [name for name in names if name in again.spreads and not OBJECTIVES[name].is_fixed]
    parts = [format_spread(name, again.spreads[name]) for name in varying]
    parts.append(plural(again.repeats, "seed"))
    if again.diverged:
        parts.append(f"{again.diverged} diverged")
    if not again.is_front:
        parts.append("dominated")
    return ", ".join(parts)
