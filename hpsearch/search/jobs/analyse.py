"""The analysis of a stored study, with the importance of its hyperparameters."""

from __future__ import annotations

import builtins
import functools
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import FrozenTrial

from hpsearch.core.analysis.replication import replications
from hpsearch.core.analysis.study_analysis import (
    Environment,
    Importance,
    StudyAnalysis,
    analyse,
    settings,
)
from hpsearch.core.objectives import utility
from hpsearch.core.space import without_effect
from hpsearch.core.trial import State, TrialRecord
from hpsearch.search.storage.records import CHANGES, CREATED, DATA, REFERENCE, repeats_of
from hpsearch.search.study.study import Study

if TYPE_CHECKING:
    from optuna.importance import PedAnovaImportanceEvaluator

ENOUGH = 20  # complete trials, so that the best tenth is at least two of them


def importances(study: Study, records: Sequence[TrialRecord]) -> tuple[Importance, ...]:
    """Returns the importance of each hyperparameter for each objective, and for being on the front.

    Importance for belonging to the best tenth of the complete trials. Dimensions of the built-in
    net and training that cannot change a cost are left out of its ranking: if good trials are alike
    in them, the sampler caused it. Empty with fewer than 20 complete trials, and if Optuna finds no
    importance (no dimension was sampled, or all trials are alike). ``records`` are the study's.
    """
    handle = study.handle
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
