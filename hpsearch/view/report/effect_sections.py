"""The report's middle sections: what depth, optimizer and the rest did, and how trials learned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from hpsearch.core.analysis.effects import Group, Quartiles
from hpsearch.core.analysis.study_analysis import StudyAnalysis
from hpsearch.core.objectives import costs
from hpsearch.view.document import UNKNOWN, Drawing, Section, Table
from hpsearch.view.format import format_value
from hpsearch.view.report import figures, narrative
from hpsearch.view.report.theme import SHOWN_CURVES, word


def depth(findings: StudyAnalysis) -> Section | None:
    """Returns what the number of conv blocks did, and after which more stops paying."""
    effect = findings.depth
    if not effect.groups:
        return None
    return Section(
        key="depth",
        title="How deep?",
        words=narrative.depth_words(effect),
        drawings=_group_drawings(figures.depth, "depth", effect.groups, _OF_DEPTH),
        tables=[_groups_table("conv blocks", effect.groups)],
        notes=[
            "Of the complete trials; those that were stopped early are counted apart. Best trials"
            " are compared by the 95 % interval of the difference of their accuracies, medians (of"
            " 3 trials or more) by 1.96 standard errors of their difference, from the quartiles."
        ],
    )


def optimizers(findings: StudyAnalysis) -> Section | None:
    """Returns what the optimizer did to accuracy and over-fitting."""
    effect = findings.optimizers
    if not effect.groups:
        return None
    return Section(
        key="optimizers",
        title="Which optimizer?",
        words=narrative.optimizer_words(effect),
        drawings=_group_drawings(
            figures.optimizers, "optimizer", effect.groups, ("accuracy", "gap")
        ),
        tables=[_groups_table("optimizer", effect.groups)],
        notes=[
            "The gap is validation loss minus training loss after the last epoch: the larger, the"
            " more a net over-fits. Training loss is measured on shifted images, with label"
            " smoothing and dropout, so the gap is often below 0: compare it between optimizers."
        ],
    )


_OF_DEPTH = ("accuracy", "val_loss", "train_seconds")
_ABOUT = {
    "accuracy": "validation accuracy",
    "val_loss": "validation loss",
    "train_seconds": "training time",
    "gap": "validation loss minus training loss",
}


def _group_drawings(
    draw: Callable[..., Any], by: str, groups: Sequence[Group], measures: Sequence[str]
) -> list[Drawing]:
    return [
        Drawing(key=f"{by}-{m}", about=f"{_ABOUT[m]} by {by}", draw=partial(draw, groups, m))
        for m in measures
        if any(getattr(group, m) is not None for group in groups)
    ]


def _groups_table(name: str, groups: Sequence[Group]) -> Table:
    header = (name, "complete", "stopped", "best", "median accuracy", "loss", "time", "gap")
    rows = tuple(_group_row(group) for group in groups)
    return Table(header=header, rows=rows, folded="The numbers")


def _group_row(group: Group) -> tuple[str, ...]:
    best = UNKNOWN
    if group.accuracy is not None and group.best is not None:
        best = f"{format_value('accuracy', group.accuracy.high)} (trial {group.best})"
    return (
        str(group.key),
        str(group.complete),
        str(group.pruned),
        best,
        _quartiles("accuracy", group.accuracy),
        _quartiles("val_loss", group.val_loss),
        _quartiles("train_seconds", group.train_seconds),
        UNKNOWN if group.gap is None else f"{group.gap.median:+.3f} nats",
    )


def _quartiles(name: str, of: Quartiles | None) -> str:
    if of is None:
        return UNKNOWN
    median, low, high = (format_value(name, v) for v in (of.median, of.quarter, of.three_quarters))
    return median if of.n == 1 else f"{median} ({low.split()[0]}–{high})"


def curves(findings: StudyAnalysis) -> Section | None:
    """Returns the learning curves."""
    trained = [s for s in findings.trials if s.record.curve]
    if not trained:
        return None
    others = sum(not s.is_front for s in trained)
    captions = ["The front's trials are bright; a dot ends the curve of a trial that was stopped."]
    if others > SHOWN_CURVES:
        captions.append(
            f"{SHOWN_CURVES} of {others:,} curves beside the front are drawn, evenly chosen."
        )
    return Section(
        key="curves",
        title="How they learned",
        drawings=[
            Drawing(
                key="curves-accuracy",
                about="accuracy by epoch of all trials",
                draw=partial(figures.curves, findings.trials),
            )
        ],
        captions=captions,
    )


def importance(findings: StudyAnalysis) -> Section | None:
    """Returns which hyperparameters decide."""
    title = "What decides"
    if not findings.front:
        return None
    if not findings.importance:
        words = ["Too few trials are complete to tell which hyperparameters decide (20 or more)."]
        return Section(key="importance", title=title, words=words)
    words, drawings = [], []
    for found in findings.importance:
        top = [
            f"{name} ({narrative.percent(share)})" for name, share in list(found.shares.items())[:3]
        ]
        what = "being on the front" if found.target == "front" else word(found.target)
        words.append(f"For {what}: {', '.join(top)}.")
        drawings.append(
            Drawing(
                key=f"importance-{found.target}",
                about=f"importance for {what}",
                draw=partial(figures.importance, found),
            )
        )
    first = findings.importance[0]
    if first.is_weak:
        words.append(
            f"Each of these rests on its best tenth, {first.best_trials} trials: weak evidence."
        )
    notes = [
        "By PED-ANOVA (Optuna): the share of each hyperparameter in what sets the best tenth of"
        f" the {first.trials:,} complete trials apart."
    ]
    if costs(findings.objectives) and not findings.environment.spec.has_user_code:
        notes.append(
            "What cannot change a cost is left out of its ranking: the learning rate has no"
            " part in the seconds."
        )
    return Section(key="importance", title=title, words=words, drawings=drawings, notes=notes)


def attainment(findings: StudyAnalysis) -> Section | None:
    """Returns how soon the search had what it came to."""
    found = findings.attainment
    if not found:
        return None
    note = "The hypervolume, which the front is worth, is the share of the objective space that it"
    note += " dominates."
    if len(findings.objectives) == 1:
        note = "The hypervolume of one objective is how far the best is between its bounds."
    return Section(
        key="hypervolume",
        title="Was it enough?",
        words=narrative.attainment_words(findings),
        drawings=[
            Drawing(
                key=f"hypervolume-{against}",
                about=f"hypervolume against {against}",
                draw=partial(figures.hypervolume, found, against),
            )
            for against in ("trials", "seconds")
        ],
        captions=["Where the curve is flat, more trials brought little."],
        notes=[note],
    )
