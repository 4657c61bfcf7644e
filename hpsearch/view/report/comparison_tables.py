"""A comparison as rows of a table, with the verdict in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hpsearch.core.analysis.comparison import Comparison, Lead
from hpsearch.core.analysis.history import HypervolumePoint
from hpsearch.core.dimensions import listed as typed
from hpsearch.core.objectives import OBJECTIVES
from hpsearch.errors import plural
from hpsearch.view.format import format_points, format_seconds, format_value, listed

Row = tuple[str, list[str]]  # its name, and a cell for each study


def rows(compared: Comparison) -> list[Row]:
    """Returns the rows: the studies' differences, their costs and their results.

    The name of a row that belongs to the one above is indented.
    """
    studies = compared.studies
    made = [(name, list(map(_setting, of))) for name, of in compared.differences.items()]
    made += [
        ("trials", [f"{one.trials:,}" for one in studies]),
        ("  stopped early", [f"{one.counts['pruned']:,}" for one in studies]),
    ]
    if any(one.counts["failed"] for one in studies):
        made.append(("  and failed", [f"{one.counts['failed']:,}" for one in studies]))
    made += [
        ("training", [format_seconds(one.seconds) for one in studies]),
        ("hypervolume", [f"{one.hypervolume:.4f}" for one in studies]),
    ]
    if compared.seconds is not None:
        name = f"  after {format_seconds(compared.seconds)} each"
        made.append((name, [f"{one.at_seconds:.4f}" for one in studies]))
    made += [
        (f"  after {_trials(compared.trials)} each", [f"{one.at_trials:.4f}" for one in studies]),
        ("  99 % of the leader's after", [_spent_at(one.nearly, compared) for one in studies]),
    ]
    return [*made, *_fronts(compared)]


def _fronts(compared: Comparison) -> list[Row]:
    fronts = [one.front for one in compared.studies]
    made = [
        ("trials on its front", [f"{len(front.trials):,}" for front in fronts]),
        ("  unbeaten by the others", [f"{len(front.unbeaten):,}" for front in fronts]),
    ]
    if (quality := compared.quality) is not None:
        best = [front.best.measured[quality] for front in fronts if front.best is not None]
        made.append((f"best {quality}", [format_value(quality, value) for value in best]))
    for name in compared.objectives if len(compared.objectives) > 1 else ():
        values = [format_value(name, front.knee.measured[name]) for front in fronts]
        made.append((f"knee: {name}", values))
    return made


def _spent_at(at: HypervolumePoint | None, compared: Comparison) -> str:
    if at is None:
        return "never"
    return _trials(at.trials) if compared.seconds is None else format_seconds(at.seconds)


def _trials(number: int) -> str:
    return plural(number, "trial", thousands=",")


def _setting(value: Any) -> str:
    """A value of a study file in short; of a dimension its range or its choices."""
    if isinstance(value, Mapping):
        if "choices" in value:
            return _setting(value["choices"])
        log, step = " log" if value.get("log") else "", value.get("step")
        return f"{value['low']:g} to {value['high']:g}{log}" + (f" by {step:g}" if step else "")
    if isinstance(value, (list, tuple)):
        return typed(value) or "-"
    return "-" if value is None else typed([value])


def verdict(compared: Comparison) -> list[str]:
    """Returns the verdict in sentences: the ranking, the joint front and the best accuracy."""
    words = [_standing(compared)]
    of = {one.study: one for one in compared.studies if one.at_equal}
    behind = [of[name] for name in compared.ranking if name in of and name not in compared.level]
    if behind:
        at = _spent_at(behind[0].overtaken, compared)
        words.append(
            f"The hypervolume that {behind[0].study} has there, {compared.ranking[0]} reached after"
            f" {at}."
        )
    words += _chance(compared)
    counts = {one.study: len(one.front.unbeaten) for one in compared.studies}
    parts = listed([f"{number:,} of {study}" for study, number in counts.items()])
    joint = _trials(compared.joint_front)
    # Each of several equal trials is unbeaten, but the joint front holds one of them.
    if sum(counts.values()) > compared.joint_front:
        joint += ", equal ones counted once"
    words.append(f"The joint front of all trials holds {joint}: {parts}.")
    if compared.accuracy is not None:
        words.append(_accuracy(compared.accuracy, compared.val_images))
    return words


def _standing(compared: Comparison) -> str:
    spent = _trials(compared.trials)
    if compared.seconds is not None:
        spent = f"{format_seconds(compared.seconds)} of training"
    named = {
        one.study: f"{one.study} ({f'{one.at_equal:.4f}' if one.at_equal else 'nothing yet'})"
        for one in compared.studies
    }
    ahead = [named[study] for study in compared.level]
    behind = [named[study] for study in compared.ranking if study not in compared.level]
    if len(ahead) > 1:
        level = f"After {spent} each, {listed(ahead)} are level: less than 1 % apart in hypervolume"
        return f"{level}, ahead of {listed(behind)}." if behind else f"{level}."
    return f"After {spent} each, {ahead[0]} is ahead of {listed(behind)} in hypervolume."


def _chance(compared: Comparison) -> list[str]:
    """How far repeats of the same search differ by chance."""
    hypervolumes, words = {one.study: one.at_equal for one in compared.studies}, []
    for group in compared.repeats:
        low, high = (f"{pick(hypervolumes[name] for name in group):.4f}" for pick in (min, max))
        spread = f"so the difference between {low} and {high} is chance"
        if low == high:
            spread = "with the same result"
        words.append(f"{listed(group)} are repeats of the same search, {spread}.")
    return words


def _accuracy(lead: Lead, val_images: int | None) -> str:
    if lead.gain == 0:
        return f"The best accuracies of {lead.study} and {lead.over} are the same."
    words = (
        f"The best accuracy is that of {lead.study}, {format_points(lead.gain)} above the best of"
        f" {lead.over}"
    )
    if lead.is_sure is None:
        return f"{words}."
    significant = "significant" if lead.is_sure else "not significant"
    return f"{words}: {significant} with {val_images:,} validation images."


def small_print(compared: Comparison) -> list[str]:
    """Returns the caveats: how far chance and the settings limit the comparison."""
    spans = [
        f"{name} {format_value(name, low)} to {format_value(name, high)}"
        for name, (low, high) in compared.bounds.items()
        if OBJECTIVES[name].is_cost
    ]
    # Repeats of the same search show the chance themselves.
    chance = [
        "Each study is a single search, so a small lead may be chance: repeat the searches with"
        " other seeds (--seed) before you rely on it."
    ]
    if sum(len(group) for group in compared.repeats) == len(compared.studies):
        chance = []
    shared = f" ({', '.join(spans)})" if spans else ""
    bounds = f"Hypervolumes use bounds shared by these studies{shared}; `hpsearch status` uses"
    return [*chance, *compared.caveats, f"{bounds} those of each study."]
