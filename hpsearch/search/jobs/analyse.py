"""A study of the database, reduced to what a report shows."""

from __future__ import annotations

import builtins
import functools
import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import FrozenTrial

from hpsearch.core.analysis.study_analysis import (
    Environment,
    Importance,
    StudyAnalysis,
    analyse,
    settings,
)
from hpsearch.core.objectives import utility
from hpsearch.core.space import without_effect
from hpsearch.core.trial import State
from hpsearch.search.jobs.confirm import confirmations
from hpsearch.search.storage.records import CHANGES, CREATED, DATA, REFERENCE
from hpsearch.search.study.study import Study

if TYPE_CHECKING:
    from optuna.importance import PedAnovaImportanceEvaluator

ENOUGH = 20  # complete trials, so that the best tenth is two of them at least


def importances(study: Study) -> tuple[Importance, ...]:
    """Returns the importance of each hyperparameter for each objective, and for being on the front.

    For belonging to the best tenth, among the complete trials. Dimensions of the built-in net and
    training that cannot change a cost have no share in it: that good trials are alike in them is
    the sampler's doing. Empty with fewer than 20 complete trials, and where Optuna cannot tell (no
    dimension was drawn, all trials are alike).
    """
    handle = study.handle
    complete = [r for r in study.records() if r.state is State.COMPLETE]
    finite = sum(all(map(math.isfinite, record.values.values())) for record in complete)
    if finite < ENOUGH:
        return ()
    targets: dict[str, Callable[[FrozenTrial], float] | None] = {
        name: functools.partial(_loss, name, place) for place, name in enumerate(study.objectives)
    }
    if len(study.objectives) > 1:
        targets["front"] = None  # by rank of non-domination
    found = {
        target: _shares(handle, value, without=_without_effect(study, target))
        for target, value in targets.items()
    }
    return tuple(
        Importance(target=target, trials=finite, shares=shares)
        for target, shares in found.items()
        if shares
    )


def _without_effect(study: Study, target: str) -> frozenset[str]:
    """The dimensions that cannot change the target; none where a person's own code may use them."""
    if study.spec.has_own_code:
        return frozenset()
    names = study.objectives if target == "front" else (target,)
    return frozenset.intersection(*(without_effect(name) for name in names))


def _loss(name: str, place: int, trial: FrozenTrial) -> float:
    """The objective's value with its sign such that smaller is better, as PED-ANOVA expects it."""
    return -utility(name, trial.values[place])


def _shares(
    handle: optuna.Study,
    target: Callable[[FrozenTrial], float] | None,
    *,
    without: frozenset[str],
) -> dict[str, float]:
    evaluator = _ped_anova()()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that smaller is better, and that a regime is small
        try:
            found = evaluator.evaluate(handle, target=target)
        except (ValueError, RuntimeError, ZeroDivisionError):
            return {}
    kept = {name: float(value) for name, value in found.items() if name not in without}
    known = {name: value for name, value in kept.items() if math.isfinite(value)}
    total = sum(known.values())
    return {name: value / total for name, value in known.items()} if total > 0 else {}


@functools.cache
def _ped_anova() -> type[PedAnovaImportanceEvaluator]:
    """Optuna's PED-ANOVA, from copies of its files that no other import can see.

    `import optuna.importance` loads scikit-learn for fANOVA, which is not used here: 2 to 4 s
    (Intel Xeon, Optuna 5.0). The copies stay out of `sys.modules`, because other threads may
    import Optuna's or scikit-learn's modules at the same time.
    """
    copies: dict[str, ModuleType] = {}

    def import_(name: str, *rest: Any) -> ModuleType:
        if not name.startswith("optuna.importance."):
            return builtins.__import__(name, *rest)
        if name not in copies:
            copies[name] = _copy(name, import_)
        return copies[name]

    found = import_("optuna.importance._ped_anova.evaluator").PedAnovaImportanceEvaluator
    return found  # type: ignore[no-any-return]


def _copy(name: str, import_: Callable[..., ModuleType]) -> ModuleType:
    """Runs the file of one of Optuna's modules, whose imports are made by the given function."""
    path = Path(optuna.__file__).parent.joinpath(*name.split(".")[1:]).with_suffix(".py")
    module = ModuleType(name)
    vars(module)["__builtins__"] = {**vars(builtins), "__import__": import_}
    SourceFileLoader(name, str(path)).exec_module(module)
    return module


def analyse_study(study: Study) -> StudyAnalysis:
    """Returns all that a report tells of the study as it stands now."""
    return replace(essentials(study), importance=importances(study))


def essentials(study: Study) -> StudyAnalysis:
    """Returns the same but for the importance of hyperparameters, which takes the longest."""
    records = study.records()
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
        confirmed=confirmations(study, records, attributes),
    )
