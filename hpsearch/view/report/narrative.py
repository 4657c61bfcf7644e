"""The sentences of a report. Nothing is computed here; the numbers are those of the analysis."""

from __future__ import annotations

from collections.abc import Sequence

from hpsearch.core.analysis.effects import DepthEffect, OptimizerEffect, SufficientDepth
from hpsearch.core.analysis.history import ENOUGH, Outlook, first_reaching
from hpsearch.core.analysis.pruning_stats import Audit
from hpsearch.core.analysis.recommendation import Pick, Recommendation, Step
from hpsearch.core.analysis.statistics import Replication
from hpsearch.core.analysis.study_analysis import StudyAnalysis
from hpsearch.core.objectives import OBJECTIVES
from hpsearch.core.trial import TrialRecord
from hpsearch.errors import plural
from hpsearch.view.format import (
    format_interval,
    format_percent,
    format_points,
    format_seconds,
    format_spread,
    format_value,
    listed,
    spoken,
)


def headline(answer: Recommendation) -> str:
    """Returns the answer in one sentence."""
    knee = answer.knee
    if knee is None:
        return "There is no answer yet: no trial is complete."
    if answer.is_guessing:
        return "No trial is significantly better than guessing."
    if len(answer.objectives) == 1:
        return f"Trial {knee.number} is the best, with {_value_of(knee, answer.objectives[0])}."
    values = listed([_value_of(knee, name) for name in answer.objectives])
    if answer.front_size == 1:
        return f"Trial {knee.number} beats every other complete trial: {values}."
    claim = "is the best trade-off" if answer.is_bargain else "is the knee of the front"
    # An end of the front trades nothing off: it is the best in one objective.
    if answer.is_end:
        claim = OBJECTIVES[answer.quality or answer.objectives[0]].superlative
    return f"Trial {knee.number} {claim}: {values}."


def _value_of(pick: Pick, name: str) -> str:
    return OBJECTIVES[name].phrase.format(format_value(name, pick.measured[name]))


def guessing_words(answer: Recommendation) -> str:
    """Returns the advice for a study in which no trial is significantly better than guessing."""
    assert answer.top is not None
    best = format_value("accuracy", answer.top.measured["accuracy"])
    return (
        f"The best accuracy is {best} (95 % interval"
        f" {format_interval(answer.top.low, answer.top.high)}), and guessing gives"
        f" {format_value('accuracy', answer.chance or 0.0)}. More epochs or smaller batches give a"
        " training more steps to learn in."
    )


def answer_words(answer: Recommendation, *, knee: TrialRecord | None) -> list[str]:
    """Returns the sentences under the headline: the knee, its uncertainty and its alternatives."""
    if answer.knee is None or knee is None:
        return []
    if answer.is_guessing:
        return [guessing_words(answer)]
    words = [f"It is {spoken(knee)}."]
    if interval := format_interval(answer.knee.low, answer.knee.high):
        words.append(
            f"Its accuracy was measured on {answer.val_images:,} validation images, which leaves a"
            f" 95 % interval of {interval}."
        )
    if answer.cost is None:
        return words
    words += _more_expensive(answer)
    if answer.cheaper is not None:
        words.append(_step("next cheaper trial", answer.cheaper, answer))
    if answer.rival is not None:
        if answer.rival != answer.cheaper:
            words.append(_step("cheapest trial that may be as good", answer.rival, answer))
        words.append(f"So trial {answer.rival.to.number} may be the better trade-off.")
    return words


def _more_expensive(answer: Recommendation) -> list[str]:
    """The sentences on the trials of the front that cost more than the knee."""
    if answer.quality is None:
        return []
    if answer.following is None:
        return ["No more expensive trial of the front is better."] * (answer.front_size > 1)
    words = [_step("next more expensive trial", answer.following, answer)]
    if answer.best is not None and answer.best != answer.following:
        words.append(_step("best trial", answer.best, answer))
    if answer.following.is_sure is None or answer.following.is_sure:
        return words
    if answer.sure is None:
        return [*words, "None of the more expensive trials is significantly better."]
    if answer.sure != answer.best:
        words.append(_step("cheapest significantly better trial", answer.sure, answer))
    return words


def _step(which: str, step: Step, answer: Recommendation) -> str:
    """A sentence on the cost and gain of another trial, relative to the knee."""
    assert answer.cost is not None
    assert answer.quality is not None
    cost = f"{_ratio(step.ratio)} ({format_value(answer.cost, step.to.measured[answer.cost])})"
    size = abs(step.gain)
    gain = f"{size:.3f} nats {'better' if step.gain > 0 else 'worse'}"
    if answer.quality == "accuracy":
        gain = f"{format_points(size)} {'more' if step.gain > 0 else 'less'} accurate"
    doubt = ""
    if step.low is not None and step.high is not None:
        interval = f"95 % interval {100 * step.low:+.1f} to {100 * step.high:+.1f} points"
        # A line may break after a hyphen, but not after a minus sign.
        interval = interval.replace("-", "−")
        doubt = f"; the difference is {'' if step.is_sure else 'not '}significant ({interval})"
    return f"The {which}, {step.to.number}, costs {cost} and is {gain}{doubt}."


def _ratio(ratio: float | None) -> str:
    if ratio is None:
        return "more"
    if 0.95 < ratio < 1.05:
        return "about as much"
    return f"{ratio:.2g} times as much" if ratio < 9.95 else f"{ratio:.0f} times as much"


def confirmed_words(analysis: StudyAnalysis) -> list[str]:
    """Returns the results of retraining with fresh seeds, for the knee and for the front."""
    replications = {again.number: again for again in analysis.confirmed}
    knee = analysis.answer.knee
    words = []
    if knee is not None and knee.number in replications:
        words.append(_replication(replications[knee.number], analysis.objectives))
    numbers = [trial.record.number for trial in analysis.front]
    front = [replications[number] for number in numbers if number in replications]
    if len(front) < 2:
        return words
    if analysis.flattery is not None:
        lower = "lower" if analysis.flattery >= 0 else "higher"
        words.append(
            f"On average, the accuracy of {len(front)} retrained trials of the front is"
            f" {format_points(abs(analysis.flattery))} {lower} than in the search."
        )
    if gone := [str(again.number) for again in front if not again.is_front]:
        trials, are = ("trials", "are") if len(gone) > 1 else ("trial", "is")
        words.append(
            f"By the means of the retrained trials, {trials} {', '.join(gone)} {are} no longer on"
            " the front."
        )
    new_knee = next((again.number for again in analysis.confirmed if again.is_knee), None)
    if knee is not None and new_knee not in (None, knee.number):
        words.append(f"By the means of the retrained trials, the knee is trial {new_knee}.")
    return words


def _replication(again: Replication, objectives: Sequence[str]) -> str:
    """The means of a retrained trial and the number of its seeds."""
    seeds = plural(again.repeats, "fresh seed")
    if again.diverged == again.repeats:
        return f"Retrained with {seeds}, trial {again.number} diverged."
    known = [name for name in objectives if name in again.spreads]
    # A fixed cost, such as the parameters, is the same with every seed.
    varying = [name for name in known if not OBJECTIVES[name].is_fixed]
    means = " and ".join(format_spread(name, again.spreads[name]) for name in varying or known)
    lost = f" ({again.diverged} diverged)" if again.diverged else ""
    return f"Retrained with {seeds}{lost}, trial {again.number} reached {means}."


def depth_words(effect: DepthEffect) -> list[str]:
    """Returns how many conv blocks are enough, and how that was decided."""
    words = []
    if effect.by_best is not None:
        words.append(_sufficient_depth(effect.by_best, "best trials"))
    if effect.by_median is not None:
        words.append(_sufficient_depth(effect.by_median, "medians"))
    return words or ["Too few depths were tried to say how many blocks are enough."]


def _sufficient_depth(enough: SufficientDepth, compared: str) -> str:
    here, blocks = format_value("accuracy", enough.here), plural(enough.n_blocks, "block")
    if enough.deeper is None or enough.noise is None:
        return (
            f"By the {compared}, accuracy improves up to the deepest nets that can be compared:"
            f" {blocks} ({here})."
        )
    return (
        f"By the {compared}, more than {blocks} is not significantly better: {here} with {blocks},"
        f" {format_value('accuracy', enough.deeper)} at most with more, and chance alone may cause"
        f" a difference of {format_points(enough.noise)}."
    )


def optimizer_words(effect: OptimizerEffect) -> list[str]:
    """Returns which optimizer leads, and which over-fits least."""
    if effect.leader is None:
        return ["Too few optimizers have three complete trials to be compared."]
    sure = "and the lead is significant" if effect.is_sure else "but the lead is not significant"
    words = [f"{effect.leader} has the highest median accuracy, {sure}."]
    gap = next((group.gap for group in effect.groups if group.key == effect.tightest), None)
    if gap is not None:
        median = f"{gap.median:+.3f}".replace("-", "−")
        words.append(f"The median gap of {effect.tightest} is the lowest ({median} nats).")
    return words


_OUTLOOK = {
    Outlook.HELP: "more are likely to help",
    Outlook.LITTLE: "more are likely to help a little",
    Outlook.NOTHING: "more are not likely to help",
}


def attainment_words(analysis: StudyAnalysis) -> list[str]:
    """Returns how soon the search had its result, and whether more trials are likely to help."""
    last, lately = analysis.attainment[-1], analysis.lately
    is_one = len(analysis.objectives) == 1
    sooner = first_reaching(analysis.attainment, 1.0) if is_one else analysis.nearly
    words, after = [], ""
    if sooner is not None:
        after = (
            f"after {sooner.trials} of {plural(last.trials, 'trial', thousands=',')} and"
            f" {format_seconds(sooner.seconds)} of {format_seconds(last.seconds)} of training"
        )
    if not is_one:
        reached = f"; 99 % of it was reached {after}" if after else ""
        words.append(f"The hypervolume is {last.hypervolume:.4f} of 1{reached}.")
    elif after:
        words.append(f"The best trial was found {after}.")
    if last.trials < ENOUGH:
        words.append(
            f"Too few trials have ended to say whether more would help ({ENOUGH} are needed)."
        )
    if lately is None:
        return words
    gained = "a better one"
    if not is_one:
        share = 100 * lately.gained / last.hypervolume
        front = plural(len(analysis.front), "trial", thousands=",")
        gained = f"{lately.arrived} of the front's {front} and {lately.gained:.4f} of"
        gained += f" hypervolume ({share:.1f} %)"
    if not lately.arrived and not lately.gained:
        gained = "nothing better"
    outlook = _OUTLOOK[lately.outlook]
    return [*words, f"The last {lately.trials} trials added {gained}: {outlook}."]


def audit_words(audit: Audit) -> list[str]:
    """Returns what pruning may have cost, estimated from the control trials."""
    if not audit.pruned and not audit.judged:
        return []
    if audit.share is None:
        control = plural(audit.control, "complete control trial")
        return [f"What that may have cost is not known: none of {control} would have been stopped."]
    share, low, high = audit.share
    judged, wronged = len(audit.judged), len(audit.wronged)
    trials = ", ".join(f"trial {number}" for number in audit.wronged)
    return [
        f"To measure what that may have cost, {plural(judged, 'control trial', thousands=',')} that"
        f" the rule would have stopped ran to the end: {len(audit.on_front)} ended on the front and"
        f" {len(audit.beat_forecast)} with a lower loss than the rule had forecast as possible.",
        f"So stopping would have been wrong in {wronged} of {judged}"
        f" ({format_percent(share)}, 95 % interval {format_percent(low)} to {format_percent(high)})"
        + (f": {trials}." if trials else "."),
    ]


def state_words(analysis: StudyAnalysis) -> str:
    """Returns how many trials are in each state."""
    counts, target = analysis.counts, analysis.environment.spec.search.trials
    counted = counts["complete"] + counts["pruned"]
    words = [
        f"{counted:,} of {target:,} trials: {counts['complete']:,} complete",
        f"{counts['pruned']:,} stopped early",
    ]
    states = ("failed", "running", "waiting", "imported")
    return ", ".join([*words, *(f"{counts[s]:,} {s}" for s in states if counts[s])])
