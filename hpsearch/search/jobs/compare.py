"""Studies of a database side by side: whether they can be compared, and what comes of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from hpsearch.core.analysis.comparison import ComparedSearch, Comparison, repeats
from hpsearch.core.analysis.comparison import compare as compare_entrants
from hpsearch.core.initial_trials import INITIAL_TRIALS
from hpsearch.core.objectives import OBJECTIVES
from hpsearch.core.plural import plural
from hpsearch.core.spec_diff import dotted
from hpsearch.core.trial import State
from hpsearch.errors import DeviceError, StudyError
from hpsearch.search.samplers import LEARNING
from hpsearch.search.storage.records import CHANGES, DATA, REFERENCE
from hpsearch.search.storage.storage import Storage
from hpsearch.search.study import catalog
from hpsearch.search.study.study import Study
from hpsearch.search.worker.launch import hardware

# What makes images the same, whatever was cut from them for validation.
_SAME_IMAGES = ("content", "shape", "classes")
# What says nothing of how a study searches: its names, how long and by how many it is run; and
# the order of its objectives.
_NO_PART = (
    "name",
    "data.dataset",
    "search.trials",
    "search.timeout",
    "search.workers",
    "search.max_failures",
    "search.objectives",
)


def compare(storage: Storage, names: Sequence[str], *, mixed_hardware: bool = False) -> Comparison:
    """Compares studies of a database as they stand now.

    Args:
        storage: the database.
        names: of two or more studies.
        mixed_hardware: take the seconds of different hardware as the same.

    Raises:
        StudyError: they are not two or more different studies that can be compared.
        DeviceError: their objectives hold seconds of different hardware.
    """
    studies = [catalog.open_study(storage, name) for name in _distinct(names)]
    entrants = [_entrant(study) for study in studies]
    first, *others = studies
    for other in others:
        _check_objectives(first, other)
        _check_images(first, other)
    same_clock = mixed_hardware or _same_hardware(studies)
    compared = compare_entrants(entrants, objectives=first.objectives, same_clock=same_clock)
    differences = _differences(studies)
    return replace(
        compared,
        differences=differences,
        repeats=repeats(names, differences),
        caveats=(
            *_caveats(studies, same_clock=same_clock),
            *(told for pair in zip(studies, entrants, strict=True) for told in _own_caveats(*pair)),
        ),
    )


def _distinct(names: Sequence[str]) -> Sequence[str]:
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise StudyError(
            f"found study {twice[0]!r} more than once, expected different studies; name each once"
        )
    if len(names) < 2:
        found = f"study {names[0]!r} alone" if names else "no study"
        raise StudyError(
            f"found {found}, expected two or more; name those to compare (`hpsearch list` tells"
            " them)"
        )
    return names


def _entrant(study: Study) -> ComparedSearch:
    records = study.records()
    if not any(record.state is State.COMPLETE for record in records):
        raise StudyError(
            f"no trial of study {study.name!r} is complete, expected one or more to compare; run it"
            f" first (`hpsearch status --study {study.name}` tells where it stands)"
        )
    return ComparedSearch(
        study=study.name,
        records=records,
        epochs=study.spec.train.epochs,
        bounds=study.bounds,
        val_images=_data(study).get("val"),
    )


def _check_objectives(first: Study, other: Study) -> None:
    if set(first.objectives) != set(other.objectives):
        raise StudyError(
            f"study {other.name!r} optimises {', '.join(other.objectives)}, but {first.name!r}"
            f" {', '.join(first.objectives)}; compare studies of the same objectives"
        )


def _check_images(first: Study, other: Study) -> None:
    one, two = _data(first), _data(other)
    if differing := [key for key in _SAME_IMAGES if one.get(key) != two.get(key)]:
        raise StudyError(
            f"study {other.name!r} has other images than {first.name!r}"
            f" ({other.spec.data.dataset!r} against {first.spec.data.dataset!r}: another"
            f" {', '.join(differing)}); compare studies of the same images"
        )


def _same_hardware(studies: Sequence[Study]) -> bool:
    """Whether a second is the same in all studies; must be so where it is an objective."""
    first, *others = studies
    for other in others:
        if _reference(first) == _reference(other):
            continue
        if any(OBJECTIVES[name].is_timed for name in first.objectives):
            raise DeviceError(
                f"the seconds of study {other.name!r} are those of {hardware(_reference(other))},"
                f" but {first.name!r} has those of {hardware(_reference(first))}; run one of them"
                " as the other, or pass --mixed-hardware to take them as the same"
            )
        return False
    return True


def _differences(studies: Sequence[Study]) -> dict[str, tuple[Any, ...]]:
    """What the study files do not have in common, by dotted key, a value for each study."""
    plain = [dotted(study.spec) for study in studies]
    found = {}
    for key in dict.fromkeys(key for one in plain for key in one):
        values = tuple(one.get(key) for one in plain)
        if key not in _NO_PART and any(value != values[0] for value in values):
            found[key] = values
    return found


def _caveats(studies: Sequence[Study], *, same_clock: bool) -> list[str]:
    """What a person should know of the studies together before believing the numbers."""
    told = []
    if any(_reference(study) != _reference(studies[0]) for study in studies):
        where = "; ".join(f"{study.name} on {hardware(_reference(study))}" for study in studies)
        taken = "taken as the same" if same_clock else "not compared"
        told.append(f"Seconds on different hardware are {taken}: {where}.")
    if any(_data(study).get("split") != _data(studies[0]).get("split") for study in studies):
        told.append(
            "The studies count accuracy on different validation images, which adds to the noise."
        )
    opened = [study.name for study in studies if study.spec.search.sampler in LEARNING]
    if 0 < len(opened) < len(studies):
        told.append(
            f"Only {', '.join(opened)} began with {INITIAL_TRIALS} trials of a recipe known to be"
            " good, as every sampler that learns does."
        )
    return told


def _own_caveats(study: Study, entrant: ComparedSearch) -> list[str]:
    """What a person should know of one: that it is not done, was changed, or ran elsewhere too."""
    told, records, target = [], entrant.records, study.spec.search.trials
    counted = sum(record.state.counts for record in records)
    if counted < target:
        told.append(f"{study.name} has {counted:,} of its {target:,} trials so far.")
    changed = {key for change in study.attributes.get(CHANGES, ()) for key in change["changed"]}
    if changed := changed.difference(_NO_PART):
        told.append(f"{study.name} was changed on the way: {', '.join(sorted(changed))}.")
    elsewhere = sum("mixed_hardware" in record.attributes.get("origin", {}) for record in records)
    if elsewhere:
        trials = plural(elsewhere, "trial", thousands=",")
        told.append(f"{study.name} has {trials} that ran on other hardware than its own.")
    return told


def _data(study: Study) -> Mapping[str, Any]:
    data: Mapping[str, Any] = study.attributes.get(DATA, {})
    return data


def _reference(study: Study) -> Mapping[str, Any]:
    reference: Mapping[str, Any] = study.attributes.get(REFERENCE, {})
    return reference
