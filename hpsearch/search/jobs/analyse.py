"""The analysis of a stored study, with importances, and the comparison of several."""

from __future__ import annotations

import builtins
import functools
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import FrozenTrial

from hpsearch.core.analysis.comparison import ComparedSearch, Comparison, repeats
from hpsearch.core.analysis.comparison import compare as compare_searches
from hpsearch.core.analysis.statistics import replications
from hpsearch.core.analysis.study_analysis import (
    Environment,
    Importance,
    StudyAnalysis,
    analyse,
    settings,
)
from hpsearch.core.initial_trials import INITIAL_TRIALS
from hpsearch.core.objectives import OBJECTIVES, utility
from hpsearch.core.space import without_effect
from hpsearch.core.spec_text import dotted
from hpsearch.core.trial import State, TrialRecord
from hpsearch.errors import DeviceError, StudyError, plural
from hpsearch.search.samplers import LEARNING, own_trials
from hpsearch.search.storage.records import CHANGES, CREATED, DATA, REFERENCE, repeats_of
from hpsearch.search.storage.retry import retry_while_away
from hpsearch.search.storage.storage import Storage
from hpsearch.search.study import catalog
from hpsearch.search.study.study import Study
from hpsearch.search.worker.launch import hardware

if TYPE_CHECKING:
    from optuna.importance import PedAnovaImportanceEvaluator

ENOUGH = 20  # complete trials, so that the best tenth is at least two of them


@retry_while_away  # Optuna reads the trials itself
def importances(study: Study, records: Sequence[TrialRecord]) -> tuple[Importance, ...]:
    """Returns the importance of each hyperparameter for each objective, and for being on the front.

    Importance for belonging to the best tenth of the complete trials. Dimensions of the built-in
    net and training that cannot change a cost are left out of its ranking: if good trials are alike
    in them, the sampler caused it. Empty with fewer than 20 complete trials, and if Optuna finds no
    importance (no dimension was sampled, or all trials are alike). ``records`` are the study's.
    """
    handle = own_trials(study.handle, study.spec)
    complete = [r for r in records if r.state is State.COMPLETE]
    finite = sum(all(map(math.isfinite, record.values.values())) for record in complete)
    # With fewer, the best tenth says more about chance than about the dimensions.
    if finite < ENOUGH:
        return ()
    targets: dict[str, Callable[[FrozenTrial], float] | None] = {
        name: functools.partial(_loss, name, i) for i, name in enumerate(study.objectives)
    }
    if len(study.objectives) > 1:
        targets["front"] = None  # by rank of non-domination
    found = []
    for target, value in targets.items():
        names = study.objectives if target == "front" else (target,)
        without = frozenset.intersection(*(without_effect(name) for name in names))
        if study.spec.has_user_code:
            without = frozenset()  # user code may use any dimension
        if shares := _shares(handle, value, without=without):
            found.append(Importance(target=target, trials=finite, shares=shares))
    return tuple(found)


def _loss(name: str, i: int, trial: FrozenTrial) -> float:
    """The trial's i-th value, signed as PED-ANOVA expects it: smaller is better."""
    return -utility(name, trial.values[i])


def _shares(
    handle: optuna.Study,
    target: Callable[[FrozenTrial], float] | None,
    *,
    without: frozenset[str],
) -> dict[str, float]:
    evaluator = _ped_anova()()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the direction, and about few trials
        try:
            found = evaluator.evaluate(handle, target=target)
        except (ValueError, RuntimeError, ZeroDivisionError):
            return {}
    kept = {name: float(value) for name, value in found.items() if name not in without}
    known = {name: value for name, value in kept.items() if math.isfinite(value)}
    # The shares of the dimensions that remain sum to 1.
    total = sum(known.values())
    return {name: value / total for name, value in known.items()} if total > 0 else {}


@functools.cache
def _ped_anova() -> type[PedAnovaImportanceEvaluator]:
    """Optuna's PED-ANOVA, loaded from copies of its files that no other import can see.

    `import optuna.importance` loads scikit-learn for fANOVA, which is not needed here: 2 to 4 s
    (Intel Xeon, Optuna 5.0). The copies stay out of `sys.modules`, because other threads may
    import Optuna's or scikit-learn's modules at the same time.
    """
    copies: dict[str, ModuleType] = {}

    def import_(name: str, *rest: Any) -> ModuleType:
        if not name.startswith("optuna.importance."):
            return builtins.__import__(name, *rest)
        if name not in copies:
            path = Path(optuna.__file__).parent.joinpath(*name.split(".")[1:]).with_suffix(".py")
            module = ModuleType(name)
            vars(module)["__builtins__"] = {**vars(builtins), "__import__": import_}
            SourceFileLoader(name, str(path)).exec_module(module)
            copies[name] = module
        return copies[name]

    found = import_("optuna.importance._ped_anova.evaluator").PedAnovaImportanceEvaluator
    return found  # type: ignore[no-any-return]


def analyse_study(study: Study) -> StudyAnalysis:
    """Returns the analysis of the study in its present state, for a report."""
    records = study.records()
    return replace(_analyse(study, records), importance=importances(study, records))


def essentials(study: Study) -> StudyAnalysis:
    """Returns the analysis without the importance of hyperparameters, which takes the longest."""
    return _analyse(study, study.records())


def _analyse(study: Study, records: Sequence[TrialRecord]) -> StudyAnalysis:
    attributes = study.current_attributes()
    environment = Environment(
        spec=study.spec,
        data=attributes.get(DATA, {}),
        reference=attributes.get(REFERENCE, {}),
        settings=settings(records),
        changes=attributes.get(CHANGES, []),
        created=study.created if CREATED in attributes else None,
    )
    return analyse(
        study.name,
        records,
        bounds=study.bounds,
        environment=environment,
        confirmed=replications(records, repeats_of(attributes), study.objectives),
    )


# Studies have the same images if these are equal; the validation split may differ.
_IMAGE_KEYS = ("content", "shape", "classes")
# Settings without influence on how a study searches.
_IGNORED = (
    "name",
    "data.dataset",
    "search.trials",
    "search.timeout",
    "search.trial_timeout",
    "search.workers",
    "search.max_failures",
    "search.objectives",
)


def compare(storage: Storage, names: Sequence[str], *, mixed_hardware: bool = False) -> Comparison:
    """Compares the current trials of two or more studies of a database.

    ``mixed_hardware`` treats the seconds of different hardware as equal.

    Raises:
        StudyError: the studies are fewer than two, not different or not comparable.
        DeviceError: an objective is measured in seconds of different hardware.
    """
    _check_names(names)
    studies = [catalog.open_study(storage, name) for name in names]
    searches = [_compared_search(study) for study in studies]
    first, *others = studies
    for other in others:
        _check_comparable(first, other)
    same_clock = mixed_hardware or _same_hardware(studies)
    settings = [dotted(study.spec) for study in studies]
    keys = dict.fromkeys(key for each in settings for key in each if key not in _IGNORED)
    values = {key: tuple(each.get(key) for each in settings) for key in keys}
    differences = {key: each for key, each in values.items() if any(v != each[0] for v in each)}
    return replace(
        compare_searches(searches, objectives=first.objectives, same_clock=same_clock),
        differences=differences,
        repeats=repeats(names, differences),
        caveats=tuple(_caveats(studies, searches, same_clock=same_clock)),
    )


def _check_names(names: Sequence[str]) -> None:
    repeated = [name for name, times in Counter(names).items() if times > 1]
    if repeated:
        raise StudyError(
            f"found study {repeated[0]!r} more than once, expected different studies; name each"
            " once"
        )
    if len(names) < 2:
        found = f"only one study, {names[0]!r}" if names else "no study"
        raise StudyError(
            f"found {found}, expected two or more to compare; name them (see `hpsearch list`)"
        )


def _compared_search(study: Study) -> ComparedSearch:
    records = study.records()
    if not any(record.state is State.COMPLETE for record in records):
        raise StudyError(
            f"no trial of study {study.name!r} is complete, expected one or more to compare; run it"
            f" first (see `hpsearch status --study {study.name}`)"
        )
    return ComparedSearch(
        study=study.name,
        records=records,
        epochs=study.spec.train.epochs,
        bounds=study.bounds,
        val_images=_data(study).get("val"),
        created=study.created,
    )


def _check_comparable(first: Study, other: Study) -> None:
    """Refuses studies with different objectives or different images."""
    if set(first.objectives) != set(other.objectives):
        raise StudyError(
            f"study {other.name!r} optimises {', '.join(other.objectives)}, but {first.name!r}"
            f" optimises {', '.join(first.objectives)}; compare studies with the same objectives"
        )
    expected, found = _data(first), _data(other)
    if differing := [key for key in _IMAGE_KEYS if expected.get(key) != found.get(key)]:
        raise StudyError(
            f"study {other.name!r} has other images than {first.name!r}"
            f" ({other.spec.data.dataset!r} and {first.spec.data.dataset!r} differ in"
            f" {', '.join(differing)}); compare studies of the same images"
        )


def _same_hardware(studies: Sequence[Study]) -> bool:
    """Whether all studies measure seconds on the same hardware.

    Raises:
        DeviceError: they do not, and an objective is measured in seconds.
    """
    first, *others = studies
    for other in others:
        if _reference(first) == _reference(other):
            continue
        if any(OBJECTIVES[name].is_timed for name in first.objectives):
            raise DeviceError(
                f"study {other.name!r} measures its seconds on {hardware(_reference(other))}, but"
                f" {first.name!r} on {hardware(_reference(first))}; run both on the same hardware,"
                " or pass --mixed-hardware to treat the seconds as equal"
            )
        return False
    return True


def _caveats(
    studies: Sequence[Study], searches: Sequence[ComparedSearch], *, same_clock: bool
) -> Iterator[str]:
    """What limits the comparison as a whole, then the results of each study, in sentences."""
    if any(_reference(study) != _reference(studies[0]) for study in studies):
        where = "; ".join(f"{study.name} on {hardware(_reference(study))}" for study in studies)
        treatment = "treated as equal" if same_clock else "not compared"
        yield f"Seconds on different hardware are {treatment}: {where}."
    if any(_data(study).get("split") != _data(studies[0]).get("split") for study in studies):
        yield "The studies measure accuracy on different validation images, which adds noise."
    learning = [study.name for study in studies if study.spec.search.sampler in LEARNING]
    if 0 < len(learning) < len(studies):
        yield (
            f"Only {', '.join(learning)} began with {INITIAL_TRIALS} trials of a recipe known to be"
            " good, as every learning sampler does."
        )
    for study, search in zip(studies, searches, strict=True):
        target = study.spec.search.trials
        counted = sum(record.state.counts for record in search.records)
        if counted < target:
            yield f"{study.name} has {counted:,} of its {target:,} trials so far."
        changed = {key for change in study.attributes.get(CHANGES, ()) for key in change["changed"]}
        if changed := changed.difference(_IGNORED):
            yield f"{study.name} was changed during its search: {', '.join(sorted(changed))}."
        origins = [record.attributes.get("origin", {}) for record in search.records]
        if elsewhere := sum("mixed_hardware" in origin for origin in origins):
            trials = plural(elsewhere, "trial", thousands=",")
            yield f"{study.name} has {trials} that ran on other hardware than the rest."


def _data(study: Study) -> Mapping[str, Any]:
    data: Mapping[str, Any] = study.attributes.get(DATA, {})
    return data


def _reference(study: Study) -> Mapping[str, Any]:
    reference: Mapping[str, Any] = study.attributes.get(REFERENCE, {})
    return reference
