"""The answer in words. Nothing is computed here; the numbers come from :mod:`hpsearch.core`."""

from __future__ import annotations

from collections.abc import Sequence

from hpsearch.core.analysis.effects import DepthEffect, OptimizerEffect, SufficientDepth
from hpsearch.core.analysis.hypervolume_history import ENOUGH, Outlook, first_reaching
from hpsearch.core.analysis.pruning_stats import Audit
from hpsearch.core.analysis.recommendation import Pick, Recommendation, Step
from hpsearch.core.analysis.replication import Replication
from hpsearch.core.analysis.study_analysis import StudyAnalysis
from hpsearch.core.objectives import OBJECTIVES
from hpsearch.core.plural import plural
from hpsearch.core.trial import TrialRecord
from hpsearch.view.format import format_seconds, format_spread, format_value, own, shape


def headline(answer: Recommendation) -> str:
    """Returns the answer in one sentence."""
    knee = answer.knee
    if knee is None:
        return "There is no answer yet: no trial is complete."
    if answer.is_guessing:
        return "No trial is better than guessing for certain."
    if len(answer.objectives) == 1:
        name = answer.objectives[0]
        return f"Trial {knee.number} is the best, with {value_of(knee, name)}."
    *most, last = (value_of(knee, name) for name in answer.objectives)
    told = f"{', '.join(most)} and {last}"
    if answer.front_size == 1:
        return f"Trial {knee.number} beats every other complete trial: {told}."
    what = "is the best bargain" if answer.is_bargain else "is the knee of the front"
    if answer.is_end:
        what = _BEST[answer.quality or answer.objectives[0]]
    return f"Trial {knee.number} {what}: {told}."


_BEST = {
    "accuracy": "is the most accurate",
    "val_loss": "has the lowest loss",
    "train_seconds": "is the fastest to train",
    "latency_ms": "is the fastest",
    "params": "has the fewest parameters",
    "flops": "has the fewest operations",
}


def value_of(pick: Pick, name: str) -> str:
    """Returns an objective's value with its name, as a sentence has it."""
    value = format_value(name, pick.measured[name])
    words = {
        "accuracy": "{} accuracy",
        "val_loss": "a validation loss of {}",
        "train_seconds": "{} of training",
        "latency_ms": "{} an image",
        "params": "{} parameters",
        "flops": "{} operations an image",
    }
    return words[name].format(value)


def interval(pick: Pick) -> str:
    """Returns the 95 % interval of the accuracy; empty where it is not known."""
    if pick.low is None or pick.high is None:
        return ""
    return f"{100 * pick.low:.1f}–{100 * pick.high:.1f} %"


def guessing_words(answer: Recommendation) -> str:
    """Returns what is to be said where no trial is better than guessing for certain."""
    assert answer.top is not None
    best = format_value("accuracy", answer.top.measured["accuracy"])
    return (
        f"The best accuracy is {best}, within {interval(answer.top)}, and guessing gives"
        f" {format_value('accuracy', answer.chance or 0.0)}. More epochs or smaller batches give a"
        " training more steps to learn in."
    )


def answer_words(answer: Recommendation, *, knee: TrialRecord | None) -> list[str]:
    """Returns the sentences under the headline, from the numbers and their uncertainty."""
    if answer.knee is None or knee is None:
        return []
    if answer.is_guessing:
        return [guessing_words(answer)]
    words = [f"It is {spoken(knee)}."]
    if span := interval(answer.knee):
        words.append(
            f"Its accuracy was counted on {answer.val_images:,} validation images, so chance alone"
            f" leaves it within {span} (95 % interval)."
        )
    if answer.cost is None:
        return words
    words += _dearer(answer)
    if answer.cheaper is not None:
        words.append(f"The next cheaper one, {_step(answer.cheaper, answer)}.")
    if answer.rival is not None:
        if answer.rival != answer.cheaper:
            words.append(f"The cheapest that may be as good, {_step(answer.rival, answer)}.")
        words.append(f"So trial {answer.rival.to.number} may be the better bargain.")
    return words


def confirmed_words(findings: StudyAnalysis) -> list[str]:
    """Returns what training again with fresh seeds says of the knee and of the front."""
    again = {one.number: one for one in findings.confirmed}
    knee = findings.answer.knee
    words = []
    if knee is not None and knee.number in again:
        words.append(f"Trained again, it {_came_to(again[knee.number], findings.objectives)}.")
    front = [again[s.record.number] for s in findings.front if s.record.number in again]
    if len(front) < 2:
        return words
    if findings.flattery is not None:
        better = "better" if findings.flattery >= 0 else "worse"
        words.append(
            f"Of {len(front)} trials of the front that were trained again, the search saw the"
            f" accuracies {points(abs(findings.flattery))} {better} than their means."
        )
    gone = [str(one.number) for one in front if not one.is_front]
    if gone:
        told = f"trial{'s' * (len(gone) > 1)} {', '.join(gone)}"
        words.append(f"By the means, {told} would no longer be on it.")
    bargain = next((one.number for one in findings.confirmed if one.is_knee), None)
    if knee is not None and bargain not in (None, knee.number):
        words.append(f"By the means, the knee is trial {bargain}.")
    return words


def _came_to(one: Replication, objectives: Sequence[str]) -> str:
    """The means of a trial that was trained again, and how many seeds they are of."""
    seeds = plural(one.repeats, "fresh seed")
    if one.diverged == one.repeats:
        return f"diverged with {seeds}"
    known = [name for name in objectives if name in one.spreads]
    moving = [name for name in known if not OBJECTIVES[name].is_fixed]
    told = " and ".join(format_spread(name, one.spreads[name]) for name in moving or known)
    lost = f", of which {one.diverged} diverged" * bool(one.diverged)
    return f"came to {told} with {seeds}{lost}"


def spoken(record: TrialRecord) -> str:
    """Returns the trial's configuration in plain words.

    >>> from hpsearch.core.trial import State
    >>> spoken(TrialRecord(number=0, state=State.COMPLETE, params={
    ...     "n_blocks": 2, "width_1": 8, "width_2": 16, "kernel_size": 3, "head": "gap",
    ...     "optimizer": "adam", "learning_rate": 0.0103, "batch_size": 64}))
    'a net of 2 conv blocks (8-16 channels, kernel 3×3), trained by adam at rate 0.0103, batch 64'
    """
    known = {"schedule": "", "kernel_size": "", "batch_size": "", **record.params}
    count, widths = shape(record)
    kernel = f"kernel {known['kernel_size']}×{known['kernel_size']}"
    inner = [f"{widths} channels"] * bool(widths) + [kernel] * bool(known["kernel_size"])
    inner += ["no batch norm"] * (known.get("batch_norm") is False)
    inner += [own(record)] * bool(own(record))
    net = f"a net of {plural(count, 'conv block')}" if count else "a net"
    net += f" ({', '.join(inner)})" * bool(inner)
    by = f"trained by {known['optimizer']}" if "optimizer" in known else ""
    by += f" at rate {known['learning_rate']:.3g}" if by and "learning_rate" in known else ""
    schedule = f"{known['schedule']} schedule" * bool(known["schedule"])
    batch = f"batch {known['batch_size']}" * bool(known["batch_size"])
    return ", ".join(part for part in (net, by, schedule, batch) if part)


def _dearer(answer: Recommendation) -> list[str]:
    if answer.quality is None:
        return []
    if answer.following is None:
        return ["No dearer trial of the front is better."] if answer.front_size > 1 else []
    words = [f"The next dearer one, {_step(answer.following, answer)}."]
    if answer.best is not None and answer.best != answer.following:
        words.append(f"The best of all, {_step(answer.best, answer)}.")
    if answer.following.is_sure is None or answer.following.is_sure:
        return words
    if answer.sure is None:
        return [*words, "So none of the dearer trials is better for certain."]
    if answer.sure != answer.best:
        words.append(f"The first that is better for certain, {_step(answer.sure, answer)}.")
    return words


def _step(step: Step, answer: Recommendation) -> str:
    assert answer.cost is not None
    assert answer.quality is not None
    cost = format_value(answer.cost, step.to.measured[answer.cost])
    told = f"trial {step.to.number}, costs {_times(step.ratio)} ({cost}) and is"
    return f"{told} {_gain(step, answer.quality)}{_doubt(step)}"


def _times(ratio: float | None) -> str:
    if ratio is None:
        return "more"
    if 0.95 < ratio < 1.05:
        return "about as much"
    return f"{ratio:.2g} times as much" if ratio < 9.95 else f"{ratio:.0f} times as much"


def _gain(step: Step, quality: str) -> str:
    size = abs(step.gain)
    if quality == "accuracy":
        return f"{points(size)} {'more' if step.gain > 0 else 'less'} accurate"
    return f"{size:.3f} nats {'better' if step.gain > 0 else 'worse'}"


def points(share: float) -> str:
    """Returns a difference of accuracies in percentage points.

    >>> points(0.004), points(0.01)
    ('0.4 points', '1.0 points')
    """
    return f"{100 * share:.1f} points"


def _doubt(step: Step) -> str:
    if step.low is None or step.high is None:
        return ""
    span = f"{100 * step.low:+.1f} to {100 * step.high:+.1f} points".replace("-", "−")
    if step.is_sure:
        return f", beyond the noise ({span})"
    return f": within the noise ({span})"


def depth_words(effect: DepthEffect) -> list[str]:
    """Returns after which depth more stops paying, and how that was decided."""
    words = []
    if effect.by_best is not None:
        words.append(_enough(effect.by_best, "the best trials"))
    if effect.by_median is not None:
        words.append(_enough(effect.by_median, "the medians"))
    if not words:
        return ["Too few depths were tried to tell after which more stops paying."]
    return words


def _enough(enough: SufficientDepth, what: str) -> str:
    here = format_value("accuracy", enough.here)
    if enough.deeper is None or enough.noise is None:
        return (
            f"By {what}, every block still paid, up to the deepest that can be compared:"
            f" {plural(enough.n_blocks, 'block')} ({here})."
        )
    deeper = format_value("accuracy", enough.deeper)
    return (
        f"By {what}, nothing beyond {plural(enough.n_blocks, 'block')} is better for certain:"
        f" {here} there, {deeper} at most with more, and chance alone moves such a difference by"
        f" {points(enough.noise)}."
    )


def optimizer_words(effect: OptimizerEffect) -> list[str]:
    """Returns which optimizer leads, and which over-fits least."""
    if effect.leader is None:
        return ["Too few optimizers have three complete trials to be compared."]
    sure = "beyond" if effect.is_sure else "but within"
    words = [f"{effect.leader} has the highest median accuracy, {sure} the noise of the medians."]
    gap = next((group.gap for group in effect.groups if group.key == effect.tightest), None)
    if gap is not None:
        told = f"{gap.median:+.3f}".replace("-", "−")
        words.append(f"The median gap of {effect.tightest} is the lowest ({told} nats).")
    return words


def attainment_words(findings: StudyAnalysis) -> list[str]:
    """Returns how soon the search had what it came to, and whether more trials may help."""
    last, lately = findings.attainment[-1], findings.lately
    is_one = len(findings.objectives) == 1
    sooner = first_reaching(findings.attainment, 1.0) if is_one else findings.nearly
    told = "" if is_one else f"The front is worth {last.hypervolume:.4f} of 1"
    if sooner is not None:
        told += "The best trial was found" if is_one else "; it had 99 % of that"
        told += (
            f" after {sooner.trials} of {plural(last.trials, 'trial', thousands=',')} and"
            f" {format_seconds(sooner.seconds)} of {format_seconds(last.seconds)} of training"
        )
    words = [f"{told}."] * bool(told)
    if last.trials < ENOUGH:
        words.append(f"Too few trials have ended to tell whether more help ({ENOUGH} or more).")
    if lately is None:
        return words
    brought = "a better one"
    if not is_one:
        share = 100 * lately.gained / last.hypervolume
        brought = f"{lately.arrived} of its {plural(len(findings.front), 'trial', thousands=',')}"
        brought += f" and {lately.gained:.4f} of its worth ({share:.1f} %)"
    if not lately.arrived and not lately.gained:
        brought = "nothing better"
    told = f"The last {lately.trials} trials brought {brought}"
    return [*words, f"{told}: {_OUTLOOK[lately.outlook]}."]


_OUTLOOK = {
    Outlook.HELP: "more are likely to help",
    Outlook.LITTLE: "more are likely to help a little",
    Outlook.NOTHING: "more are not likely to help",
}


def audit_words(found: Audit) -> list[str]:
    """Returns what stopping early may have cost, as far as the control trials tell."""
    if not found.pruned and not found.judged:
        return []
    if found.share is None:
        return [
            "What stopping may have cost is not known: no control trial that would have been"
            f" stopped has come to its end ({found.control} control trials did)."
        ]
    share, low, high = found.share
    judged, wronged = len(found.judged), len(found.wronged)
    told = ", ".join(f"trial {number}" for number in found.wronged)
    return [
        f"What it may have cost: {plural(judged, 'control trial', thousands=',')} ran to the end"
        f" though the rule would have stopped {'it' if judged == 1 else 'them'}. Of these,"
        f" {len(found.on_front)} ended on the front and {len(found.beat_forecast)} with a lower"
        " loss than the rule held possible.",
        f"So stopping would have been wrong in {wronged} of {judged}"
        f" ({percent(share)}, 95 % interval {percent(low)} to {percent(high)})"
        f"{': ' * bool(told)}{told}.",
    ]


def percent(share: float) -> str:
    """Returns a share in whole per cents.

    >>> percent(0.123)
    '12 %'
    """
    return f"{100 * share:.0f} %"


def state_words(findings: StudyAnalysis) -> str:
    """Returns how many trials there are of which state."""
    counts, target = findings.counts, findings.environment.spec.search.trials
    counted = counts["complete"] + counts["pruned"]
    words = f"{counted:,} of {target:,} trials: {counts['complete']:,} complete"
    words += f", {counts['pruned']:,} stopped early"
    for state in ("failed", "running", "waiting"):
        words += f", {counts[state]:,} {state}" * bool(counts[state])
    return words
