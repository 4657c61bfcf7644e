"""What the person sees of a comparison: the studies side by side, and in words who is ahead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hpsearch.core.analysis.comparison import Comparison
from hpsearch.core.analysis.hypervolume_history import HypervolumePoint
from hpsearch.core.dimensions import listed as typed
from hpsearch.core.objectives import OBJECTIVES
from hpsearch.core.plural import plural
from hpsearch.view.format import format_seconds, format_value, listed
from hpsearch.view.report.narrative import points

Row = tuple[str, list[str]]  # what is told, and what it is of each study


def rows(found: Comparison) -> list[Row]:
    """Returns what is told of each study: how they differ, what they spent, what they came to.

    What belongs to the row above is indented.
    """
    studies, fronts = found.studies, [one.front for one in found.studies]
    told = [(name, [_setting(v) for v in values]) for name, values in found.differences.items()]
    told += [
        ("trials", [f"{one.trials:,}" for one in studies]),
        ("  stopped early", [f"{one.counts['pruned']:,}" for one in studies]),
    ]
    if any(one.counts["failed"] for one in studies):
        told.append(("  and failed", [f"{one.counts['failed']:,}" for one in studies]))
    told += [
        ("training", [format_seconds(one.seconds) for one in studies]),
        ("hypervolume", [f"{one.hypervolume:.4f}" for one in studies]),
    ]
    if found.seconds is not None:
        name = f"  after {format_seconds(found.seconds)} each"
        told.append((name, [f"{one.at_seconds:.4f}" for one in studies]))
    told += [
        (f"  after {_trials(found.trials)} each", [f"{one.at_trials:.4f}" for one in studies]),
        ("  99 % of the leader's after", [_where(one.nearly, found) for one in studies]),
        ("trials on its front", [f"{len(front.trials):,}" for front in fronts]),
        ("  unbeaten by the others", [f"{len(front.unbeaten):,}" for front in fronts]),
    ]
    if (quality := found.quality) is not None:
        picks = [front.best.measured[quality] for front in fronts if front.best is not None]
        told.append((f"best {quality}", [format_value(quality, value) for value in picks]))
    for name in found.objectives if len(found.objectives) > 1 else ():
        values = [format_value(name, front.knee.measured[name]) for front in fronts]
        told.append((f"knee: {name}", values))
    return told


def _where(at: HypervolumePoint | None, found: Comparison) -> str:
    if at is None:
        return "never"
    return _trials(at.trials) if found.seconds is None else format_seconds(at.seconds)


def _trials(number: int) -> str:
    return plural(number, "trial", thousands=",")


def _setting(value: Any) -> str:
    """A value of a study file in short; of a dimension its range or its choices."""
    if isinstance(value, Mapping):
        if "choices" in value:
            return _setting(value["choices"])
        log, step = " log" * bool(value.get("log")), value.get("step")
        return f"{value['low']:g} to {value['high']:g}{log}" + (f" by {step:g}" if step else "")
    if isinstance(value, (list, tuple)):
        return typed(value) or "-"
    return "-" if value is None else typed([value])


def verdict(found: Comparison) -> list[str]:
    """Returns who is ahead, and since when; whose the joint front is; who is the most accurate."""
    told = [_standing(found), _passed(found), *_chance(found), _joint_front(found)]
    return [words for words in (*told, _accuracy(found)) if words is not None]


def _standing(found: Comparison) -> str:
    spent = _trials(found.trials)
    if found.seconds is not None:
        spent = f"{format_seconds(found.seconds)} of training"
    worth = {one.study: one.at_equal for one in found.studies}
    told = {name: f"{had:.4f}" if had else "nothing yet" for name, had in worth.items()}
    ahead = [f"{name} ({told[name]})" for name in found.level]
    behind = [f"{name} ({told[name]})" for name in found.ranking if name not in found.level]
    if len(ahead) > 1:
        level = f"After {spent} each, {listed(ahead)} are level: less than 1 % apart in hypervolume"
        return f"{level}, ahead of {listed(behind)}." if behind else f"{level}."
    return f"After {spent} each, {ahead[0]} is ahead of {listed(behind)} in hypervolume."


def _passed(found: Comparison) -> str | None:
    """When the leader had what the first of those behind it came to."""
    of = {one.study: one for one in found.studies if one.at_equal}
    behind = [of[name] for name in found.ranking if name in of and name not in found.level]
    if not behind:
        return None
    at = _where(behind[0].overtaken, found)
    return f"What {behind[0].study} had by then, {found.ranking[0]} had after {at}."


def _chance(found: Comparison) -> list[str]:
    """What searches that were run again tell of chance."""
    had, told = {one.study: one.at_equal for one in found.studies}, []
    for group in found.repeats:
        low, high = (f"{pick(had[name] for name in group):.4f}" for pick in (min, max))
        what = f"so that what is between {low} and {high} is chance"
        if low == high:
            what = "and came to the same"
        told.append(f"{listed(group)} are the same search run again, {what}.")
    return told


def _joint_front(found: Comparison) -> str:
    counts = {one.study: len(one.front.unbeaten) for one in found.studies}
    held = listed([f"{number:,} of {study}" for study, number in counts.items()])
    equal = ", equal ones counted once" * (sum(counts.values()) > found.joint_front)
    return (
        f"The front of all their trials together holds {_trials(found.joint_front)}{equal}: {held}."
    )


def _accuracy(found: Comparison) -> str | None:
    lead = found.accuracy
    if lead is None:
        return None
    if lead.gain == 0:
        return f"The best accuracies of {lead.study} and {lead.over} are the same."
    told = (
        f"The best accuracy is that of {lead.study}, {points(lead.gain)} above the best of"
        f" {lead.over}"
    )
    if lead.is_sure is None:
        return f"{told}."
    where = "beyond" if lead.is_sure else "within"
    return f"{told}: {where} the noise of {found.val_images:,} validation images."


def small_print(found: Comparison) -> list[str]:
    """Returns what a person should know before believing the numbers."""
    spans = [
        f"{name} {format_value(name, low)} to {format_value(name, high)}"
        for name, (low, high) in found.bounds.items()
        if OBJECTIVES[name].is_cost
    ]
    sample = [
        "Each study is one search, so that chance may have made a small lead: search again with"
        " other seeds (--seed) before you build on it."
    ]
    if sum(len(group) for group in found.repeats) == len(found.studies):
        sample = []
    bounds = "Hypervolumes are measured in bounds that hold those of all the studies"
    bounds += f" ({', '.join(spans)})" * bool(spans) + ", so that `hpsearch status` tells others."
    return [*sample, *found.caveats, bounds]
