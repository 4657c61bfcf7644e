"""The report's last sections: who worked when, what stopping saved, and how to run it again."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from hpsearch.core.analysis.study_analysis import Environment, StudyAnalysis
from hpsearch.core.plural import plural
from hpsearch.core.study_file import to_toml
from hpsearch.view.document import Cell, Code, Drawing, Section, Table
from hpsearch.view.format import format_seconds, savings_text
from hpsearch.view.report import figures, narrative
from hpsearch.view.report.thinning import SHOWN_SPANS


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
