"""The report's middle sections: effects of hyperparameters, learning curves, hypervolume."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from hpsearch.core.analysis.effects import Group, Quartiles
from hpsearch.core.analysis.study_analysis import StudyAnalysis
from hpsearch.core.objectives import costs
from hpsearch.view.document import UNKNOWN, Drawing, Section, Table
from hpsearch.view.format import format_percent, format_value
from hpsearch.view.report import figures, narrative
from hpsearch.view.report.theme import SHOWN_CURVES, word

_OF_DEPTH = ("accuracy", "val_loss", "train_seconds")


def depth(analysis: StudyAnalysis) -> Section | None:
    """Returns the effect of the number of conv blocks, and how many are enough."""
    effect = analysis.depth
    if not effect.groups:
        return None
    return Section(
        key="depth",
        title="How deep?",
        words=narrative.depth_words(effect),
        drawings=_group_drawings(figures.depth, "depth", effect.groups, _OF_DEPTH),
        tables=[_groups_table("conv blocks", effect.groups)],
        notes=[
            "Values are those of the complete trials; trials that were stopped early are only"
            " counted. Best trials are compared by the 95 % interval of the difference of their"
            " accuracies, medians (of 3 trials or more) by 1.96 standard errors of their"
            " difference, from the quartiles."
        ],
    )


def optimizers(analysis: StudyAnalysis) -> Section | None:
    """Returns the effect of the optimizer on accuracy and over-fitting."""
    effect = analysis.optimizers
    if not effect.groups:
        return None
    return Section(
        key="optimizers",
        title="Which optimizer?",
        words=narrative.optimizer_words(effect),
        drawings=_group_drawings(figures.spreads, "optimizer", effect.groups, ("accuracy", "gap")),
        tables=[_groups_table("optimizer", effect.groups)],
        notes=[
            "The gap is validation loss minus training loss after the last epoch: a larger gap"
            " means more over-fitting. Training loss is measured on shifted images, with label"
            " smoothing and dropout, so the gap is often below 0: compare it between optimizers."
        ],
    )


def _group_drawings(
    draw: Callable[..., Any], by: str, groups: Sequence[Group], measures: Sequence[str]
) -> list[Drawing]:
    return [
        Drawing(key=f"{by}-{m}", about=f"{word(m)} by {by}", draw=partial(draw, groups, m))
        for m in measures
        if any(getattr(group, m) is not None for group in groups)
    ]


def _groups_table(name: str, groups: Sequence[Group]) -> Table:
    header = (name, "complete", "stopped", "best", "median accuracy", "loss", "time", "gap")
    rows = []
    for group in groups:
        best = UNKNOWN
        if group.accuracy is not None and group.best is not None:
            best = f"{format_value('accuracy', group.accuracy.high)} (trial {group.best})"
        gap = UNKNOWN if group.gap is None else f"{group.gap.median:+.3f} nats"
        quartiles = [_quartiles(measure, getattr(group, measure)) for measure in _OF_DEPTH]
        counts = (str(group.complete), str(group.pruned))
        rows.append((str(group.key), *counts, best, *quartiles, gap))
    return Table(header=header, rows=tuple(rows), folded="The numbers")


def _quartiles(name: str, of: Quartiles | None) -> str:
    if of is None:
        return UNKNOWN
    median, low, high = (format_value(name, v) for v in (of.median, of.quarter, of.three_quarters))
    # A single trial has no quartiles.
    return median if of.n == 1 else f"{median} ({low.split()[0]}–{high})"


def curves(analysis: StudyAnalysis) -> Section | None:
    """Returns the learning curves."""
    trained = [s for s in analysis.trials if s.record.curve]
    if not trained:
        return None
    others = sum(not s.is_front for s in trained)
    captions = ["The front is bright; the curve of a trial that was stopped ends in a dot."]
    if others > SHOWN_CURVES:
        captions.append(f"{SHOWN_CURVES} of {others:,} other curves are drawn, evenly spaced.")
    return Section(
        key="curves",
        title="Learning curves",
        drawings=[
            Drawing(
                key="curves-accuracy",
                about="accuracy by epoch of all trials",
                draw=partial(figures.curves, analysis.trials),
            )
        ],
        captions=captions,
    )


def importance(analysis: StudyAnalysis) -> Section | None:
    """Returns the importance of the hyperparameters."""
    title = "Which hyperparameters matter?"
    if not analysis.front:
        return None
    if not analysis.importance:
        words = ["Too few trials are complete to rank the hyperparameters (20 are needed)."]
        return Section(key="importance", title=title, words=words)
    words, drawings = [], []
    for found in analysis.importance:
        top = [f"{name} ({format_percent(share)})" for name, share in [*found.shares.items()][:3]]
        target = figures.target_word(found.target)
        words.append(f"For {target}: {', '.join(top)}.")
        drawings.append(
            Drawing(
                key=f"importance-{found.target}",
                about=f"importance for {target}",
                draw=partial(figures.importance, found),
            )
        )
    first = analysis.importance[0]
    if first.is_weak:
        words.append(
            f"This is weak evidence: each ranking rests on its best {first.best_trials} trials."
        )
    notes = [
        "By PED-ANOVA (Optuna): how much each hyperparameter distinguishes the best tenth of the"
        f" {first.trials:,} complete trials from the others."
    ]
    if costs(analysis.objectives) and not analysis.environment.spec.has_user_code:
        notes.append(
            "Hyperparameters that cannot change a cost, as the learning rate cannot change the"
            " training time, are left out of its ranking."
        )
    return Section(key="importance", title=title, words=words, drawings=drawings, notes=notes)


def attainment(analysis: StudyAnalysis) -> Section | None:
    """Returns the hypervolume over time: how soon the search had its result."""
    history = analysis.attainment
    if not history:
        return None
    note = "The hypervolume is the share of the objective space that the front dominates."
    if len(analysis.objectives) == 1:
        note = "The hypervolume of one objective is the position of the best between its bounds."
    return Section(
        key="hypervolume",
        title="Was it enough?",
        words=narrative.attainment_words(analysis),
        drawings=[
            Drawing(
                key=f"hypervolume-{against}",
                about=f"hypervolume against {against}",
                draw=partial(figures.hypervolume, history, against),
            )
            for against in ("trials", "seconds")
        ],
        captions=["While the curve is flat, more trials add little."],
        notes=[note],
    )
