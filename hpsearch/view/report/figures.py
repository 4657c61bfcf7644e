"""The figures of a report: each function takes finished numbers and returns a Plotly figure.

Only the colours of :data:`hpsearch.view.report.theme.DARK` appear, so that a page in dark mode can
replace each by its counterpart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from hpsearch.core.analysis.effects import Group
from hpsearch.core.analysis.history import HandoffReason, HypervolumePoint, Span
from hpsearch.core.analysis.study_analysis import Importance, RankedTrial
from hpsearch.core.objectives import OBJECTIVES
from hpsearch.core.trial import Epoch, State, TrialRecord
from hpsearch.view.format import describe, format_value
from hpsearch.view.report.theme import (
    ACCENT,
    ALARM,
    FAINT,
    FAINTER,
    INK,
    MUTED,
    SHOWN_CURVES,
    SHOWN_SPANS,
    axis,
    empty,
    evenly,
    safe,
    word,
)


def depth(groups: Sequence[Group], measure: str) -> go.Figure:
    """Returns a measure against the number of conv blocks: median, quartiles and best.

    ``measure`` is ``accuracy``, ``val_loss``, ``train_seconds`` or ``gap``.
    """
    return spreads(groups, measure).update_layout(xaxis_title="conv blocks")


def spreads(groups: Sequence[Group], measure: str) -> go.Figure:
    """Returns a measure by group: median, quartiles and best; measures as in :func:`depth`."""
    known = [(g, s) for g in groups if (s := getattr(g, measure)) is not None]
    figure = empty(x={"type": "category", "tickangle": 0}, y=axis(measure), legend=True)
    names = [f"{safe(str(group.key))}<br>n = {of.n}" for group, of in known]
    # None ends a line: all are one trace.
    quartiles = [[of.quarter, of.three_quarters, None] for _, of in known]
    figure.add_trace(
        go.Scatter(
            name="middle half",
            mode="lines",
            line={"color": FAINTER, "width": 12},
            x=[value for name in names for value in (name, name, None)],
            y=[value for pair in quartiles for value in pair],
            hoverinfo="skip",
        )
    )
    medians = [of.median for _, of in known]
    figure.add_trace(_points("median", names, medians, measure, INK, "line-ew"))
    # The best of a cost, or of the gap, is not the best trial.
    if measure in OBJECTIVES and not OBJECTIVES[measure].is_cost:
        values = [of.high if OBJECTIVES[measure].maximize else of.low for _, of in known]
        figure.add_trace(_points("best", names, values, measure, ACCENT, "circle"))
    return figure


def _points(
    name: str, x: Sequence[str], y: Sequence[float], measure: str, colour: str, symbol: str
) -> go.Scatter:
    return go.Scatter(
        name=name,
        mode="markers",
        x=list(x),
        y=list(y),
        marker={
            "color": colour,
            "symbol": symbol,
            "size": 18 if symbol == "line-ew" else 9,
            "line": {"color": colour, "width": 2.5 if symbol == "line-ew" else 0},
        },
        hovertext=[
            f"{name} {format_value(measure, v) if measure in OBJECTIVES else f'{v:+.3f} nats'}"
            for v in y
        ],
        hoverinfo="text",
    )


def curves(trials: Sequence[RankedTrial]) -> go.Figure:
    """Returns validation accuracy by epoch, the front in colour and the other trials in grey.

    The curve of a trial that was stopped early ends in a dot.
    """
    trained = [s for s in trials if s.record.curve]
    others = evenly([s for s in trained if not s.is_front], SHOWN_CURVES)
    figure = empty(x={"title": {"text": "epoch"}, "dtick": None}, y=axis("accuracy"), legend=True)
    pruned = [s.record for s in others if s.record.state is State.PRUNED]
    rest = [s.record for s in others if s.record.state is not State.PRUNED]
    figure.add_trace(_curves("complete", rest, FAINT, width=1.0))
    figure.add_trace(_curves("stopped early", pruned, FAINTER, width=1.0))
    ends = [record.curve[-1] for record in pruned]
    figure.add_trace(
        go.Scatter(
            name="where it was stopped",
            mode="markers",
            marker={"color": FAINT, "size": 4},
            x=[epoch.epoch for epoch in ends],
            y=[epoch.val_accuracy for epoch in ends],
            hovertext=[_curve_hover(r, e) for r, e in zip(pruned, ends, strict=True)],
            hoverinfo="text",
        )
    )
    chosen = [s.record for s in trained if s.is_front]
    figure.add_trace(_curves("front", chosen, ACCENT, width=2.0))
    return figure


def _curves(name: str, records: Sequence[TrialRecord], colour: str, *, width: float) -> go.Scatter:
    """All curves in one trace, separated by gaps: hundreds of traces take seconds to draw."""
    x: list[int | None] = []
    y: list[float | None] = []
    text: list[str] = []
    for record in records:
        x += [*(epoch.epoch for epoch in record.curve), None]
        y += [*(epoch.val_accuracy for epoch in record.curve), None]
        text += [*(_curve_hover(record, epoch) for epoch in record.curve), ""]
    mode = "lines+markers" if all(len(r.curve) == 1 for r in records) and records else "lines"
    return go.Scatter(
        name=name,
        mode=mode,
        line={"color": colour, "width": width},
        x=x,
        y=y,
        hovertext=text,
        hoverinfo="text" if colour == ACCENT else "skip",
    )


def _curve_hover(record: TrialRecord, epoch: Epoch) -> str:
    value = format_value("accuracy", epoch.val_accuracy)
    return f"trial {record.number}, epoch {epoch.epoch}: {value}<br>{safe(describe(record))}"


def target_word(target: str) -> str:
    """Returns the target of an importance within a sentence."""
    return "being on the front" if target == "front" else word(target)


def importance(found: Importance) -> go.Figure:
    """Returns the share of each hyperparameter in reaching the target, the largest on top."""
    items = sorted(found.shares.items(), key=lambda item: item[1])
    figure = empty(
        x={
            "title": {"text": f"share in {target_word(found.target)}"},
            "tickformat": ".0%",
            "rangemode": "tozero",
        },
        y={"type": "category", "showgrid": False, "automargin": True},
    )
    figure.add_trace(
        go.Bar(
            orientation="h",
            x=[share for _, share in items],
            y=[safe(name) for name, _ in items],
            marker={"color": [ACCENT if share >= 0.1 else FAINT for _, share in items]},
            hovertext=[f"{safe(name)} {100 * share:.0f} %" for name, share in items],
            hoverinfo="text",
        )
    )
    return figure.update_layout(bargap=0.35)


def hypervolume(history: Sequence[HypervolumePoint], against: str = "trials") -> go.Figure:
    """Returns the hypervolume against the ``trials`` that ended or the ``seconds`` spent."""
    kept = rises(history)
    figure = empty(x=spent_axis(against), y={"title": {"text": "hypervolume"}})
    figure.add_trace(
        go.Scatter(
            mode="lines+markers",
            line={"color": ACCENT, "width": 2, "shape": "hv"},
            marker={"color": ACCENT, "size": 5},
            x=[getattr(at, against) for at in kept],
            y=[at.hypervolume for at in kept],
            hovertext=[f"trial {at.number}: {at.hypervolume:.4f}" for at in kept],
            hoverinfo="text",
        )
    )
    return figure


def rises(history: Sequence[HypervolumePoint]) -> list[HypervolumePoint]:
    """Returns the first and the last point, and those at which the hypervolume rises."""
    return [
        at
        for i, at in enumerate(history)
        if i in (0, len(history) - 1) or at.hypervolume > history[i - 1].hypervolume
    ]


def spent_axis(against: str) -> dict[str, Any]:
    """Returns an axis for the ``trials`` that ended or the ``seconds`` of training spent."""
    title = "trials ended" if against == "trials" else "training time spent (s)"
    return {"title": {"text": title}, "rangemode": "tozero"}


_SPANS: Sequence[tuple[str, State | HandoffReason, str]] = (
    ("complete", State.COMPLETE, ACCENT),
    ("stopped early", State.PRUNED, FAINT),
    ("failed", State.FAILED, ALARM),
    ("running", State.RUNNING, MUTED),
    ("worker lost", HandoffReason.LOST, FAINTER),
    ("handed back", HandoffReason.HANDED_BACK, FAINTER),
)


def timeline(spans: Sequence[Span]) -> go.Figure:
    """Returns which worker ran which trial when, in minutes since the first start.

    A start that another worker continued is drawn faintly. Of more than ``SHOWN_SPANS`` spans,
    evenly spaced ones are drawn.
    """
    shown = evenly(spans, SHOWN_SPANS)
    workers = list(dict.fromkeys(span.worker for span in spans))
    figure = empty(
        x={"title": {"text": "minutes since the first start"}, "rangemode": "tozero"},
        y={
            "type": "category",
            "categoryarray": [safe(worker) for worker in workers[::-1]],
            "categoryorder": "array",
            "showgrid": False,
            "automargin": True,
        },
        legend=True,
    )
    for name, state, colour in _SPANS:
        of_state = [span for span in shown if span.state is state]
        if not of_state:
            continue
        figure.add_trace(
            go.Bar(
                name=name,
                orientation="h",
                # A horizontal bar begins at its base, and x is its length.
                base=[span.started / 60 for span in of_state],
                x=[(span.ended - span.started) / 60 for span in of_state],
                y=[safe(span.worker) for span in of_state],
                marker={"color": colour, "line": {"width": 0}},
                hovertext=[
                    f"trial {span.number}, {name}: {span.ended - span.started:.1f} s"
                    for span in of_state
                ],
                hoverinfo="text",
            )
        )
    return figure.update_layout(barmode="overlay", bargap=0.4)
