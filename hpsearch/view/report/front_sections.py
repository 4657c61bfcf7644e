"""The report's first sections: the answer, the front, and the commands that train its trials."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from functools import partial
from itertools import combinations

from hpsearch.core.analysis.replication import Replication
from hpsearch.core.analysis.study_analysis import StudyAnalysis
from hpsearch.core.objectives import OBJECTIVES, costs_first
from hpsearch.core.plural import plural
from hpsearch.view.document import UNKNOWN, Cell, Code, Drawing, Section, Table
from hpsearch.view.format import (
    format_interval,
    format_spread,
    format_value,
    net,
    training,
    unworthy,
    unworthy_text,
)
from hpsearch.view.report import front_figure, narrative
from hpsearch.view.report.theme import SHOWN_TRIALS, word


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
            draw=partial(
                front_figure.front, analysis.trials, x=x, y=y, confirmed=analysis.confirmed
            ),
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
