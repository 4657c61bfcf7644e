"""The report's first sections: the answer, the front, and the commands that take it home."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from functools import partial
from itertools import combinations

from hpsearch.core.analysis.replication import Replication
from hpsearch.core.analysis.study_analysis import RankedTrial, StudyAnalysis
from hpsearch.core.objectives import OBJECTIVES
from hpsearch.core.plural import plural
from hpsearch.view.document import UNKNOWN, Cell, Code, Drawing, Section, Table
from hpsearch.view.format import (
    format_spread,
    format_value,
    layers,
    own,
    shape,
    training,
    unworthy,
    unworthy_text,
)
from hpsearch.view.report import front_figure, narrative
from hpsearch.view.report.theme import word
from hpsearch.view.report.thinning import SHOWN_TRIALS


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


def winners(findings: StudyAnalysis, place: Sequence[str]) -> Section | None:
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
        command += ["--study", findings.study, *place, "-o", f"model-{standing.record.number}"]
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
