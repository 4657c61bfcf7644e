"""The report's last sections: workers, savings by pruning, and how to run the study again."""

from __future__ import annotations

from functools import partial

from hpsearch.core.analysis.study_analysis import Environment, StudyAnalysis
from hpsearch.core.plural import plural
from hpsearch.core.study_file import to_toml
from hpsearch.view.document import Cell, Code, Drawing, Section, Table
from hpsearch.view.format import format_percent, format_seconds, savings_text
from hpsearch.view.report import figures, narrative
from hpsearch.view.report.theme import SHOWN_SPANS


def timeline(analysis: StudyAnalysis) -> Section | None:
    """Returns which worker ran which trial when."""
    spans, presence = analysis.timeline, analysis.presence
    if not spans:
        return None
    caption = f"{SHOWN_SPANS:,} of {len(spans):,} trials are drawn, evenly spaced."
    return Section(
        key="timeline",
        title="The workers over time",
        words=[
            f"{plural(presence.workers, 'worker')}, {format_seconds(presence.seconds)} from the"
            f" first start to the last end, {format_percent(presence.busy)} of"
            f" {'its' if presence.workers == 1 else 'their'} time in trials."
        ],
        drawings=[
            Drawing(
                key="timeline-workers",
                about="the trials of each worker in time",
                draw=partial(figures.timeline, spans),
                rows=presence.workers,
            )
        ],
        captions=[caption] if len(spans) > SHOWN_SPANS else [],
    )


def savings(analysis: StudyAnalysis) -> Section | None:
    """Returns the savings by stopping trials early, and their possible cost."""
    if not analysis.trials:
        return None
    return Section(
        key="savings",
        title="What stopping early saved",
        words=[
            f"The search {savings_text(analysis.savings)}.",
            *narrative.audit_words(analysis.audit),
        ],
    )


def environment(analysis: StudyAnalysis) -> Section:
    """Returns the study file, the data and the hardware, to run the study again."""
    return Section(
        key="environment",
        title="Run it again",
        words=["Save the study file below as study.toml; this command runs the same search:"],
        tables=[
            Table(header=(), rows=((Code(text="hpsearch run study.toml"),),)),
            Table(header=(), rows=tuple(_facts(analysis.environment))),
        ],
        hidden=[("The study file", Code(text=to_toml(analysis.environment.spec)))],
    )


def _facts(known: Environment) -> list[tuple[Cell, ...]]:
    data = known.data
    size = " × ".join(str(side) for side in data.get("shape", ()))
    names = {"train": "train", "val": "validation", "test": "test"}
    parts = [f"{data[part]:,} {name}" for part, name in names.items() if part in data]
    prints = [f"{key} {data[key]}" for key in ("content", "split") if key in data]
    of_images = {
        "image size": f"{size} (channels × height × width)" if size else "",
        "classes": ", ".join(str(name) for name in data.get("classes", ())),
        "split": ", ".join(parts),
        "data fingerprint": ", ".join(prints),
    }
    facts: list[tuple[Cell, ...]] = [("data", known.spec.data.dataset)]
    facts += [(name, text) for name, text in of_images.items() if text]
    if "processor" in known.reference:
        threads = plural(known.reference.get("threads", 1), "thread")
        facts.append(("seconds are measured on", f"{known.reference['processor']}, {threads}"))
    for setting in known.settings:
        versions = ", ".join(f"{name} {version}" for name, version in setting.versions.items())
        trials = plural(setting.trials, "trial", thousands=",")
        facts.append((f"{trials} ran on", f"{setting.processor}; {versions}"))
    seed = f"{known.spec.search.seed}; each trial's seed follows from it and the trial's number"
    facts.append(("seed", seed))
    for change in known.changes:
        changed = change["changed"].items()
        settings = ", ".join(f"{key} {old} → {new}" for key, (old, new) in changed)
        at = change["at"][:16].replace("T", " ")
        facts.append(("changed during the study", f"{at} UTC: {settings}"))
    if known.created is not None:
        facts.append(("created", f"{known.created:%Y-%m-%d %H:%M} UTC"))
    return facts
