"""The learning curve of a trial as SVG and CSV, for notes, which cannot contain Plotly figures."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict

from hpsearch.core.trial import Curve, Epoch

# Colours that are readable on a light and on a dark background.
_TRAINED, _VALIDATED, _WORDS, _LINES = "#8a94a3", "#3d82f0", "#7d8896", "rgba(128,136,150,0.3)"
_WIDTH, _HEIGHT = 640, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 44, 48  # pixels around the plot


def table(curve: Curve) -> str:
    """Returns the curve as CSV, a row per epoch."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(Epoch.__dataclass_fields__)
    writer.writerows(asdict(epoch).values() for epoch in curve)
    return file.getvalue()


def picture(curve: Curve) -> str:
    """Returns the accuracies over 1 or more epochs as SVG."""
    values = [v for e in curve for v in (e.val_accuracy, e.train_accuracy) if math.isfinite(v)]
    low, high, step = _range(min(values, default=0.0), max(values, default=1.0))
    last = max(2, curve[-1].epoch)

    def point(epoch: float, accuracy: float) -> tuple[float, float]:
        x = _LEFT + (_WIDTH - _LEFT - _RIGHT) * (epoch - 1) / (last - 1)
        y = _TOP + (_HEIGHT - _TOP - _BOTTOM) * (high - accuracy) / (high - low)
        return round(x, 1), round(y, 1)

    parts = [*_frame(point, low, high, step, last), *_legend()]
    for name, colour in (("train_accuracy", _TRAINED), ("val_accuracy", _VALIDATED)):
        measured = [(e.epoch, getattr(e, name)) for e in curve]
        parts += _line([point(*pair) for pair in measured if math.isfinite(pair[1])], colour)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
        f' width="{_WIDTH}" height="{_HEIGHT}" font-family="system-ui, sans-serif" font-size="14"'
        f' fill="{_WORDS}">{"".join(parts)}</svg>'
    )


def _range(low: float, high: float) -> tuple[float, float, float]:
    """Returns the ends of an axis that contains both values, and the step of its ticks."""
    room = max(high - low, 0.01)
    step = min(s for s in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2) if room / s <= 6)
    below = min(math.floor(low / step), round(1 / step) - 1)  # no accuracy is above 1
    return below * step, max(math.ceil(high / step - 1e-9), below + 1) * step, step


def _frame(
    point: Callable[[float, float], tuple[float, float]],
    low: float,
    high: float,
    step: float,
    last: int,
) -> list[str]:
    parts = []
    for i in range(round((high - low) / step) + 1):
        value = low + i * step
        _, y = point(1, value)
        parts.append(f'<path d="M{_LEFT},{y}H{_WIDTH - _RIGHT}" stroke="{_LINES}"/>')
        label = f"{100 * value:.{1 if step < 0.01 else 0}f} %"
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 5}" text-anchor="end">{label}</text>')
    every = max(1, math.ceil(last / 10))
    for epoch in [1, *range(every, last + 1, every)] if every > 1 else range(1, last + 1):
        x, _ = point(epoch, low)
        parts.append(
            f'<text x="{x}" y="{_HEIGHT - _BOTTOM + 20}" text-anchor="middle">{epoch}</text>'
        )
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">epoch</text>')
    return parts


def _legend() -> list[str]:
    parts = []
    for x, colour, label in (
        (_LEFT, _VALIDATED, "validation accuracy"),
        (_LEFT + 190, _TRAINED, "training accuracy"),
    ):
        parts.append(f'<path d="M{x},21h20" stroke="{colour}" stroke-width="3"/>')
        parts.append(f'<text x="{x + 27}" y="26">{label}</text>')
    return parts


def _line(points: Sequence[tuple[float, float]], colour: str) -> list[str]:
    joined = " ".join(f"{x},{y}" for x, y in points)
    dots = [f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>' for x, y in points[-1:]]
    return [f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="2"/>', *dots]
