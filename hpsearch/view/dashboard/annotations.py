"""What the dashboard tells of a study beside its trials: notes, figures and files."""

from __future__ import annotations

import json
import shlex
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import plotly.graph_objects as go

from hpsearch.core.analysis.study_analysis import RankedTrial, StudyAnalysis
from hpsearch.core.objectives import OBJECTIVES
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
from hpsearch.view.dashboard import curve_svg
from hpsearch.view.document import Section, Table, body, escaped
from hpsearch.view.format import format_interval, format_value, spoken
from hpsearch.view.report import effect_sections, figures, front_sections
from hpsearch.view.report.theme import ACCENT, FAINT, FAINTER, GRID, INK, MUTED, evenly, word

FIGURE_BYTES = 150_000  # of one figure: a page asks for all of them every few seconds
_SHOWN_WINNERS = 20  # in the note's table
# One colour for a light page and a dark one, which both show the same figure.
_GROUNDS: Mapping[str, str] = {
    INK: "#7d8896",
    MUTED: "#7d8896",
    GRID: "rgba(128,136,150,0.25)",
    ACCENT: "#3d82f0",
    FAINT: "#a0a9b5",
    FAINTER: "#8d96a3",
}
_TOOLS = "rgba(128,136,150,0.6)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotations:
    """What is shown of a study beside what its database holds.

    ``notes`` are in Markdown, by owner: ``dashboard:`` the study, ``dashboard:7:`` the trial of
    that id. ``attributes`` are the rest, as optuna-dashboard keeps it among a study's system
    attributes. ``files`` gives the content of each artifact, by id.
    """

    notes: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Callable[[], str]] = field(default_factory=dict)

    def over(self, theirs: Mapping[str, Any], *, texts: bool = True) -> dict[str, Any]:
        """Returns a study's system attributes with these beside them; a person's note stays.

        Also where the person has emptied it. A note of ours has version 1, whatever it says: who
        edits one is not told that it changed meanwhile, and what they save is theirs, version 2.
        A note of version 0 without a text is what optuna-dashboard leaves when it renames a study.
        """
        shown = {**theirs, **self.attributes}
        for owner, note in self.notes.items():
            version, text = f"{owner}note_ver", f"{owner}note_str:0"
            if not theirs.get(version) and not theirs.get(text):
                shown |= {version: 1, text: note} if texts else {version: 1}
        return shown


NOTHING = Annotations()


def annotate(
    findings: StudyAnalysis, *, study_id: int, storage_options: Sequence[str] = ()
) -> Annotations:
    """Returns the notes, figures and files of a study.

    Args:
        findings: the study's numbers.
        study_id: its id in the database.
        storage_options: the options that name the storage, for the commands to type.
    """
    notes = {"dashboard:": _study_note(findings, storage_options)}
    attributes: dict[str, Any] = {}
    files: dict[str, Callable[[], str]] = {}
    for standing in findings.front:
        trial_id = standing.record.attributes["trial_id"]
        picture = ""
        for name, kind, content in _files(standing):
            key = str(uuid.uuid5(uuid.NAMESPACE_OID, f"hpsearch/{study_id}/{trial_id}/{name}"))
            files[key] = content
            meta = {"artifact_id": key, "filename": name, "mimetype": kind, "encoding": None}
            attributes[f"dashboard:artifacts:{trial_id}:{key}"] = json.dumps(meta)
            picture = picture or f"/artifacts/{study_id}/{trial_id}/{key}"
        notes[f"dashboard:{trial_id}:"] = _trial_note(standing, findings, picture, storage_options)
    for name, text in _graphs(findings):
        attributes[f"dashboard:plot_data:hpsearch-{name}:0"] = text
    return Annotations(notes=notes, attributes=attributes, files=files)


def _study_note(findings: StudyAnalysis, storage_options: Sequence[str]) -> str:
    answer, winners, depth = front_sections.answer(findings), _winners(findings), _depth(findings)
    lines = [f"## {escaped(answer.title)}", *body(replace(answer, notes=()))]
    if winners is not None:
        lines += ["", f"### {escaped(winners.title)}", *body(winners)]
        lines += _taking_home(_knee_number(findings), findings.study, storage_options)
    if depth is not None:
        lines += ["", f"### {escaped(depth.title)}", *body(depth)]
    about = (
        "Written by `hpsearch dashboard` as trials end. Its figures are on the study's first page,"
        " below the timeline; each trial of the front has a note; `hpsearch report` tells more."
    )
    return "\n".join([*lines, "", f"*{about}*", ""])


def _knee_number(findings: StudyAnalysis) -> int:
    return next(s.record.number for s in findings.front if s.is_knee)


def _winners(findings: StudyAnalysis) -> Section | None:
    """The front as a table, without the commands: each trial has its own in its note."""
    knees = {s.record.number for s in findings.front if s.is_knee}
    kept = evenly(findings.front, _SHOWN_WINNERS)
    shown = tuple(s for s in findings.front if s in kept or s.record.number in knees)
    section = front_sections.winners(replace(findings, front=shown), ())
    if section is None:
        return None
    tables = [
        replace(table, header=table.header[:-1], rows=tuple(row[:-1] for row in table.rows))
        for table in section.tables
    ]
    thinned = f"{len(shown)} of {len(findings.front):,} trials of the front, evenly chosen."
    notes = [thinned] * (len(shown) < len(findings.front))
    words = ["Cheapest first."]
    return replace(section, title="The front", words=words, tables=tables, notes=notes)


def _taking_home(number: int, study: str, storage_options: Sequence[str]) -> list[str]:
    command = ["hpsearch", "train", "--trial", str(number), "--study", study, *storage_options]
    told = f"To train trial {number} for use:"
    return ["", told, "", "```bash", shlex.join([*command, "-o", f"model-{number}"]), "```"]


def _depth(findings: StudyAnalysis) -> Section | None:
    section = effect_sections.depth(findings)
    return section and replace(section, drawings=(), tables=(), notes=())


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
    told = Section(
        key="trial",
        title=title,
        words=[f"It is {spoken(record)}."],
        tables=[Table(header=("measured", "value"), rows=tuple(rows))],
    )
    lines = [f"### {escaped(title)}", *body(told)]
    lines += ["", f"![learning curve]({picture})"] * bool(picture)
    lines += _taking_home(record.number, findings.study, storage_options)
    return "\n".join([*lines, ""])


def _files(standing: RankedTrial) -> list[tuple[str, str, Callable[[], str]]]:
    """Each file's name, type and content."""
    record = standing.record
    if not record.curve:
        return []
    name = f"trial-{record.number}-curve"
    return [
        (f"{name}.svg", "image/svg+xml", partial(curve_svg.picture, record.curve)),
        (f"{name}.csv", "text/csv", partial(curve_svg.table, record.curve)),
    ]


def _graphs(findings: StudyAnalysis) -> list[tuple[str, str]]:
    """Each figure's name and JSON, those that have anything to show."""
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
    """The figure as JSON, of as many of the items as there is room for, evenly chosen."""
    limit = len(items)
    while True:
        text = _dressed(draw(evenly(items, limit)), title)
        if len(text) <= FIGURE_BYTES or limit <= 2:
            return text
        limit = max(2, min(limit - 1, int(0.9 * limit * FIGURE_BYTES / len(text))))


def _dressed(figure: go.Figure, title: str) -> str:
    """The figure with a title, as JSON, in colours for any ground."""
    figure.update_traces(hovertext=None, selector={"hoverinfo": "skip"})
    figure.update_layout(
        title={"text": title, "x": 0, "xref": "container", "font": {"size": 17}, "pad": {"l": 8}},
        font={"size": 12, "family": "Roboto, Helvetica, Arial, sans-serif"},
        margin={"l": 8, "r": 8, "t": 72, "b": 8},
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": _TOOLS, "activecolor": ACCENT},
        uirevision="hpsearch",  # what a person has zoomed into stays when the page asks again
    )
    text: str = figure.to_json()
    for colour, other in _GROUNDS.items():
        text = text.replace(colour, other)
    return text


def of_trial(kept: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a trial's attributes as a page shows them: a line each, numbers where they are.

    >>> sorted(of_trial({"cost": {"params": 7890}, "beat": 1.0, "history": [{}], "mine": "x"}))
    ['mine', 'params', 'starts']
    """
    own = {key: value for key, value in kept.items() if key not in _KEPT and _is_short(value)}
    told: dict[str, Any] = dict(kept.get("cost") or {})
    if curve := curve_of(kept.get("curve")):
        last = curve[-1]
        told |= {"epochs": last.epoch, "val_accuracy": last.val_accuracy}
        told |= {"val_loss": last.val_loss, "train_loss": last.train_loss}
        told["train_seconds (estimated)"] = last.train_seconds
    origin = kept.get("origin") or {}
    told |= {name: origin[name] for name in ("seed", "device", "processor") if name in origin}
    if host := origin.get("process", {}).get("host"):
        told["host"] = host
    if kept.get("history"):
        told["starts"] = len(kept["history"]) + 1
    return {**told, **own}


_KEPT = frozenset(("cost", "curve", "origin", "history", "spec", "beat", "pruning", "would_prune"))


def of_study(kept: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a study's attributes as a page shows them.

    Those of another program, or of a newer version, as they are.
    """
    if SPEC not in kept:
        return dict(kept)
    try:
        spec = read_spec("", kept[SPEC])
    except StudyError:
        return dict(kept)
    told: dict[str, Any] = {
        "images": f"{spec.data.dataset}{_split(kept.get(DATA) or {})}",
        "trials": spec.search.trials,
        "epochs": spec.train.epochs,
        "sampler": spec.search.sampler,
        "pruner": spec.pruning.pruner,
        "made": str(kept.get(CREATED, ""))[:19].replace("T", " "),
    }
    if processor := (kept.get(REFERENCE) or {}).get("processor"):
        told["seconds are measured on"] = processor
    if kept.get(STOP):
        told["stopped"] = "by `hpsearch stop`"
    ours = {key: value for key, value in kept.items() if not key.startswith("hpsearch:")}
    return {**told, **ours}


def _split(data: Mapping[str, Any]) -> str:
    parts = [f"{data[part]:,} {word}" for part, word in _PARTS.items() if part in data]
    return f": {', '.join(parts)}" if parts else ""


_PARTS = {"train": "to train", "val": "to validate", "test": "to test"}


def _is_short(value: Any) -> bool:
    return isinstance(value, (bool, int, float)) or len(str(value)) <= 200
