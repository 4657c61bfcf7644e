"""The report's first sections: the answer, the front, and the commands that take it home."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import Any

from hpsearch.core.analysis.replication import Replication
from hpsearch.core.analysis.study_analysis import Environment, RankedTrial, StudyAnalysis
from hpsearch.core.objectives import OBJECTIVES
from hpsearch.core.plural import plural
from hpsearch.core.study_file import to_toml
from hpsearch.view.document import UNKNOWN, Cell, Code, Drawing, Section, Table
from hpsearch.view.format import (
    format_seconds,
    format_spread,
    format_value,
    layers,
    own,
    savings_text,
    shape,
    training,
    unworthy,
    unworthy_text,
)
from hpsearch.view.report import figures, front_figure, narrative
from hpsearch.view.report.theme import SHOWN_SPANS, SHOWN_TRIALS, word


def answer(findings: StudyAnalysis) -> Section:
    """Returns the answer in words."""
    told = findings.answer
    knee = next((s.record for s in findings.front if s.is_knee), None)
    words = [
        *narrative.answer_words(told, knee=knee),
        *narrative.confirmed_words(findings),
        narrative.state_words(findings) + ".",
    ]
    if findings.failures:
        reason, count = next(iter(findings.failures.items()))
        words.append(
            f"The most frequent failure ({count} of {findings.counts['failed']}): {reason}."
        )
    notes = []
    if told.knee is not None and told.knee.low is not None:
        notes.append(
            "The intervals tell the noise of having few validation images. Training again with"
            " another seed moves an accuracy too, and the best of many trials is always a little"
            " flattered: `hpsearch confirm` trains the front again with fresh seeds. Test the one"
            " you choose once, on the test images."
        )
    return Section(key="answer", title=narrative.headline(told), words=words, notes=notes)


def front(findings: StudyAnalysis) -> Section | None:
    """Returns the front among all trials, one figure for every two objectives."""
    if not findings.trials:
        return None
    names = findings.objectives
    if len(names) == 1:
        return _front_of_one(findings)
    bargain = "; the knee is its best bargain" * findings.answer.is_bargain
    words = [
        f"On the front are the trials that no other complete trial beats in everything{bargain}."
    ]
    return Section(
        key="front",
        title="The trade-off",
        words=words,
        drawings=[_front_drawing(findings, x, y) for x, y in pairs(names)],
        captions=["Each point is a trial.", *_captions(findings)],
    )


def pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """Returns every two objectives, x before y: costs along x where they meet a quality."""
    ordered = sorted(names, key=lambda name: not OBJECTIVES[name].is_cost)
    return list(combinations(ordered, 2))


def _front_drawing(findings: StudyAnalysis, x: str, y: str) -> Drawing:
    return Drawing(
        key=f"front-{x}-{y}",
        about=f"{y} against {x} of all trials",
        draw=partial(front_figure.front, findings.trials, x=x, y=y, confirmed=findings.confirmed),
    )


def _front_of_one(findings: StudyAnalysis) -> Section:
    name = findings.objectives[0]
    others = ["train_seconds", "params", "accuracy"]
    x = next(o for o in others if o != name)
    about = "The study has one objective, so its front is its best trial."
    return Section(
        key="front",
        title="The trials",
        words=[about],
        drawings=[_front_drawing(findings, x, name)],
        captions=_captions(findings),
    )


def _captions(findings: StudyAnalysis) -> list[str]:
    others = sum(not s.is_front for s in findings.trials)
    captions = ["The view is on the front; double-click the figure for all trials."]
    if findings.confirmed:
        captions.append(
            "Rings are the means of trials that were trained again with fresh seeds, their bars"
            " one standard deviation."
        )
    if others > SHOWN_TRIALS:
        captions.append(
            f"Beside the front, {SHOWN_TRIALS:,} of {others:,} trials are drawn, evenly chosen."
        )
    return captions


def winners(findings: StudyAnalysis, storage_options: Sequence[str]) -> Section | None:
    """Returns a table of the front, with the command that trains each."""
    if not findings.front:
        return None
    names = sorted(findings.objectives, key=lambda name: not OBJECTIVES[name].is_cost)
    with_interval = any(s.pick.low is not None for s in findings.front)
    titles = [word(name) for name in names]
    again = {one.number: one for one in findings.confirmed}
    with_again = any(s.record.number in again for s in findings.front)
    more = ["95 % interval"] * with_interval + ["trained again"] * with_again
    header = ("trial", *titles, *more, "net", "trained by")
    mark = " ◀ knee" if len(names) > 1 else " ◀ best"
    rows: list[tuple[Cell, ...]] = []
    for standing in findings.front:
        values = [format_value(name, standing.pick.measured[name]) for name in names]
        span = [narrative.interval(standing.pick) or UNKNOWN] * with_interval
        span += [_again(again.get(standing.record.number), names)] * with_again
        command = ["hpsearch", "train", "--trial", str(standing.record.number)]
        command += [
            "--study",
            findings.study,
            *storage_options,
            "-o",
            f"model-{standing.record.number}",
        ]
        number = f"{standing.record.number}" + mark * standing.is_knee
        net, how = _net(standing)
        rows.append((number, *values, *span, net, how, Code(text=shlex.join(command))))
    marked = next((i for i, s in enumerate(findings.front) if s.is_knee), None)
    words = ["The front, cheapest first, and the command that trains each for use."]
    if poor := unworthy([s.record for s in findings.front]):
        words.append(unworthy_text(poor))
    return Section(
        key="winners",
        title="Take one home",
        words=words,
        tables=[Table(header=(*header, "to take it home"), rows=tuple(rows), marked=marked)],
    )


def _again(one: Replication | None, names: Sequence[str]) -> str:
    """What a trial came to when it was trained again, in a cell."""
    if one is None:
        return UNKNOWN
    changing = [name for name in names if name in one.spreads and not OBJECTIVES[name].is_fixed]
    told = [format_spread(name, one.spreads[name]) for name in changing]
    told.append(plural(one.repeats, "seed"))
    told += [f"{one.diverged} diverged"] * bool(one.diverged)
    told += ["dominated"] * (not one.is_front)
    return ", ".join(told)


def _net(standing: RankedTrial) -> tuple[str, str]:
    blocks, widths = shape(standing.record)
    of_blocks = f"{plural(blocks, 'block')}: {widths}" if blocks else ""
    parts = (of_blocks, layers(standing.record), own(standing.record))
    return ", ".join(part for part in parts if part), training(standing.record)


def timeline(findings: StudyAnalysis) -> Section | None:
    """Returns which worker ran which trial when."""
    spans = findings.timeline
    if not spans:
        return None
    there = findings.presence
    captions = [f"{SHOWN_SPANS:,} of {len(spans):,} trials are drawn, evenly chosen."]
    return Section(
        key="timeline",
        title="Who worked when",
        words=[
            f"{plural(there.workers, 'worker')}, {format_seconds(there.seconds)}"
            " from the first start to the last end,"
            f" {narrative.percent(there.busy)} of"
            f" {'its' if there.workers == 1 else 'their'} time in trials."
        ],
        drawings=[
            Drawing(
                key="timeline-workers",
                about="the trials of each worker in time",
                draw=partial(figures.timeline, spans),
                rows=there.workers,
            )
        ],
        captions=captions * (len(spans) > SHOWN_SPANS),
    )


def savings(findings: StudyAnalysis) -> Section | None:
    """Returns what stopping trials early saved, and what it may have cost."""
    if not findings.trials:
        return None
    saved = savings_text(findings.savings)
    return Section(
        key="savings",
        title="What stopping early saved",
        words=[f"The search {saved}.", *narrative.audit_words(findings.audit)],
    )


def environment(findings: StudyAnalysis) -> Section:
    """Returns what another person needs to run the study again."""
    return Section(
        key="environment",
        title="To run it again",
        words=["Save the study file below as study.toml; then the same search runs with"],
        tables=[
            Table(header=(), rows=((Code(text="hpsearch run study.toml"),),)),
            Table(header=(), rows=tuple(_facts(findings.environment))),
        ],
        hidden=[("The study file", Code(text=to_toml(findings.environment.spec)))],
    )


def _facts(known: Environment) -> list[tuple[Cell, ...]]:
    facts: list[tuple[Cell, ...]] = [("data", known.spec.data.dataset)]
    facts += _data_facts(known.data)
    if "processor" in known.reference:
        threads = known.reference.get("threads", 1)
        told = f"{known.reference['processor']}, {plural(threads, 'thread')}"
        facts.append(("seconds are those of", told))
    for setting in known.settings:
        told = ", ".join(f"{name} {version}" for name, version in setting.versions.items())
        trials = plural(setting.trials, "trial", thousands=",")
        facts.append((f"{trials} ran on", f"{setting.processor}; {told}"))
    seed = f"{known.spec.search.seed}; each trial's own follows from it and the trial's number"
    facts.append(("seed", seed))
    facts += [("changed on the way", _change(change)) for change in known.changes]
    if known.created is not None:
        facts.append(("made", f"{known.created:%Y-%m-%d %H:%M} UTC"))
    return facts


def _data_facts(data: Mapping[str, Any]) -> list[tuple[Cell, ...]]:
    """What is told of the images, as far as the study knows it."""
    size = " × ".join(str(side) for side in data.get("shape", ()))
    names = {"train": "train", "val": "validation", "test": "test"}
    parts = [f"{data[part]:,} {name}" for part, name in names.items() if part in data]
    prints = [f"{key} {data[key]}" for key in ("content", "split") if key in data]
    facts = {
        "image size": f"{size} (channels × height × width)" * bool(size),
        "classes": ", ".join(str(name) for name in data.get("classes", ())),
        "split": ", ".join(parts),
        "data fingerprint": ", ".join(prints),
    }
    return [(name, told) for name, told in facts.items() if told]


def _change(change: Mapping[str, Any]) -> str:
    told = ", ".join(f"{key} {old} → {new}" for key, (old, new) in change["changed"].items())
    return f"{change['at'][:16].replace('T', ' ')} UTC: {told}"
