"""Notes, figures, files and readable attributes that the dashboard adds to a study."""

from __future__ import annotations

import csv
import io
import json
import math
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import plotly.graph_objects as go

from hpsearch.core.analysis.study_analysis import RankedTrial, StudyAnalysis
from hpsearch.core.objectives import OBJECTIVES
from hpsearch.core.trial import Curve, Epoch
from hpsearch.errors import StudyError
from hpsearch.search.storage.records import (
    CREATED,
    DATA,
    REFERENCE,
    SPEC,
    STOP,
    curve_of,
    read_spec,
)
from hpsearch.view.document import Section, Table, body, escaped
from hpsearch.view.format import format_interval, format_value, spoken
from hpsearch.view.report import effect_sections, figures, front
from hpsearch.view.report.theme import ACCENT, FAINT, FAINTER, GRID, INK, MUTED, evenly, word

FIGURE_BYTES = 150_000  # of one figure: a page requests all of them every few seconds
_SHOWN_WINNERS = 20  # in the table of the note
# Our figures' colours, and the counterparts that are readable on a light and on a dark page.
_COLOURS: Mapping[str, str] = {
    INK: "#7d8896",
    MUTED: "#7d8896",
    GRID: "rgba(128,136,150,0.25)",
    ACCENT: "#3d82f0",
    FAINT: "#a0a9b5",
    FAINTER: "#8d96a3",
}
_TOOLS = "rgba(128,136,150,0.6)"
# The same for the curve of a trial, which is drawn as SVG.
_TRAINED, _VALIDATED, _WORDS, _LINES = "#8a94a3", "#3d82f0", "#7d8896", "rgba(128,136,150,0.3)"
_WIDTH, _HEIGHT = 640, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 44, 48  # pixels around the plot
# Attributes of a trial that are shown in another form, or not at all.
_HIDDEN = frozenset(
    ("cost", "curve", "origin", "history", "spec", "beat", "idle", "pruning", "would_prune")
)
_PARTS = {"train": "to train", "val": "to validate", "test": "to test"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotations:
    """The additions to a study that the dashboard shows and the database does not hold.

    ``notes`` are in Markdown, by owner: ``dashboard:`` is the study, ``dashboard:7:`` the trial
    with that id. ``attributes`` are figures and artifacts, in the form that optuna-dashboard keeps
    them in among the system attributes of a study. ``files`` returns the content of each
    artifact, by id.
    """

    notes: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Callable[[], str]] = field(default_factory=dict)

    def over(self, stored: Mapping[str, Any], *, texts: bool = True) -> dict[str, Any]:
        """Returns the stored system attributes of a study with these added.

        A note that a user saved stays, even an empty one. Generated notes always have version 1,
        so that a user who edits one gets no conflict when it changes; the edited note is saved as
        version 2. optuna-dashboard leaves version 0 without a text when it renames a study.
        """
        shown = {**stored, **self.attributes}
        for owner, note in self.notes.items():
            version, text = f"{owner}note_ver", f"{owner}note_str:0"
            if not stored.get(version) and not stored.get(text):
                shown |= {version: 1, text: note} if texts else {version: 1}
        return shown


NOTHING = Annotations()


def annotate(
    findings: StudyAnalysis, *, study_id: int, storage_options: Sequence[str] = ()
) -> Annotations:
    """Returns the notes, figures and files of a study, which has ``study_id`` in the database.

    ``storage_options`` name the storage, for the commands to type.
    """
    notes = {"dashboard:": _study_note(findings, storage_options)}
    attributes: dict[str, Any] = {}
    files: dict[str, Callable[[], str]] = {}
    for standing in findings.front:
        trial_id = standing.record.attributes["trial_id"]
        picture, curve = "", standing.record.curve
        for suffix, kind, draw in _FILES if curve else ():
            name = f"trial-{standing.record.number}-curve.{suffix}"
            # The same id in every process, so that an open page still finds its files.
            key = str(uuid.uuid5(uuid.NAMESPACE_OID, f"hpsearch/{study_id}/{trial_id}/{name}"))
            files[key] = partial(draw, curve)
            meta = {"artifact_id": key, "filename": name, "mimetype": kind, "encoding": None}
            attributes[f"dashboard:artifacts:{trial_id}:{key}"] = json.dumps(meta)
            # The note shows the first file, which is the picture.
            picture = picture or f"/artifacts/{study_id}/{trial_id}/{key}"
        notes[f"dashboard:{trial_id}:"] = _trial_note(standing, findings, picture, storage_options)
    for name, text in _graphs(findings):
        attributes[f"dashboard:plot_data:hpsearch-{name}:0"] = text
    return Annotations(notes=notes, attributes=attributes, files=files)


def _study_note(findings: StudyAnalysis, storage_options: Sequence[str]) -> str:
    answer, winners = front.answer(findings), _winners(findings)
    depth = effect_sections.depth(findings)
    lines = [f"## {escaped(answer.title)}", *body(replace(answer, notes=()))]
    if winners is not None:
        lines += ["", f"### {escaped(winners.title)}", *body(winners)]
        knee = next(s.record.number for s in findings.front if s.is_knee)
        lines += _train_command(knee, findings.study, storage_options)
    if depth is not None:
        words = replace(depth, drawings=(), tables=(), notes=())
        lines += ["", f"### {escaped(depth.title)}", *body(words)]
    about = (
        "Written by `hpsearch dashboard` as trials end. Its figures are on the study's first page,"
        " below the timeline; each trial of the front has a note; `hpsearch report` has more."
    )
    return "\n".join([*lines, "", f"*{about}*", ""])


def _winners(findings: StudyAnalysis) -> Section | None:
    """Returns the front as a table without the commands, which are in the notes of the trials."""
    knees = {s.record.number for s in findings.front if s.is_knee}
    kept = evenly(findings.front, _SHOWN_WINNERS)
    shown = tuple(s for s in findings.front if s in kept or s.record.number in knees)
    section = front.winners(replace(findings, front=shown), ())
    if section is None:
        return None
    tables = [
        replace(table, header=table.header[:-1], rows=tuple(row[:-1] for row in table.rows))
        for table in section.tables
    ]
    notes = []
    if len(shown) < len(findings.front):
        notes = [f"{len(shown)} of {len(findings.front):,} trials of the front, evenly chosen."]
    words = ["Cheapest first."]
    return replace(section, title="The front", words=words, tables=tables, notes=notes)


def _train_command(number: int, study: str, storage_options: Sequence[str]) -> list[str]:
    command = front.train_command(number, study, storage_options)
    return ["", f"To train trial {number} for use:", "", "```bash", command, "```"]


def _trial_note(
    standing: RankedTrial, findings: StudyAnalysis, picture: str, storage_options: Sequence[str]
) -> str:
    record, names = standing.record, findings.objectives
    what = "the knee of the front" if len(names) > 1 else "the best trial"
    title = f"Trial {record.number} is {what if standing.is_knee else 'on the front'}."
    known = [name for name in OBJECTIVES if name in standing.pick.measured]
    ordered = [*names, *(name for name in known if name not in names)]
    rows = [(word(name), format_value(name, standing.pick.measured[name])) for name in ordered]
    if span := format_interval(standing.pick.low, standing.pick.high):
        rows.append(("accuracy, 95 % interval", span))
    section = Section(
        key="trial",
        title=title,
        words=[f"It is {spoken(record)}."],
        tables=[Table(header=("measured", "value"), rows=tuple(rows))],
    )
    lines = [f"### {escaped(title)}", *body(section)]
    if picture:
        lines += ["", f"![learning curve]({picture})"]
    lines += _train_command(record.number, findings.study, storage_options)
    return "\n".join([*lines, ""])


def _graphs(findings: StudyAnalysis) -> list[tuple[str, str]]:
    """Returns the name and JSON of each figure that is not empty."""
    groups, attained = findings.depth.groups, findings.attainment
    made: list[tuple[str, str]] = []
    if any(s.record.curve for s in findings.trials):
        made.append(("curves", _bounded("Learning curves", figures.curves, findings.trials)))
    if attained:
        title = "Hypervolume: what the front is worth"
        made.append(("hypervolume", _bounded(title, figures.hypervolume, attained)))
    for measure, title in (("accuracy", "Accuracy by depth"), ("train_seconds", "Time by depth")):
        if any(getattr(group, measure) is not None for group in groups):
            draw = partial(figures.depth, measure=measure)
            made.append((f"depth-{measure.replace('_', '-')}", _bounded(title, draw, groups)))
    return made


def _bounded(title: str, draw: Callable[[Any], go.Figure], items: Sequence[Any]) -> str:
    """Returns the figure as JSON, of as many evenly chosen items as ``FIGURE_BYTES`` allows."""
    limit = len(items)
    while True:
        text = _styled(draw(evenly(items, limit)), title)
        if len(text) <= FIGURE_BYTES or limit <= 2:
            return text
        # The length grows with the items; the tenth is a margin, as their lengths differ.
        limit = max(2, min(limit - 1, int(0.9 * limit * FIGURE_BYTES / len(text))))


def _styled(figure: go.Figure, title: str) -> str:
    """Returns the figure as JSON, with a title, in colours for any background."""
    figure.update_traces(hovertext=None, selector={"hoverinfo": "skip"})
    figure.update_layout(
        title={"text": title, "x": 0, "xref": "container", "font": {"size": 17}, "pad": {"l": 8}},
        font={"size": 12, "family": "Roboto, Helvetica, Arial, sans-serif"},
        margin={"l": 8, "r": 8, "t": 72, "b": 8},
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": _TOOLS, "activecolor": ACCENT},
        uirevision="hpsearch",  # keeps the zoom when the page requests the figure again
    )
    text: str = figure.to_json()
    for colour, neutral in _COLOURS.items():
        text = text.replace(colour, neutral)
    return text


def curve_csv(curve: Curve) -> str:
    """Returns the curve as CSV, a row per epoch."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(Epoch.__dataclass_fields__)
    writer.writerows(asdict(epoch).values() for epoch in curve)
    return file.getvalue()


def curve_svg(curve: Curve) -> str:
    """Returns the accuracies over 1 or more epochs as SVG."""
    values = [v for e in curve for v in (e.val_accuracy, e.train_accuracy) if math.isfinite(v)]
    low, high, step = _range(min(values, default=0.0), max(values, default=1.0))
    last = max(2, curve[-1].epoch)

    def point(epoch: float, accuracy: float) -> tuple[float, float]:
        x = _LEFT + (_WIDTH - _LEFT - _RIGHT) * (epoch - 1) / (last - 1)
        y = _TOP + (_HEIGHT - _TOP - _BOTTOM) * (high - accuracy) / (high - low)
        return round(x, 1), round(y, 1)

    parts = _frame(point, low, high, step, last)
    for name, colour in (("train_accuracy", _TRAINED), ("val_accuracy", _VALIDATED)):
        measured = [(e.epoch, getattr(e, name)) for e in curve]
        points = [point(*pair) for pair in measured if math.isfinite(pair[1])]
        joined = " ".join(f"{x},{y}" for x, y in points)
        line = f'fill="none" stroke="{colour}" stroke-width="2"'
        parts.append(f'<polyline points="{joined}" {line}/>')
        parts += [f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>' for x, y in points[-1:]]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
        f' width="{_WIDTH}" height="{_HEIGHT}" font-family="system-ui, sans-serif" font-size="14"'
        f' fill="{_WORDS}">{"".join(parts)}</svg>'
    )


# The suffix, the type and the content of each file of a trial on the front.
_FILES = (("svg", "image/svg+xml", curve_svg), ("csv", "text/csv", curve_csv))


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
    """Draws the grid, the labels of both axes, and the legend."""
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
    for x, colour, label in (
        (_LEFT, _VALIDATED, "validation accuracy"),
        (_LEFT + 190, _TRAINED, "training accuracy"),
    ):
        parts.append(f'<path d="M{x},21h20" stroke="{colour}" stroke-width="3"/>')
        parts.append(f'<text x="{x + 27}" y="26">{label}</text>')
    return parts


def of_trial(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the attributes of a trial for display: short values, numbers as numbers.

    >>> sorted(of_trial({"cost": {"params": 7890}, "beat": 1.0, "history": [{}], "mine": "x"}))
    ['mine', 'params', 'starts']
    """
    others = {
        key: value
        for key, value in stored.items()
        if key not in _HIDDEN and (isinstance(value, (int, float)) or len(str(value)) <= 200)
    }
    shown: dict[str, Any] = dict(stored.get("cost") or {})
    if curve := curve_of(stored.get("curve")):
        last = curve[-1]
        shown |= {"epochs": last.epoch, "val_accuracy": last.val_accuracy}
        shown |= {"val_loss": last.val_loss, "train_loss": last.train_loss}
        shown["train_seconds (estimated)"] = last.train_seconds
    origin = stored.get("origin") or {}
    shown |= {name: origin[name] for name in ("seed", "device", "processor") if name in origin}
    if host := origin.get("process", {}).get("host"):
        shown["host"] = host
    if stored.get("history"):
        shown["starts"] = len(stored["history"]) + 1
    return {**shown, **others}


def of_study(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the attributes of a study for display.

    Those of another program or of a newer version are unchanged.
    """
    if SPEC not in stored:
        return dict(stored)
    try:
        spec = read_spec("", stored[SPEC])
    except StudyError:
        return dict(stored)
    data = stored.get(DATA) or {}
    parts = ", ".join(f"{data[part]:,} {word}" for part, word in _PARTS.items() if part in data)
    shown: dict[str, Any] = {
        "images": f"{spec.data.dataset}: {parts}" if parts else spec.data.dataset,
        "trials": spec.search.trials,
        "epochs": spec.train.epochs,
        "sampler": spec.search.sampler,
        "pruner": spec.pruning.pruner,
        "made": str(stored.get(CREATED, ""))[:19].replace("T", " "),
    }
    if processor := (stored.get(REFERENCE) or {}).get("processor"):
        shown["seconds are measured on"] = processor
    if stored.get(STOP):
        shown["stopped"] = "by `hpsearch stop`"
    others = {key: value for key, value in stored.items() if not key.startswith("hpsearch:")}
    return {**shown, **others}
